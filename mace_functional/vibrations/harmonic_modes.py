"""Vibrations in the harmonic approximation: from second derivatives to frequencies and modes.

The mass-weighted Hessian of an energy, or the dynamical matrix of a crystal,

    D_jk = Phi_jk / sqrt(m_j m_k),        D e = omega^2 e,

has the squared angular frequencies for eigenvalues. `frequencies` is the pure function of the
matrix, made to be differentiated and vmapped. `normal_modes` is the report on one structure: it
takes the rigid motions out by projection and says how far the Hessian is from what it should be.
Where only some atoms move, or some directions, all else has infinite mass: D is confined to what is
free. Translations and rotations of free atoms are vibrations then, but for those that move nothing
that is held, and that nothing else holds: `rigid`.

Source: Wilson, Decius, Cross, *Molecular Vibrations* (1955), chapter 2; for the projection of rigid
motions Miller, Handy, Adams, J. Chem. Phys. 1980, 72, 99, doi:10.1063/1.438959; for partial
Hessians Li, Jensen, Theor. Chem. Acc. 2002, 107, 211, and Ghysels et al., J. Chem. Phys. 2007, 126,
224102.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts
from mace_functional.structure.selection import Selection, atom_numbers
from mace_functional.support.renamed import positional_for_a_release, warn_renamed
from mace_functional.units import frequency_factor
from mace_functional.vibrations.imaginary import ImaginaryMode, imaginary_modes
from mace_functional.vibrations.result_text import frequencies_text, result_text
from mace_functional.vibrations.rigid import (
    INSTEAD,
    RigidMotions,
    check_bodies,
    rigid_motions_from_tensors,
)
from mace_functional.vibrations.rigid import internal_motions as internal_motions
from mace_functional.vibrations.rigid import rigid_motions as rigid_motions
from mace_functional.vibrations.thermodynamics import WeightedFrequencies

SOFT = 5.0
"""Wavenumber, cm-1, below which a vibration is hardly told from a free motion. It counts with
nearly k_B in a heat capacity, and its entropy depends on how soft it is."""


@positional_for_a_release("unit")
def frequencies(
    matrix: Tensor, masses: Tensor | Sequence[float] | None = None, *, unit: str = "cm-1"
) -> Tensor:
    """Signed frequencies sign(omega^2) sqrt(|omega^2|): imaginary modes come out negative.

    The matrix is symmetrised, (D + D^H) / 2. Composes with every `torch.func` transform, but for
    reverse mode of twice forward mode, where torch's own `eigvalsh` gives NaN. First
    derivatives are finite where frequencies are degenerate; where a frequency is exactly zero,
    the slope of the square root is taken to be zero. Rigid motions are seldom zero to the last
    digit: to differentiate, take `vibrational_frequencies`, which has none.

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


