"""Vibrations in the harmonic approximation: from second derivatives to frequencies and modes.

The mass-weighted Hessian of an energy, or the dynamical matrix of a crystal,

    D_jk = Phi_jk / sqrt(m_j m_k),        D e = omega^2 e,

has the squared angular frequencies for eigenvalues. `frequencies` is the pure function of the
matrix, made to be differentiated and vmapped. `normal_modes` is the report on one structure: it
takes the rigid motions out by projection and says how far the Hessian is from what it should be.
Where only some atoms move, the others have infinite mass: D is the block of the free ones, whose
translations and rotations are vibrations then.

Source: Wilson, Decius, Cross, *Molecular Vibrations* (1955), chapter 2; for the projection of rigid
motions Miller, Handy, Adams, J. Chem. Phys. 1980, 72, 99, doi:10.1063/1.438959; for partial
Hessians Li, Jensen, Theor. Chem. Acc. 2002, 107, 211, and Ghysels et al., J. Chem. Phys. 2007, 126,
224102.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mace_functional.selection import Selection, atom_numbers
from mace_functional.summary import summary
from mace_functional.units import frequency_factor

AXIS_TOLERANCE = 1e-3
"""Closer to an axis than this (Å, mass-weighted root mean square), atoms count as lying on it."""


def frequencies(
    matrix: Tensor, masses: Tensor | Sequence[float] | None = None, unit: str = "cm-1"
) -> Tensor:
    """Signed frequencies sign(omega^2) sqrt(|omega^2|): imaginary modes come out negative.

    The matrix is symmetrised, (D + D^H) / 2. Composes with every `torch.func` transform, but for
    reverse mode of twice forward mode, where torch's own `eigvalsh` gives NaN. First
    derivatives are finite where frequencies are degenerate; where a frequency is exactly zero,
    the slope of the square root is taken to be zero. Rigid motions are seldom zero to the last
    digit: to differentiate, project them out first, with `internal_motions`.

    Args:
        matrix: Hessian in eV/Å², (N, 3, N, 3) or (3N, 3N), with `masses`; or, without, an already
            mass-weighted matrix in eV/Å²/amu, (3N, 3N), real symmetric or complex hermitian. Square
            matrices may have one leading dimension, for instance of q points.
        masses: (N,) amu; None for a matrix that is mass-weighted already.
        unit: "cm-1", "THz" or "meV".

    Returns:
        (3N,) frequencies in `unit`, ascending, under the leading dimension of `matrix` if any.

    Raises:
        ValueError: unknown unit, a matrix that is not square, masses that do not fit it, or a
            Hessian (N, 3, N, 3) without masses.

    >>> frequencies(torch.diag(torch.tensor([-1.0, 0.0, 4.0])), unit="THz")
    tensor([-15.6333,   0.0000,  31.2666])
    """
    factor = frequency_factor(unit)
    if masses is not None:
        matrix = mass_weighted(matrix, masses)
    elif matrix.ndim == 4:
        raise ValueError(
            f"a Hessian of shape {tuple(matrix.shape)} needs masses (N,) in amu; only a square "
            "matrix that is mass-weighted already goes without"
        )
    matrix = _square(matrix)
    return factor * signed_sqrt(torch.linalg.eigvalsh((matrix + matrix.mH) / 2))


def mass_weighted(hessian: Tensor, masses: Tensor | Sequence[float]) -> Tensor:
    """Mass-weighted Hessian D_jk = Phi_jk / sqrt(m_j m_k), not symmetrised.

    Args:
        hessian: (N, 3, N, 3) or (3N, 3N), eV/Å²; square ones may have one leading dimension.
        masses: (N,) amu.

    Returns:
        (3N, 3N), eV/Å²/amu.

    Raises:
        ValueError: a shape that is no Hessian's, or masses that do not fit it.
    """
    matrix = _square(hessian)
    masses = torch.as_tensor(masses, dtype=matrix.real.dtype, device=matrix.device)
    if masses.ndim != 1 or 3 * len(masses) != matrix.shape[-1]:
        raise ValueError(
            f"masses of shape {tuple(masses.shape)} do not fit a matrix of shape "
            f"{tuple(matrix.shape)}: give one mass for every three rows"
        )
    root = masses.sqrt().repeat_interleave(3)
    return matrix / (root[:, None] * root)


def rigid_motions(
    positions: Tensor,
    masses: Tensor | Sequence[float],
    pbc: Sequence[bool] = (False, False, False),
    cell: Tensor | None = None,
) -> Tensor:
    """Orthonormal basis, in mass-weighted coordinates, of the motions that cost no energy.

    Three translations, and the rotations about every axis to which all periodic directions are
    parallel: three axes for a molecule, the one along a rod or polymer, none for a slab or a
    crystal. Rotations about the principal axes,

        b_k = sqrt(m_k) axis x (r_k - centre of mass),        |b|^2 = moment of inertia,

    are found by singular value decomposition. One whose radius of gyration sqrt(moment / mass) is
    below `AXIS_TOLERANCE` (1e-3 Å) moves nothing and is left out: a linear molecule has five
    rigid motions, an atom three. A linear molecule relaxed to 1e-3 eV/Å bends by less; rattled by
    0.01 Å it bends by more, and has six.

    This reads values, and so stays outside of `vmap`.

    Args:
        positions: (N, 3) Å; a molecule or polymer in one piece.
        masses: (N,) amu.
        pbc: whether each of the three cell vectors is periodic.
        cell: (3, 3) Å, rows the cell vectors; needed where exactly one is periodic.

    Returns:
        (3N, r), r = 3 to 6; translations come first.

    Raises:
        ValueError: shapes that do not fit, masses that are not positive, or no cell vector along
            the only periodic direction.
    """
    masses = torch.as_tensor(masses, dtype=positions.dtype, device=positions.device)
    if positions.ndim != 2 or positions.shape[1] != 3 or masses.shape != positions.shape[:1]:
        raise ValueError(
            f"positions must be (N, 3) and masses (N,), not {tuple(positions.shape)} and "
            f"{tuple(masses.shape)}"
        )
    if not (masses > 0).all():
        raise ValueError(f"masses must be positive, in amu, got {masses.tolist()}")
    root, mass = masses.sqrt()[:, None, None], masses.sum()
    identity = torch.eye(3, dtype=positions.dtype, device=positions.device)
    translations = (root * identity).flatten(0, 1) / mass.sqrt()
    axes = _rotation_axes(identity, pbc, cell)
    if not len(axes):
        return translations
    arms = positions - masses @ positions / mass
    rotations = root * torch.linalg.cross(axes[None], arms[:, None]).mT
    basis, root_moments, _ = torch.linalg.svd(rotations.flatten(0, 1), full_matrices=False)
    return torch.cat([translations, basis[:, root_moments > AXIS_TOLERANCE * mass.sqrt()]], dim=1)


def internal_motions(rigid: Tensor) -> Tensor:
    """Orthonormal basis Q of the motions that are left when the rigid ones are taken out.

    `frequencies(Q.T @ D @ Q)` are the vibrations alone, and can be differentiated. Q itself is
    held constant, which is exact for crystals, whose translations do not depend on positions,
    and for molecules wherever forces vanish.

    Args:
        rigid: (3N, r) orthonormal basis, from `rigid_motions`.

    Returns:
        (3N, 3N - r).
    """
    orthogonal: Tensor = torch.linalg.qr(rigid.detach(), mode="complete").Q
    return orthogonal[:, rigid.shape[1] :]


@dataclass(frozen=True, eq=False)
class NormalModes:
    """Normal modes of the k free atoms of a structure, mostly all of them, and diagnostics.

    Attributes:
        frequencies: (3k - r,) signed, ascending, in `unit`; imaginary modes are negative.
        modes: (3k - r, k, 3) orthonormal eigenvectors in mass-weighted coordinates.
        masses: (k,) amu.
        indices: (k,) numbers of the free atoms in the structure; all others are held fixed.
        unit: unit of all frequencies here.
        n_rigid: number r of rigid motions taken out; none where atoms are held fixed.
        rigid_residual: largest frequency, in `unit` and without a sign, that a rigid motion has in
            the matrix before projection, max sqrt|b^T D b|; zero where forces vanish. None where
            atoms are held fixed.
        acoustic_sum_residual: max |sum_k Phi_jk|, eV/Å²; zero for an energy invariant to
            translation. None where atoms are held fixed.
        asymmetry: max |Phi - Phi^T|, eV/Å².
        largest_force: on any free atom, eV/Å; None if forces were not given.
    """

    frequencies: Tensor
    modes: Tensor
    masses: Tensor
    indices: Tensor
    unit: str
    n_rigid: int
    rigid_residual: float | None
    acoustic_sum_residual: float | None
    asymmetry: float
    largest_force: float | None

    __repr__ = summary

    @property
    def imaginary(self) -> Tensor:
        """The imaginary frequencies, as negative numbers, in `unit`."""
        return self.frequencies[self.frequencies < 0]

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes: 0 at a minimum, 1 at a first-order saddle point."""
        return len(self.imaginary)

    @property
    def displacements(self) -> Tensor:
        """Cartesian displacements modes / sqrt(m), (3k - r, k, 3), amu^-1/2."""
        return self.modes / self.masses.sqrt()[:, None]


