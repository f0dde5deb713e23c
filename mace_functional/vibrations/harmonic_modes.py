"""Vibrations in the harmonic approximation: frequencies and modes from second derivatives.

The squared angular frequencies are the eigenvalues of the mass-weighted Hessian of an energy, or of
the dynamical matrix of a crystal,

    D_jk = Phi_jk / sqrt(m_j m_k),        D e = omega^2 e.

`frequencies` is a pure function of the matrix, for derivatives and `vmap`. `normal_modes` analyses
one structure: it removes the rigid motions by projection, and reports how far the Hessian is from
an exact one. If only some atoms, or some directions, are free, everything else has infinite mass:
D is restricted to the free displacements. Translations and rotations of the free atoms are then
vibrations, except for rigid motions that leave all fixed atoms in place (see `rigid`).

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
    DIFFERENTIABLE_CALL,
    RigidMotions,
    check_bodies,
    rigid_motions_from_tensors,
)
from mace_functional.vibrations.rigid import internal_motions as internal_motions
from mace_functional.vibrations.rigid import rigid_motions as rigid_motions
from mace_functional.vibrations.thermodynamics import WeightedFrequencies

SOFT = 5.0
"""Wavenumber, cm-1, below which a vibration is reported as soft.

A softer vibration is hardly distinguishable from a free motion. It contributes nearly k_B to the
heat capacity, and its entropy depends strongly on its frequency.
"""

LARGEST_FORCE = 0.05
"""Largest force on an atom of a relaxed structure, eV/Å.

With a larger one, frequencies mean little.
"""


@positional_for_a_release("unit")
def frequencies(
    matrix: Tensor, masses: Tensor | Sequence[float] | None = None, *, unit: str = "cm-1"
) -> Tensor:
    """Compute signed frequencies sign(omega^2) sqrt(|omega^2|); imaginary modes are negative.

    The matrix is symmetrised, (D + D^H) / 2. The function composes with every `torch.func`
    transform except reverse mode over twice forward mode, for which `eigvalsh` of torch gives NaN.
    First derivatives are finite for degenerate frequencies. At a frequency of exactly zero, the
    slope of the square root is set to zero. Frequencies of rigid motions are rarely exactly zero:
    for derivatives, use `vibrational_frequencies`, which leaves rigid motions out.

    Args:
        matrix: Hessian in eV/Å², (N, 3, N, 3) or (3N, 3N), with `masses`; without, a mass-weighted
            matrix in eV/Å²/amu, (3N, 3N), real symmetric or complex hermitian. Square matrices may
            have one leading dimension, such as q points.
        masses: Masses in amu, (N,); None for a mass-weighted matrix.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".

    Returns:
        Frequencies in `unit`, ascending, (3N,); with the leading dimension of `matrix`, if any.

    Raises:
        ValueError: If the unit is unknown, the matrix is not square, the masses do not fit it, or a
            Hessian (N, 3, N, 3) has no masses.

    >>> frequencies(torch.diag(torch.tensor([-1.0, 0.0, 4.0])), unit="THz")
    tensor([-15.6333,   0.0000,  31.2666])
    """
    factor = frequency_factor(unit)
    if masses is not None:
        matrix = mass_weighted(matrix, masses)
    elif matrix.ndim == 4:
        raise ValueError(
            f"a Hessian of shape {tuple(matrix.shape)} needs masses (N,) in amu; without masses, "
            "give a mass-weighted square matrix"
        )
    matrix = _square(matrix)
    return factor * signed_sqrt(torch.linalg.eigvalsh((matrix + matrix.mH) / 2))


def mass_weighted(hessian: Tensor, masses: Tensor | Sequence[float]) -> Tensor:
    """Compute the mass-weighted Hessian D_jk = Phi_jk / sqrt(m_j m_k), not symmetrised.

    Args:
        hessian: Hessian in eV/Å², (N, 3, N, 3) or (3N, 3N); square ones may have one leading
            dimension.
        masses: Masses in amu, (N,).

    Returns:
        Mass-weighted Hessian in eV/Å²/amu, (3N, 3N).

    Raises:
        ValueError: If the Hessian has another shape, or the masses do not fit it.
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
    """Compute the signed frequencies of the vibrations, without rigid motions, as a pure function.

    With the rigid motions b_i, orthonormal in mass-weighted coordinates, and the projector P onto
    them, the result is the lowest 3N - r eigenvalues of

        (1 - P) D (1 - P) + sum_i s_i b_i b_i^T,        s_i above the largest eigenvalue of D.

    The function composes with `torch.func` transforms as `frequencies` does, with respect to the
    Hessian, the masses and the positions. The number of rotations is an argument, because a pure
    function cannot decide it from values.

    Args:
        hessian: Hessian in eV/Å², (N, 3, N, 3) or (3N, 3N).
        masses: Masses in amu, (N,).
        positions: Positions in Å, (N, 3), of a molecule or polymer in one piece.
        rotations: Number of rotations: 3 for a molecule, 2 for a linear molecule, 1 for a polymer
            (about `axis`), 0 for a crystal at Gamma, a slab or a single atom.
        axis: Axis of a single rotation, of any length, (3,).
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".

    Returns:
        Frequencies in `unit`, ascending, (3N - 3 - rotations,); imaginary modes are negative.

    Raises:
        ValueError: If the unit is unknown, shapes do not fit, the number of rotations is not 0 to
            3, or an axis is missing or superfluous.

    >>> spring = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> ends = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    >>> along = torch.kron(spring, torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)))
    >>> vibrational_frequencies(along, [2.0, 2.0], ends, rotations=2, unit="THz")
    tensor([15.6333], dtype=torch.float64)
    """
    factor = frequency_factor(unit)
    matrix = _square(hessian)
    masses = torch.as_tensor(masses, dtype=matrix.dtype, device=matrix.device)
    n_atoms = matrix.shape[-1] // 3
    if matrix.ndim != 2 or positions.shape != (n_atoms, 3) or masses.shape != (n_atoms,):
        raise ValueError(
            f"a Hessian {tuple(hessian.shape)}, masses {tuple(masses.shape)} and positions "
            f"{tuple(positions.shape)} do not fit: give (N, 3, N, 3), (N,) and (N, 3)"
        )
    axes = _axes(rotations, axis, positions - masses @ positions / masses.sum())
    r = positions - masses @ positions / masses.sum()
    w_cross_r = torch.linalg.cross(
        axes[None].expand(n_atoms, -1, -1), r[:, None].expand(-1, len(axes), -1)
    )
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device).expand(n_atoms, 3, 3)
    b = (masses.sqrt()[:, None, None] * torch.cat([identity, w_cross_r], 1).mT).flatten(0, 1)
    b = b / (b**2).sum(0).sqrt()
    cholesky = torch.linalg.cholesky(b.mT @ b)
    b = torch.linalg.solve_triangular(cholesky, b.mT, upper=False).mT
    d = mass_weighted((matrix + matrix.mT) / 2, masses)
    complement = torch.eye(3 * n_atoms, dtype=matrix.dtype, device=matrix.device) - b @ b.mT
    n_rigid = 3 + len(axes)
    # The s_i differ, because second derivatives divide by differences of eigenvalues.
    s = (1 + (d.detach() ** 2).sum().sqrt()) * torch.arange(2, 2 + n_rigid).to(matrix)
    shifted = complement @ d @ complement + (b * s) @ b.mT
    return factor * signed_sqrt(torch.linalg.eigvalsh((shifted + shifted.mT) / 2)[:-n_rigid])