def vibrational_frequencies(
    hessian: Tensor,
    masses: Tensor | Sequence[float],
    positions: Tensor,
    *,
    rotations: int = 3,
    axis: Tensor | None = None,
    unit: str = "cm-1",
) -> Tensor:
    """Signed frequencies of the vibrations alone, rigid motions taken out, as a pure function.

    With the rigid motions b_i of these positions, orthonormal in mass-weighted coordinates, and P
    the projector onto them, the lowest 3N - r eigenvalues of

        (1 - P) D (1 - P) + sum_i s_i b_i b_i^T,        s_i above the largest eigenvalue of D.

    Composes with every `torch.func` transform as `frequencies` does, in the Hessian, the masses and
    the positions. It does not look at values: say how many rotations there are.

    Args:
        hessian: (N, 3, N, 3) or (3N, 3N), eV/Å².
        masses: (N,) amu.
        positions: (N, 3) Å; a molecule or polymer in one piece.
        rotations: 3 for a molecule, 2 for a linear one, 1 for a polymer, about `axis`, 0 for a
            crystal at Gamma, a slab or a single atom.
        axis: (3,), of any length, for one rotation.
        unit: "cm-1", "THz" or "meV".

    Returns:
        (3N - 3 - rotations,) in `unit`, ascending; imaginary modes are negative.

    Raises:
        ValueError: an unknown unit, shapes that do not fit, another number of rotations, or an axis
            that is missing or not needed.

    >>> spring = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> ends = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    >>> along = torch.kron(spring, torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)))
    >>> vibrational_frequencies(along, [2.0, 2.0], ends, rotations=2, unit="THz")
    tensor([15.6333], dtype=torch.float64)
    """
    factor = frequency_factor(unit)
    matrix = _square(hessian)
    masses = torch.as_tensor(masses, dtype=matrix.dtype, device=matrix.device)
    size = matrix.shape[-1] // 3
    if matrix.ndim != 2 or positions.shape != (size, 3) or masses.shape != (size,):
        raise ValueError(
            f"a Hessian {tuple(hessian.shape)}, masses {tuple(masses.shape)} and positions "
            f"{tuple(positions.shape)} do not fit: give (N, 3, N, 3), (N,) and (N, 3)"
        )
    axes = _axes(rotations, axis, positions - masses @ positions / masses.sum())
    arms = positions - masses @ positions / masses.sum()
    turned = torch.linalg.cross(
        axes[None].expand(size, -1, -1), arms[:, None].expand(-1, len(axes), -1)
    )
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device).expand(size, 3, 3)
    rigid = (masses.sqrt()[:, None, None] * torch.cat([identity, turned], 1).mT).flatten(0, 1)
    rigid = rigid / (rigid**2).sum(0).sqrt()
    triangle = torch.linalg.cholesky(rigid.mT @ rigid)
    rigid = torch.linalg.solve_triangular(triangle, rigid.mT, upper=False).mT
    weighted = mass_weighted((matrix + matrix.mT) / 2, masses)
    rest = torch.eye(3 * size, dtype=matrix.dtype, device=matrix.device) - rigid @ rigid.mT
    count = 3 + len(axes)
    # Apart from each other too: second derivatives divide by the differences of eigenvalues.
    above = (1 + (weighted.detach() ** 2).sum().sqrt()) * torch.arange(2, 2 + count).to(matrix)
    lifted = rest @ weighted @ rest + (rigid * above) @ rigid.mT
    return factor * signed_sqrt(torch.linalg.eigvalsh((lifted + lifted.mT) / 2)[:-count])


def _axes(rotations: int, axis: Tensor | None, arms: Tensor) -> Tensor:
    """The axes of the rotations, (rotations, 3)."""
    if rotations not in (0, 1, 2, 3):
        raise ValueError(f"rotations must be 0, 1, 2 or 3, not {rotations!r}")
    if (axis is not None) != (rotations == 1):
        raise ValueError("one rotation needs an axis, (3,), and no other number has one")
    identity = torch.eye(3, dtype=arms.dtype, device=arms.device)
    if axis is not None:
        return (axis / (axis**2).sum().sqrt())[None].to(arms)
    if rotations != 2:
        return identity[:rotations]
    # Along the line: to the atom that is furthest out. Across it: from the Cartesian axis that is
    # least parallel to it.
    line = (arms * torch.nn.functional.one_hot((arms**2).sum(1).argmax(), len(arms))[:, None]).sum(
        0
    )
    other = (identity * torch.nn.functional.one_hot((line**2).argmin(), 3)[:, None]).sum(0)
    first = torch.linalg.cross(line, other)
    second = torch.linalg.cross(line, first)
    return torch.stack([first / (first**2).sum().sqrt(), second / (second**2).sum().sqrt()])


