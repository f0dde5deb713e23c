r"""Rigid motions: displacements of whole parts of a structure that cost no energy.

Each connected part (`connectivity`) has three translations. It also has rotations about every axis
that is parallel to all lattice vectors that connect the part to its own images: about three axes
for a molecule, also in a periodic box, about one for a chain, about none for a layer or a crystal.
A water molecule has six rigid motions; two water molecules that do not interact have twelve.

**Straight molecules.** A linear molecule has no rotation about its long axis; a bent molecule has
it, even if it is almost linear. Geometry alone does not distinguish them, because a small bend may
be left from an incomplete relaxation. Let d be the vectors from the axis to the atoms, and move all
atoms to s d. The energy along this path is even in s, because a half turn about the axis maps s to
-s:

    E(s) = E_0 + k s^2 / 2 + c s^4 / 4,        t = E'(1) / E''(1),
    E'(s_0) = 0 at s_0 = 0 and at s_0^2 = -k / c = (1 - 3 t) / (1 - t).

The molecule counts as bent if the second stationary point exists and is nearer than the first,
0 < s_0 < 2. The number t is the share of the bend that a Newton step removes: 1 for a linear
molecule, whatever its residual forces, and 0 for a bent molecule at its minimum. The limit between
them is 1/3. The Newton step moves all coordinates. If several modes contribute to the bend, they
are averaged with weights 1 / curvature^2, so that the softest decide: stiff modes follow the soft
ones to their minimum.

The gradient g is not needed. The energy is invariant under rotation, so the Hessian determines it:
H (w x r) = w x g for every axis w.

Source: for the projection of rigid motions Miller, Handy, Adams, J. Chem. Phys. 1980, 72, 99,
doi:10.1063/1.438959.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.support.renamed import positional_for_a_release

AXIS_TOLERANCE = 1e-3
"""Largest distance of the atoms from the axis of a linear molecule, Å, if there is no Hessian.

The distance is the mass-weighted root mean square. Molecules with larger distances count as bent.
Linear molecules that are relaxed to 1e-3 eV/Å bend by less.
"""

MAX_ASPECT_RATIO = 0.3
"""Largest ratio of width to length of a molecule that may count as linear.

Width and length are the distances of the atoms from the long axis and along it (mass-weighted root
mean squares). Above, a molecule is bent, whatever its Hessian. Water has 0.5, C3O2 with an angle of
160 degrees 0.1.
"""

MAX_FIXED_SHARE = 1e-6
"""Largest component of a rigid motion of length 1 along the fixed coordinates.