def _axes(rotations: int, axis: Tensor | None, r: Tensor) -> Tensor:
    """Return unit vectors along the axes of rotation, (rotations, 3)."""
    if rotations not in (0, 1, 2, 3):
        raise ValueError(f"rotations must be 0, 1, 2 or 3, not {rotations!r}")
    if (axis is not None) != (rotations == 1):
        raise ValueError("give an axis, (3,), if and only if there is one rotation")
    identity = torch.eye(3, dtype=r.dtype, device=r.device)
    if axis is not None:
        return (axis / (axis**2).sum().sqrt())[None].to(r)
    if rotations != 2:
        return identity[:rotations]
    # The line goes through the outermost atom. The first axis is the cross product of the line and
    # the Cartesian axis that is least parallel to it.
    line = (r * torch.nn.functional.one_hot((r**2).sum(1).argmax(), len(r))[:, None]).sum(0)
    cartesian = (identity * torch.nn.functional.one_hot((line**2).argmin(), 3)[:, None]).sum(0)
    first = torch.linalg.cross(line, cartesian)
    second = torch.linalg.cross(line, first)
    return torch.stack([first / (first**2).sum().sqrt(), second / (second**2).sum().sqrt()])


@dataclass(frozen=True, eq=False)
class NormalModes:
    """Normal modes of the k free atoms of a structure, with diagnostics of the Hessian.

    Usually all atoms are free. There are m free coordinates, usually 3k, and r rigid motions.

    Attributes:
        frequencies: Signed frequencies in `unit`, ascending, (m - r,); imaginary modes are
            negative.
        modes: Orthonormal eigenvectors in mass-weighted coordinates, (m - r, k, 3).
        masses: Masses of the free atoms in amu, (k,).
        indices: Numbers of the free atoms in the structure, (k,); all others are fixed.
        unit: Unit of all frequencies.
        n_rigid: Number r of rigid motions that were removed. They leave all fixed atoms in place.
        n_rotations: Number of rotations among the rigid motions: 3 for a molecule, also in a
            periodic box; 2 for a linear molecule, 1 for a chain, 0 for a crystal.
        n_parts: Number of connected parts of the structure. Each has its own rigid motions.
        rigid_residual: Largest absolute frequency of a rigid motion b before projection,
            max sqrt|b^T D b|, in `unit`; zero if the forces vanish. None without rigid motions.
        acoustic_sum_residual: Largest entry of |sum_k Phi_jk|, eV/Å²; zero for an energy that is
            invariant under translation. None if atoms are fixed.
        asymmetry: Largest entry of |Phi - Phi^T|, eV/Å².
        largest_force: Largest force on a free atom along the free directions, eV/Å; None if forces
            were not given.
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
        """Return the frequencies of all modes for `harmonic_thermo`; there are no rigid motions."""
        return WeightedFrequencies(self.frequencies, self.unit, mass=self.masses.sum())

    def frequencies_in(self, unit: str) -> Tensor:
        """Return the frequencies in "cm-1", "THz" or "meV"."""
        return self.frequencies * (frequency_factor(unit) / frequency_factor(self.unit))

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """Imaginary modes, frequencies in `unit`, the most unstable first."""
        gamma = self.frequencies.new_zeros(1, 3)
        return imaginary_modes(gamma, self.frequencies[None], self.modes[None])

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes: 0 at a minimum, 1 at a first-order saddle point."""
        return int((self.frequencies < 0).sum())

    @property
    def imaginary(self) -> Tensor:
        """Old name of the imaginary frequencies, in `unit`."""
        warn_renamed("NormalModes.imaginary", "NormalModes.imaginary_modes")
        return self.frequencies[self.frequencies < 0]

    @property
    def displacements(self) -> Tensor:
        """Cartesian displacements modes / sqrt(m), amu^-1/2, (m - r, k, 3)."""
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
    """Compute the normal modes of a molecule, or of a crystal at Gamma, without its rigid motions.

    The mass-weighted Hessian is diagonalised in the orthogonal complement Q of the rigid motions,
    Q^T D Q. This removes exactly the rigid motions, whatever frequencies they have because of noise
    or residual forces. The result has no derivatives; for derivatives see
    `vibrational_frequencies`.

    With `indices` or `free`, all other atoms or directions are fixed. Only rigid motions that leave
    them in place are removed, such as rotations of a molecule about one or two fixed atoms.

    Args:
        hessian: Hessian in eV/Å², (N, 3, N, 3) or (3N, 3N); with `indices` the block (k, 3, k, 3)
            of these atoms.
        masses: Masses in amu, (N,).
        positions: Positions in Å, (N, 3); without `parts`, a molecule or polymer in one piece.
        pbc: True for each periodic cell vector, (3,). Without `parts`, the structure is taken as
            one part that is connected to its images along all of them.
        cell: Cell vectors in Å as rows, (3, 3); needed if exactly one of them is periodic, and with
            `parts`.
        forces: Forces in eV/Å, (N, 3); None not to report the largest.
        indices: Atoms of the Hessian, in its order, or a mask; None for all atoms.
        free: Orthonormal basis of the free Cartesian displacements of these atoms, (3k, m); None if
            all are free.
        parts: Connected parts, from `connectivity.parts_of`. With them, a molecule in a periodic
            box has rotations, and each of several molecules has its own rigid motions.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".

    Returns:
        The modes with their diagnostics.

    Raises:
        ValueError: If shapes do not fit, masses are not positive, the unit is unknown, the cell
            vector of the only periodic direction is missing, the Hessian is not finite, or indices
            are not atoms of the structure; also under a transform, or if inputs require grad.
    """
    factor = frequency_factor(unit)
    refuse_transforms("normal_modes", DIFFERENTIABLE_CALL, hessian, masses, positions, cell, forces)
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
    n_atoms = len(positions)
    numbers = list(range(n_atoms)) if indices is None else atom_numbers(indices, n_atoms)
    free_atoms = torch.as_tensor(numbers, device=matrix.device)
    d = mass_weighted(matrix, masses[free_atoms])
    free_basis = _weighted_space(free, masses[free_atoms])
    motions = _rigid_motions(matrix, masses, positions, pbc, cell, parts, numbers, free_basis)
    b = torch.as_tensor(motions.basis).to(matrix).view(n_atoms, 3, -1)[free_atoms].flatten(0, 1)
    if free_basis is None:
        q = internal_motions(b)
    else:
        q = free_basis @ internal_motions(torch.linalg.qr(free_basis.mT @ b).Q)
    q_d_q = q.mT @ d @ q
    eigenvalues, eigenvectors = torch.linalg.eigh((q_d_q + q_d_q.mT) / 2)
    residuals = (b * (d @ b)).sum(0).abs()
    acoustic_sums = matrix.reshape(-1, len(numbers), 3).sum(1)
    return NormalModes(
        frequencies=factor * signed_sqrt(eigenvalues),
        modes=(q @ eigenvectors).mT.reshape(-1, len(numbers), 3),
        masses=masses[free_atoms],
        indices=free_atoms,
        unit=unit,
        n_rigid=motions.count,
        n_rotations=motions.n_rotations,
        n_parts=motions.parts.count,
        rigid_residual=factor * float(residuals.max().sqrt()) if motions.count else None,
        acoustic_sum_residual=float(acoustic_sums.abs().max()) if len(numbers) == n_atoms else None,
        asymmetry=float((matrix - matrix.mT).abs().max()),
        largest_force=None if forces is None else _largest(forces.detach()[free_atoms], free),
    )


