r"""Mean square displacements of atoms, and participation ratios of modes.

The mean square displacement tensor of atom k is

    U_k(T) = sum_q w_q sum_v hbar / (2 m_k omega) (1 + 2 n(omega, T)) Re e_k e_k^H,

the anisotropic displacement parameters of crystallography in Cartesian axes. The Gaussian
exp(-Q.U.Q) is the Debye-Waller factor of a scattered intensity.

Source: Willis, Pryor, *Thermal Vibrations in Crystallography* (1975), chapter 4; for participation
ratios Bell, Dean, Discuss. Faraday Soc. 1970, 50, 55, doi:10.1039/DF9705000055.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from mace_functional.phonons.mesh import MeshModes
from mace_functional.units import ANGULAR_FREQUENCY, HBAR, K_B

HBAR_OMEGA = HBAR * ANGULAR_FREQUENCY
"""Product hbar omega for omega = 1 sqrt(eV/Å²/amu), in eV; also hbar in sqrt(eV amu) Å."""


def mean_square_displacements(
    modes: MeshModes, temperatures: Sequence[float] | Tensor | float
) -> Tensor:
    """Compute mean square displacement tensors of all atoms, with the symmetry of the crystal.

    Rigid motions are left out, and so are imaginary modes, for which the mean does not exist.

    Args:
        modes: Modes of `mesh_modes`, with eigenvectors.
        temperatures: Temperatures in K, (T,) or a scalar; 0 gives the zero-point motion.

    Returns:
        Cartesian tensors in Å², (T, N, 3, 3), or (N, 3, 3) for a scalar.

    Raises:
        ValueError: If there are no eigenvectors, or temperatures are negative or not finite.

    Warns:
        UserWarning: There are imaginary modes.
    """
    if modes.eigenvectors is None:
        raise ValueError("displacements need eigenvectors: mesh_modes(..., eigenvectors=True)")
    eigenvalues, mesh = modes.eigenvalues, modes.mesh
    temperatures = torch.as_tensor(temperatures, dtype=eigenvalues.dtype, device=eigenvalues.device)
    if not ((temperatures >= 0) & temperatures.isfinite()).all():
        raise ValueError(
            f"temperatures must be finite and not negative, got {temperatures.tolist()}"
        )
    imaginary = int((eigenvalues < 0).sum())
    if imaginary:
        warnings.warn(
            f"{imaginary} imaginary modes are left out of the mean square displacements: the "
            "structure is no minimum of the energy",
            stacklevel=2,
        )
    tensors = displacement_tensors(
        eigenvalues, modes.eigenvectors, mesh.weights.to(eigenvalues), modes.masses, temperatures
    )
    # Average over the star of each q: mean of R U R^T, assigned to the image of the atom.
    rotations = mesh.rotations.to(eigenvalues)
    averaged = torch.zeros_like(tensors)
    for rotation, permutation in zip(rotations, mesh.permutations, strict=True):
        averaged[..., permutation, :, :] += rotation @ tensors @ rotation.mT
    return averaged / len(rotations)


def displacement_tensors(
    eigenvalues: Tensor,
    eigenvectors: Tensor,
    weights: Tensor,
    masses: Tensor,
    temperatures: Tensor,
) -> Tensor:
    """Compute mean square displacement tensors summed over the given q: a pure function.

    Args:
        eigenvalues: Eigenvalues in eV/Å²/amu, (Q, 3N); those that are not positive are left out.
        eigenvectors: Mass-weighted eigenvectors, (Q, 3N, N, 3).
        weights: Weights of the q, with sum 1, (Q,).
        masses: Masses in amu, (N,).
        temperatures: Temperatures in K, (T,) or a scalar.

    Returns:
        Tensors in Å², (T, N, 3, 3), or (N, 3, 3) for a scalar.
    """
    vibrating = eigenvalues > 0
    omega = torch.where(vibrating, eigenvalues, 1.0).sqrt()
    kt = (K_B * temperatures)[..., None, None]
    positive_t = kt > 0
    # 1 + 2 n = coth(x / 2), which is 1 at T = 0.
    half_x = HBAR_OMEGA * omega / (2 * torch.where(positive_t, kt, 1.0))
    coth = torch.where(positive_t, 1 / torch.tanh(half_x), 1.0)
    amplitude = weights[:, None] * torch.where(vibrating, HBAR_OMEGA / (2 * omega), 0.0) * coth
    parts = torch.view_as_real(eigenvectors.resolve_conj())
    tensors = torch.einsum("...qm,qmkax,qmkbx->...kab", amplitude, parts, parts)
    return tensors / masses[:, None, None]


def participation_ratios(eigenvectors: Tensor) -> Tensor:
    """Compute the participation ratio of each mode: 1 if all atoms move equally, 1/N if one moves.

        P = (sum_k |e_k|^2)^2 / (N sum_k |e_k|^4)

    Args:
        eigenvectors: Mass-weighted eigenvectors, real or complex, (..., N, 3).

    Returns:
        Participation ratios, (...).
    """
    squares = eigenvectors.abs().square().sum(-1)
    return squares.sum(-1).square() / (squares.shape[-1] * squares.square().sum(-1))
