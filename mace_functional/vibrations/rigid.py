r"""Rigid motions: those that cost no energy, because a part of the structure moves as a whole.

Each connected part (`connectivity`) has three translations, and the rotations about the axes to
which all lattice vectors that connect it to itself are parallel: about three axes for a molecule,
whether it lies in a box or not; about one for a chain; about none for a layer or a crystal. A water
molecule has six rigid motions, two that do not feel each other have twelve.

**Straight molecules.** A straight molecule has one rotation less, and a bent one that is nearly
straight has it: about its long axis. Geometry alone does not tell, as what is left of the bend may
be what the relaxation has left over. Let d be the vectors from the axis to the atoms, and move all
atoms to s d. The energy of this path is even in s, as half a turn about the axis takes s to -s:

    E(s) = E_0 + k s^2 / 2 + c s^4 / 4,        t = E'(1) / E''(1),
    E'(s_0) = 0 at s_0 = 0 and at s_0^2 = -k / c = (1 - 3 t) / (1 - t).

A molecule is bent if the second of these shapes is there and nearer than the straight one,
0 < s_0 < 2. In other words: t is the part of the bend that a Newton step takes away. It is 1 for a
straight molecule, whatever the forces that are left, and 0 for a bent one at rest; the limit lies
at 1/3. All coordinates take part in the step; where the bend is made of several modes, the softest
decide, with weights 1 / curvature^2, because stiff ones come to rest where soft ones let them.

The gradient is not needed. As the energy does not change on rotation, H (w x r) = w x g for every
axis w: the Hessian tells it.

Source: for the projection of rigid motions Miller, Handy, Adams, J. Chem. Phys. 1980, 72, 99,
doi:10.1063/1.438959.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.support.renamed import positional_for_a_release

AXIS_TOLERANCE = 1e-3
"""Closer to an axis than this (Å, mass-weighted root mean square), atoms count as lying on it where
no Hessian is there to tell. Linear molecules relaxed to 1e-3 eV/Å bend by less."""

STRAIGHT = 0.3
"""Distance of the atoms from the long axis over their distance along it (mass-weighted root mean
squares) above which a molecule is bent, whatever its Hessian. Water has 0.5, C3O2 with an angle of
160 degrees 0.1."""

HELD = 1e-6
"""Share of a rigid motion, of length 1, that may lie in coordinates that are held."""

FLAT = 1e-9
"""Change of phase, per wave vector, below which images stay in phase along a direction."""

Block = Callable[[np.ndarray], np.ndarray]
"""From the numbers of n atoms, (n,), to their block of the Hessian in eV/Å², (3n, 3n)."""

INSTEAD = "vibrational_frequencies(hessian, masses, positions, rotations=...)"
"""What has derivatives."""


@dataclass(frozen=True, eq=False)
class RigidMotions:
    """Orthonormal rigid motions, in mass-weighted coordinates, of N atoms.

    Attributes:
        basis: (3N, r), each of one part, unless some coordinates are held.
        part: Part that each of them moves, (r,).
        n_rotations: How many of them are rotations; all others are translations.
        parts: The connected parts.
    """

    basis: np.ndarray
    part: np.ndarray
    n_rotations: int
    parts: Parts

    @property
    def count(self) -> int:
        """Number r of rigid motions."""
        return self.basis.shape[1]

    def at(self, q: np.ndarray) -> np.ndarray:
        """Rigid motions among the waves of a wave vector, (3N, k), complex.

        A part moves as a whole in such a wave if all its images that are connected are in phase,
        q.T a whole number for all lattice vectors T that connect it to itself.

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
        """
        moving = self.basis[:, self.parts.in_phase(q)[self.part]]
        phases = np.exp(-2j * np.pi * (self.parts.cells @ q))
        return np.repeat(phases, 3)[:, None] * moving

    def count_at(self, q: np.ndarray) -> int:
        """How many of them there are at a wave vector (3,)."""
        return int(self.parts.in_phase(q)[self.part].sum())

    def still(self, q: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Whether each of `at(q)` is rigid along a direction from q too, (k,).

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
            direction: In the same units, (3,).
        """
        flat = [bool((abs(t @ direction) < FLAT).all()) for t in self.parts.translations]
        return np.array(flat)[self.part[self.parts.in_phase(q)[self.part]]]

    def within(self, free: np.ndarray, translations: np.ndarray) -> RigidMotions:
        """Those that move nothing that is held.

        Args:
            free: Orthonormal basis of what is free, in mass-weighted coordinates, (3N, m); or,
                where these are coordinates of atoms, which of them, (3N,) booleans.
            translations: The same three translations of each part as in `basis`, (3N, 3P).
        """
        kept = _inside(self.basis, free)
        return replace(
            self,
            basis=kept,
            part=np.zeros(kept.shape[1], dtype=int),
            n_rotations=kept.shape[1] - _inside(translations, free).shape[1],
        )


