"""Springs between neighbouring atoms: the part of the energy model that describes rotating bonds.

An atom of a rotating group moves on a circle. A step s along the tangent stretches its bonds of
length r by s^2 / 2r. A quadratic model of the energy does not contain this stretch and allows only
short steps. Springs contain it,

    V(y) = sum_p  k_p (|r_p(y)| - |r_p(0)|)^2 / 2,

and their Hessian V'' at y = 0 is a part of the full Hessian H. The model of the energy becomes

    m(s) = g s + s (H - V'') s / 2 + V(s),

with the same gradient and Hessian at s = 0. The stiffness of a pair is taken from H,
k_p = -n^T H_ij n, with the unit vector n along the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import block_array, coo_array, csr_array

from mace_functional.optimize.coordinates import STRAINS, Coordinates, Matrix
from mace_functional.optimize.trust_region import Springs
from mace_functional.structure.neighbours import search

MAX_SPRING_LENGTH = 3.5
"""Largest distance of two atoms with a spring, Å.

It includes bonds, and second neighbours, whose springs preserve bond angles.
"""

SOFTENING_LENGTH = 0.5
"""Extension of a spring that reduces its stiffness by a factor of e, Å."""

MAX_IMAGE_RATIO = 1.15
"""Largest distance of a periodic image with a spring, relative to the nearest image of the pair."""


@dataclass(frozen=True, eq=False)
class BondSprings:
    """Springs between pairs of atoms, as a function of the joint vector y = (u, L e).

    Attributes:
        first, second: Numbers of the two atoms of each pair, (P,).
        vectors: Vectors from the second atom to the first in the reference geometry, Å, (P, 3).
        stiffness: Stiffness k of each spring, eV/Å², (P,).
        lengths: Natural lengths, Å, (P,).
        strains: Orthonormal basis of the strains, divided by L, (6, 3, 3).
    """

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray
    stiffness: np.ndarray
    lengths: np.ndarray
    strains: np.ndarray

    @classmethod
    def from_hessian(
        cls, coordinates: Coordinates, y: np.ndarray, hessian: Matrix, pbc: np.ndarray
    ) -> BondSprings:
        """Make springs with the stiffness from a Hessian, at their natural lengths at y.

        Args:
            coordinates: Coordinates that define y.
            y: The geometry, (3N + 6,).
            hessian: Hessian by y at y, eV/Å², (3N + 6, 3N + 6), dense or sparse; zero where it is
                not known.
            pbc: True for each periodic direction, (3,).
        """
        reference_x, reference_h = (
            t.cpu().double().numpy() for t in (coordinates.positions, coordinates.cell)
        )
        x_and_h = coordinates.place(torch.as_tensor(y))
        positions, cell = (t.cpu().double().numpy() for t in x_and_h)
        first, second, shifts = _near_pairs(positions, cell, pbc)
        vectors = positions[first] - positions[second] + shifts @ cell
        lengths = np.linalg.norm(vectors, axis=1)
        n = vectors / lengths[:, None]
        axes = np.arange(3)
        rows = np.broadcast_to(3 * first[:, None, None] + axes[:, None], (len(first), 3, 3))
        columns = np.broadcast_to(3 * second[:, None, None] + axes, (len(first), 3, 3))
        blocks = np.asarray(hessian[rows.ravel(), columns.ravel()]).reshape(-1, 3, 3)
        stiffness = -np.einsum("pa,pab,pb->p", n, blocks, n)
        stiffness /= _multiplicity(first, second, len(positions))
        kept = stiffness > 0
        first, second, shifts = first[kept], second[kept], shifts[kept]
        return cls(
            first=first,
            second=second,
            vectors=reference_x[first] - reference_x[second] + shifts @ reference_h,
            stiffness=stiffness[kept],
            lengths=lengths[kept],
            strains=STRAINS / coordinates.strain_length,
        )

    def with_current_lengths(self, y: np.ndarray) -> BondSprings:
        """Return springs whose natural lengths are those at y; stretched springs become softer."""
        lengths = np.linalg.norm(self._strained(y)[0], axis=1)
        softening = np.exp(-(lengths - self.lengths) / SOFTENING_LENGTH)
        return replace(self, lengths=lengths, stiffness=self.stiffness * softening)

    def as_step_function(self, y: np.ndarray, basis: Matrix) -> Springs:
        """Return springs with their natural lengths at y, as a function of a step from y.

        Args:
            y: The geometry, (3N + 6,).
            basis: Orthonormal columns, (3N + 6, d).

        Returns:
            A function of a step (d,) that returns energy, gradient (d,) and Hessian (d, d), which
            is sparse if the basis is.
        """
        springs = self.with_current_lengths(y)

        def at_step(step: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            y_new = y + basis @ step
            energy, gradient = springs(y_new)
            return energy, basis.T @ gradient, basis.T @ (springs.hessian(y_new) @ basis)

        return at_step

    def __call__(self, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute the energy V, eV, and its gradient by y, (3N + 6,)."""
        vectors, unstrained, deformation = self._strained(y)
        lengths = np.linalg.norm(vectors, axis=1)
        extension = lengths - self.lengths
        forces = vectors * (self.stiffness * extension / lengths)[:, None]
        gradient = np.zeros((len(y) // 3, 3))
        np.add.at(gradient, self.first, forces @ deformation)
        np.subtract.at(gradient, self.second, forces @ deformation)
        gradient.ravel()[-6:] = np.einsum("pa,kab,pb->k", unstrained, self.strains, forces)
        return 0.5 * float(self.stiffness @ extension**2), gradient.ravel()

    def hessian(self, y: np.ndarray) -> csr_array:
        """Compute the Hessian V'', sparse, (3N + 6, 3N + 6).

        The mixed block lacks the term that is proportional to the force of each pair.
        """
        vectors, unstrained, deformation = self._strained(y)
        lengths = np.linalg.norm(vectors, axis=1)
        n = vectors / lengths[:, None]
        k_perpendicular = self.stiffness * (1 - self.lengths / lengths)
        k_nn = (self.stiffness - k_perpendicular)[:, None, None] * n[:, :, None] * n[:, None]
        blocks = k_nn + k_perpendicular[:, None, None] * np.eye(3)
        dr_de = np.einsum("pa,kab->pbk", unstrained, self.strains)
        k_dr_de = blocks @ dr_de
        mixed = deformation @ k_dr_de
        blocks = deformation @ blocks @ deformation
        n_atoms = len(y) // 3 - 2
        mixed_block = np.zeros((n_atoms, 3, 6))
        np.add.at(mixed_block, self.first, mixed)
        np.subtract.at(mixed_block, self.second, mixed)
        of_atoms = _pair_matrix(self.first, self.second, blocks, n_atoms)
        of_atoms_and_strain = csr_array(mixed_block.reshape(3 * n_atoms, 6))
        of_strain = csr_array(np.einsum("pak,pal->kl", dr_de, k_dr_de))
        return csr_array(
            block_array([[of_atoms, of_atoms_and_strain], [of_atoms_and_strain.T, of_strain]])
        )

    def _strained(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pair vectors with and without the strain, (P, 3) each, and 1 + e."""
        displacements = y.reshape(-1, 3)[:-2]
        deformation = np.eye(3) + np.tensordot(y[-6:], self.strains, axes=1)
        unstrained = self.vectors + displacements[self.first] - displacements[self.second]
        return unstrained @ deformation, unstrained, deformation


def _near_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find pairs i < j with their nearest images; return i, j and shifts of the images."""
    first, second, shifts = search(positions, cell, pbc, MAX_SPRING_LENGTH)
    ordered = first < second
    first, second, shifts = first[ordered], second[ordered], shifts[ordered]
    lengths = np.linalg.norm(positions[first] - positions[second] + shifts @ cell, axis=1)
    pair, count = _numbered(first, second, len(positions))
    nearest = np.full(count, np.inf)
    np.minimum.at(nearest, pair, lengths)
    kept = lengths <= MAX_IMAGE_RATIO * nearest[pair]
    return first[kept], second[kept], shifts[kept]


def _multiplicity(first: np.ndarray, second: np.ndarray, n_atoms: int) -> np.ndarray:
    """Return the number of images of each pair, (P,)."""
    pair, count = _numbered(first, second, n_atoms)
    images: np.ndarray = np.bincount(pair, minlength=count)[pair]
    return images


def _numbered(first: np.ndarray, second: np.ndarray, n_atoms: int) -> tuple[np.ndarray, int]:
    """Return the number of the two atoms of each pair, the same for all images, and their count."""
    atoms, pair = np.unique(first * n_atoms + second, return_inverse=True)
    return pair, len(atoms)


def _pair_matrix(
    first: np.ndarray, second: np.ndarray, blocks: np.ndarray, n_atoms: int
) -> csr_array:
    """Sum symmetric blocks (P, 3, 3) of relative displacements of pairs, sparse, (3N, 3N)."""
    rows = np.concatenate([first, second, first, second])
    columns = np.concatenate([first, second, second, first])
    values = np.concatenate([blocks, blocks, -blocks, -blocks])
    axes = np.arange(3)
    at_rows = np.broadcast_to(3 * rows[:, None, None] + axes[:, None], values.shape)
    at_columns = np.broadcast_to(3 * columns[:, None, None] + axes, values.shape)
    size = 3 * n_atoms
    matrix = coo_array((values.ravel(), (at_rows.ravel(), at_columns.ravel())), shape=(size, size))
    return csr_array(matrix)