@dataclass(frozen=True, eq=False)
class NormalModes:
    """Normal modes of the k free atoms of a structure, mostly all of them, and diagnostics.

    There are m coordinates that are free, mostly 3k, and r rigid motions among them.

    Attributes:
        frequencies: (m - r,) signed, ascending, in `unit`; imaginary modes are negative.
        modes: (m - r, k, 3) orthonormal eigenvectors in mass-weighted coordinates.
        masses: (k,) amu.
        indices: (k,) numbers of the free atoms in the structure; all others are held fixed.
        unit: unit of all frequencies here.
        n_rigid: number r of rigid motions taken out; those that move nothing that is held.
        n_rotations: how many of them are rotations: 3 for a molecule, in a periodic box too, 2 for
            a linear one, 1 for a chain, 0 for a crystal.
        n_parts: number of connected parts of the structure, each with rigid motions of its own.
        rigid_residual: largest frequency, in `unit` and without a sign, that a rigid motion has in
            the matrix before projection, max sqrt|b^T D b|; zero where forces vanish. None where
            there is no rigid motion.
        acoustic_sum_residual: max |sum_k Phi_jk|, eV/Å²; zero for an energy invariant to
            translation. None where atoms are held fixed.
        asymmetry: max |Phi - Phi^T|, eV/Å².
        largest_force: on any free atom, of what is free, eV/Å; None if forces were not given.
    """

    frequencies: Tensor
    modes: Tensor
    masses: Tensor
    indices: Tensor
    unit: str
    n_rigid: int
    n_rotations: int
    n_parts: int
    rigid_residual: float | None
    acoustic_sum_residual: float | None
    asymmetry: float
    largest_force: float | None

    def __repr__(self) -> str:
        force, residual = self.largest_force, self.rigid_residual
        return result_text(
            self,
            f"{len(self.frequencies)} modes of {len(self.masses)} atoms",
            frequencies_text(self.frequencies, self.unit),
            None if force is None else f"largest force {force:.1e} eV/Å",
            None
            if residual is None
            else f"{self.n_rigid} rigid motions removed, up to {residual:.1e} {self.unit}",
        )

    def weighted_frequencies(self) -> WeightedFrequencies:
        """What `harmonic_thermo` sums over: all modes, without rigid motions."""
        return WeightedFrequencies(self.frequencies, self.unit, mass=self.masses.sum())

    def frequencies_in(self, unit: str) -> Tensor:
        """The frequencies in "cm-1", "THz" or "meV"."""
        return self.frequencies * (frequency_factor(unit) / frequency_factor(self.unit))

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """The imaginary modes, in `unit`, the most unstable first."""
        gamma = self.frequencies.new_zeros(1, 3)
        return imaginary_modes(gamma, self.frequencies[None], self.modes[None])

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes: 0 at a minimum, 1 at a first-order saddle point."""
        return int((self.frequencies < 0).sum())

    @property
    def imaginary(self) -> Tensor:
        """The imaginary frequencies: an old name."""
        warn_renamed("NormalModes.imaginary", "NormalModes.imaginary_modes")
        return self.frequencies[self.frequencies < 0]

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
    free: Tensor | np.ndarray | None = None,
    parts: Parts | None = None,
    unit: str = "cm-1",
) -> NormalModes:
    """Normal modes of a molecule, or of a crystal at Gamma, without its rigid motions.

    The mass-weighted Hessian is diagonalised in the orthogonal complement Q of the rigid motions,
    Q^T D Q, so that exactly these leave, whatever frequencies noise or remaining forces give them.
    A report on values, without derivatives: to differentiate, see `vibrational_frequencies`.

    With `indices` of some atoms only, or `free` directions, all else is held fixed, and only those
    rigid motions leave that need nothing of it: the turns of a free molecule about one or two atoms
    by which it is held.

    Args:
        hessian: (N, 3, N, 3) or (3N, 3N), eV/Å²; with `indices` the block (k, 3, k, 3) of these
            atoms.
        masses: (N,) amu.
        positions: (N, 3) Å; without `parts`, a molecule or polymer in one piece.
        pbc: whether each of the three cell vectors is periodic: without `parts`, the structure is
            taken to be one, connected to itself along all of them.
        cell: (3, 3) Å; needed where exactly one cell vector is periodic, and with `parts`.
        forces: (N, 3) eV/Å, if the largest is to be reported.
        indices: atoms of the Hessian, in its order, or a mask; all if None.
        free: (3k, m) orthonormal basis of the Cartesian displacements of these atoms that are free;
            all if None.
        parts: the connected parts, from `connectivity.parts_of`: a molecule in a periodic box has
            its rotations, and each of several molecules its own rigid motions.
        unit: "cm-1", "THz" or "meV".

    Returns:
        NormalModes.

    Raises:
        ValueError: shapes that do not fit, masses that are not positive, an unknown unit, no cell
            vector along the only periodic direction, a Hessian that is not finite, or indices that
            are no choice of atoms; or under a transform, and for inputs that require grad.
    """
    factor = frequency_factor(unit)
    refuse_transforms("normal_modes", INSTEAD, hessian, masses, positions, cell, forces)
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
    check_bodies(positions, masses)
    size = len(positions)
    numbers = list(range(size)) if indices is None else atom_numbers(indices, size)
    chosen = torch.as_tensor(numbers, device=matrix.device)
    weighted = mass_weighted(matrix, masses[chosen])
    space = _weighted_space(free, masses[chosen])
    found = _rigid_motions(matrix, masses, positions, pbc, cell, parts, numbers, space)
    rigid = torch.as_tensor(found.basis).to(matrix).view(size, 3, -1)[chosen].flatten(0, 1)
    if space is None:
        internal = internal_motions(rigid)
    else:
        internal = space @ internal_motions(torch.linalg.qr(space.mT @ rigid).Q)
    projected = internal.mT @ weighted @ internal
    eigenvalues, eigenvectors = torch.linalg.eigh((projected + projected.mT) / 2)
    residuals = (rigid * (weighted @ rigid)).sum(0).abs()
    sums = matrix.reshape(-1, len(numbers), 3).sum(1)
    return NormalModes(
        frequencies=factor * signed_sqrt(eigenvalues),
        modes=(internal @ eigenvectors).mT.reshape(-1, len(numbers), 3),
        masses=masses[chosen],
        indices=chosen,
        unit=unit,
        n_rigid=found.count,
        n_rotations=found.n_rotations,
        n_parts=found.parts.count,
        rigid_residual=factor * float(residuals.max().sqrt()) if found.count else None,
        acoustic_sum_residual=float(sums.abs().max()) if len(numbers) == size else None,
        asymmetry=float((matrix - matrix.mT).abs().max()),
        largest_force=None if forces is None else _largest(forces.detach()[chosen], free),
    )


def _rigid_motions(
    matrix: Tensor,
    masses: Tensor,
    positions: Tensor,
    pbc: Sequence[bool],
    cell: Tensor | None,
    parts: Parts | None,
    numbers: list[int],
    space: Tensor | None,
) -> RigidMotions:
    """The rigid motions that leave in place what is held, in the order of all atoms."""
    size = len(positions)
    held: np.ndarray | None = None
    if space is not None:
        everywhere = np.zeros((size, 3, space.shape[1]))
        everywhere[numbers] = as_array(space).reshape(len(numbers), 3, -1)
        held = everywhere.reshape(3 * size, -1)
    elif len(numbers) < size:
        held = np.repeat(np.isin(np.arange(size), numbers), 3)
    hessian = None
    if len(numbers) == size:
        order = torch.as_tensor(np.argsort(numbers), device=matrix.device)
        hessian = matrix.view(size, 3, size, 3)[order][:, :, order]
    return rigid_motions_from_tensors(
        positions, masses, pbc, cell, parts=parts, hessian=hessian, free=held
    )


def _weighted_space(free: Tensor | np.ndarray | None, masses: Tensor) -> Tensor | None:
    """Orthonormal basis, in mass-weighted coordinates, of the free displacements."""
    if free is None:
        return None
    basis = torch.as_tensor(free).to(masses)
    if basis.ndim != 2 or len(basis) != 3 * len(masses):
        raise ValueError(f"free must be ({3 * len(masses)}, m), not {tuple(basis.shape)}")
    orthonormal: Tensor = torch.linalg.qr(masses.sqrt().repeat_interleave(3)[:, None] * basis).Q
    return orthonormal


def _largest(forces: Tensor, free: Tensor | np.ndarray | None) -> float:
    """The largest force on an atom, of what is free."""
    if free is not None:
        basis = torch.as_tensor(free).to(forces)
        forces = (basis @ (basis.mT @ forces.reshape(-1))).view_as(forces)
    return float(forces.norm(dim=1).max())


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