def rigid_motions_of(
    positions: np.ndarray,
    masses: np.ndarray,
    cell: np.ndarray,
    parts: Parts,
    *,
    block: Block | None = None,
    epsilon: float = float(np.finfo(float).eps),
    free: np.ndarray | None = None,
) -> RigidMotions:
    """Rigid motions of all connected parts of a structure.

    Args:
        positions: Å, (N, 3).
        masses: amu, (N,).
        cell: Å, (3, 3).
        parts: Its connected parts.
        block: Gives blocks of the Hessian, by which nearly straight molecules are told from bent
            ones; without, by `AXIS_TOLERANCE`.
        epsilon: Rounding of the positions, relative.
        free: What is free, see `RigidMotions.within`, where constraints hold the rest: motions that
            need what is held are left out. All if None.

    Returns:
        The rigid motions, part by part, the translations of each first.
    """
    x = positions + parts.cells @ cell
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    part: list[int] = []
    translations: list[int] = []
    n_rotations = 0
    for number, atoms in enumerate(parts.atoms()):
        mass = masses[atoms]
        body = _Body(x[atoms] - mass @ x[atoms] / mass.sum(), mass, epsilon)
        hessian = None if block is None else partial(block, atoms)
        rotations = body.rotations(parts.translations[number], cell, hessian)
        rows = (3 * atoms[:, None] + np.arange(3)).ravel()
        motions = np.column_stack([body.translations, rotations])
        columns.append((rows, motions))
        part += [number] * motions.shape[1]
        translations += [len(part) - motions.shape[1] + k for k in range(3)]
        n_rotations += rotations.shape[1]
    basis = np.zeros((3 * len(x), len(part)))
    start = 0
    for rows, motions in columns:
        basis[rows, start : start + motions.shape[1]] = motions
        start += motions.shape[1]
    found = RigidMotions(basis, np.array(part, dtype=int), n_rotations, parts)
    return found if free is None else found.within(free, basis[:, translations])


