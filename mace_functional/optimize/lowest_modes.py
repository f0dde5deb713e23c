"""Lowest modes of a Hessian from a few of its products, and whether a structure is a minimum.

The eigenvalues of a Hessian spread over three to five orders of magnitude, and products alone find
the lowest last: without help, after more products than the matrix has columns. Help is a cheap
model K (`model_hessian`), whose spectrum is much the same. In a block Davidson method, the lowest
Ritz pairs (theta, u) of a growing subspace give residuals and, with them, new directions

    t = max(K - theta, K / 10)^-1 r,        r = H u - theta u,

until what is left is small. Rigid motions are projected out, and everything is written in the
eigenvectors of K, so that the preconditioner divides by numbers. The subspace is never thrown away:
at worst it becomes the whole space, and its Ritz values the spectrum of the matrix.

The error of a Ritz value is of second order in its residual,

    theta - lambda = r^T (H' - theta)^-1 r < r^T max(f K - theta, gap)^-1 r,

with the Hessian H' outside of the subspace, the gap to the next separate Ritz value, and the lowest
eigenvalue f of K^-1 H. With f = 0 this is the bound of Kato and Temple. It is an estimate, mostly
several times too large, and ends the iteration.

Modes could hide in two ways. A symmetric structure has a symmetric K, whose modes alone lead to
modes of their own symmetry only: all starting vectors have random parts. And what K takes to be
stiff is looked at last: the lowest two eigenvalues of K^-1 H are therefore followed in the same
subspace, from a random vector. Their spectrum is narrow, so that few products find them, and by
Sylvester's law of inertia as many of them are negative as of H.

Source: Davidson, J. Comput. Phys. 1975, 17, 87; Morgan, Scott, SIAM J. Sci. Stat. Comput. 1986, 7,
817; the bound: Parlett, *The Symmetric Eigenvalue Problem* (1998), section 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import forces
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.optimize.model_hessian import model_hessian
from mace_functional.potential.energy import from_ase
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts, parts_of
from mace_functional.structure.selection import Freedom, freedom
from mace_functional.support import validation
from mace_functional.support.validation import in_order
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt
from mace_functional.vibrations.rigid import INSTEAD, internal_motions, rigid_motions_of
from mace_functional.vibrations.summary import summary

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

GUARDS = 1
"""Starting vectors beyond the wanted modes, and beyond the random one."""

RANDOM_PART = 0.1
"""How large the random part of a starting vector is along the softest mode of the model."""

FLOOR = 1e-6
"""Eigenvalues below this part of the largest count as that large where errors are relative; so do
eigenvalues of the model where it divides by them."""

CLUSTER = 1e-2
"""Ritz values that differ by less than this part count as one."""

PROBES, SURE = 2, 0.1
"""So many of the lowest eigenvalues of K^-1 H are known that well, relative to their size."""

ROUNDS, EXACT = 5, 1e-6
"""In the first rounds that well: a random vector has little of one direction that K is wrong in."""

SOFTEST = 0.02
"""The model is not taken to be stiffer than the Hessian by more than the inverse of this."""

DEPENDENT = 1e-7
"""Unit vectors that stand out of the subspace by less than this are in it."""

SIGN_TOLERANCE = 1e-2
"""How well `check_stability` knows an eigenvalue that it takes for positive."""


@dataclass(frozen=True, eq=False)
class LowestModes:
    """The lowest k eigenpairs of a Hessian, rigid motions taken out.

    Attributes:
        eigenvalues: (k,) ascending; eV/Å²/amu, or eV/Å² for an operator without masses.
        modes: (k, N, 3) orthonormal eigenvectors, in mass-weighted coordinates if there are masses.
        errors: (k,) estimates of how much too high the eigenvalues are.
        rounding: What the rounding of products adds to them, in either direction.
        residuals: (k,) norms of H u - theta u.
        converged: Whether all errors are within the tolerance.
        reason: Why it ended, in words.
        n_hvps: Products that it took.
        mass_weighted: Whether the operator had masses.
    """

    eigenvalues: Tensor
    modes: Tensor
    errors: Tensor
    rounding: float
    residuals: Tensor
    converged: bool
    reason: str
    n_hvps: int
    mass_weighted: bool

    __repr__ = summary

    def frequencies(self, unit: str = "cm-1") -> Tensor:
        """Signed frequencies; imaginary modes are negative.

        Args:
            unit: "cm-1", "THz" or "meV".

        Returns:
            (k,) ascending.

        Raises:
            ValueError: If the unit is unknown, or the operator had no masses.
        """
        if not self.mass_weighted:
            raise ValueError("frequencies need masses: give them to HessianOperator")
        return frequency_factor(unit) * signed_sqrt(self.eigenvalues)


@dataclass(frozen=True, eq=False)
class Stability:
    """Whether a structure is a minimum.

    Attributes:
        stable: Whether the lowest eigenvalue is positive.
        certain: Whether it is further from zero than its error.
        frequency: Of the lowest mode, signed, in `unit`. Where it is imaginary, the search has
            ended with the first proof, and a lower one may exist.
        mode: (N, 3) Cartesian displacement of the lowest mode, normalised: what `follow_mode` and
            `find_saddle` take as `mode`.
        largest_force: On any atom, eV/Å: only where it is zero does curvature decide.
        n_hvps: Products that it took.
        reason: Why the search ended, in words.
        unit: Unit of the frequency.
    """

    stable: bool
    certain: bool
    frequency: float
    mode: Tensor
    largest_force: float
    n_hvps: int
    reason: str
    unit: str

    __repr__ = summary


def lowest_modes(
    op: HessianOperator,
    k: int,
    *,
    pbc: Sequence[bool],
    numbers: Tensor | Sequence[int] | None = None,
    model: Tensor | None = None,
    guess: Tensor | None = None,
    tolerance: float | None = None,
    max_hvps: int | None = None,
    seed: int = 0,
    parts: Parts | None = None,
    free: np.ndarray | None = None,
) -> LowestModes:
    """The algebraically lowest eigenpairs of a Hessian, from products `op @ V` alone.

    Rigid motions (`rigid_motions`) are projected out, whatever frequencies remaining forces give
    them. Degenerate eigenvalues come out as often as they are there. Where the last of the k is
    nearly degenerate with the next, within the square root of the tolerance or so, the two may be
    mixed, and the eigenvalue be too high by up to their distance.

    Args:
        op: The Hessian, plain or mass-weighted.
        k: Number of modes.
        pbc: Whether each of the three cell vectors is periodic.
        numbers: Atomic numbers (N,), for the model; not needed where one is given.
        model: Symmetric stand-in for the plain Hessian that preconditions the search, eV/Å²,
            (3N, 3N); `model_hessian` of the structure if None. It decides about the number of
            products, not about the result.
        guess: Modes to begin with, (g, N, 3), such as those of a structure near by.
        tolerance: Of the eigenvalues, relative to their size or to 1e-6 of the largest one,
            whichever is more; 1e-8 if None, or 1e-3 in float32, whose rounding leaves errors of
            1e-6 of the largest one.
        max_hvps: Products at most; the number of internal coordinates if None, with which
            the result is exact.
        seed: Of the random part of the start.
        parts: The connected parts, from `connectivity.parts_of`, with rigid motions of their own.
            If None, the structure is one, connected to itself along all periodic directions.
        free: Orthonormal basis of the Cartesian displacements that are free, (3N, m); all if None.

    Returns:
        The modes in float64 on the operator's device, and how good they are. Look at `converged`.

    Raises:
        ValueError: If there are no k modes, shapes do not fit, neither numbers nor a model are
            given, a limit is too low, or the model is not finite.
        ArithmeticError: If a product is not finite.

    Source: see the module.

    >>> positions, cell = torch.eye(2, 3), torch.eye(3)
    >>> op = HessianOperator(lambda x, *_: (x[0] - x[1]).norm() ** 2, positions, cell, None)
    >>> lowest_modes(op, 1, pbc=(False, False, False), model=torch.eye(6)).eigenvalues
    tensor([4.], dtype=torch.float64)
    """
    refuse_transforms("lowest_modes", INSTEAD, op.positions, op.cell, op.masses, op.params)
    single = torch.finfo(op.dtype).bits < 64
    if tolerance is None:
        tolerance = 1e-3 if single else 1e-8
    tolerance = validation.positive("tolerance", tolerance)
    return _search(
        op,
        k,
        tolerance,
        pbc=pbc,
        numbers=numbers,
        model=model,
        guess=guess,
        max_hvps=max_hvps,
        seed=seed,
        parts=parts,
        free=free,
    )


def check_stability(
    model: Potential,
    atoms: Atoms,
    *,
    unit: str = "cm-1",
    max_hvps: int | None = None,
    seed: int = 0,
) -> Stability:
    """Whether a relaxed structure is a minimum, by its lowest mode alone.

    A Ritz value is never below the lowest eigenvalue, so that a negative one proves that the
    structure is none, and ends the search. It is one where the lowest eigenvalues of H, to 1 %, and
    of K^-1 H, to 10 %, are positive. Constraints of ASE hold what they say, as in `relax`.

    Args:
        model: From `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        unit: "cm-1", "THz" or "meV".
        max_hvps: Products at most; see `lowest_modes`.
        seed: Of the random part of the start.

    Returns:
        The answer, with the mode that decides.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the model, or has no internal motions.
        ArithmeticError: If a product is not finite.
    """
    in_order("check_stability(model, atoms)", (model, "Potential"), (atoms, "Atoms"))
    factor = frequency_factor(unit)
    refuse_transforms("check_stability", INSTEAD, model.params)
    left = freedom(atoms, "check_stability")
    s = from_ase(atoms, model)
    energy = model.energy_fn(s.topology)
    op = HessianOperator(energy, s.positions, s.cell, model.params, s.masses)
    found = _search(
        op,
        1,
        SIGN_TOLERANCE,
        until_negative=True,
        pbc=s.topology.pbc.tolist(),
        numbers=s.numbers,
        max_hvps=max_hvps,
        seed=seed,
        parts=parts_of(s.topology, s.positions, s.cell),
        free=None if left.whole else left.basis(),
    )
    lowest = float(found.eigenvalues)
    margin = float(found.errors) + found.rounding
    force = forces(energy)(s.positions, s.cell, model.params).detach()
    force -= _held_part(force, left)
    displacement = found.modes[0] / s.masses.to(found.modes).sqrt()[:, None]
    return Stability(
        stable=lowest > 0,
        certain=lowest < -found.rounding or (found.converged and lowest > margin),
        frequency=factor * float(signed_sqrt(found.eigenvalues)),
        mode=displacement / displacement.norm(),
        largest_force=float(force.norm(dim=1).max()),
        n_hvps=found.n_hvps,
        reason=found.reason,
        unit=unit,
    )


def _held_part(force: Tensor, left: Freedom) -> Tensor:
    """The part of forces that constraints take up."""
    if left.whole:
        return torch.zeros_like(force)
    basis = torch.as_tensor(left.basis()).to(force)
    return force - (basis @ (basis.mT @ force.reshape(-1))).view_as(force)


def _search(
    op: HessianOperator,
    k: int,
    tolerance: float,
    *,
    until_negative: bool = False,
    pbc: Sequence[bool],
    numbers: Tensor | Sequence[int] | None = None,
    model: Tensor | None = None,
    guess: Tensor | None = None,
    max_hvps: int | None = None,
    seed: int = 0,
    parts: Parts | None = None,
    free: np.ndarray | None = None,
) -> LowestModes:
    """Block Davidson in the eigenvectors of the model."""
    frame, stiffness = _frame(op, pbc, numbers, model, parts, free)
    size = len(stiffness)
    if not size:
        raise ValueError("a structure without internal motions has no modes")
    if not 1 <= k <= size:
        raise ValueError(
            f"k must be a number of modes from 1 to {size}, not {k}: {op.shape[0]} coordinates "
            f"less {op.shape[0] - size} that are held or rigid motions"
        )
    limit = size if max_hvps is None else min(max_hvps, size)
    if limit < k:
        raise ValueError(f"{k} modes take at least {k} products, not {max_hvps}")
    space = _Subspace(lambda v: frame.mT @ _product(op, frame @ v), stiffness)
    space.extend(_start(frame, stiffness, k, guess, seed), limit)
    for rounds in count(1):
        values, vectors, residuals = space.ritz()
        ratios, doubts, softer = space.softest()
        errors = space.errors(values, residuals, float(ratios[0]))
        whole = space.size == size
        if whole:
            errors, doubts = 0 * errors, 0 * doubts
        scale = values.abs().clamp(min=FLOOR * float(values.abs().max()))
        todo = errors[:k] > tolerance * scale[:k]
        unsure = doubts > (SURE if rounds > ROUNDS else EXACT) * ratios.abs().clamp(min=SOFTEST)
        found = until_negative and bool(values[0] < 0)
        open_end = bool(todo.any() or unsure.any())
        if found or not open_end or space.size == limit:
            break
        theta, wrong = values[:k][todo], residuals[:, :k][:, todo]
        hardness = (stiffness[:, None] - theta).maximum(0.1 * stiffness[:, None])
        directions = torch.cat([wrong / hardness, softer[:, unsure]], dim=1)
        if not space.extend(directions, limit - space.size):
            break
    rounding = 4 * torch.finfo(op.dtype).eps * float(values.abs().max())
    accurate = bool((tolerance * scale[:k] >= rounding).all())
    if found:
        reason = "a negative eigenvalue is there"
    elif todo.any():
        reason = f"{int(todo.sum())} of {k} modes are not done after {space.size} products"
    elif open_end:
        reason = f"softer modes may be missing after {space.size} products"
    elif not accurate:
        reason = f"products in {op.dtype} leave errors of {rounding:.1e}, above the tolerance"
    else:
        reason = "all products were taken" if whole else "errors are within the tolerance"
    return LowestModes(
        eigenvalues=values[:k],
        modes=(frame @ vectors[:, :k]).mT.reshape(k, -1, 3),
        errors=errors[:k],
        rounding=rounding,
        residuals=residuals[:, :k].norm(dim=0),
        converged=accurate and not (open_end or found),
        reason=reason,
        n_hvps=space.size,
        mass_weighted=op.masses is not None,
    )


class _Subspace:
    """Rayleigh-Ritz in a growing orthonormal basis, where the model is diagonal.

    Args:
        product: `H V` of the columns of a matrix (n, b).
        stiffness: Eigenvalues of the model, (n,) positive.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], stiffness: Tensor) -> None:
        self._product, self._stiffness = product, stiffness
        self._basis = self._images = stiffness.new_empty(len(stiffness), 0)

    @property
    def size(self) -> int:
        """Its dimension, which is the number of products so far."""
        return self._basis.shape[1]

    def extend(self, vectors: Tensor, room: int) -> int:
        """Take in what is new in these vectors (n, b), and return the number of new dimensions."""
        fresh = self._outside(torch.nn.functional.normalize(vectors, dim=0))
        sizes = fresh.norm(dim=0)
        fresh = self._outside((fresh / sizes)[:, sizes > DEPENDENT])
        left, sizes, _ = torch.linalg.svd(fresh, full_matrices=False)
        fresh = self._outside(left[:, sizes > DEPENDENT][:, :room])
        if fresh.shape[1]:
            self._basis = torch.cat([self._basis, fresh], dim=1)
            self._images = torch.cat([self._images, self._product(fresh)], dim=1)
        return fresh.shape[1]

    def _outside(self, vectors: Tensor) -> Tensor:
        return vectors - self._basis @ (self._basis.mT @ vectors)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (m,) ascending, vectors (n, m) and residuals (n, m)."""
        values, rotation = torch.linalg.eigh(_symmetric(self._basis.mT @ self._images))
        vectors = self._basis @ rotation
        return values, vectors, self._images @ rotation - vectors * values

    def softest(self) -> tuple[Tensor, Tensor, Tensor]:
        """The lowest eigenvalues mu of K^-1 H here, norms of residuals, and directions (n, 2).

        The residual is `H y - mu K y` with y^T K y = 1, and its norm that of K^-1: an eigenvalue is
        within that distance of mu.
        """
        model = _symmetric(self._basis.mT @ (self._stiffness[:, None] * self._basis))
        factor = torch.linalg.inv(torch.linalg.cholesky(model))
        exact = _symmetric(factor @ (self._basis.mT @ self._images) @ factor.mT)
        values, rotation = torch.linalg.eigh(exact)
        values, inner = values[:PROBES], factor.mT @ rotation[:, :PROBES]
        stiff = self._stiffness[:, None] * (self._basis @ inner)
        residuals = self._images @ inner - values * stiff
        directions = residuals / self._stiffness[:, None]
        return values, (residuals * directions).sum(0).sqrt(), directions

    def errors(self, values: Tensor, residuals: Tensor, softness: float) -> Tensor:
        """How much too high the Ritz values are, estimated, (m,)."""
        softness = min(max(softness, SOFTEST), 1.0)
        scale = values.abs().clamp(min=FLOOR * float(values.abs().max()))
        above = values - values[:, None]
        gaps = torch.where(above > CLUSTER * scale[:, None], above, torch.inf).amin(1)
        gaps = torch.where(gaps.isfinite(), gaps, CLUSTER * scale)
        hardness = (softness * self._stiffness[:, None] - values).maximum(gaps)
        return (residuals**2 / hardness).sum(0)


def _frame(
    op: HessianOperator,
    pbc: Sequence[bool],
    numbers: Tensor | Sequence[int] | None,
    model: Tensor | None,
    parts: Parts | None,
    free: np.ndarray | None,
) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the model without rigid motions, (3N, n), and its eigenvalues, positive."""
    positions, cell = op.positions.detach().double(), op.cell.detach().double()
    if model is None:
        if numbers is None:
            raise ValueError("give the atomic numbers, or a model of the Hessian")
        model = model_hessian(positions, cell, numbers, pbc)
    if model.shape != op.shape:
        raise ValueError(f"the model must be {tuple(op.shape)}, not {tuple(model.shape)}")
    if not model.isfinite().all():
        raise ValueError("the model of the Hessian has entries that are not finite")
    masses = torch.ones_like(positions[:, 0]) if op.masses is None else op.masses.detach().double()
    rest = _internal(op, positions, masses, pbc, cell, parts, free)
    weighted = rest / masses.sqrt().repeat_interleave(3)[:, None]
    stiffness, modes = torch.linalg.eigh(_symmetric(weighted.mT @ model.to(rest) @ weighted))
    largest = float(stiffness[-1]) if len(stiffness) else 0.0
    return rest @ modes, stiffness.clamp(min=FLOOR * largest if largest > 0 else 1.0)


def _internal(
    op: HessianOperator,
    positions: Tensor,
    masses: Tensor,
    pbc: Sequence[bool],
    cell: Tensor,
    parts: Parts | None,
    free: np.ndarray | None,
) -> Tensor:
    """Orthonormal basis of what is free, in mass-weighted coordinates, without rigid motions."""
    root = masses.sqrt().repeat_interleave(3)

    def block(atoms: np.ndarray) -> np.ndarray:
        rows = torch.as_tensor((3 * atoms[:, None] + np.arange(3)).ravel(), device=root.device)
        units = torch.eye(len(root), dtype=root.dtype, device=root.device)[rows]
        columns = _product(op, units.mT)[rows]
        weights = torch.ones_like(root) if op.masses is None else root
        return as_array(weights[rows, None] * columns * weights[rows])

    space = (
        None if free is None else torch.linalg.qr(root[:, None] * torch.as_tensor(free).to(root)).Q
    )
    if parts is None:
        parts = Parts.whole(len(masses), pbc)
    found = rigid_motions_of(
        as_array(positions),
        as_array(masses),
        as_array(cell),
        parts,
        block=block if free is None else None,
        epsilon=torch.finfo(op.dtype).eps,
        free=None if space is None else as_array(space),
    )
    rigid = torch.as_tensor(found.basis).to(root)
    if space is None:
        return internal_motions(rigid)
    return space @ internal_motions(torch.linalg.qr(space.mT @ rigid).Q)


def _start(frame: Tensor, stiffness: Tensor, k: int, guess: Tensor | None, seed: int) -> Tensor:
    """The softest modes of the model, with random parts, after the guess."""
    size = len(stiffness)
    soft = min(k + GUARDS, size)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, soft + 1, dtype=torch.float64, generator=generator).to(stiffness)
    start = RANDOM_PART * noise[:, 1:] * (stiffness[:soft] / stiffness[:, None]).clamp(max=1)
    start.diagonal().add_(1)
    start = torch.cat([start, noise[:, :1] / stiffness.sqrt()[:, None]], dim=1)
    if guess is None:
        return start
    if guess.ndim != 3 or guess[0].numel() != len(frame):
        raise ValueError(f"guess must be (g, {len(frame) // 3}, 3), not {tuple(guess.shape)}")
    return torch.cat([frame.mT @ guess.detach().to(frame).flatten(1).mT, start], dim=1)


def _product(op: HessianOperator, vectors: Tensor) -> Tensor:
    """`H V` in double precision, whatever that of the operator."""
    image = (op @ vectors.to(op.dtype)).detach()
    if not image.isfinite().all():
        raise ArithmeticError(
            "a product of the Hessian has entries that are not finite: look for atoms on top of "
            "each other, NaN in positions or cell, overflow in low precision"
        )
    return image.double()


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