def normal_modes(
    hessian: Tensor,
    masses: Tensor | Sequence[float],
    positions: Tensor,
    *,
    pbc: Sequence[bool],
    cell: Tensor | None = None,
    forces: Tensor | None = None,
    indices: Selection | None = None,
    unit: str = "cm-1",
) -> NormalModes:
    """Normal modes of a molecule, or of a crystal at Gamma, without its rigid motions.

    The mass-weighted Hessian is diagonalised in the orthogonal complement Q of the rigid motions,
    Q^T D Q, so that exactly these leave, whatever frequencies noise or remaining forces give them.
    A report on values, without derivatives: to differentiate, see `frequencies`.

    With `indices` of some atoms only, the others are held fixed, and no motion is taken out. A free
    molecule held by one or two of its atoms can still turn about them: that stays in, near zero.

    Args:
        hessian: (N, 3, N, 3) or (3N, 3N), eV/Å²; with `indices` the block (k, 3, k, 3) of these
            atoms.
        masses: (N,) amu.
        positions: (N, 3) Å.
        pbc: whether each of the three cell vectors is periodic.
        cell: (3, 3) Å; needed where exactly one cell vector is periodic.
        forces: (N, 3) eV/Å, if the largest is to be reported.
        indices: atoms of the Hessian, in its order, or a mask; all if None.
        unit: "cm-1", "THz" or "meV".

    Returns:
        NormalModes.

    Raises:
        ValueError: shapes that do not fit, masses that are not positive, an unknown unit, no cell
            vector along the only periodic direction, a Hessian that is not finite, or indices that
            are no choice of atoms.
    """
    factor = frequency_factor(unit)
    matrix = _square(hessian.detach())
    if matrix.ndim != 2:
        raise ValueError(f"normal_modes takes one Hessian, not a batch: {tuple(hessian.shape)}")
    if not matrix.isfinite().all():
        raise ValueError(
            f"the Hessian has {int((~matrix.isfinite()).sum())} entries that are not finite: look "
            "for atoms on top of each other, NaN in positions or cell, overflow in low precision"
        )
    masses = torch.as_tensor(masses, dtype=matrix.dtype, device=matrix.device).detach()
    positions = positions.detach().to(matrix)
    size = len(positions)
    numbers = range(size) if indices is None else atom_numbers(indices, size)
    free, whole = torch.as_tensor(numbers, device=matrix.device), len(numbers) == size
    rigid = rigid_motions(positions, masses, pbc, cell).view(size, 3, -1)[free].flatten(0, 1)
    if not whole:
        rigid = rigid[:, :0]
    masses = masses[free]
    weighted = mass_weighted(matrix, masses)
    internal = internal_motions(rigid)
    projected = internal.mT @ weighted @ internal
    eigenvalues, eigenvectors = torch.linalg.eigh((projected + projected.mT) / 2)
    rigid_eigenvalues = (rigid * (weighted @ rigid)).sum(0)
    sums = matrix.reshape(-1, len(masses), 3).sum(1)
    return NormalModes(
        frequencies=factor * signed_sqrt(eigenvalues),
        modes=(internal @ eigenvectors).mT.reshape(-1, len(masses), 3),
        masses=masses,
        indices=free,
        unit=unit,
        n_rigid=rigid.shape[1],
        rigid_residual=factor * float(rigid_eigenvalues.abs().max().sqrt()) if whole else None,
        acoustic_sum_residual=float(sums.abs().max()) if whole else None,
        asymmetry=float((matrix - matrix.mT).abs().max()),
        largest_force=None if forces is None else float(forces.detach()[free].norm(dim=1).max()),
    )