def _rigid_motions(
    matrix: Tensor,
    masses: Tensor,
    positions: Tensor,
    pbc: Sequence[bool],
    cell: Tensor | None,
    parts: Parts | None,
    numbers: list[int],
    free_basis: Tensor | None,
) -> RigidMotions:
    """Return the rigid motions that leave all fixed coordinates in place; rows are all atoms."""
    n_atoms = len(positions)
    free: np.ndarray | None = None
    if free_basis is not None:
        padded = np.zeros((n_atoms, 3, free_basis.shape[1]))
        padded[numbers] = as_array(free_basis).reshape(len(numbers), 3, -1)
        free = padded.reshape(3 * n_atoms, -1)
    elif len(numbers) < n_atoms:
        free = np.repeat(np.isin(np.arange(n_atoms), numbers), 3)
    hessian = None
    if len(numbers) == n_atoms:
        order = torch.as_tensor(np.argsort(numbers), device=matrix.device)
        hessian = matrix.view(n_atoms, 3, n_atoms, 3)[order][:, :, order]
    return rigid_motions_from_tensors(
        positions, masses, pbc, cell, parts=parts, hessian=hessian, free=free
    )


def _weighted_space(free: Tensor | np.ndarray | None, masses: Tensor) -> Tensor | None:
    """Return an orthonormal basis of the free displacements in mass-weighted coordinates."""
    if free is None:
        return None
    basis = torch.as_tensor(free).to(masses)
    if basis.ndim != 2 or len(basis) != 3 * len(masses):
        raise ValueError(f"free must be ({3 * len(masses)}, m), not {tuple(basis.shape)}")
    orthonormal: Tensor = torch.linalg.qr(masses.sqrt().repeat_interleave(3)[:, None] * basis).Q
    return orthonormal