A motion with a larger component moves fixed atoms and is no rigid motion.
"""

ZERO_PHASE_CHANGE = 1e-9
"""Change of q.T with q along a direction below which the images of a part stay in phase."""

Block = Callable[[np.ndarray], np.ndarray]
"""Function from the numbers of n atoms to their block of the Hessian, (3n, 3n) in eV/Å²."""

DIFFERENTIABLE_CALL = "vibrational_frequencies(hessian, masses, positions, rotations=...)"
"""Call that error messages recommend in place of functions without derivatives."""


@dataclass(frozen=True, eq=False)
class RigidMotions:
    """Rigid motions of N atoms, an orthonormal basis in mass-weighted coordinates.

    Attributes:
        basis: Rigid motions as columns, (3N, r). Each moves one part, unless some coordinates are
            fixed.
        part: Number of the part that each of them moves, (r,).
        n_rotations: Number of rotations among them; all others are translations.
        parts: Connected parts of the structure.
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
        """Return the rigid motions at a wave vector as complex displacements of one cell, (3N, k).

        In a wave, a part moves as a whole if all its connected images are in phase: q.T is an
        integer for all lattice vectors T that connect the part to its images.

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
        """
        moving = self.basis[:, self.parts.in_phase(q)[self.part]]
        phases = np.exp(-2j * np.pi * (self.parts.cells @ q))
        return np.repeat(phases, 3)[:, None] * moving

    def count_at(self, q: np.ndarray) -> int:
        """Return the number of rigid motions at a wave vector (3,)."""
        return int(self.parts.in_phase(q)[self.part].sum())

    def still(self, q: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return a mask of the motions of `at(q)` that stay rigid along a direction from q, (k,).

        Args:
            q: Wave vector in units of the reciprocal lattice vectors, (3,).
            direction: Direction in the same units, (3,).
        """
        in_phase = [
            bool((abs(t @ direction) < ZERO_PHASE_CHANGE).all()) for t in self.parts.translations
        ]
        return np.array(in_phase)[self.part[self.parts.in_phase(q)[self.part]]]

    def within(self, free: np.ndarray | csr_array, translations: np.ndarray) -> RigidMotions:
        """Return the rigid motions that leave all fixed coordinates in place.

        Args:
            free: Orthonormal basis of the free displacements in mass-weighted coordinates, (3N, m),
                dense or sparse; or a mask of the free coordinates, (3N,).
            translations: The three translations of each of P parts, as in `basis`, (3N, 3P).
        """
        basis = _inside(self.basis, free)
        return replace(
            self,
            basis=basis,
            part=np.zeros(basis.shape[1], dtype=int),
            n_rotations=basis.shape[1] - _inside(translations, free).shape[1],
        )


def rigid_motions_of(
    positions: np.ndarray,
    masses: np.ndarray,
    cell: np.ndarray,
    parts: Parts,
    *,
    block: Block | None = None,
    epsilon: float = float(np.finfo(float).eps),
    free: np.ndarray | csr_array | None = None,
) -> RigidMotions:
    """Compute the rigid motions of all connected parts of a structure.

    Args:
        positions: Positions in Å, (N, 3).
        masses: Masses in amu, (N,).
        cell: Lattice vectors in Å as rows, (3, 3).
        parts: Connected parts of the structure.
        block: Function that returns blocks of the Hessian. It is used to distinguish linear
            molecules from slightly bent ones; without it, `AXIS_TOLERANCE` decides.
        epsilon: Relative rounding error of the positions.
        free: Free coordinates, see `RigidMotions.within`; motions that move fixed coordinates are
            left out. None if all are free.

    Returns:
        The rigid motions, part by part; the translations of each part come first.
    """
    x = positions + parts.cells @ cell
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    part: list[int] = []
    translations: list[int] = []
    n_rotations = 0
    for index, atoms in enumerate(parts.atoms()):
        m = masses[atoms]
        body = _Body(x[atoms] - m @ x[atoms] / m.sum(), m, epsilon)
        hessian = None if block is None else partial(block, atoms)
        rotations = body.rotations(parts.translations[index], cell, hessian)
        rows = (3 * atoms[:, None] + np.arange(3)).ravel()
        motions = np.column_stack([body.translations, rotations])
        columns.append((rows, motions))
        part += [index] * motions.shape[1]
        translations += [len(part) - motions.shape[1] + k for k in range(3)]
        n_rotations += rotations.shape[1]
    basis = np.zeros((3 * len(x), len(part)))
    start = 0
    for rows, motions in columns:
        basis[rows, start : start + motions.shape[1]] = motions
        start += motions.shape[1]
    result = RigidMotions(basis, np.array(part, dtype=int), n_rotations, parts)
    return result if free is None else result.within(free, basis[:, translations])


def _inside(motions: np.ndarray, free: np.ndarray | csr_array) -> np.ndarray:
    """Return an orthonormal basis of those combinations of motions that lie in the free space."""
    fixed = motions[~free] if free.dtype == bool else motions - free @ (free.T @ motions)
    squares, combinations = np.linalg.eigh(fixed.T @ fixed)
    return motions @ combinations[:, squares < MAX_FIXED_SHARE**2]


class _Body:
    """A connected part as a rigid body.

    Args:
        r: Positions relative to the centre of mass, Å, (n, 3).
        masses: Masses in amu, (n,).
        epsilon: Relative rounding error of the positions.
    """

    def __init__(self, r: np.ndarray, masses: np.ndarray, epsilon: float) -> None:
        self._r, self._masses, self._epsilon = r, masses, epsilon
        self._sqrt_m = np.sqrt(masses)[:, None, None]

    @property
    def translations(self) -> np.ndarray:
        """Orthonormal translations in mass-weighted coordinates, (3n, 3)."""
        moved: np.ndarray = (self._sqrt_m * np.eye(3)).reshape(-1, 3)
        return moved / np.sqrt(self._masses.sum())

    def rotations(
        self,
        translations: np.ndarray,
        cell: np.ndarray,
        hessian: Callable[[], np.ndarray] | None,
    ) -> np.ndarray:
        """Compute orthonormal rotations in mass-weighted coordinates, (3n, 0 to 3).

        Args:
            translations: Lattice vectors that connect the part to its images, in units of the cell
                vectors, (k, 3).
            cell: Lattice vectors in Å as rows, (3, 3).
            hessian: Function that returns the block of the Hessian of the part, (3n, 3n), eV/Å².
        """
        rank = np.linalg.matrix_rank(translations) if len(translations) else 0
        if rank > 1:
            return self._rotations_about(np.zeros((0, 3)))
        if rank == 1:
            t = translations @ cell
            axes = t[:1] / np.linalg.norm(t[0])
            length = float(np.linalg.norm(t, axis=1).min()) / 12**0.5
        else:
            weighted_r = np.sqrt(self._masses)[:, None] * self._r
            _, sizes, axes = np.linalg.svd(weighted_r, full_matrices=True)
            length = float(sizes[0]) / self._masses.sum() ** 0.5
        # The first axis is the long axis of the part.
        if self._is_straight(axes[0], length, axes[1:], hessian):
            axes = axes[1:]
        w_cross_r = self._rotations_about(axes)
        sizes = np.linalg.norm(w_cross_r, axis=0)
        kept = sizes > self._epsilon**0.5 * length * self._masses.sum() ** 0.5
        return np.linalg.qr(w_cross_r[:, kept])[0]

    def _rotations_about(self, axes: np.ndarray) -> np.ndarray:
        """Return mass-weighted rotations about axes w, w x r, (3n, axes)."""
        w_cross_r = self._sqrt_m * np.cross(axes, self._r[:, None]).transpose(0, 2, 1)
        return w_cross_r.reshape(3 * len(self._r), len(axes))

    def _is_straight(
        self,
        axis: np.ndarray,
        length: float,
        others: np.ndarray,
        hessian: Callable[[], np.ndarray] | None,
    ) -> bool:
        """Return True if the part is linear, or will be at the minimum that the Hessian predicts.

        Args:
            axis: Long axis of the part, unit vector, (3,).
            length: Extent of the part along the axis, mass-weighted root mean square, Å.
            others: Other axes of rotation of the part, (0 or 2, 3).
            hessian: Function that returns the block of the Hessian of the part, (3n, 3n), eV/Å².
        """
        d = self._r - np.outer(self._r @ axis, axis)
        width = float(np.sqrt(self._masses @ (d**2).sum(1) / self._masses.sum()))
        if width <= self._epsilon**0.5 * length:
            return True
        if width > MAX_ASPECT_RATIO * length:
            return False
        if hessian is None:
            return width < AXIS_TOLERANCE
        t = self._newton_share(axis, d, others, hessian())
        return not 0 < 1 - 3 * t < 4 * (1 - t) and not 0 > 1 - 3 * t > 4 * (1 - t)

    def _newton_share(
        self, axis: np.ndarray, d: np.ndarray, others: np.ndarray, hessian: np.ndarray
    ) -> float:
        """Return the share t of a bend d (n, 3) that a Newton step removes."""
        sqrt_m = np.repeat(np.sqrt(self._masses), 3)
        weighted = hessian / np.outer(sqrt_m, sqrt_m)
        axial = self._rotations_about(axis[None])
        rigid = np.column_stack([self.translations, self._rotations_about(others), axial])
        internal = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
        values, vectors = np.linalg.eigh(internal.T @ (weighted + weighted.T) @ internal / 2)
        curvatures = np.maximum(np.abs(values), self._epsilon * np.abs(values).max(initial=0.0))
        curvatures = np.where(curvatures > 0, curvatures, 1.0)
        modes = internal @ vectors
        slopes = self._gradient(axis, others, weighted) @ modes
        d_modes = (sqrt_m * d.ravel()) @ modes
        weights = d_modes / curvatures**2
        return float(weights @ (slopes * np.sign(values) / curvatures) / (weights @ d_modes))

    def _gradient(self, axis: np.ndarray, others: np.ndarray, weighted: np.ndarray) -> np.ndarray:
        """Compute the mass-weighted gradient across the axis, and if possible along it, (3n,).

        It follows from D (w x sqrt(m) r) = w x g / sqrt(m); the part of g across w is -w x (w x g).
        """
        across = -np.cross(axis, (weighted @ self._rotations_about(axis[None])).reshape(-1, 3))
        if len(others):
            w = others[:1]
            along = -np.cross(w, (weighted @ self._rotations_about(w)).reshape(-1, 3)) @ axis
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
    """Compute an orthonormal basis, in mass-weighted coordinates, of motions that cost no energy.

    Each connected part has three translations, and the rotations

        b_k = sqrt(m_k) axis x (r_k - centre of mass),        |b|^2 = moment of inertia,

    about all axes that are parallel to all lattice vectors that connect the part to its images:
    three axes for a molecule, one for a rod or polymer, none for a slab or a crystal. A linear
    molecule has five rigid motions, an atom three.

    With the Hessian, a molecule counts as linear if it is linear at the minimum that the Hessian
    predicts (see the module). Without, it counts as linear if its radius of gyration about its long
    axis is below `AXIS_TOLERANCE`, 1e-3 Å.

    The result has no derivatives; for derivatives see `vibrational_frequencies`.

    Args:
        positions: Positions in Å, (N, 3); without `parts`, a molecule or polymer in one piece.
        masses: Masses in amu, (N,).
        pbc: True for each periodic cell vector, (3,). Without `parts`, the structure is taken as
            one part that is connected to its images along all of them.
        cell: Cell vectors in Å as rows, (3, 3); needed if exactly one of them is periodic, and with
            `parts`.
        parts: Connected parts, from `connectivity.parts_of`.
        hessian: Hessian in eV/Å², (N, 3, N, 3) or (3N, 3N); None if it is not known.

    Returns:
        Rigid motions as columns, part by part, (3N, r); the translations of each part come first.

    Raises:
        ValueError: If shapes do not fit, masses are not positive, or the cell vector of the only
            periodic direction is missing; also under a transform, or if inputs require grad.
    """
    refuse_transforms("rigid_motions", DIFFERENTIABLE_CALL, positions, masses, cell, hessian)
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
    """Compute rigid motions from tensors; see `rigid_motions` and `rigid_motions_of`.

    Raises:
        ValueError: See `rigid_motions`.
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
            n = 3 * len(atoms)
            return as_array(matrix[chosen][:, :, chosen]).reshape(n, n)

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
    """Raise an error if positions and masses do not fit each other.

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
    """Return an orthonormal basis Q of all motions orthogonal to the rigid motions.

    `frequencies(Q.T @ D @ Q)` are the frequencies of the vibrations, differentiable by D. Q itself
    has no derivatives. For crystals it is constant, because translations do not depend on
    positions. For molecules it is not: see `vibrational_frequencies`.

    Args:
        rigid: Orthonormal rigid motions from `rigid_motions`, real or complex, (3N, r).

    Returns:
        Internal motions as columns, (3N, 3N - r).

    Raises:
        ValueError: If `rigid` requires grad or is inside of a transform.
    """
    refuse_transforms("internal_motions", DIFFERENTIABLE_CALL, rigid)
    orthogonal: Tensor = torch.linalg.qr(rigid.detach(), mode="complete").Q
    return orthogonal[:, rigid.shape[1] :]


def _check_axis(pbc: Sequence[bool], cell: Tensor | None) -> None:
    """Raise an error if a polymer has no cell vector along its axis."""
    periodic = [bool(direction) for direction in pbc]
    if sum(periodic) != 1:
        return
    if cell is None:
        raise ValueError("one periodic direction: give the cell, whose vector is the axis")
    if not cell[periodic.index(True)].norm() > 0:
        raise ValueError("the cell vector of the periodic direction is zero or NaN")
