"""Hessian of a valence force field, from distances and covalent radii alone.

Force constants k of valence coordinates q,

    K = sum_q k_q (dq/dx) (dq/dx)^T,

reproduce the spectrum of a Hessian within a factor of a few, from stiff bonds to soft torsions, at
a small part of the cost of one gradient. K preconditions the search for the lowest modes of the
exact Hessian, and is the initial Hessian of a relaxation. With the distance in units of the sum of
covalent radii, s = r / (R_i + R_j), and rho = exp(-8 (s - 1)), bonds are pairs with s < 1.2, and
the force constants are

    stretch                k rho      [2 R_C / (R_i + R_j)]^2.3
    bend i-j-k             k sqrt(rho_ij rho_jk) (R_C / R_j)
    torsion i-j-k-l        k rho_jk sqrt(rho_ij rho_kl) (R_C^2 / R_j R_k)^6
    pyramid of 3 bonds     k (rho_1 rho_2 rho_3)^(1/3)
    pairs without a bond   k (3 Å / r)^6.5

The radii in bends and torsions are at least that of carbon, R_C. A bond has torsions if its atoms
have at most `MAX_BONDS_TORSION` bonds. An atom has bends if it has at most `MAX_BONDS_BEND` bonds.
Atoms with more bonds overlap, and have only stretches: the number of torsions would grow with the
fourth power of the density.

Source: the form is that of Lindh, Bernhardsson, Karlström, Malmqvist, Chem. Phys. Lett. 1995, 241,
423, doi:10.1016/0009-2614(95)00646-L, with covalent radii (Cordero et al., Dalton Trans. 2008,
2832) in place of its table, so that it holds for every element. The constants minimise the spread
of the logarithms of the eigenvalues of K^-1 H over the exact Hessians H of 19 molecules, crystals
and frameworks with MACE-MP-0 small or the embedded model, with most weight on frameworks and
organic molecules. K is too stiff for metals and salts, by a factor of 3 to 10 that is nearly the
same for all of their modes.
Derivatives of torsions: Blondel, Karplus, J. Comput. Chem. 1996, 17, 1132.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from mace_functional.structure.neighbours import search
from mace_functional.vibrations.harmonic_modes import rigid_motions

STRETCH = 16.5
"""Force constant of a bond whose length is the sum of the covalent radii, eV/Å²."""

BEND = 2.0
"""Force constant of an angle, eV/rad²."""

TORSION = 0.034
"""Force constant of a torsion, of each sequence of four bonded atoms, eV/rad²."""

PYRAMID = 1.4
"""Force constant of the triple product of the unit vectors along three bonds, eV."""

PAIR = 0.06
"""Force constant of two atoms without a bond at a distance of 3 Å, eV/Å²."""

TRANSVERSE = 0.01
"""Force constant of such a pair along x, y and z, relative to that along the pair.

It gives every relative motion of neighbours some stiffness.
"""

MAX_PAIR_DISTANCE = 6.0
"""Largest distance of a pair with a force constant, Å."""

MAX_BOND_RATIO = 1.2
"""Largest length of a bond, in units of the sum of covalent radii."""

DECAY = 8.0
"""Decay of force constants with the ratio s of the distance: rho = exp(-DECAY (s - 1))."""

MIN_TORSION = 1e-3
"""Smallest force constant of the torsions about a bond, eV/rad²; weaker ones are left out.

Metals have many of these.
"""

MAX_BONDS_TORSION = 12
"""Largest number of bonds of the two atoms of a bond with torsions, as in closest packing.

Sound structures with torsions above `MIN_TORSION` have at most 10 (lithium in Li2O). A bond has at
most 121 torsions.
"""

MAX_BONDS_BEND = 32
"""Largest number of bonds of an atom with bends.

Sound structures have at most 16 in alloys, and 32 at lanthanum in LaH10.
"""

PIECE_SIZE = 2**15
"""Number of coordinates that are assembled at once.

