"""The free coordinates of an optimiser: displacements of atoms and strain, without what is held.

With displacements u (N, 3) and a symmetric strain e, both from a reference geometry (x, h),

    x' = (x + u)(1 + e),        h' = h (1 + e).

Atoms that are held therefore keep their place in the cell when it is strained. The joint vector is
y = (u, L e), with e in an orthonormal basis of the symmetric matrices. The length L is that of the
displacements that a strain causes, so that steps of u and L e are comparable. Free coordinates z
span a linear space, y = basis z, without translations and without what constraints, symmetry or a
choice of strains exclude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.structure.selection import Freedom, freedom
from mace_functional.structure.symmetry import Operations
from mace_functional.vibrations.rigid import rigid_motions_of

if TYPE_CHECKING:
    from ase import Atoms

CellFreedom = bool | Literal["isotropic"] | Sequence[bool]
"""Free strains: all or none, those that keep the shape, or a choice of the six components
xx, yy, zz, yz, xz, xy."""

STRAIN_WEIGHT = 2.0
"""L over the root mean square displacement that a unit strain causes. A larger one makes the steps
of the cell shorter. Far from a minimum, a cell that changes too early relaxes into another one:
with smaller ones the framework RSM0004 ends 2 meV per atom higher (`benchmarks/README.md`)."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def _strain_basis() -> np.ndarray:
    """Orthonormal basis of the symmetric matrices, (6, 3, 3), in the order of Voigt."""
    basis = np.zeros((6, 3, 3))
    for k, (i, j) in enumerate(VOIGT):
        basis[k, i, j] = basis[k, j, i] = 1 if i == j else 0.5**0.5
    return basis


STRAINS = _strain_basis()


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Free coordinates z, (d,), and the geometries that they describe.

    Attributes:
        positions: Reference positions x, Å, (N, 3).
        cell: Reference cell h, Å, (3, 3).
        basis: Orthonormal columns, (3N + 6, d).
        strain_length: L, Å.
    """

    positions: Tensor
    cell: Tensor
    basis: np.ndarray
    strain_length: float

    @property
    def count(self) -> int:
        """Number d of free coordinates."""
        return self.basis.shape[1]

    @property
    def involved(self) -> np.ndarray:
        """Components of y that are not always zero."""
        return np.flatnonzero(np.abs(self.basis).sum(1))

    def joint(self, z: np.ndarray) -> Tensor:
        """The joint vector `y = basis z`, (3N + 6,)."""
        return torch.as_tensor(self.basis @ z).to(self.positions)

    def place(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and cell of y; a pure function, to be differentiated."""
        displacements, strain = self.split(joint)
        moved, cell = self.positions.to(joint) + displacements, self.cell.to(joint)
        return moved + moved @ strain, cell + cell @ strain

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements (N, 3) in Å and strain (3, 3) of y."""
        basis = torch.as_tensor(STRAINS).to(joint)
        strain = torch.tensordot(joint[-6:] / self.strain_length, basis, dims=1)
        return joint[:-6].view(-1, 3), strain

    def confined(self, forces: np.ndarray, virial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The free parts of forces (N, 3) and virial (3, 3).

        Args:
            forces: eV/Å, (N, 3).
            virial: dE/de, eV, (3, 3).
        """
        strain_part = np.tensordot(STRAINS, virial) / self.strain_length
        joint = np.concatenate([forces.ravel(), strain_part])
        joint = self.basis @ (self.basis.T @ joint)
        strain_part = joint[-6:] * self.strain_length
        return joint[:-6].reshape(-1, 3), np.tensordot(strain_part, STRAINS, axes=1)


def rigid_directions(
    coordinates: Coordinates,
    positions: Tensor,
    cell: Tensor,
    parts: Parts,
    hessian: np.ndarray | None = None,
) -> np.ndarray:
    """The free rigid motions at a geometry.

    Args:
        coordinates: Give the meaning of z.
        positions: Å, (N, 3).
        cell: Å, (3, 3).
        parts: The connected parts.
        hessian: Exact Hessian by z, (d, d), where nothing is held: it tells nearly straight
            molecules from bent ones; see `rigid`.

    Returns:
        Orthonormal directions of z, (d, r).
    """
    x = as_array(positions)
    free = coordinates.basis[:-6]

    def block(atoms: np.ndarray) -> np.ndarray:
        rows = free[(3 * atoms[:, None] + np.arange(3)).ravel()]
        found: np.ndarray = rows @ hessian @ rows.T
        return found

    rigid = rigid_motions_of(
        x, np.ones(len(x)), as_array(cell), parts, block=None if hessian is None else block
    )
    directions, sizes, _ = np.linalg.svd(free.T @ rigid.basis, full_matrices=False)
    return directions[:, sizes > 1 - 1e-6]


