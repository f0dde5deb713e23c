"""Free coordinates of an optimiser: displacements of atoms and strain, with constraints.

With displacements u (N, 3) and a symmetric strain e, both from a reference geometry (x, h),

    x' = (x + u)(1 + e),        h' = h (1 + e).

Fixed atoms therefore keep their fractional coordinates under strain. The joint vector is
y = (u, L e), with e in an orthonormal basis of the symmetric matrices. The length L is that of the
displacements that a strain causes, so that steps of u and L e are comparable. Free coordinates z
span a linear space, y = basis z. It excludes translations, and all motions that constraints,
symmetry or the choice of strains exclude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array
from torch import Tensor

from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.structure.selection import Freedom, freedom
from mace_functional.structure.symmetry import Operations
from mace_functional.vibrations.rigid import rigid_motions_of

if TYPE_CHECKING:
    from ase import Atoms

CellFreedom = bool | Literal["isotropic"] | Sequence[bool]
"""Free strains: all or none, "isotropic", or six booleans for xx, yy, zz, yz, xz, xy."""

Matrix: TypeAlias = np.ndarray | csr_array
"""A dense or a sparse matrix."""

STRAIN_WEIGHT = 2.0
"""Length L over the root mean square displacement that a unit strain causes.

A larger value makes steps of the cell shorter. Far from a minimum, a cell that changes too early
relaxes to another minimum: with smaller values the framework RSM0004 ends 2 meV per atom higher
(`benchmarks/README.md`).
"""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Indices of the components of a symmetric matrix in Voigt order."""


def _strain_basis() -> np.ndarray:
    """Return an orthonormal basis of the symmetric matrices in Voigt order, (6, 3, 3)."""
    basis = np.zeros((6, 3, 3))
    for k, (i, j) in enumerate(VOIGT):
        basis[k, i, j] = basis[k, j, i] = 1 if i == j else 0.5**0.5
    return basis