Bends and torsions take about 500 bytes each.
"""

CARBON = covalent_radii[6]
"""Covalent radius of carbon R_C, Å."""

STRAIGHT_SINE = 0.1
"""Sine of an angle, below which the angle counts as straight, and bends in two planes."""

MIN_TORSION_SINE = 0.2
"""Smallest sine of the angles at both ends of a bond with a torsion; below, it is undefined."""


class InternalCoordinates(NamedTuple):
    """Valence coordinates q of one kind.

    Attributes:
        atoms: Numbers of the p atoms of each coordinate, (n, p).
        gradients: Derivatives dq/dx by these atoms, (n, p, 3).
        constants: Force constants k, (n,).
    """

    atoms: np.ndarray
    gradients: np.ndarray
    constants: np.ndarray


class Bonds(NamedTuple):
    """Directed bonds, ordered by the atom at their start.

    Attributes:
        start: Numbers of the atoms at the start, ascending, (n,).
        end: Numbers of the atoms at the end, (n,).
        shifts: Periodic images of the atoms at the end, (n, 3).
        lengths: Lengths, Å, (n,).
        directions: Unit vectors, (n, 3).
        rho: Bond strengths rho, (n,).
        first: Number of the first bond of each atom, (N,).
        degree: Number of bonds of each atom, (N,).
    """

    start: np.ndarray
    end: np.ndarray
    shifts: np.ndarray
    lengths: np.ndarray
    directions: np.ndarray
    rho: np.ndarray
    first: np.ndarray
    degree: np.ndarray

    def of(self, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all bonds of some atoms: indices in `atoms`, and numbers of bonds."""
        counts = self.degree[atoms]
        row = np.repeat(np.arange(len(atoms)), counts)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self.first[atoms][row] + offset


def valence_hessian(
    positions: Tensor, cell: Tensor, numbers: Tensor | Sequence[int], pbc: Sequence[bool]
) -> Tensor:
    """Compute the Hessian K of a valence force field for any structure; positive semidefinite.

    Rigid motions have no stiffness: translations, and the rotations of `rigid_motions`.

    Args:
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3); those of directions that are not periodic are
            ignored.
        numbers: Atomic numbers, (N,).
        pbc: True for each periodic cell vector, (3,).

    Returns:
        Hessian in eV/Å², symmetric, (3N, 3N), with the dtype and on the device of the positions.

    Raises:
        ValueError: If numbers do not fit the positions, positions are not finite, periodic lattice
            vectors are zero or linearly dependent, or atoms coincide.

    Source: see the module.

    >>> water = torch.tensor([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
    >>> K = valence_hessian(water, torch.zeros(3, 3), [8, 1, 1], (False, False, False))
    >>> K.shape, int((torch.linalg.eigvalsh(K) > 0.1).sum())
    (torch.Size([9, 9]), 3)
    """
    k_matrix = valence_stiffness(positions, cell, numbers, pbc)
    x, vectors = (t.detach().cpu().double() for t in (positions, cell))
    matrix = torch.as_tensor(k_matrix.toarray())
    rigid = rigid_motions(x, [1.0] * len(x), pbc=list(map(bool, pbc)), cell=vectors)
    complement = torch.eye(len(matrix), dtype=matrix.dtype) - rigid @ rigid.mT
    projected = complement @ matrix @ complement
    return ((projected + projected.mT) / 2).to(positions)


def valence_stiffness(
    positions: Tensor,
    cell: Tensor,
    numbers: Tensor | Sequence[int],
    pbc: Sequence[bool],
    max_pair_distance: float = MAX_PAIR_DISTANCE,
) -> csr_array:
    """Compute K as a sparse matrix, without the projection of rotations.

    Only the transverse part of pairs without a bond has stiffness against rotations. In crystals
    the result equals `valence_hessian`.

    Args:
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        numbers: Atomic numbers, (N,).
        pbc: True for each periodic cell vector, (3,).
        max_pair_distance: Largest distance of a pair without a bond, at most `MAX_PAIR_DISTANCE`,
            Å.

    Returns:
        Matrix in eV/Å², symmetric, positive semidefinite, (3N, 3N).

    Raises:
        ValueError: As `valence_hessian`.
    """
    x, vectors = (t.detach().cpu().double().numpy() for t in (positions, cell))
    z = torch.as_tensor(numbers).cpu().numpy()
    if x.ndim != 2 or x.shape[1] != 3 or z.shape != x.shape[:1]:
        raise ValueError(
            f"positions must be (N, 3) and numbers (N,), not {tuple(x.shape)} and {tuple(z.shape)}"
        )
    radii, periodic = covalent_radii[z], np.array(pbc, dtype=bool)
    end, start, shifts = search(x, vectors, periodic, MAX_PAIR_DISTANCE)
    r = x[end] - x[start] + shifts @ (vectors * periodic[:, None])
    lengths = np.linalg.norm(r, axis=1)
    directions = r / lengths[:, None]
    s = lengths / (radii[start] + radii[end])
    bonded = np.flatnonzero(s < MAX_BOND_RATIO)
    bonded = bonded[np.argsort(start[bonded], kind="stable")]
    degree = np.bincount(start[bonded], minlength=len(x))
    bonds = Bonds(
        start=start[bonded],
        end=end[bonded],
        shifts=shifts[bonded],
        lengths=lengths[bonded],
        directions=directions[bonded],
        rho=np.exp(-DECAY * (s[bonded] - 1)),
        first=np.cumsum(degree) - degree,
        degree=degree,
    )
    not_bonded = (s >= MAX_BOND_RATIO) & (lengths <= max_pair_distance)
    pairs = start[not_bonded], end[not_bonded], lengths[not_bonded], directions[not_bonded]
    kinds = itertools.chain(
        [_stretches(bonds, radii), _pyramids(bonds), *_pairs(*pairs)],
        _bends(bonds, radii),
        _torsions(bonds, radii),
    )
    k_matrix = csr_array((3 * len(x), 3 * len(x)))
    for kind in kinds:
        k_matrix = k_matrix + _assembled(kind, len(x))
    return k_matrix


