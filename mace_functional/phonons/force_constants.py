"""Force constants of a crystal in real space, exact to their full range.

A row of the force constants is the change of all forces as one atom is displaced. As few rows as
the symmetry of the crystal allows are computed exactly (`force_constant_rows`). All others follow
by the operations of the space group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.columns import ChunkSize
from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import tune_allocator
from mace_functional.phonons.force_constant_rows import DisplacedRow, rows_of
from mace_functional.phonons.wave_vector import WaveVector, wave_vector
from mace_functional.potential.protocol import (
    Potential,
    features_of,
    is_mirror_symmetric,
)
from mace_functional.potential.terms import Part, parts_of_potential
from mace_functional.structure.selection import refuse_constraints
from mace_functional.structure.symmetry import Operations, Plan, RowImage, plan
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.defaults import SYMPREC
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.structure.structure import Structure


@dataclass(frozen=True, eq=False)
class ForceConstants:
    """Second derivatives of the energy of a crystal by the positions of two atoms.

    Attributes:
        cells: Lattice vectors R as integers, in units of those of the cell, (R, 3).
        values: Phi(0j a, Rk b) = d2E / dx_0ja dx_Rkb in eV/Å², (R, N, 3, N, 3).
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        pbc: True for each periodic direction, (3,).
        masses: Masses in amu, (N,).
    """

    cells: Tensor
    values: Tensor
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    masses: Tensor

    def __repr__(self) -> str:
        return (
            f"ForceConstants({len(self.masses)} atoms, {len(self.cells)} cells, range "
            f"{self.range:.1f} Å)"
        )

    def __getstate__(self) -> dict[str, Tensor]:
        # Without what is derived from them, which is as large.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to(self, device: str | torch.device) -> ForceConstants:
        """Return the force constants on a device."""
        return ForceConstants(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def dynamical_matrix(self, q: WaveVector) -> Tensor:
        """Compute the dynamical matrix, `sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)`.

        This is a pure function of q, for any transform. Under `vmap` it is one matrix product for
        all q.

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).

        Returns:
            Dynamical matrix in eV/Å²/amu, complex (3N, 3N).

        Raises:
            ValueError: If q is not three finite numbers, or has a component along a direction that
                is not periodic.
        """
        q = wave_vector(q, self._periodic, self.masses)
        angles = 2 * torch.pi * (self.cells.to(q) @ q)
        blocks, n = self._weighted, 3 * len(self.masses)
        real, imaginary = torch.cos(angles) @ blocks, torch.sin(angles) @ blocks
        return torch.complex(real, imaginary).view(n, n)

    @cached_property
    def _periodic(self) -> list[bool]:
        """Periodic directions."""
        return self.pbc.tolist()

    @cached_property
    def _weighted(self) -> Tensor:
        """Mass-weighted force constants Phi / sqrt(m_j m_k), a row for each cell."""
        weights = self.masses.rsqrt()
        blocks = weights[:, None, None, None] * self.values * weights[:, None]
        return blocks.flatten(1)

    @cached_property
    def distances(self) -> Tensor:
        """Distances of the two atoms, Å, (R, N, N)."""
        ends = (self.cells.to(self.cell) @ self.cell)[:, None, None] + self.positions
        return (ends - self.positions[:, None]).norm(dim=-1)

    @property
    def range(self) -> float:
        """Largest distance in Å of two atoms with force constants that are not zero."""
        coupled = (self.values != 0).any(-1).any(2)
        return float((self.distances * coupled).max())

    @property
    def acoustic_sum_residual(self) -> float:
        """Largest |sum_Rk Phi(0j, Rk)|, eV/Å²; zero for an energy invariant under translations."""
        return float(self.values.sum((0, 3)).abs().max())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of numpy arrays, *.npz; it replaces an old file only when it is complete."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}
        with atomic_write(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ForceConstants:
        """Read a file of `save`, onto the CPU.

        Raises:
            ValueError: If the file has no force constants.
        """
        names = [f.name for f in fields(cls)]
        with np.load(path, allow_pickle=False) as arrays:
            if set(names) - set(arrays):
                raise ValueError(f"{path} has no force constants: it lacks some of {names}")
            return cls(**{name: torch.as_tensor(arrays[name]) for name in names})


def force_constants(
    potential: Potential,
    atoms: Atoms,
    *,
    symmetry: bool = True,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ForceConstants:
    """Compute exact force constants of a crystal: no supercell, no finite step, no truncation.

    With `symmetry=True` the result has exactly the symmetry of the space group. It can differ from
    `symmetry=False` by the potential's own symmetry error, about 1e-8 eV/Å² for weights that were
    made in single precision.

    Args:
        potential: An `EdgePotential`, such as a model of `load_model`, a potential that `HasReach`,
            or a sum of these.
        atoms: The crystal, periodic in at least one direction.
        symmetry: Displace only inequivalent atoms, in as few directions as their site symmetry
            allows. All other force constants follow by the operations of the space group.
        symprec: Largest distance of an atom from the position that an operation gives, Å.
            Operations that hold only approximately are imposed on the force constants, which change
            in proportion.
        chunk_size: Displacements at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        executor: Executor whose workers share the displaced atoms; see `WorkerProcesses`. None to
            compute in this process.
        progress: Show a progress bar.

    Returns:
        The force constants. Values below the rounding error of the largest are set to zero, and
        cells without other values are left out.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure is not periodic, does not fit the potential (see `from_ase`), a
            part of the potential has neither edges nor a reach, such as D3, constraints fix atoms,
            parameters require grad or are inside of a transform, or the potential cannot be sent to
            processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.
    """
    kinds = (potential, "Potential"), (atoms, "Atoms")
    in_order("force_constants(potential, atoms)", *kinds)
    refuse_transforms("force_constants", "hessian or dynamical_matrix_fn", potential.params)
    refuse_constraints(atoms, "force_constants", "take hessian(..., indices=...) of free atoms")
    s = potential.structure(atoms)
    parts = parts_of_potential(potential, s.topology, potential.params)
    if not all(part.is_finite for part in parts):
        raise ValueError(
            f"a part of {potential} has neither edges nor a reach, so the range of its force "
            "constants is unknown: compute the dynamical matrix at each wave vector with "
            "dynamical_matrix_fn or phonons_of, or give the potential a reach"
        )
    columns = {
        "chunk_size": chunk_size,
        "memory_budget": memory_budget,
        "executor": executor,
        "progress": progress,
    }
    return force_constants_of_parts(
        potential, parts, atoms, s, symmetry=symmetry, symprec=symprec, columns=columns
    )


def force_constants_of_parts(
    potential: Potential,
    parts: list[Part[Potential]],
    atoms: Atoms,
    s: Structure,
    *,
    symmetry: bool,
    symprec: float,
    columns: dict[str, Any],
) -> ForceConstants:
    """Compute the force constants of those terms of a potential that have a finite range.

    Args:
        potential: The potential.
        parts: The terms.
        atoms: The crystal.
        s: The crystal as a structure of the potential.
        symmetry: Use the space group.
        symprec: Tolerance of the symmetry, Å.
        columns: Options of `chunked_vmap`, and `executor`.

    Raises:
        ValueError: If the structure is not periodic.
    """
    if not bool(s.topology.pbc.any()):
        raise ValueError(
            "force constants between cells need a crystal, and the structure is not periodic: set "
            "atoms.pbc, or compute the Hessian of a molecule with hessian"
        )
    tune_allocator()
    if symmetry:
        operations = operations_of(potential, atoms, symprec)
    else:
        operations = Operations.identity(len(atoms))
    chosen = plan(operations)
    per_part = [
        _assembled(rows_of(part, s, atoms, chosen.sources, columns), operations, chosen)
        for part in parts
    ]
    cells, values = _added(per_part)
    return ForceConstants(
        cells=torch.as_tensor(cells, device=s.cell.device),
        values=torch.as_tensor(values, device=s.cell.device),
        positions=s.positions,
        cell=s.cell,
        pbc=s.topology.pbc,
        masses=s.masses,
    )


def operations_of(potential: Potential, atoms: Atoms, symprec: float) -> Operations:
    """Return the operations of the space group that leave the energy of a potential unchanged."""
    proper = not is_mirror_symmetric(potential)
    return Operations.of(atoms, _kinds(atoms, features_of(potential, atoms)), symprec, proper)


def _added(terms: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add force constants that are given in different cells."""
    if len(terms) == 1:
        return terms[0]
    cells, inverse = np.unique(
        np.concatenate([cells for cells, _ in terms]), axis=0, return_inverse=True
    )
    values = np.zeros((len(cells), *terms[0][1].shape[1:]))
    np.add.at(values, inverse.reshape(-1), np.concatenate([values for _, values in terms]))
    return cells, values.astype(terms[0][1].dtype)