def _square(matrix: Tensor) -> Tensor:
    """A Hessian (N, 3, N, 3) as (3N, 3N); square matrices as they are."""
    rows = matrix.shape[0] if matrix.ndim else 0
    if tuple(matrix.shape) == (rows, 3, rows, 3):
        return matrix.reshape(3 * rows, 3 * rows)
    if matrix.ndim in (2, 3) and matrix.shape[-2] == matrix.shape[-1]:
        return matrix
    raise ValueError(
        f"expected a Hessian (N, 3, N, 3) or a square matrix (3N, 3N), got {tuple(matrix.shape)}"
    )


def signed_sqrt(squares: Tensor) -> Tensor:
    """sign(x) sqrt(|x|), with slope zero at exactly zero."""
    zero = squares == 0
    # The root never sees the zero: its infinite slope times nothing would be NaN.
    root = torch.where(zero, 1.0, squares.abs()).sqrt()
    return torch.where(zero, 0.0, squares.sign() * root)


def _rotation_axes(identity: Tensor, pbc: Sequence[bool], cell: Tensor | None) -> Tensor:
    """Axes to which all periodic directions are parallel: (3, 3), (1, 3) or (0, 3)."""
    if len(pbc) != 3:
        raise ValueError(f"pbc must be three booleans, one for each cell vector, not {pbc!r}")
    periodic = [bool(direction) for direction in pbc]
    if sum(periodic) != 1:
        return identity if not any(periodic) else identity[:0]
    if cell is None:
        raise ValueError("one periodic direction: give the cell, whose vector is the axis")
    axis = cell[periodic.index(True)].detach().to(identity)
    length: Tensor = axis.norm()
    if not length > 0:
        raise ValueError("the cell vector of the periodic direction is zero or NaN")
    return (axis / length)[None]