def _assembled(kind: InternalCoordinates, size: int) -> csr_array:
    """Sum k (dq/dx) (dq/dx)^T over the coordinates of one kind, sparse, (3N, 3N)."""
    count, members = kind.atoms.shape
    columns = 3 * kind.atoms[..., None] + np.arange(3)
    rows = np.arange(0, 3 * members * count + 1, 3 * members)
    b = csr_array((kind.gradients.ravel(), columns.ravel(), rows), shape=(count, 3 * size))
    return csr_array(b.T @ diags_array(kind.constants) @ b)


def _stretches(bonds: Bonds, radii: np.ndarray) -> InternalCoordinates:
    """Return stretches of all bonds, in both directions with half the force constant each."""
    factor = (2 * CARBON / (radii[bonds.start] + radii[bonds.end])) ** 2.3
    return _along_pairs(
        bonds.start, bonds.end, bonds.directions, 0.5 * STRETCH * bonds.rho * factor
    )


def _pairs(
    start: np.ndarray, end: np.ndarray, lengths: np.ndarray, directions: np.ndarray
) -> list[InternalCoordinates]:
    """Return pairs without a bond, in both directions, along the pair and along x, y and z."""
    constants = 0.5 * PAIR * (3.0 / lengths) ** 6.5
    axes = [np.broadcast_to(axis, directions.shape) for axis in np.eye(3)]
    transverse = [_along_pairs(start, end, axis, TRANSVERSE * constants) for axis in axes]
    return [_along_pairs(start, end, directions, constants), *transverse]


def _along_pairs(
    start: np.ndarray, end: np.ndarray, directions: np.ndarray, constants: np.ndarray
) -> InternalCoordinates:
    return InternalCoordinates(
        np.stack([start, end], 1), np.stack([-directions, directions], 1), constants
    )


