"""Force constants of a crystal in real space, exact to their full range.

The energy of an atom depends on the atoms that n layers of message passing reach, n steps along the
edges of the graph, so that two atoms are coupled only where 2n steps connect them. The crystal is
unrolled that far around the atoms to be displaced. What is further out does not feel them, so that
the force constants of the piece are those of the crystal, although the energies at its rim are not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from e3nn import o3
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import ChunkSize, map_columns
from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import keep_freed_memory
from mace_functional.mace.evaluation import atom_energies
from mace_functional.phonons.wave_vector import WaveVector, wave_vector
from mace_functional.structure.cluster import UnrolledGraph
from mace_functional.structure.graph import Graph, from_ase
from mace_functional.structure.selection import refuse_constraints
from mace_functional.structure.symmetry import SYMPREC, Image, Operations, Plan, plan
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.mace.model import Model


@dataclass(frozen=True, eq=False)
class ForceConstants:
    """Second derivatives of the energy of a crystal by the positions of two atoms.

    Attributes:
        cells: Lattice vectors R in units of those of the cell, whole numbers, (R, 3).
        values: Phi(0j a, Rk b) = d2E / dx_0ja dx_Rkb in eV/Å², (R, N, 3, N, 3).
        positions: Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        pbc: Periodic directions, (3,).
        masses: amu, (N,).
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

    def dynamical_matrix(self, q: WaveVector) -> Tensor:
        """The dynamical matrix, `sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)`.

        A pure function of q, for any transform; under `vmap` it is one matrix product for all q.

        Args:
            q: In units of the reciprocal lattice vectors, (3,).

        Returns:
            Complex, (3N, 3N), in eV/Å²/amu.

        Raises:
            ValueError: If q is not three finite numbers, or has a component along a direction that
                is not periodic.
        """
        q = wave_vector(q, self.pbc, self.masses)
        angles = 2 * torch.pi * (self.cells.to(q) @ q)
        blocks, size = self._weighted, 3 * len(self.masses)
        real, imaginary = torch.cos(angles) @ blocks, torch.sin(angles) @ blocks
        return torch.complex(real, imaginary).view(size, size)

    @cached_property
    def _weighted(self) -> Tensor:
        """Phi / sqrt(m_j m_k), a row for each cell."""
        weights = self.masses.rsqrt()
        blocks = weights[:, None, None, None] * self.values * weights[:, None]
        return blocks.flatten(1)

    @cached_property
    def distances(self) -> Tensor:
        """Of the two atoms, Å, (R, N, N)."""
        ends = (self.cells.to(self.cell) @ self.cell)[:, None, None] + self.positions
        return (ends - self.positions[:, None]).norm(dim=-1)

    @property
    def range(self) -> float:
        """Largest distance in Å of two atoms with force constants that are not zero."""
        coupled = (self.values != 0).any(-1).any(2)
        return float((self.distances * coupled).max())

    @property
    def acoustic_sum_residual(self) -> float:
        """Largest |sum_Rk Phi(0j, Rk)|, eV/Å²: zero for an energy invariant under translations."""
        return float(self.values.sum((0, 3)).abs().max())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of numpy arrays, *.npz; an old one stays until the new one is whole."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}
        with atomic_write(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ForceConstants:
        """Read a file of `save`, onto the CPU.

        Raises:
            ValueError: If it is not such a file.
        """
        names = [f.name for f in fields(cls)]
        with np.load(path, allow_pickle=False) as arrays:
            if set(names) - set(arrays):
                raise ValueError(f"{path} has no force constants: it lacks some of {names}")
            return cls(**{name: torch.as_tensor(arrays[name]) for name in names})


def force_constants(
    model: Model,
    atoms: Atoms,
    *,
    symmetry: bool = True,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
) -> ForceConstants:
    """Exact force constants of a crystal in real space: no supercell, no step, no cutoff of theirs.

    With symmetry they are as invariant as the crystal is meant to be, and differ from those without
    as far as the model is not invariant itself: weights that were made in single precision turn
    with an error of 1e-8 eV/Å².

    Args:
        model: From `load_model`.
        atoms: The crystal, periodic in one direction or more.
        symmetry: Displace only inequivalent atoms, along as few directions as their site symmetry
            asks for, and let the operations of the space group give all else.
        symprec: How far atoms may be from where an operation takes them, Å. Operations that hold
            only so far are imposed on the force constants, which change in proportion.
        chunk_size: Displacements at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        progress: Show a progress bar.

    Returns:
        The force constants. What is smaller than the rounding of the largest is zero, and cells
        in which nothing else is are left out.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure is not periodic, does not fit the model (see `from_ase`), or
            the model has a dispersion, which reaches much further than message passing; or if
            constraints hold atoms, or parameters of the model require grad or are inside of a
            transform.
    """
    in_order("force_constants(model, atoms)", (model, "Model"), (atoms, "Atoms"))
    refuse_transforms("force_constants", "hessian or dynamical_matrix_fn", model.params)
    refuse_constraints(atoms, "force_constants", "take hessian(..., indices=...) of free atoms")
    if model.dispersion is not None:
        raise ValueError(
            "force constants of dispersion do not end where those of the model do: take the "
            "dynamical matrix at each wave vector, dynamical_matrix_fn or "
            "phonons_of(method='replicas'), which has all of it"
        )
    s = from_ase(atoms, model)
    if not bool(s.graph.pbc.any()):
        raise ValueError(
            "force constants between cells are those of a crystal, and the structure is not "
            "periodic: set atoms.pbc, or take the Hessian of a molecule with hessian"
        )
    keep_freed_memory()
    if symmetry:
        proper = not has_parity(model)
        operations = Operations.of(atoms, _kinds(atoms, s.graph), symprec, proper)
    else:
        operations = Operations.identity(len(atoms))
    chosen = plan(operations)
    displaced = sorted({source.atom for source in chosen.sources})
    energies_of = atom_energies(model)
    crystal = UnrolledGraph.around(displaced, s.graph, layers=len(model.settings.interactions))

    def energy(x: Tensor) -> Tensor:
        return energies_of(model.params, crystal, x, s.cell).sum()

    atom, cells = crystal.atom, crystal.cells
    positions = s.positions[atom] + cells.to(s.cell) @ s.cell
    pull_back = vjp(grad(energy), positions)[1]
    home = (cells == 0).all(1)
    displacements = positions.new_zeros(len(chosen.sources), *positions.shape)
    for row, (j, direction) in zip(displacements, chosen.sources, strict=True):
        row[home & (atom == j)] = torch.as_tensor(direction).to(row)
    rows = map_columns(
        lambda u: pull_back(u)[0],
        displacements,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        progress=progress,
        description="Force constants",
    )
    ends = atom.cpu().numpy(), cells.cpu().numpy()
    found, values = _assembled(rows.cpu().numpy(), *ends, operations, chosen)
    return ForceConstants(
        cells=torch.as_tensor(found, device=model.device),
        values=torch.as_tensor(values, device=model.device),
        positions=s.positions,
        cell=s.cell,
        pbc=s.graph.pbc,
        masses=s.masses,
    )


def has_parity(model: Model) -> bool:
    """Whether reflections leave the energy as it is: harmonics of odd l are odd."""
    return all(ir.p == (-1) ** ir.l for _, ir in o3.Irreps(model.settings.harmonics_irreps))


def _kinds(atoms: Atoms, graph: Graph) -> np.ndarray:
    """A number for atoms of one element with the same embedded features."""
    features = [f.cpu().numpy() for f in graph.features.values() if f.ndim == 1]
    labels = np.stack([atoms.numbers, *features], 1)
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def _assembled(
    rows: np.ndarray,
    atom: np.ndarray,
    cells: np.ndarray,
    operations: Operations,
    chosen: Plan,
) -> tuple[np.ndarray, np.ndarray]:
    """All force constants from the rows that were computed.

    Args:
        rows: Of each source, for each image, eV/Å², (sources, images, 3).
        atom: Of each image, (images,).
        cells: Of each image, (images, 3).
        operations: Of the crystal.
        chosen: The sources, and where the others come from.

    Returns:
        Cells (R, 3), and values (R, N, 3, N, 3).
    """
    coupled = [np.flatnonzero(row.any(1)) for row in rows]

    def moved(image: Image) -> np.ndarray:
        """Cells, seen from that of the displaced atom."""
        s, g = image
        shift = operations.shift[g]
        ends = coupled[s]
        turned = cells[ends] @ operations.lattice[g].T
        return turned + shift[atom[ends]] - shift[chosen.sources[s].atom]

    needed = {image for images in chosen.images for image in images}
    reach = np.max([np.abs(moved(image)).max(0, initial=0) for image in needed], axis=0)
    size = len(chosen.images)
    values = np.zeros((*(2 * reach + 1), size, 3, size, 3), dtype=rows.dtype)
    for j, images in enumerate(chosen.images):
        directions = [operations.cartesian[g] @ chosen.sources[s].direction for s, g in images]
        for image, weights in zip(images, np.linalg.inv(directions).T, strict=True):
            s, g = image
            row = rows[s, coupled[s]] @ operations.cartesian[g].T
            end = operations.atom[g, atom[coupled[s]]]
            values[(*(moved(image) + reach).T, j, slice(None), end)] += (
                weights[:, None] * row[:, None]
            )
    sizes = np.abs(values).max((4, 6), keepdims=True)
    values *= sizes > np.finfo(rows.dtype).eps * sizes.max()
    kept = np.abs(values).max((3, 4, 5, 6)) > 0
    kept[tuple(reach)] = True
    return np.argwhere(kept) - reach, values[kept]
