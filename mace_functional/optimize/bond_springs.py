"""Springs between near atoms: the part of the energy model that follows bonds that turn.

A group of atoms that turns moves on a circle, and a step s along the tangent stretches its bonds of
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

from mace_functional.optimize.coordinates import STRAINS, Coordinates
from mace_functional.optimize.trust_region import Springs
from mace_functional.structure.neighbours import search

SPRING_REACH = 3.5
"""Largest distance of atoms with a spring, Å: bonds, and the second neighbours that keep angles."""

SOFTENING_LENGTH = 0.5
"""Extension of a spring that makes it softer by a factor of e, Å."""

SAME_DISTANCE = 1.15
"""Distance of a periodic image over that of the nearest image of the same pair, above which the
image has no spring."""


@dataclass(frozen=True, eq=False)
class BondSprings:
    """Springs between pairs of atoms, as a function of the joint vector y = (u, L e).

    Attributes:
        first, second: Atoms of the pairs, (P,).
        vectors: From the second to the first in the reference geometry, Å, (P, 3).
        stiffness: k, eV/Å², (P,).
        lengths: Natural lengths, Å, (P,).
        strains: Orthonormal basis of the strains, over L, (6, 3, 3).
    """

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray
    stiffness: np.ndarray
    lengths: np.ndarray
    strains: np.ndarray

    @classmethod
    def from_hessian(
        cls, coordinates: Coordinates, y: np.ndarray, hessian: np.ndarray, pbc: np.ndarray
    ) -> BondSprings:
        """Springs with the stiffness that a Hessian shows, at their natural lengths at y.

        Args:
            coordinates: Give the meaning of y.
            y: The geometry, (3N + 6,).
            hessian: The Hessian by y at y, eV/Å², (3N + 6, 3N + 6); zero where it is not known.
            pbc: Periodic directions, (3,).
        """
        home, box = (t.cpu().double().numpy() for t in (coordinates.positions, coordinates.cell))
        placed = coordinates.place(torch.as_tensor(y))
        positions, cell = (t.cpu().double().numpy() for t in placed)
        first, second, shifts = _near_pairs(positions, cell, pbc)
        vectors = positions[first] - positions[second] + shifts @ cell
        lengths = np.linalg.norm(vectors, axis=1)
        units = vectors / lengths[:, None]
        blocks = hessian[:-6, :-6].reshape(len(positions), 3, -1, 3)[first, :, second]
        stiffness = -np.einsum("pa,pab,pb->p", units, blocks, units)
        stiffness /= _multiplicity(first, second, len(positions))
        kept = stiffness > 0
        first, second, shifts = first[kept], second[kept], shifts[kept]
        return cls(
            first=first,
            second=second,
            vectors=home[first] - home[second] + shifts @ box,
            stiffness=stiffness[kept],
            lengths=lengths[kept],
            strains=STRAINS / coordinates.strain_length,
        )

    def with_current_lengths(self, y: np.ndarray) -> BondSprings:
        """Springs whose natural lengths are those at y; longer ones are softer."""
        lengths = np.linalg.norm(self._strained(y)[0], axis=1)
        softer = np.exp(-(lengths - self.lengths) / SOFTENING_LENGTH)
        return replace(self, lengths=lengths, stiffness=self.stiffness * softer)

    def as_step_function(self, y: np.ndarray, basis: np.ndarray) -> Springs:
        """Springs with their natural lengths at y, as a function of a step from y.

        Args:
            y: The geometry, (3N + 6,).
            basis: Orthonormal columns, (3N + 6, d).

        Returns:
            A function of the step (d,), to energy, gradient (d,) and Hessian (d, d).
        """
        springs = self.with_current_lengths(y)

        def at(step: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            there = y + basis @ step
            energy, gradient = springs(there)
            return energy, basis.T @ gradient, basis.T @ springs.hessian(there) @ basis

        return at

    def __call__(self, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy in eV, and its gradient (3N + 6,)."""
        vectors, unstrained, deformation = self._strained(y)
        lengths = np.linalg.norm(vectors, axis=1)
        extension = lengths - self.lengths
        pull = vectors * (self.stiffness * extension / lengths)[:, None]
        gradient = np.zeros((len(y) // 3, 3))
        np.add.at(gradient, self.first, pull @ deformation)
        np.subtract.at(gradient, self.second, pull @ deformation)
        gradient.ravel()[-6:] = np.einsum("pa,kab,pb->k", unstrained, self.strains, pull)
        return 0.5 * float(self.stiffness @ extension**2), gradient.ravel()

    def hessian(self, y: np.ndarray) -> np.ndarray:
        """Hessian (3N + 6, 3N + 6), without the term of each pair's force in the mixed block."""
        vectors, unstrained, deformation = self._strained(y)
        lengths = np.linalg.norm(vectors, axis=1)
        units = vectors / lengths[:, None]
        across = self.stiffness * (1 - self.lengths / lengths)
        along = (self.stiffness - across)[:, None, None] * units[:, :, None] * units[:, None]
        blocks = along + across[:, None, None] * np.eye(3)
        by_strain = np.einsum("pa,kab->pbk", unstrained, self.strains)
        pulled = blocks @ by_strain
        mixed = deformation @ pulled
        blocks = deformation @ blocks @ deformation
        count = len(y) // 3 - 2
        result = np.zeros((len(y), len(y)))
        atoms = np.zeros((count, count, 3, 3))
        np.add.at(atoms, (self.first, self.first), blocks)
        np.add.at(atoms, (self.second, self.second), blocks)
        np.subtract.at(atoms, (self.first, self.second), blocks)
        np.subtract.at(atoms, (self.second, self.first), blocks)
        result[:-6, :-6] = atoms.transpose(0, 2, 1, 3).reshape(3 * count, 3 * count)
        edge = np.zeros((count, 3, 6))
        np.add.at(edge, self.first, mixed)
        np.subtract.at(edge, self.second, mixed)
        result[:-6, -6:] = edge.reshape(3 * count, 6)
        result[-6:, :-6] = result[:-6, -6:].T
        result[-6:, -6:] = np.einsum("pak,pal->kl", by_strain, pulled)
        return result

    def _strained(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pair vectors with and without the strain, (P, 3) each, and 1 + e."""
        displacements = y.reshape(-1, 3)[:-2]
        deformation = np.eye(3) + np.tensordot(y[-6:], self.strains, axes=1)
        unstrained = self.vectors + displacements[self.first] - displacements[self.second]
        return unstrained @ deformation, unstrained, deformation


def _near_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i < j with their nearest images: i, j and unit shifts."""
    first, second, shifts = search(positions, cell, pbc, SPRING_REACH)
    once = first < second
    first, second, shifts = first[once], second[once], shifts[once]
    lengths = np.linalg.norm(positions[first] - positions[second] + shifts @ cell, axis=1)
    nearest = np.full((len(positions), len(positions)), np.inf)
    np.minimum.at(nearest, (first, second), lengths)
    near = lengths <= SAME_DISTANCE * nearest[first, second]
    return first[near], second[near], shifts[near]


def _multiplicity(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Number of images of each pair among the pairs, (P,)."""
    images = np.zeros((count, count))
    np.add.at(images, (first, second), 1)
    return images[first, second]