def _inside(motions: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the combinations of orthonormal motions that lie in a space."""
    held = motions[~free] if free.dtype == bool else motions - free @ (free.T @ motions)
    lost, combinations = np.linalg.eigh(held.T @ held)
    return motions @ combinations[:, lost < HELD**2]


class _Body:
    """A part as a rigid body.

    Args:
        arms: From the centre of mass, Å, (n, 3).
        masses: amu, (n,).
        epsilon: Rounding of positions, relative.
    """

    def __init__(self, arms: np.ndarray, masses: np.ndarray, epsilon: float) -> None:
        self._arms, self._masses, self._epsilon = arms, masses, epsilon
        self._root = np.sqrt(masses)[:, None, None]

    @property
    def translations(self) -> np.ndarray:
        """Orthonormal, mass-weighted, (3n, 3)."""
        moved: np.ndarray = (self._root * np.eye(3)).reshape(-1, 3)
        return moved / np.sqrt(self._masses.sum())

    def rotations(
        self,
        translations: np.ndarray,
        cell: np.ndarray,
        hessian: Callable[[], np.ndarray] | None,
    ) -> np.ndarray:
        """Orthonormal rotations, mass-weighted, (3n, 0 to 3).

        Args:
            translations: Lattice vectors that connect the part to its images, (k, 3), in units of
                the cell.
            cell: Å, (3, 3).
            hessian: Gives its block of the Hessian, (3n, 3n).
        """
        rank = np.linalg.matrix_rank(translations) if len(translations) else 0
        if rank > 1:
            return self._about(np.zeros((0, 3)))
        if rank == 1:
            bonds = translations @ cell
            axes = bonds[:1] / np.linalg.norm(bonds[0])
            extent = float(np.linalg.norm(bonds, axis=1).min()) / 12**0.5
        else:
            weighted = np.sqrt(self._masses)[:, None] * self._arms
            _, sizes, axes = np.linalg.svd(weighted, full_matrices=True)
            extent = float(sizes[0]) / self._masses.sum() ** 0.5
        # The first axis is the one along which the part is long.
        if self._is_straight(axes[0], extent, axes[1:], hessian):
            axes = axes[1:]
        turned = self._about(axes)
        sizes = np.linalg.norm(turned, axis=0)
        kept = sizes > self._epsilon**0.5 * extent * self._masses.sum() ** 0.5
        return np.linalg.qr(turned[:, kept])[0]

    def _about(self, axes: np.ndarray) -> np.ndarray:
        """Rotations about axes, mass-weighted, (3n, axes)."""
        turned = self._root * np.cross(axes, self._arms[:, None]).transpose(0, 2, 1)
        return turned.reshape(3 * len(self._arms), len(axes))

    def _is_straight(
        self,
        axis: np.ndarray,
        extent: float,
        others: np.ndarray,
        hessian: Callable[[], np.ndarray] | None,
    ) -> bool:
        """Whether the atoms lie on an axis, or will where the structure is at rest.

        Args:
            axis: Unit vector, (3,).
            extent: How long the part is along it, mass-weighted root mean square, Å.
            others: The other axes about which the part turns, (0 or 2, 3).
            hessian: Gives its block of the Hessian.
        """
        bend = self._arms - np.outer(self._arms @ axis, axis)
        size = float(np.sqrt(self._masses @ (bend**2).sum(1) / self._masses.sum()))
        if size <= self._epsilon**0.5 * extent:
            return True
        if size > STRAIGHT * extent:
            return False
        if hessian is None:
            return size < AXIS_TOLERANCE
        rest = self._newton_share(axis, bend, others, hessian())
        return not 0 < 1 - 3 * rest < 4 * (1 - rest) and not 0 > 1 - 3 * rest > 4 * (1 - rest)

    def _newton_share(
        self, axis: np.ndarray, bend: np.ndarray, others: np.ndarray, hessian: np.ndarray
    ) -> float:
        """The part t of a bend that a Newton step takes away."""
        root = np.repeat(np.sqrt(self._masses), 3)
        weighted = hessian / np.outer(root, root)
        turning = self._about(axis[None])
        rigid = np.column_stack([self.translations, self._about(others), turning])
        space = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
        values, vectors = np.linalg.eigh(space.T @ (weighted + weighted.T) @ space / 2)
        soft = np.maximum(np.abs(values), self._epsilon * np.abs(values).max(initial=0.0))
        soft = np.where(soft > 0, soft, 1.0)
        into = space @ vectors
        slopes = self._gradient(axis, others, weighted) @ into
        along = (root * bend.ravel()) @ into
        weights = along / soft**2
        return float(weights @ (slopes * np.sign(values) / soft) / (weights @ along))

    def _gradient(self, axis: np.ndarray, others: np.ndarray, weighted: np.ndarray) -> np.ndarray:
        """Mass-weighted gradient across the axis, and along it where that is known, (3n,).

        D (w x sqrt(m) r) = w x g / sqrt(m), and -w x (w x g) is the part of g across w.
        """
        across = -np.cross(axis, (weighted @ self._about(axis[None])).reshape(-1, 3))
        if len(others):
            w = others[:1]
            along = -np.cross(w, (weighted @ self._about(w)).reshape(-1, 3)) @ axis
            across = across + np.outer(along, axis)
        return across.ravel()


@positional_for_a_release("pbc", "cell")
def rigid_motions(
    positions: Tensor,
    masses: Tensor | Sequence[float],
    *,
    pbc: Sequence[bool] = (False, False, False),
    cell: Tensor | None = None,
    parts: Parts | None = None,
    hessian: Tensor | None = None,
) -> Tensor:
    """Orthonormal basis, in mass-weighted coordinates, of the motions that cost no energy.

    For each connected part three translations, and the rotations

        b_k = sqrt(m_k) axis x (r_k - centre of mass),        |b|^2 = moment of inertia,

    about all axes to which the lattice vectors are parallel that connect the part to itself: three
    axes for a molecule, the one along a rod or polymer, none for a slab or a crystal. A linear
    molecule has five rigid motions, an atom three.

    With the Hessian, nearly straight molecules are told from bent ones by where they will be at
    rest (see the module). Without, one counts as straight whose radius of gyration about its axis
    is below `AXIS_TOLERANCE`, 1e-3 Å.

    It has no derivatives: see `vibrational_frequencies`.

    Args:
        positions: (N, 3) Å; a molecule or polymer in one piece, unless there are parts.
        masses: (N,) amu.
        pbc: whether each of the three cell vectors is periodic: without parts, the structure is
            one, connected to itself along all of them.
        cell: (3, 3) Å, rows the cell vectors; needed where exactly one is periodic, or with parts.
        parts: the connected parts, from `connectivity.parts_of`.
        hessian: (N, 3, N, 3) or (3N, 3N), eV/Å².

    Returns:
        (3N, r), the motions of one part after those of another; translations come first.

    Raises:
        ValueError: shapes that do not fit, masses that are not positive, no cell vector along the
            only periodic direction; or under a transform, and for inputs that require grad.
    """
    refuse_transforms("rigid_motions", INSTEAD, positions, masses, cell, hessian)
    masses = torch.as_tensor(masses, dtype=positions.dtype, device=positions.device)
    return torch.as_tensor(
        rigid_motions_from_tensors(positions, masses, pbc, cell, parts=parts, hessian=hessian).basis
    ).to(positions)


def rigid_motions_from_tensors(
    positions: Tensor,
    masses: Tensor,
    pbc: Sequence[bool],
    cell: Tensor | None,
    *,
    parts: Parts | None = None,
    hessian: Tensor | None = None,
    free: np.ndarray | None = None,
) -> RigidMotions:
    """Rigid motions of a structure of tensors; see `rigid_motions` and `rigid_motions_of`.

    Raises:
        ValueError: As `rigid_motions`.
    """
    check_bodies(positions, masses)
    if len(pbc) != 3:
        raise ValueError(f"pbc must be three booleans, one for each cell vector, not {pbc!r}")
    if parts is None:
        parts = Parts.whole(len(positions), pbc)
        _check_axis(pbc, cell)
    block = None
    if hessian is not None:
        matrix = hessian.reshape(len(positions), 3, len(positions), 3)

        def block(atoms: np.ndarray) -> np.ndarray:
            chosen = torch.as_tensor(atoms, device=matrix.device)
            size = 3 * len(atoms)
            return as_array(matrix[chosen][:, :, chosen]).reshape(size, size)

    return rigid_motions_of(
        as_array(positions),
        as_array(masses),
        np.zeros((3, 3)) if cell is None else as_array(cell),
        parts,
        block=block,
        epsilon=torch.finfo(positions.dtype).eps,
        free=free,
    )


def check_bodies(positions: Tensor, masses: Tensor) -> None:
    """Refuse positions and masses that do not fit each other.

    Raises:
        ValueError: If shapes are not (N, 3) and (N,), or masses are not positive.
    """
    if positions.ndim != 2 or positions.shape[1] != 3 or masses.shape != positions.shape[:1]:
        raise ValueError(
            f"positions must be (N, 3) and masses (N,), not {tuple(positions.shape)} and "
            f"{tuple(masses.shape)}"
        )
    if not (masses > 0).all():
        raise ValueError(f"masses must be positive, in amu, got {masses.tolist()}")


def internal_motions(rigid: Tensor) -> Tensor:
    """Orthonormal basis Q of the motions that are left when the rigid ones are taken out.

    `frequencies(Q.T @ D @ Q)` are the vibrations alone, and can be differentiated by D. Q itself
    has no derivatives: it is constant for crystals, whose translations do not depend on positions.
    For molecules, of which it is not, see `vibrational_frequencies`.

    Args:
        rigid: (3N, r) orthonormal basis, from `rigid_motions`; real or complex.

    Returns:
        (3N, 3N - r).

    Raises:
        ValueError: under a transform, or if `rigid` requires grad.
    """
    refuse_transforms("internal_motions", INSTEAD, rigid)
    orthogonal: Tensor = torch.linalg.qr(rigid.detach(), mode="complete").Q
    return orthogonal[:, rigid.shape[1] :]


def _check_axis(pbc: Sequence[bool], cell: Tensor | None) -> None:
    """Refuse a polymer whose axis is not known."""
    periodic = [bool(direction) for direction in pbc]
    if sum(periodic) != 1:
        return
    if cell is None:
        raise ValueError("one periodic direction: give the cell, whose vector is the axis")
    if not cell[periodic.index(True)].norm() > 0:
        raise ValueError("the cell vector of the periodic direction is zero or NaN")