def _kinds(atoms: Atoms, features: dict[str, Tensor]) -> np.ndarray:
    """Return a number for each atom; it is equal for atoms of one element and equal features."""
    atom_features = [f.cpu().numpy() for f in features.values() if f.ndim == 1]
    labels = np.stack([atoms.numbers, *atom_features], 1)
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def _assembled(
    rows: list[DisplacedRow], operations: Operations, chosen: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """Assemble all force constants from the computed rows.

    Args:
        rows: Force constants of each source.
        operations: Operations of the space group.
        chosen: The sources, and the images of rows that give all other rows.

    Returns:
        Cells (R, 3), and values (R, N, 3, N, 3).
    """
    coupled = [row.values.any(1) for row in rows]
    rows = [
        DisplacedRow(*(array[k] for array in row)) for row, k in zip(rows, coupled, strict=True)
    ]

    def image_cells(image: RowImage) -> np.ndarray:
        """Return the cells of a transformed row, relative to that of its displaced atom."""
        s, g = image
        shift = operations.shift[g]
        rotated = rows[s].cells @ operations.lattice[g].T
        return rotated + shift[rows[s].atom] - shift[chosen.sources[s].atom]

    needed = {image: image_cells(image) for images in chosen.images for image in images}
    home = np.zeros((1, 3), dtype=int)
    cells = np.unique(np.concatenate([home, *needed.values()]), axis=0)
    max_cell = np.abs(cells).max(0)
    number = np.empty(2 * max_cell + 1, dtype=int)
    number[tuple((cells + max_cell).T)] = np.arange(len(cells))
    n_atoms, dtype = len(chosen.images), rows[0].values.dtype
    values = np.zeros((len(cells), n_atoms, 3, n_atoms, 3), dtype=dtype)
    for j, images in enumerate(chosen.images):
        directions = [operations.cartesian[g] @ chosen.sources[s].direction for s, g in images]
        for image, weights in zip(images, np.linalg.inv(directions).T, strict=True):
            s, g = image
            row = rows[s].values @ operations.cartesian[g].T
            end = operations.atom[g, rows[s].atom]
            cell = number[tuple((needed[image] + max_cell).T)]
            values[cell, j, :, end] += weights[:, None] * row[:, None]
    magnitudes = np.abs(values).max((2, 4), keepdims=True)
    values *= magnitudes > np.finfo(dtype).eps * magnitudes.max()
    kept = values.any((1, 2, 3, 4)) | ~cells.any(1)
    return cells[kept], values[kept]
