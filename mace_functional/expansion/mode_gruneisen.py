r"""Mode Grüneisen tensors at one wave vector, as a function transform of the dynamical matrix.

A mode of frequency omega and eigenvector e has the Grüneisen tensor

    gamma_ij = -d ln omega / d e_ij = -(1 / (2 omega^2)) <e| dD/de_ij + (dD/dx)(dx/de_ij) |e>

with the strain e_ij of the cell, at a wave vector that is constant in units of the reciprocal
lattice vectors. dx/de is the response of the ions; without it ions are clamped. One `jvp` of D(q)
along cell and positions gives the whole bracket for one strain.

In a block of degenerate modes, D does not determine e. It is chosen to diagonalise the bracket
within the block, first for the uniform strain; blocks that are still degenerate are split by
`SPLITTING_STRAIN`. So every gamma of the uniform strain is that of a mode. The sum of the tensors
over a block does not depend on this choice.

Source: Barron, Collins, White, Adv. Phys. 29, 609 (1980), doi:10.1080/00018738000101426; Togo,
Chaput, Tanaka, Hug, Phys. Rev. B 81, 174301 (2010), doi:10.1103/PhysRevB.81.174301.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.autodiff.forward_mode import jvp
from mace_functional.phonons.modes import degenerate_blocks
from mace_functional.phonons.wave_vector import WaveVector

SPLITTING_STRAIN = ((0.31, 0.23, -0.17), (0.23, -0.58, 0.41), (-0.17, 0.41, 0.27))
"""Strain without symmetry that splits modes which remain degenerate under a uniform strain."""


class StrainedMatrix(NamedTuple):
    """Dynamical matrix and its derivatives by strain, both hermitian.

    Attributes:
        matrix: Dynamical matrix D, eV/Å²/amu, (M, M).
        slopes: Derivatives dD/de along each strain, with the response of the ions, eV/Å²/amu,
            (S, M, M).
    """

    matrix: Tensor
    slopes: Tensor


class ModeGruneisen(NamedTuple):
    """Modes at one wave vector and their Grüneisen parameters.

    Attributes:
        eigenvalues: Squared frequencies, ascending, eV/Å²/amu, (M,).
        parameters: Grüneisen parameters `-d ln omega / d e` along each strain, (S, M).
        eigenvectors: Mass-weighted eigenvectors as columns, (M, M).
    """

    eigenvalues: Tensor
    parameters: Tensor
    eigenvectors: Tensor


def strained_matrix_fn(
    dynamical_matrix: Callable[..., Tensor], **columns: Any
) -> Callable[..., StrainedMatrix]:
    """Return a dynamical matrix and its derivatives by strain, as a function.

    Args:
        dynamical_matrix: Function `D(q, positions, cell, params, masses)`, as
            `dynamical_matrix_fn` returns it.
        **columns: Options of `chunked_vmap`, which maps over the strains.

    Returns:
        `(q, positions, cell, params, masses, strains, response)` to D and dD/de. The strains
        (S, 3, 3) are applied as cell -> cell (1 + e); antisymmetric parts rotate the crystal. The
        response of the ions du[i, a]/de[j, k] in Å, (N, 3, 3, 3), is that of `ion_response`, and
        None for clamped ions.
    """

    def strained_matrix(
        q: WaveVector,
        positions: Tensor,
        cell: Tensor,
        params: Any,
        masses: Tensor,
        strains: Tensor,
        response: Tensor | None = None,
    ) -> StrainedMatrix:
        def matrix_of(x: Tensor, h: Tensor) -> Tensor:
            return dynamical_matrix(q, x, h, params, masses)

        def slope(strain: Tensor) -> Tensor:
            motion = motion_of_ions(positions, strain, response)
            return jvp(matrix_of, (positions, cell), (motion, cell @ strain))[1]

        slopes = chunked_vmap(slope, strains, description="Strains", **columns)
        return StrainedMatrix(_hermitian(matrix_of(positions, cell)), _hermitian(slopes))

    return strained_matrix


def motion_of_ions(positions: Tensor, strain: Tensor, response: Tensor | None) -> Tensor:
    """Compute the derivatives of positions by strains, (..., N, 3), in Å.

    Args:
        positions: Positions in Å, (N, 3).
        strain: A strain (3, 3), or several (S, 3, 3).
        response: Response of the ions, (N, 3, 3, 3); None for clamped ions.
    """
    motion = positions @ strain
    if response is None:
        return motion
    return motion + torch.einsum("naij,...ij->...na", response, strain)


def gruneisen_fn(dynamical_matrix: Callable[..., Tensor]) -> Callable[..., ModeGruneisen]:
    """Return the Grüneisen parameters of all modes at a wave vector, as a pure function.

    The function composes with every transform by positions, cell, params and masses. Derivatives
    exist where no modes are degenerate. Rigid motions are not removed: near Gamma, the values of
    acoustic modes are quotients of rounding errors.

    Args:
        dynamical_matrix: Function `D(q, positions, cell, params, masses)`, as
            `dynamical_matrix_fn` returns it.

    Returns:
        `(q, positions, cell, params, masses, strains, response)` to the modes and their parameters
        along each strain; see `strained_matrix_fn` for the arguments.

    Source: Togo, Chaput, Tanaka, Hug, Phys. Rev. B 81, 174301 (2010).
    """
    strained_matrix = strained_matrix_fn(dynamical_matrix)

    def modes(
        q: WaveVector,
        positions: Tensor,
        cell: Tensor,
        params: Any,
        masses: Tensor,
        strains: Tensor,
        response: Tensor | None = None,
    ) -> ModeGruneisen:
        d = strained_matrix(q, positions, cell, params, masses, strains, response)
        return gruneisen_of(d, strains)

    return modes


def gruneisen_of(d: StrainedMatrix, strains: Tensor) -> ModeGruneisen:
    """Compute modes and Grüneisen parameters from D and dD/de: a pure function.

    Args:
        d: Dynamical matrix and its derivatives, (M, M) and (S, M, M).
        strains: The strains, (S, 3, 3).

    Returns:
        The modes. Parameters of modes with omega^2 <= 0 are NaN.
    """
    eigenvalues, e = torch.linalg.eigh(d.matrix)
    slopes = e.mH @ d.slopes @ e
    blocks = degenerate_blocks(eigenvalues)
    splitting = torch.tensor(SPLITTING_STRAIN, dtype=strains.dtype, device=strains.device)
    uniform = strains.diagonal(dim1=1, dim2=2).sum(1)
    for weights in (uniform, torch.tensordot(strains, splitting, 2)):
        # The shift separates the blocks, so that eigenvectors lie within blocks, in their order.
        slope = torch.tensordot(weights.to(slopes.dtype), slopes, 1)
        within_blocks = torch.where(blocks[:, None] == blocks, slope, 0)
        separation = 1 + 2 * within_blocks.norm()
        values, u = torch.linalg.eigh(within_blocks + torch.diag(separation * blocks))
        e, slopes, blocks = e @ u, u.mH @ slopes @ u, degenerate_blocks(values)
    parameters = parameters_of(eigenvalues, slopes.diagonal(dim1=1, dim2=2).real)
    return ModeGruneisen(eigenvalues, parameters, e)


def parameters_of(eigenvalues: Tensor, slopes: Tensor) -> Tensor:
    """Compute the parameters of modes from `d(omega^2)/d strain`, (S, M); NaN if not stable."""
    stable = eigenvalues > 0
    two_omega2 = 2 * torch.where(stable, eigenvalues, 1.0)
    return torch.where(stable, -slopes / two_omega2, torch.nan)


def _hermitian(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mH)