def _largest(forces: Tensor, free: Tensor | np.ndarray | None) -> float:
    """Return the largest force on an atom along the free directions, eV/Å."""
    if free is not None:
        basis = torch.as_tensor(free).to(forces)
        forces = (basis @ (basis.mT @ forces.reshape(-1))).view_as(forces)
    return float(forces.norm(dim=1).max())


def _square(matrix: Tensor) -> Tensor:
    """Reshape a Hessian (N, 3, N, 3) to (3N, 3N); a square matrix is returned unchanged."""
    n_atoms = matrix.shape[0] if matrix.ndim else 0
    if tuple(matrix.shape) == (n_atoms, 3, n_atoms, 3):
        return matrix.reshape(3 * n_atoms, 3 * n_atoms)
    if matrix.ndim in (2, 3) and matrix.shape[-2] == matrix.shape[-1]:
        return matrix
    raise ValueError(
        f"expected a Hessian (N, 3, N, 3) or a square matrix (3N, 3N), got {tuple(matrix.shape)}"
    )


def signed_sqrt(squares: Tensor) -> Tensor:
    """Compute sign(x) sqrt(|x|), with slope zero at exactly zero."""
    zero = squares == 0
    # sqrt is not evaluated at zero, where its infinite slope times zero would be NaN.
    root = torch.where(zero, 1.0, squares.abs()).sqrt()
    return torch.where(zero, 0.0, squares.sign() * root)
