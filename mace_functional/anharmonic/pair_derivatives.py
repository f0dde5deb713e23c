"""Third derivatives along pairs of displacements, in this process or by many workers.

The product of the Hessian with the first displacement u is computed and kept once,

    d3E[u, v, .] = d(H u)^T/dx v.

Second displacements v are then pulled back, many in one `vmap`. Each call repeats work that its
vectors share, worth about nine gradients; a vector adds about one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp, vmap

from mace_functional.anharmonic.displaced_pairs import DisplacedPairs
from mace_functional.autodiff.columns import ChunkSize, chunk_that_fits, columns_bar
from mace_functional.autodiff.memory import BUDGET_FRACTION, MemoryMeter, free_memory
from mace_functional.derivatives.second import hvp
from mace_functional.parallel.shared_parts import computed
from mace_functional.potential.protocol import Potential
from mace_functional.structure.arrays import as_array
from mace_functional.support.checkpoint_arrays import read_arrays, write_arrays

if TYPE_CHECKING:
    from ase import Atoms

PAIRS_OF_A_PART = 64
"""Largest number of pairs that a worker computes at once.

With MACE-MP-0 small, a pair of sodium chloride (64 atoms) takes 1.5 gradients with 16 of them and
1.2 with 32, one of quartz (72 atoms) 1.3 and 1.2. A single one takes 9 to 11.
"""

MEASURED_PAIRS = 8
"""Number of pairs of a part whose memory is measured, to choose how many of the others fit."""

SAVE_INTERVAL = 30.0
"""Seconds between two writings of the checkpoint."""

TOLERANCE = 1e-7
"""Largest difference of coordinates (Å) and relative energies of the same calculation."""

FORMAT = 1
"""Version of the names of arrays in a checkpoint and of their meaning."""


class _Part(NamedTuple):
    """Pairs with the same first displacement.

    Attributes:
        first: Number of the first displacement.
        u: First displacement, (N, 3).
        atoms: Second atoms, (m,).
        directions: Second displacements, (m, 3).
    """

    first: int
    u: np.ndarray
    atoms: np.ndarray
    directions: np.ndarray


def pair_derivatives(
    potential: Potential,
    supercell: Atoms,
    pairs: Sequence[DisplacedPairs],
    *,
    chunk_size: ChunkSize,
    memory_budget: int | None,
    checkpoint: Path | None,
    executor: Executor | None,
    progress: bool,
) -> list[np.ndarray]:
    """Compute third derivatives along pairs of displacements.

    Args:
        potential: The potential.
        supercell: The supercell.
        pairs: The pairs.
        chunk_size: Second displacements at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        checkpoint: File to continue from, and to write to; None for none.
        executor: Executor whose workers share the pairs; None to compute in this process.
        progress: Show a progress bar.

    Returns:
        d3E[u, v, .] in eV/Å³ for the pairs of each first displacement, (m, N, 3).

    Raises:
        ValueError: If the checkpoint belongs to another calculation.
        ArithmeticError: If a derivative is not finite.
    """
    job = PairDerivatives(potential, supercell.copy(), chunk_size, memory_budget)
    s = potential.structure(supercell)
    identity: dict[str, Any] = {}
    done: list[np.ndarray] = []
    if checkpoint is not None:
        energy = potential.energy_fn(s.topology)(s.positions, s.cell, potential.params)
        identity = _identity(supercell, pairs, float(energy))
        done = _saved(checkpoint, identity)
    parts = _parts(pairs, len(supercell))
    results = computed(job, parts[len(done) :], executor, s.positions.device)
    n_saved, saved_at = len(done), time.monotonic()
    with columns_bar("Third derivatives", sum(map(len, pairs)), progress) as advance:
        advance(sum(map(len, done)))
        try:
            with closing(results):
                for derivatives in results:
                    if not np.isfinite(derivatives).all():
                        raise ArithmeticError(
                            "a third derivative is not finite: the energy is not smooth at this "
                            "structure, or overflows in single precision"
                        )
                    done.append(derivatives)
                    advance(len(derivatives))
                    if checkpoint is not None and time.monotonic() - saved_at > SAVE_INTERVAL:
                        _save(checkpoint, identity, done)
                        n_saved, saved_at = len(done), time.monotonic()
        finally:
            if checkpoint is not None and len(done) > n_saved:
                _save(checkpoint, identity, done)
    of_first: list[list[np.ndarray]] = [[np.zeros((0, len(supercell), 3))] for _ in pairs]
    for part, derivatives in zip(parts, done, strict=True):
        of_first[part.first].append(derivatives)
    return [np.concatenate(found) for found in of_first]


@dataclass(frozen=True, eq=False)
class PairDerivatives:
    """The job: third derivatives along pairs with the same first displacement.

    Attributes:
        potential: The potential.
        atoms: The supercell.
        chunk_size: Second displacements at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
    """

    potential: Potential
    atoms: Atoms
    chunk_size: ChunkSize
    memory_budget: int | None

    def begun(self, device: str | None) -> Callable[[_Part], np.ndarray]:
        """Return the function of a part; it keeps the product H u of the last first displacement.

        Args:
            device: Device to compute on; that of the potential if None.
        """
        potential = self.potential if device is None else self.potential.to(device=device)
        s = potential.structure(self.atoms)
        product = hvp(potential.energy_fn(s.topology))
        kept: dict[int, Callable[[Tensor], tuple[Tensor]]] = {}

        def compute(part: _Part) -> np.ndarray:
            if part.first not in kept:
                kept.clear()
                u = torch.as_tensor(part.u).to(s.positions)
                kept[part.first] = vjp(
                    lambda x: product(x, s.cell, potential.params, u), s.positions
                )[1]
            pull_back = kept[part.first]
            v = s.positions.new_zeros(len(part.atoms), *s.positions.shape)
            rows = torch.arange(len(v), device=v.device)
            v[rows, torch.as_tensor(part.atoms, device=v.device)] = torch.as_tensor(
                part.directions
            ).to(v)
            return as_array(self._pulled_back(vmap(lambda w: pull_back(w)[0]), v))

        return compute

    def _pulled_back(self, apply: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """Apply a linear map to vectors, in chunks that fit the memory."""
        size, done = self.chunk_size, []
        if size == "auto":
            budget = self.memory_budget or int(BUDGET_FRACTION * free_memory(vectors.device))
            with MemoryMeter() as meter:
                done.append(apply(vectors[:MEASURED_PAIRS]))
            each = meter.peak // len(done[0])
            size = chunk_that_fits(each, vectors.device, budget, budget, PAIRS_OF_A_PART)
            vectors = vectors[MEASURED_PAIRS:]
        done += [apply(chunk) for chunk in vectors.split(size or PAIRS_OF_A_PART) if len(chunk)]
        return torch.cat(done)


def _parts(pairs: Sequence[DisplacedPairs], n_atoms: int) -> list[_Part]:
    """Divide the pairs of each first displacement into parts."""
    parts = []
    for first, of_first in enumerate(pairs):
        u = np.zeros((n_atoms, 3))
        u[of_first.atom] = of_first.direction
        for start in range(0, len(of_first), PAIRS_OF_A_PART):
            part = slice(start, start + PAIRS_OF_A_PART)
            atoms, directions = of_first.second_atoms[part], of_first.second_directions[part]
            parts.append(_Part(first, u, atoms, directions))
    return parts


def _identity(
    supercell: Atoms, pairs: Sequence[DisplacedPairs], energy: float
) -> dict[str, np.ndarray]:
    """Return arrays that are equal in all runs of one calculation, by name."""
    return {
        "format": np.array(FORMAT),
        "elements": supercell.numbers,
        "positions": supercell.positions,
        "cell": supercell.cell.array,
        "energy": np.array(energy),
        "first atoms": np.array([p.atom for p in pairs]),
        "first directions": np.array([p.direction for p in pairs]),
        "second atoms": np.concatenate([p.second_atoms for p in pairs]),
        "second directions": np.concatenate([p.second_directions for p in pairs]),
    }


def _saved(path: Path, identity: Mapping[str, Any]) -> list[np.ndarray]:
    """Read the finished parts of a checkpoint; none if the file does not exist."""
    if not path.exists():
        return []
    arrays = read_arrays(
        path, identity, of="third_order_force_constants", rtol=TOLERANCE, atol=TOLERANCE
    )
    return [arrays[f"part{i}"] for i in range(len(arrays) - len(identity))]


def _save(path: Path, identity: Mapping[str, Any], done: list[np.ndarray]) -> None:
    write_arrays(path, {**identity, **{f"part{i}": part for i, part in enumerate(done)}})