STRAINS = _strain_basis()
"""Orthonormal basis of the strains in Voigt order, (6, 3, 3)."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Free coordinates z, (d,), and their relation to positions and cell, on the CPU.

    Attributes:
        positions: Reference positions x, Å, (N, 3).
        cell: Reference cell h, Å, (3, 3).
        basis: Orthonormal columns, dense or sparse, (3N + 6, d).
        strain_length: Length L, Å.
    """

    positions: Tensor
    cell: Tensor
    basis: Matrix
    strain_length: float

    @property
    def count(self) -> int:
        """Number d of free coordinates."""
        return int(self.basis.shape[1])

    @property
    def involved(self) -> np.ndarray:
        """Indices of the components of y that are not always zero."""
        return np.flatnonzero(abs(self.basis).sum(1))

    def by_free(self, hessian: Matrix) -> Matrix:
        """Return a Hessian by z, (d, d), for one by y, (3N + 6, 3N + 6); both dense or sparse."""
        return self.basis.T @ (hessian @ self.basis)

    def groups(self) -> np.ndarray:
        """Return the number of the atom that each coordinate moves, (d,); -1 for strains.

        Each column of the basis moves one atom, or none.
        """
        rows = np.asarray(abs(self.basis).argmax(axis=0))
        return np.where(rows < 3 * len(self.positions), rows // 3, -1)

    def translations(self) -> np.ndarray:
        """Return the free translations of all atoms, orthonormal directions of z, (d, t)."""
        n_atoms = len(self.positions)
        moves = np.zeros((3 * n_atoms + 6, 3))
        moves[:-6] = np.kron(np.full((n_atoms, 1), n_atoms**-0.5), np.eye(3))
        free = self.basis.T @ moves
        values, axes = np.linalg.eigh(free.T @ free)
        directions: np.ndarray = free @ axes[:, values > 1 - 1e-9]
        return directions

    def joint(self, z: np.ndarray) -> Tensor:
        """Return the joint vector `y = basis z`, (3N + 6,)."""
        return torch.as_tensor(self.basis @ z).to(self.positions)

    def place(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions x' and cell h' for a joint vector y; a pure, differentiable function."""
        displacements, strain = self.split(joint)
        x_plus_u, cell = self.positions.to(joint) + displacements, self.cell.to(joint)
        return x_plus_u + x_plus_u @ strain, cell + cell @ strain

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Return displacements u (N, 3) in Å and strain e (3, 3) of a joint vector y."""
        basis = torch.as_tensor(STRAINS).to(joint)
        strain = torch.tensordot(joint[-6:] / self.strain_length, basis, dims=1)
        return joint[:-6].view(-1, 3), strain

    def confined(self, forces: np.ndarray, virial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the free parts of forces (N, 3) and virial (3, 3).

        Args:
            forces: Forces in eV/Å, (N, 3).
            virial: Virial dE/de in eV, (3, 3).
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
    """Return the free rigid motions at a geometry, as orthonormal directions of z, (d, r).

    Args:
        coordinates: Coordinates that define z.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        parts: Connected parts of the structure.
        hessian: Exact Hessian by z, (d, d), for structures without constraints. It distinguishes
            linear molecules from slightly bent ones; see `rigid`.
    """
    x = as_array(positions)
    free = coordinates.basis[:-6]

    def block(atoms: np.ndarray) -> np.ndarray:
        rows = free[(3 * atoms[:, None] + np.arange(3)).ravel()]
        block_of_atoms: np.ndarray = rows @ hessian @ rows.T
        return block_of_atoms

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
    sparse: bool = False,
) -> Coordinates:
    """Return the free coordinates of a structure.

    Args:
        atoms: Structure with periodic directions and constraints; see `selection.freedom`.
        positions: Reference positions in Å, (N, 3).
        cell: Reference lattice vectors in Å as rows, (3, 3).
        cell_freedom: Free strains, among those along periodic directions.
        symmetry: Operations of the space group that all motions preserve; None for none.
        sparse: True for a sparse basis, which includes translations; without symmetry and
            constraints of the centre of mass.

    Raises:
        ValueError: If a constraint is of an unknown kind, or the choice of strains is invalid.
    """
    n_atoms = len(atoms)
    strains = _free_strains(cell_freedom, atoms)
    rms_size = float((positions - positions.mean(0)).norm()) / 3**0.5
    strain_length = STRAIN_WEIGHT * max(rms_size, n_atoms**0.5)
    if sparse:
        motions_by_atoms = csr_array(freedom(atoms, "relax").sparse_basis())
        both = csr_array(block_diag([motions_by_atoms, csr_array(strains)]))
        return Coordinates(positions.cpu(), cell.cpu(), both, strain_length)
    motions = _free_motions(freedom(atoms, "relax"))
    basis = np.zeros((3 * n_atoms + 6, motions.shape[1] + strains.shape[1]))
    basis[:-6, : motions.shape[1]] = motions
    basis[-6:, motions.shape[1] :] = strains
    if symmetry is not None:
        basis = _invariant(basis, symmetry, n_atoms)
    return Coordinates(positions.cpu(), cell.cpu(), basis, strain_length)


def _free_motions(free: Freedom) -> np.ndarray:
    """Return an orthonormal basis (3N, m) of the free displacements.

    It excludes translations if all atoms are free.
    """
    if not free.whole:
        return free.basis()
    n_atoms = len(free.held)
    translations = np.kron(np.full((n_atoms, 1), n_atoms**-0.5), np.eye(3))
    return np.linalg.qr(translations, mode="complete")[0][:, 3:]


def _free_strains(freedom: CellFreedom, atoms: Atoms) -> np.ndarray:
    """Return an orthonormal basis (6, m) of the free strains."""
    pbc = np.asarray(atoms.pbc)
    if freedom is False or not pbc.any():
        return np.zeros((6, 0))
    periodic = atoms.cell.array[pbc]
    projector = np.linalg.pinv(periodic) @ periodic
    strain_projector = np.einsum("kab,ac,bd,lcd->kl", STRAINS, projector, projector, STRAINS)
    if freedom is True:
        return _fixed_space([strain_projector])
    if isinstance(freedom, str):
        if freedom != "isotropic":
            raise ValueError(f"cell must be True, False, 'isotropic' or six booleans: {freedom!r}")
        isotropic = np.tensordot(STRAINS, projector)
        return isotropic[:, None] / np.linalg.norm(isotropic)
    mask = np.asarray(freedom)
    if mask.shape != (6,) or not np.isin(mask, (0, 1)).all():
        raise ValueError("free strains are six booleans, for xx, yy, zz, yz, xz and xy")
    return _fixed_space([strain_projector, np.diag(mask.astype(float))])


def _fixed_space(projectors: list[np.ndarray]) -> np.ndarray:
    """Return an orthonormal basis of the space that all projectors leave unchanged."""
    complement = sum(np.eye(len(p)) - p for p in projectors)
    values, vectors = np.linalg.eigh(complement)
    return vectors[:, values < 1e-9]


def _invariant(basis: np.ndarray, symmetry: Operations, n_atoms: int) -> np.ndarray:
    """Return the part of a space (3N + 6, d) that symmetry operations leave unchanged."""
    sum_of_images = np.zeros_like(basis)
    displacements = basis[:-6].reshape(n_atoms, 3, -1)
    for w, atom in zip(symmetry.cartesian, symmetry.atom, strict=True):
        rotated = np.zeros_like(displacements)
        rotated[atom] = np.einsum("ab,kbd->kad", w, displacements)
        sum_of_images[:-6] += rotated.reshape(3 * n_atoms, -1)
        sum_of_images[-6:] += np.einsum("kab,ac,bd,lcd->kl", STRAINS, w, w, STRAINS) @ basis[-6:]
    average = basis.T @ sum_of_images / len(symmetry.atom)
    return basis @ _fixed_space([(average + average.T) / 2])
