"""`sparse_hessian`: the Hessian of a large structure as a sparse matrix, exact or truncated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from scipy.sparse import csr_array

from mace_functional.autodiff.columns import columns_bar
from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import check_fits, tune_allocator
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.potential.protocol import EdgePotential, Potential
from mace_functional.potential.terms import Part, has_edges, parts_of_potential
from mace_functional.sparse.block_rows import BlockRows
from mace_functional.sparse.colouring import coloured
from mace_functional.sparse.hop_graph import one_hop, union, within_hops
from mace_functional.sparse.neighbourhood_columns import fill_by_neighbourhoods, local_cost
from mace_functional.sparse.shared_products import fill_by_products
from mace_functional.sparse.stored_hessian import SparseHessian
from mace_functional.sparse.truncation_error import (
    TruncationError,
    exact_process,
    truncation_error,
)
from mace_functional.stochastic.lanczos import Lanczos
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import refuse_constraints
from mace_functional.structure.structure import Structure
from mace_functional.support import validation
from mace_functional.support.validation import in_order
from mace_functional.vibrations.rigid import rigid_motions_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

Method = Literal["auto", "products", "local"]

BYTES_PER_PAIR = 200
"""Memory for a pair of coupled atoms, bytes: its block in double precision, copies, and indices."""


def sparse_hessian(
    potential: Potential,
    atoms: Atoms,
    *,
    hops: int | None = None,
    tolerance: float | None = None,
    temperature: float = 300.0,
    method: Method = "auto",
    sum_rule: bool | None = None,
    memory_budget: int | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SparseHessian:
    """Compute the Hessian of a large structure as a sparse matrix, exact or truncated.

    Two atoms are coupled only within 2n edges of a potential with n layers (`hop_graph`). Columns
    come from products in which atoms that share no neighbourhood are displaced together
    (`colouring`), or each from the neighbourhood of its atom (`neighbourhood_columns`).

    A truncated matrix has the blocks of atoms within fewer hops. From products, each of them also
    contains blocks beyond: with one hop these are large. From neighbourhoods, all blocks are those
    of the exact matrix. What a truncated matrix lacks is measured with about 130 products of the
    exact one. They give an estimate and a bound of the error of the heat capacity
    (`truncation_error`).

    Args:
        potential: A potential with edges, such as a model of `load_model`, or a sum of these.
        atoms: The structure, periodic in any directions.
        hops: Largest number of edges between two atoms whose block is stored; None for all, which
            is exact.
        tolerance: Relative error of the heat capacity at `temperature`. The smallest number of hops
            is taken for which the measured bound is below it.
        temperature: Lowest temperature at which the error is measured, and that of `tolerance`, K.
        method: "products" displaces atoms of the whole structure, "local" evaluates neighbourhoods.
            "auto" takes the one with less estimated time.
        sum_rule: True to let the blocks of each row sum to zero, by the smallest change of the
            stored blocks (`BlockRows.add_sum_rule`). None imposes it on truncated matrices only.
        memory_budget: Bytes that a chunk of products may fill; a fraction of the free memory if
            None. The matrix itself takes 72 bytes for each pair of coupled atoms.
        executor: Executor whose workers share the columns; see `WorkerProcesses`. None to compute
            in this process.
        seed: Seed of the vectors that measure the error.
        progress: Show a progress bar.

    Returns:
        The matrix with its diagnostics; `matrix` is a `scipy.sparse.bsr_array`. It is symmetrised
        as the mean of the computed matrix and its transpose.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the potential has no edges, the structure does not fit it, constraints fix
            atoms, an option is out of range, parameters require grad or are inside of a transform,
            or the potential cannot be sent to processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.
        MemoryError: If the matrix does not fit into the free memory.

    Source: Curtis, Powell, Reid, J. Inst. Math. Appl. 1974, 13, 117; for truncated Hessians of MACE
    Langer, Hill, Ceriotti (2026).

    Example:
        >>> import mace_functional as mf
        >>> model = mf.load_model("embedded")
        >>> mf.sparse_hessian(model, mf.example_structure("ethanol")).matrix.shape
        (27, 27)
    """
    in_order("sparse_hessian(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    refuse_transforms("sparse_hessian", "hessian or HessianOperator", potential.params)
    refuse_constraints(atoms, "sparse_hessian", "take hessian(..., indices=...) of free atoms")
    if method not in ("auto", "products", "local"):
        raise ValueError(f"method must be 'auto', 'products' or 'local', not {method!r}")
    if hops is not None and tolerance is not None:
        raise ValueError("give hops or tolerance, not both: tolerance chooses the hops")
    hops = None if hops is None else validation.count("hops", hops)
    memory_budget = validation.memory_budget(memory_budget)
    temperature = validation.positive("temperature", temperature, "K")
    s = potential.structure(atoms)
    terms = parts_of_potential(potential, s.topology, potential.params)
    parts = list(filter(has_edges, terms))
    if len(parts) < len(terms):
        raise ValueError(
            f"a part of {potential} has no edges, so the pattern of its Hessian is unknown: take "
            "HessianOperator.from_potential for products with the Hessian, lowest_modes for its "
            "lowest modes, or gamma_modes for all modes of a small structure"
        )
    tune_allocator()
    computation = _Computation(
        potential, atoms.copy(), s, parts, method, memory_budget, executor, progress, temperature
    )
    if tolerance is None:
        return computation.at(hops, sum_rule, seed)
    tolerance = validation.positive("tolerance", tolerance)
    for k in range(1, computation.full_hops):
        if computation.is_full(k):
            break
        result = computation.at(k, sum_rule, seed)
        error = cast("TruncationError", result.truncation).heat_capacity(temperature)
        if error.relative_bound <= tolerance:
            return result
    return computation.at(None, sum_rule, seed)


class _Computation:
    """Sparse Hessians of one structure, with different numbers of hops.

    Args:
        potential: The potential.
        atoms: The structure as an ASE Atoms object.
        s: The structure.
        parts: The potential, as terms with edges.
        method: "auto", "products" or "local".
        memory_budget: Bytes that a chunk of products may fill.
        executor: Executor whose workers share the columns; None to compute in this process.
        progress: True to show progress bars.
        temperature: Temperature at which errors are measured, K.

    Attributes:
        full_hops: Number of hops of the exact pattern.
    """

    def __init__(
        self,
        potential: Potential,
        atoms: Atoms,
        s: Structure,
        parts: list[Part[EdgePotential]],
        method: str,
        memory_budget: int | None,
        executor: Executor | None,
        progress: bool,
        temperature: float,
    ) -> None:
        self._potential, self._atoms, self._s, self._parts = potential, atoms, s, parts
        self._method, self._memory_budget, self._progress = method, memory_budget, progress
        self._executor, self._temperature = executor, temperature
        self._process: Lanczos | None = None
        self._steps = [one_hop(part.topology) for part in parts]
        self._layers = [part.potential.layers for part in parts]
        self.full_hops = 2 * max(self._layers)
        self._full = self._pattern(None)

    def is_full(self, hops: int) -> bool:
        """True if a number of hops gives the exact pattern."""
        return hops >= self.full_hops or self._pattern(hops).nnz == self._full.nnz

    def at(self, hops: int | None, sum_rule: bool | None, seed: int) -> SparseHessian:
        """Compute the Hessian within a number of hops; None for all."""
        if hops is not None and self.is_full(hops):
            hops = None
        pattern = self._full if hops is None else self._pattern(hops)
        s = self._s
        check_fits(
            f"the {pattern.nnz} blocks of coupled atoms",
            BYTES_PER_PAIR * pattern.nnz,
            torch.device("cpu"),
            "truncate with hops, or take HessianOperator.from_potential, which stores no matrix",
        )
        rows = BlockRows(pattern, torch.empty((), dtype=s.positions.dtype).numpy().dtype)
        method, n_products = self._filled(rows)
        asymmetry = rows.symmetrise()
        sums = rows.largest_sum()
        if sum_rule or (sum_rule is None and hops is not None):
            rows.add_sum_rule()
        result = SparseHessian(
            matrix=rows.matrix(),
            atoms=self._atoms.copy(),
            structure=s,
            rigid=self._rigid_motions(rows),
            hops=hops,
            method=method,
            n_products=n_products,
            asymmetry=asymmetry,
            sum_residual=sums,
            truncation=None,
        )
        return result if hops is None else self._with_error(result, seed)

    def _pattern(self, hops: int | None) -> csr_array:
        """Return the pairs of atoms within a number of hops; None for all coupled pairs."""
        patterns = [
            within_hops(step, 2 * layers if hops is None else min(hops, 2 * layers))
            for step, layers in zip(self._steps, self._layers, strict=True)
        ]
        return union(patterns)

    def _filled(self, rows: BlockRows) -> tuple[str, int]:
        """Compute the blocks by the faster method; return its name and the number of products."""
        s, n_atoms = self._s, len(self._s.positions)
        colours = coloured(rows.pattern) if self._method != "local" else np.arange(n_atoms)
        n_products = 3 * (int(colours.max()) + 1)
        if self._method == "local" or (self._method == "auto" and self._local_pays(n_products)):
            with columns_bar("Local columns", 3 * n_atoms, self._progress) as advance:
                fill_by_neighbourhoods(
                    rows,
                    self._potential,
                    self._atoms,
                    memory_budget=self._memory_budget,
                    executor=self._executor,
                    advance=advance,
                )
            return "local", 3 * n_atoms * len(self._parts)
        with columns_bar("Sparse Hessian", n_products, self._progress) as advance:
            fill_by_products(
                rows,
                colours,
                self._potential,
                self._atoms,
                s.positions,
                memory_budget=self._memory_budget,
                executor=self._executor,
                advance=advance,
            )
        return "products", n_products

    def _local_pays(self, n_products: int) -> bool:
        """True if columns of neighbourhoods take less time than products of the whole structure."""
        costs = [local_cost(part, len(self._s.positions)) for part in self._parts]
        return sum(costs) < n_products * len(costs)

    def _rigid_motions(self, rows: BlockRows) -> np.ndarray:
        """Return the rigid motions in mass-weighted coordinates, (3N, r)."""
        s, matrix = self._s, csr_array(rows.matrix())

        def block(atoms: np.ndarray) -> np.ndarray:
            chosen = (3 * atoms[:, None] + np.arange(3)).ravel()
            return np.asarray(matrix[chosen][:, chosen].todense())

        return rigid_motions_of(
            as_array(s.positions),
            as_array(s.masses),
            as_array(s.cell),
            parts_of(s.topology, s.positions, s.cell),
            block=block,
            epsilon=float(torch.finfo(s.positions.dtype).eps),
        ).basis

    def _with_error(self, result: SparseHessian, seed: int) -> SparseHessian:
        """Measure the error of a truncated matrix."""
        if self._process is None:
            exact = HessianOperator.from_potential(
                self._potential,
                self._atoms,
                memory_budget=self._memory_budget,
                executor=self._executor,
            ).to_scipy()
            self._process = exact_process(exact.matmat, result.rigid, seed=seed)
        stored = result.mass_weighted()
        error = truncation_error(
            self._process, lambda v: stored @ v, result.rigid, temperature=self._temperature
        )
        return replace(result, truncation=error)
