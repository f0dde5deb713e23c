"""A model Hessian: what bonds look like, without an energy.

Force constants that depend on nothing but distances and covalent radii, in valence coordinates q,

    K = sum_q k_q (dq/dx) (dq/dx)^T,

give the spectrum of a Hessian to within a factor of a few, from stiff bonds to soft torsions, at a
small part of the cost of one gradient. As a preconditioner it takes that spread out of the exact
Hessian; as a first guess it tells a relaxation which way is soft. With the distance in units of the
sum of covalent radii, s = r / (R_i + R_j), and rho = exp(-8 (s - 1)), bonds are pairs with s < 1.2,
and

    stretch                k rho      [2 R_C / (R_i + R_j)]^2.3
    bend i-j-k             k sqrt(rho_ij rho_jk) (R_C / R_j)
    torsion i-j-k-l        k rho_jk sqrt(rho_ij rho_kl) (R_C^2 / R_j R_k)^6
    pyramid of 3 bonds     k (rho_1 rho_2 rho_3)^(1/3)
    pairs without a bond   k (3 Å / r)^6.5

where the radii of bends and torsions are not less than that of carbon, R_C. Torsions are those
about bonds between atoms of at most `CLOSEST` bonds, and bends those at atoms of at most `CROWDED`:
atoms with more overlap, their stretches alone hold them, and the number of torsions, which grows
with the fourth power of the density, has an end.

Source: the form is that of Lindh, Bernhardsson, Karlström, Malmqvist, Chem. Phys. Lett. 1995, 241,
423, doi:10.1016/0009-2614(95)00646-L, with covalent radii (Cordero et al., Dalton Trans. 2008,
2832) in place of its table, so that it holds for every element. The constants make the spread of
`log spectrum(K^-1 H)` least over the exact Hessians of 19 molecules, crystals and frameworks with
MACE-MP-0 small or the embedded model, most weight on frameworks and organic molecules; metals and
salts come out too stiff, by a factor of 3 to 10, nearly the same for all of their modes.
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
"""Force constant of a bond as long as the covalent radii say, eV/Å²."""

BEND = 2.0
"""Of an angle, eV/rad²."""

TORSION = 0.034
"""Of each quadruple of bonded atoms, eV/rad²."""

PYRAMID = 1.4
"""Of the triple product of the unit vectors along three bonds, eV."""

PAIR = 0.06
"""Of two atoms 3 Å apart without a bond, eV/Å²."""

TRANSVERSE = 0.01
"""Part of it that resists sliding too, so that no motion of neighbours is free."""

REACH = 6.0
"""Pairs are sought up to here, Å."""

BOND = 1.2
"""Longest bond, in units of the sum of covalent radii."""

DECAY = 8.0
"""How fast force constants fall with the distance in these units."""

NEGLIGIBLE = 1e-3
"""Torsions about bonds with less than this are left out, eV/rad²: those in metals are many."""

CLOSEST = 12
"""Most bonds of an atom at either end of a torsion: as many as neighbours in the closest packing.
Sound structures whose torsions are above `NEGLIGIBLE` have at most 10 (lithium in Li2O). Each bond
then has at most 121 torsions."""

CROWDED = 32
"""Most bonds of an atom with bends. In sound structures there are at most 16 in alloys, and 32 at
lanthanum in LaH10."""

PIECE = 2**15
"""Coordinates that are assembled at once: bends and torsions take about 500 bytes each."""

CARBON = covalent_radii[6]
STRAIGHT, SKEW = 0.1, 0.2
"""Sines of angles: below, bends go in two directions, and torsions have no meaning."""


class Coordinates(NamedTuple):
    """Coordinates q of one kind.

    Attributes:
        atoms: The p atoms of each, (n, p).
        gradients: dq/dx of these atoms, (n, p, 3).
        constants: Force constants k, (n,).
    """

    atoms: np.ndarray
    gradients: np.ndarray
    constants: np.ndarray


class Bonds(NamedTuple):
    """Directed bonds, those from one atom in a row.

    Attributes:
        start: Atoms that they start from, (n,), ascending.
        end: Atoms that they end at, (n,).
        shifts: Periodic images of the latter, (n, 3).
        lengths: Å, (n,).
        directions: Unit vectors, (n, 3).
        rho: How strong they are, (n,).
        first: First bond of each atom, (N,).
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
        """All bonds of each of these atoms: positions in `atoms`, and bonds."""
        counts = self.degree[atoms]
        row = np.repeat(np.arange(len(atoms)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self.first[atoms][row] + within


def model_hessian(
    positions: Tensor, cell: Tensor, numbers: Tensor | Sequence[int], pbc: Sequence[bool]
) -> Tensor:
    """A positive semidefinite model of the Hessian of any structure.

    Rigid motions cost nothing: translations, and the rotations that `rigid_motions` knows.

    Args:
        positions: Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3); those of directions that are not periodic do not matter.
        numbers: Atomic numbers, (N,).
        pbc: Whether each of the three cell vectors is periodic.

    Returns:
        eV/Å², (3N, 3N) symmetric, with the dtype and on the device of the positions.

    Raises:
        ValueError: If numbers do not fit the positions, these are not finite, periodic lattice
            vectors are zero or linearly dependent, or atoms coincide.

    Source: see the module.

    >>> water = torch.tensor([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
    >>> K = model_hessian(water, torch.zeros(3, 3), [8, 1, 1], (False, False, False))
    >>> K.shape, int((torch.linalg.eigvalsh(K) > 0.1).sum())
    (torch.Size([9, 9]), 3)
    """
    x, vectors = (t.detach().cpu().double().numpy() for t in (positions, cell))
    z = torch.as_tensor(numbers).cpu().numpy()
    if x.ndim != 2 or x.shape[1] != 3 or z.shape != x.shape[:1]:
        raise ValueError(
            f"positions must be (N, 3) and numbers (N,), not {tuple(x.shape)} and {tuple(z.shape)}"
        )
    radii, periodic = covalent_radii[z], np.array(pbc, dtype=bool)
    end, start, shifts = search(x, vectors, periodic, REACH)
    between = x[end] - x[start] + shifts @ (vectors * periodic[:, None])
    lengths = np.linalg.norm(between, axis=1)
    directions = between / lengths[:, None]
    ratio = lengths / (radii[start] + radii[end])
    bonded = np.flatnonzero(ratio < BOND)
    bonded = bonded[np.argsort(start[bonded], kind="stable")]
    degree = np.bincount(start[bonded], minlength=len(x))
    bonds = Bonds(
        start=start[bonded],
        end=end[bonded],
        shifts=shifts[bonded],
        lengths=lengths[bonded],
        directions=directions[bonded],
        rho=np.exp(-DECAY * (ratio[bonded] - 1)),
        first=np.cumsum(degree) - degree,
        degree=degree,
    )
    apart = ratio >= BOND
    pairs = start[apart], end[apart], lengths[apart], directions[apart]
    kinds = itertools.chain(
        [_stretches(bonds, radii), _pyramids(bonds), *_pairs(*pairs)],
        _bends(bonds, radii),
        _torsions(bonds, radii),
    )
    springs = csr_array((3 * len(x), 3 * len(x)))
    for kind in kinds:
        springs = springs + _assembled(kind, len(x))
    matrix = torch.as_tensor(springs.toarray())
    rigid = rigid_motions(
        torch.as_tensor(x), [1.0] * len(x), periodic.tolist(), torch.as_tensor(vectors)
    )
    rest = torch.eye(len(matrix), dtype=matrix.dtype) - rigid @ rigid.mT
    projected = rest @ matrix @ rest
    return ((projected + projected.mT) / 2).to(positions)


def _assembled(kind: Coordinates, size: int) -> csr_array:
    """B^T k B, (3N, 3N), sparse."""
    count, members = kind.atoms.shape
    columns = 3 * kind.atoms[..., None] + np.arange(3)
    rows = np.arange(0, 3 * members * count + 1, 3 * members)
    b = csr_array((kind.gradients.ravel(), columns.ravel(), rows), shape=(count, 3 * size))
    return csr_array(b.T @ diags_array(kind.constants) @ b)


def _stretches(bonds: Bonds, radii: np.ndarray) -> Coordinates:
    """Both directions of every bond, with half the constant."""
    softness = (2 * CARBON / (radii[bonds.start] + radii[bonds.end])) ** 2.3
    return _stretched(
        bonds.start, bonds.end, bonds.directions, 0.5 * STRETCH * bonds.rho * softness
    )


def _pairs(
    start: np.ndarray, end: np.ndarray, lengths: np.ndarray, directions: np.ndarray
) -> list[Coordinates]:
    """Both directions of every pair, along it and along x, y and z."""
    constants = 0.5 * PAIR * (3.0 / lengths) ** 6.5
    axes = [np.broadcast_to(axis, directions.shape) for axis in np.eye(3)]
    sliding = [_stretched(start, end, axis, TRANSVERSE * constants) for axis in axes]
    return [_stretched(start, end, directions, constants), *sliding]


def _stretched(
    start: np.ndarray, end: np.ndarray, directions: np.ndarray, constants: np.ndarray
) -> Coordinates:
    return Coordinates(np.stack([start, end], 1), np.stack([-directions, directions], 1), constants)


def _pieces(chosen: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Chosen bonds in pieces of about `PIECE` coordinates, from how many each of them has."""
    ends = np.searchsorted(np.cumsum(counts), np.arange(PIECE, counts.sum(), PIECE), side="right")
    return [piece for piece in np.split(chosen, np.unique(ends)) if len(piece)]


def _bends(bonds: Bonds, radii: np.ndarray) -> Iterator[Coordinates]:
    """All bends, some at a time."""
    chosen = np.flatnonzero(bonds.degree[bonds.start] <= CROWDED)
    for piece in _pieces(chosen, bonds.degree[bonds.start[chosen]]):
        yield _bent(piece, bonds, radii)


def _bent(chosen: np.ndarray, bonds: Bonds, radii: np.ndarray) -> Coordinates:
    """Angles of bonds with later ones, in their plane; straight ones in two planes."""
    row, second = bonds.of(bonds.start[chosen])
    first = chosen[row]
    first, second = first[first < second], second[first < second]
    left, right = bonds.directions[first], bonds.directions[second]
    normal = np.cross(left, right)
    sine = np.linalg.norm(normal, axis=1)
    across = np.cross(left, np.eye(3)[np.abs(left).argmin(1)])
    normal = np.where(sine[:, None] > 1e-6, normal, across)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    straight = sine < STRAIGHT
    # A small rotation about the normal opens the angle; one in the normal's direction bends a line.
    moves = [
        np.concatenate([-np.cross(normal, left), normal[straight]]),
        np.concatenate([np.cross(normal, right), normal[straight]]),
    ]
    first = np.concatenate([first, first[straight]])
    second = np.concatenate([second, second[straight]])
    at_first = moves[0] / bonds.lengths[first, None]
    at_second = moves[1] / bonds.lengths[second, None]
    centre = bonds.start[first]
    softness = CARBON / np.maximum(radii[centre], CARBON)
    return Coordinates(
        np.stack([bonds.end[first], centre, bonds.end[second]], 1),
        np.stack([at_first, -at_first - at_second, at_second], 1),
        BEND * np.sqrt(bonds.rho[first] * bonds.rho[second]) * softness,
    )


def _torsions(bonds: Bonds, radii: np.ndarray) -> Iterator[Coordinates]:
    """All torsions, some at a time."""
    size = np.maximum(radii, CARBON)
    about = TORSION * bonds.rho * (CARBON**2 / size[bonds.start] / size[bonds.end]) ** 6
    at_start, at_end = bonds.degree[bonds.start], bonds.degree[bonds.end]
    central = np.flatnonzero((about > NEGLIGIBLE) & (np.maximum(at_start, at_end) <= CLOSEST))
    for piece in _pieces(central, at_start[central] * at_end[central]):
        yield _turned(piece, about, bonds)


def _turned(central: np.ndarray, about: np.ndarray, bonds: Bonds) -> Coordinates:
    """Angles between planes about bonds, from both of their ends, with half the constant."""
    row, left = bonds.of(bonds.start[central])
    central = central[row]
    keep = left != central
    central, left = central[keep], left[keep]
    row, right = bonds.of(bonds.end[central])
    central, left = central[row], left[row]
    back = (bonds.end[right] == bonds.start[central]) & (
        bonds.shifts[right] == -bonds.shifts[central]
    ).all(1)
    central, left, right = central[~back], left[~back], right[~back]
    f = bonds.directions[left] * bonds.lengths[left, None]
    g = -bonds.directions[central] * bonds.lengths[central, None]
    h = bonds.directions[right] * bonds.lengths[right, None]
    a, b, length = np.cross(f, g), np.cross(h, g), bonds.lengths[central]
    sine_a = np.linalg.norm(a, axis=1) / (bonds.lengths[left] * length)
    sine_b = np.linalg.norm(b, axis=1) / (bonds.lengths[right] * length)
    keep = (sine_a > SKEW) & (sine_b > SKEW)
    central, left, right = central[keep], left[keep], right[keep]
    f, g, h, a, b, length = (values[keep] for values in (f, g, h, a, b, length))
    a /= (a**2).sum(1, keepdims=True)
    b /= (b**2).sum(1, keepdims=True)
    at_left, at_right = -length[:, None] * a, length[:, None] * b
    turn = ((f * g).sum(1) / length)[:, None] * a - ((h * g).sum(1) / length)[:, None] * b
    members = bonds.end[left], bonds.start[central], bonds.end[central], bonds.end[right]
    return Coordinates(
        np.stack(members, 1),
        np.stack([at_left, turn - at_left, -turn - at_right, at_right], 1),
        0.5 * about[central] * np.sqrt(bonds.rho[left] * bonds.rho[right]),
    )


def _pyramids(bonds: Bonds) -> Coordinates:
    """Triple products u_1 x u_2 . u_3 of atoms with three bonds."""
    centre = np.flatnonzero(bonds.degree == 3)
    three = bonds.first[centre][:, None] + np.arange(3)
    unit, lengths = bonds.directions[three], bonds.lengths[three]
    slopes = np.cross(np.roll(unit, -1, axis=1), np.roll(unit, -2, axis=1))
    slopes -= (slopes * unit).sum(2, keepdims=True) * unit
    slopes /= lengths[..., None]
    return Coordinates(
        np.concatenate([bonds.end[three], centre[:, None]], axis=1),
        np.concatenate([slopes, -slopes.sum(1, keepdims=True)], axis=1),
        PYRAMID * bonds.rho[three].prod(1) ** (1 / 3),
    )