def _pieces(chosen: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Split chosen bonds into pieces of about `PIECE_SIZE` coordinates; `counts` are per bond."""
    ends = np.searchsorted(
        np.cumsum(counts), np.arange(PIECE_SIZE, counts.sum(), PIECE_SIZE), side="right"
    )
    return [piece for piece in np.split(chosen, np.unique(ends)) if len(piece)]


def _bends(bonds: Bonds, radii: np.ndarray) -> Iterator[InternalCoordinates]:
    """Yield all bends, one piece at a time."""
    chosen = np.flatnonzero(bonds.degree[bonds.start] <= MAX_BONDS_BEND)
    for piece in _pieces(chosen, bonds.degree[bonds.start[chosen]]):
        yield _bends_of(piece, bonds, radii)


def _bends_of(chosen: np.ndarray, bonds: Bonds, radii: np.ndarray) -> InternalCoordinates:
    """Return bends of chosen bonds with later ones, in their plane; straight ones in two planes."""
    row, second = bonds.of(bonds.start[chosen])
    first = chosen[row]
    first, second = first[first < second], second[first < second]
    left, right = bonds.directions[first], bonds.directions[second]
    normal = np.cross(left, right)
    sine = np.linalg.norm(normal, axis=1)
    across = np.cross(left, np.eye(3)[np.abs(left).argmin(1)])
    normal = np.where(sine[:, None] > 1e-6, normal, across)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    straight = sine < STRAIGHT_SINE
    # Rotations about the normal open an angle; displacements along the normal bend a straight one.
    moves = [
        np.concatenate([-np.cross(normal, left), normal[straight]]),
        np.concatenate([np.cross(normal, right), normal[straight]]),
    ]
    first = np.concatenate([first, first[straight]])
    second = np.concatenate([second, second[straight]])
    at_first = moves[0] / bonds.lengths[first, None]
    at_second = moves[1] / bonds.lengths[second, None]
    centre = bonds.start[first]
    factor = CARBON / np.maximum(radii[centre], CARBON)
    return InternalCoordinates(
        np.stack([bonds.end[first], centre, bonds.end[second]], 1),
        np.stack([at_first, -at_first - at_second, at_second], 1),
        BEND * np.sqrt(bonds.rho[first] * bonds.rho[second]) * factor,
    )


def _torsions(bonds: Bonds, radii: np.ndarray) -> Iterator[InternalCoordinates]:
    """Yield all torsions, one piece at a time."""
    at_least_r_c = np.maximum(radii, CARBON)
    constants = (
        TORSION * bonds.rho * (CARBON**2 / at_least_r_c[bonds.start] / at_least_r_c[bonds.end]) ** 6
    )
    at_start, at_end = bonds.degree[bonds.start], bonds.degree[bonds.end]
    central = np.flatnonzero(
        (constants > MIN_TORSION) & (np.maximum(at_start, at_end) <= MAX_BONDS_TORSION)
    )
    for piece in _pieces(central, at_start[central] * at_end[central]):
        yield _torsions_of(piece, constants, bonds)


def _torsions_of(central: np.ndarray, constants: np.ndarray, bonds: Bonds) -> InternalCoordinates:
    """Return torsions about chosen bonds, from both ends with half the force constant each."""
    row, left = bonds.of(bonds.start[central])
    central = central[row]
    keep = left != central
    central, left = central[keep], left[keep]
    row, right = bonds.of(bonds.end[central])
    central, left = central[row], left[row]
    is_backwards = (bonds.end[right] == bonds.start[central]) & (
        bonds.shifts[right] == -bonds.shifts[central]
    ).all(1)
    central, left, right = central[~is_backwards], left[~is_backwards], right[~is_backwards]
    f = bonds.directions[left] * bonds.lengths[left, None]
    g = -bonds.directions[central] * bonds.lengths[central, None]
    h = bonds.directions[right] * bonds.lengths[right, None]
    a, b, length = np.cross(f, g), np.cross(h, g), bonds.lengths[central]
    sine_a = np.linalg.norm(a, axis=1) / (bonds.lengths[left] * length)
    sine_b = np.linalg.norm(b, axis=1) / (bonds.lengths[right] * length)
    keep = (sine_a > MIN_TORSION_SINE) & (sine_b > MIN_TORSION_SINE)
    central, left, right = central[keep], left[keep], right[keep]
    f, g, h, a, b, length = (values[keep] for values in (f, g, h, a, b, length))
    a /= (a**2).sum(1, keepdims=True)
    b /= (b**2).sum(1, keepdims=True)
    at_left, at_right = -length[:, None] * a, length[:, None] * b
    dq_g = ((f * g).sum(1) / length)[:, None] * a - ((h * g).sum(1) / length)[:, None] * b
    members = bonds.end[left], bonds.start[central], bonds.end[central], bonds.end[right]
    return InternalCoordinates(
        np.stack(members, 1),
        np.stack([at_left, dq_g - at_left, -dq_g - at_right, at_right], 1),
        0.5 * constants[central] * np.sqrt(bonds.rho[left] * bonds.rho[right]),
    )


def _pyramids(bonds: Bonds) -> InternalCoordinates:
    """Return pyramids: triple products u_1 x u_2 . u_3 of atoms with three bonds."""
    centre = np.flatnonzero(bonds.degree == 3)
    triple = bonds.first[centre][:, None] + np.arange(3)
    u, lengths = bonds.directions[triple], bonds.lengths[triple]
    dq_du = np.cross(np.roll(u, -1, axis=1), np.roll(u, -2, axis=1))
    dq_du -= (dq_du * u).sum(2, keepdims=True) * u
    dq_du /= lengths[..., None]
    return InternalCoordinates(
        np.concatenate([bonds.end[triple], centre[:, None]], axis=1),
        np.concatenate([dq_du, -dq_du.sum(1, keepdims=True)], axis=1),
        PYRAMID * bonds.rho[triple].prod(1) ** (1 / 3),
    )
