"""Sparse Hessians: errors and bounds of truncated ones, products, time and memory of large cells.

    python benchmarks/sparse_hessians.py bounds      ten structures, embedded model
    python benchmarks/sparse_hessians.py large       MOF-5, 848 atoms, embedded model

Structures are read from `../shared`, or from `$MACE_FUNCTIONAL_SHARED`; without it, those that come
with the package are computed.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from scipy.sparse import bsr_array, csr_array

import mace_functional as mf
from mace_functional.sparse.block_rows import BlockRows
from mace_functional.sparse.colouring import coloured
from mace_functional.sparse.hop_graph import one_hop, within_hops
from mace_functional.sparse.truncation_error import exact_process, truncation_error
from mace_functional.units import FREQUENCY_UNITS, K_B, vibrational_quantum

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
TEMPERATURES = 100.0, 300.0, 600.0

FILES = {
    "quartz 2x2x2": ("awkward/quartz_4digits.vasp", (2, 2, 2)),
    "corundum 2x2x1": ("awkward/corundum_good.cif", (2, 2, 1)),
    "ZnO 3x3x2": ("awkward/zno_4digits.cif", (3, 3, 2)),
    "AFI": ("heatcapacity/structures/AFI.cif", (1, 1, 1)),
    "RSM0010 3x1x1": ("heatcapacity/relaxed/RSM0010.xyz", (3, 1, 1)),
    "RSM0062 2x1x1": ("heatcapacity/structures/RSM0062.cif", (2, 1, 1)),
    "13180N3": ("heatcapacity/structures/13180N3.cif", (1, 1, 1)),
}
"""Files of structures in the shared data, and the cells along each lattice vector."""


def structures(model: mf.MaceModel) -> Iterator[tuple[str, Atoms]]:
    """Yield the structures of `bounds`; MOF-5 is relaxed, the others are as published."""
    yield "sodalite 2x1x1", mf.example_structure("sodalite").repeat((2, 1, 1))
    yield "NaCl 3x3x3", bulk("NaCl", "rocksalt", a=5.6).repeat(3)
    for name, (file, repeats) in FILES.items():
        if (SHARED / file).exists():
            yield name, ase.io.read(SHARED / file).repeat(repeats)
        else:
            print(f"skipped {name}: {SHARED / file} is missing")
    yield "MOF-5", relaxed_mof(model)


def relaxed_mof(model: mf.MaceModel) -> Atoms:
    """Return the primitive cell of MOF-5 at its minimum."""
    return mf.relax(model, mf.example_structure("MOF-5"), fmax=1e-3).atoms


def heat_capacities(matrix: np.ndarray, rigid: np.ndarray) -> list[float]:
    """Return Cv at all temperatures, eV/K; imaginary modes continue c(y) by its tangent."""
    inner = matrix - rigid @ (rigid.T @ matrix)
    inner = inner - (inner @ rigid) @ rigid.T
    values = np.linalg.eigvalsh((inner + inner.T) / 2)
    values = np.delete(values, np.argsort(np.abs(values))[: rigid.shape[1]])
    return [heat_capacity(values, temperature) for temperature in TEMPERATURES]


def heat_capacity(values: np.ndarray, temperature: float) -> float:
    """Return the sum of c(y) over eigenvalues y, eV/K."""
    quantum = vibrational_quantum("meV") * FREQUENCY_UNITS["meV"] / (K_B * temperature)
    x = quantum * np.sqrt(np.maximum(values, 1e-12))
    above = (x / 2 / np.sinh(x / 2)) ** 2
    return K_B * float(np.where(values > 0, above, 1 - quantum**2 * values / 12).sum())


class Exact:
    """The exact Hessian of a structure, with which truncated ones are compared.

    Truncated matrices are made of its columns as `sparse_hessian` makes them of products.
    """

    def __init__(self, name: str, result: mf.sparse.SparseHessian) -> None:
        self.name, self.rigid = name, result.rigid
        self.matrix, self.weights = result.matrix.toarray(), result.structure.masses.numpy() ** -0.5
        self.step = one_hop(result.structure.topology)
        self.weighted = result.mass_weighted().toarray()
        self.capacities = heat_capacities(self.weighted, self.rigid)

    def print_rows(self) -> None:
        """Print the rows of the table: one to three hops, from products and with exact blocks."""
        n_atoms = len(self.weights)
        full = within_hops(self.step, 4)
        for hops in (1, 2, 3):
            pattern = within_hops(self.step, hops)
            if pattern.nnz == full.nnz:
                break
            colours = coloured(pattern)
            products = 3 * (int(colours.max()) + 1)
            ways = {f"{products} of {3 * n_atoms} products": colours}
            if products < 3 * n_atoms:
                ways["exact blocks"] = np.arange(n_atoms)
            for way, groups in ways.items():
                share = 100 * pattern.nnz / n_atoms**2
                start = f"| {self.name} | {n_atoms} | {hops} | {share:.0f} % | {way} | "
                print(start + self._compared(self._truncated(pattern, groups)), flush=True)

    def _truncated(self, pattern: csr_array, groups: np.ndarray) -> bsr_array:
        """Return the mass-weighted matrix on a pattern, from products of groups of atoms."""
        rows = BlockRows(pattern, self.matrix.dtype)
        columns = self.matrix.reshape(len(groups), 3, len(groups), 3)
        for group in range(int(groups.max()) + 1):
            atoms = np.flatnonzero(groups == group)
            for atom in atoms:
                rows.add_column(atom, columns[atoms].sum(0))
        rows.symmetrise()
        rows.add_sum_rule()
        pairs = np.repeat(np.arange(len(groups)), np.diff(pattern.indptr)), pattern.indices
        rows.blocks *= (self.weights[pairs[0]] * self.weights[pairs[1]])[:, None, None]
        return rows.matrix()

    def _compared(self, stored: bsr_array) -> str:
        """Return error, estimate with standard error, and bound at all temperatures, in permille.

        Each temperature has its own measurement, as `sparse_hessian(temperature=...)` makes it.
        """
        cells: list[str] = []
        capacities = heat_capacities(stored.toarray(), self.rigid)
        for temperature, capacity, found in zip(
            TEMPERATURES, self.capacities, capacities, strict=True
        ):
            difference = capacity - found
            process = exact_process(lambda v: self.weighted @ v, self.rigid)
            measured = truncation_error(
                process, lambda v: stored @ v, self.rigid, temperature=temperature
            )
            error = measured.heat_capacity(temperature)
            permille = [1e3 * x / capacity for x in (difference, *error[:3])]
            holds = "" if abs(difference) <= error.bound else " (exceeded)"
            cells.append("{:+.4f} | {:+.4f} ± {:.4f} | {:.4f}".format(*permille) + holds)
            cells.append(f"{measured.n_products}")
        return " | ".join(cells) + " |"


def print_head() -> None:
    """Print the head of a table of truncated matrices."""
    each = "".join(f" | error {t:g} K | estimate | bound | products" for t in TEMPERATURES)
    print(f"| | atoms | hops | blocks stored | made from{each} |")
    print("| --- | ---: | ---: | ---: | --- |" + " ---: |" * 4 * len(TEMPERATURES))


def bounds() -> None:
    """Print the error of the heat capacity, its estimate and its bound, for one to three hops."""
    model = mf.load_model("embedded")
    print_head()
    for name, atoms in structures(model):
        Exact(name, mf.sparse_hessian(model, atoms, method="products")).print_rows()


def large(repeat: int) -> None:
    """Print colours, errors, processor time and memory for MOF-5, and the difference to dense."""
    model = mf.load_model("embedded")
    atoms = relaxed_mof(model).repeat(repeat)
    step = one_hop(model.structure(atoms).topology)
    for hops in (1, 2, 3, 4):
        pattern = within_hops(step, hops)
        share = pattern.nnz / len(atoms) ** 2
        products = 3 * (int(coloured(pattern).max()) + 1)
        print(f"{hops} hops: {100 * share:.1f} % of the blocks, {products} products", flush=True)

    started = time.process_time()
    result = mf.sparse_hessian(model, atoms)
    print(result)
    print(f"{time.process_time() - started:.0f} s of one core, {peak_memory():.2f} GiB", flush=True)

    started = time.process_time()
    print(result.lowest_modes(10), f"{time.process_time() - started:.1f} s", flush=True)

    print_head()
    Exact("MOF-5", result).print_rows()

    operator = mf.HessianOperator.from_potential(model, atoms, mass_weighted=False)
    started = time.process_time()
    dense = (operator @ torch.eye(3 * len(atoms), dtype=torch.float64)).numpy()
    print(f"{time.process_time() - started:.0f} s for all columns by products")
    difference = np.abs(result.matrix.toarray() - (dense + dense.T) / 2).max()
    print(f"relative difference to them: {difference / np.abs(dense).max():.1e}")
    print(f"{peak_memory():.2f} GiB")


def peak_memory() -> float:
    """Return the largest memory that this process has taken, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["bounds", "large"])
    parser.add_argument("--repeat", type=int, default=2, help="cells along each lattice vector")
    options = parser.parse_args()
    bounds() if options.what == "bounds" else large(options.repeat)
