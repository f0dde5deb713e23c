"""The dynamical matrix of one structure, as a function of the wave vector that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mace_functional.autodiff.columns import ChunkSize
from mace_functional.phonons.dynamical_matrix import DynamicalMatrix, dynamical_matrix_fn
from mace_functional.phonons.force_constants import ForceConstants
from mace_functional.phonons.wave_vector import WaveVector
from mace_functional.potential.protocol import Potential
from mace_functional.structure.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class CellMatrix:
    """D(q) of a structure, computed anew for each wave vector by `dynamical_matrix_fn`.

    Attributes:
        potential: The potential.
        structure: The structure.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
    """

    potential: Potential
    structure: Structure
    chunk_size: ChunkSize = "auto"
    memory_budget: int | None = None

    def __call__(self, q: WaveVector) -> Tensor:
        """Compute D(q) in eV/Å²/amu, complex (3N, 3N), with q in reciprocal lattice vectors."""
        s = self.structure
        return self.function(q, s.positions, s.cell, self.potential.params, s.masses)

    def __getstate__(self) -> dict[str, Any]:
        # The cached function cannot be pickled.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def function(self) -> DynamicalMatrix:
        """The function `D(q, positions, cell, params, masses)`."""
        return dynamical_matrix_fn(
            self.potential,
            self.structure.topology,
            chunk_size=self.chunk_size,
            memory_budget=self.memory_budget,
        )

    def on(self, device: str | None, atoms: Atoms, memory_budget: int | None) -> CellMatrix:
        """Return the matrix on a device.

        Args:
            device: The device; the present one if None.
            atoms: The structure.
            memory_budget: Bytes that "auto" may fill, where the matrix has no number of its own.
        """
        budget = self.memory_budget or memory_budget
        if device is None:
            return replace(self, memory_budget=budget)
        potential = self.potential.to(device=device)
        structure = potential.structure(atoms)
        return replace(self, potential=potential, structure=structure, memory_budget=budget)


@dataclass(frozen=True, eq=False)
class ShortAndLongRange:
    """D(q) of a sum: from force constants, and of terms without a finite range for each q.

    Attributes:
        constants: Force constants of the terms with a finite range.
        matrices: Dynamical matrices of the other terms.
    """

    constants: ForceConstants
    matrices: tuple[CellMatrix, ...]

    def __call__(self, q: WaveVector) -> Tensor:
        """Compute D(q) in eV/Å²/amu, complex (3N, 3N), with q in reciprocal lattice vectors."""
        return sum((m(q) for m in self.matrices), self.constants.dynamical_matrix(q))

    def on(self, device: str | None, atoms: Atoms, memory_budget: int | None) -> ShortAndLongRange:
        """Return the matrices on a device; see `CellMatrix.on`."""
        return ShortAndLongRange(
            self.constants if device is None else self.constants.to(device),
            tuple(m.on(device, atoms, memory_budget) for m in self.matrices),
        )