def free_coordinates(
    atoms: Atoms,
    positions: Tensor,
    cell: Tensor,
    *,
    cell_freedom: CellFreedom = True,
    symmetry: Operations | None = None,
) -> Coordinates:
    """The free coordinates of a structure.

    Args:
        atoms: Gives periodic directions and constraints; see `selection.freedom`.
        positions: Reference positions, Å, (N, 3).
        cell: Reference cell, Å, (3, 3).
        cell_freedom: The strains that are free, among those along periodic directions.
        symmetry: Operations of the space group that all motions keep; None to keep none.

    Returns:
        The coordinates.

    Raises:
        ValueError: If a constraint is of another kind, or the choice of strains is bad.
    """
    count = len(atoms)
    motions = _free_motions(freedom(atoms, "relax"))
    strains = _free_strains(cell_freedom, atoms)
    basis = np.zeros((3 * count + 6, motions.shape[1] + strains.shape[1]))
    basis[:-6, : motions.shape[1]] = motions
    basis[-6:, motions.shape[1] :] = strains
    if symmetry is not None:
        basis = _invariant(basis, symmetry, count)
    spread = float((positions - positions.mean(0)).norm()) / 3**0.5
    return Coordinates(positions, cell, basis, STRAIN_WEIGHT * max(spread, count**0.5))


def _free_motions(free: Freedom) -> np.ndarray:
    """Orthonormal basis (3N, m) of the free displacements; without translations if all are free."""
    if not free.whole:
        return free.basis()
    count = len(free.held)
    uniform = np.kron(np.full((count, 1), count**-0.5), np.eye(3))
    return np.linalg.qr(uniform, mode="complete")[0][:, 3:]


def _free_strains(freedom: CellFreedom, atoms: Atoms) -> np.ndarray:
    """Orthonormal basis (6, m) of the strains that are free."""
    pbc = np.asarray(atoms.pbc)
    if freedom is False or not pbc.any():
        return np.zeros((6, 0))
    periodic = atoms.cell.array[pbc]
    along = np.linalg.pinv(periodic) @ periodic
    kept = np.einsum("kab,ac,bd,lcd->kl", STRAINS, along, along, STRAINS)
    if freedom is True:
        return _fixed_space([kept])
    if isinstance(freedom, str):
        if freedom != "isotropic":
            raise ValueError(f"cell must be True, False, 'isotropic' or six booleans: {freedom!r}")
        uniform = np.tensordot(STRAINS, along)
        return uniform[:, None] / np.linalg.norm(uniform)
    mask = np.asarray(freedom)
    if mask.shape != (6,) or not np.isin(mask, (0, 1)).all():
        raise ValueError("choose strains by six booleans, for xx, yy, zz, yz, xz and xy")
    return _fixed_space([kept, np.diag(mask.astype(float))])


def _fixed_space(projectors: list[np.ndarray]) -> np.ndarray:
    """Orthonormal basis of the space that all projectors leave unchanged."""
    lost = sum(np.eye(len(p)) - p for p in projectors)
    values, vectors = np.linalg.eigh(lost)
    return vectors[:, values < 1e-9]


def _invariant(basis: np.ndarray, symmetry: Operations, count: int) -> np.ndarray:
    """The part of a space (3N + 6, d) that symmetry operations leave unchanged."""
    moved = np.zeros_like(basis)
    displacements = basis[:-6].reshape(count, 3, -1)
    for w, atom in zip(symmetry.cartesian, symmetry.atom, strict=True):
        turned = np.zeros_like(displacements)
        turned[atom] = np.einsum("ab,kbd->kad", w, displacements)
        moved[:-6] += turned.reshape(3 * count, -1)
        moved[-6:] += np.einsum("kab,ac,bd,lcd->kl", STRAINS, w, w, STRAINS) @ basis[-6:]
    average = basis.T @ moved / len(symmetry.atom)
    return basis @ _fixed_space([(average + average.T) / 2])
