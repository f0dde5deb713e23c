r"""How far atoms move, and how many of them a mode moves.

    U_k(T) = sum_q w_q sum_v hbar / (2 m_k omega) (1 + 2 n(omega, T)) Re e_k e_k^H

is the mean square displacement tensor of atom k: the anisotropic displacement parameters of
crystallography in Cartesian axes. Its Gaussian exp(-Q.U.Q) is the Debye-Waller factor of a
scattered intensity.

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

QUANTUM = HBAR * ANGULAR_FREQUENCY
"""hbar times one sqrt(eV/Å²/amu), in eV; as hbar, in sqrt(eV amu) Å."""


def mean_square_displacements(
    modes: MeshModes, temperatures: Sequence[float] | Tensor | float
) -> Tensor:
    """Mean square displacement tensors of all atoms, with the symmetry of the crystal.

    The rigid motions at Gamma are left out, and so are imaginary modes, which have no mean.

    Args:
        modes: From `mesh_modes`, with eigenvectors.
        temperatures: (T,) or a scalar, K; 0 gives the zero-point motion.

    Returns:
        Cartesian, in Å², (T, N, 3, 3), or (N, 3, 3) for a scalar.

    Raises:
        ValueError: If there are no eigenvectors, or temperatures are negative or not finite.

    Warns:
        UserWarning: There are imaginary modes.
    """
    if modes.eigenvectors is None:
        raise ValueError("displacements need eigenvectors: mesh_modes(..., eigenvectors=True)")
    values, mesh = modes.eigenvalues, modes.mesh
    temperatures = torch.as_tensor(temperatures, dtype=values.dtype, device=values.device)
    if not ((temperatures >= 0) & temperatures.isfinite()).all():
        raise ValueError(
            f"temperatures must be finite and not negative, got {temperatures.tolist()}"
        )
    imaginary = int((values < 0).sum())
    if imaginary:
        warnings.warn(
            f"{imaginary} imaginary modes are left out of the mean square displacements: the "
            "structure is no minimum of the energy",
            stacklevel=2,
        )
    tensors = displacement_tensors(
        values, modes.eigenvectors, mesh.weights.to(values), modes.masses, temperatures
    )
    # What is missing of each star follows by the operations: mean of R U R^T, moved to its atom.
    rotations = mesh.rotations.to(values)
    total = torch.zeros_like(tensors)
    for rotation, permutation in zip(rotations, mesh.permutations, strict=True):
        total[..., permutation, :, :] += rotation @ tensors @ rotation.mT
    return total / len(rotations)


def displacement_tensors(
    eigenvalues: Tensor,
    eigenvectors: Tensor,
    weights: Tensor,
    masses: Tensor,
    temperatures: Tensor,
) -> Tensor:
    """Mean square displacement tensors summed over given q alone: a pure function.

    Args:
        eigenvalues: eV/Å²/amu, (Q, 3N); those that are not positive are left out.
        eigenvectors: (Q, 3N, N, 3).
        weights: Of the q, with sum 1, (Q,).
        masses: amu, (N,).
        temperatures: K, (T,) or a scalar.

    Returns:
        Å², (T, N, 3, 3), or (N, 3, 3) for a scalar.
    """
    vibrating = eigenvalues > 0
    omega = torch.where(vibrating, eigenvalues, 1.0).sqrt()
    kt = (K_B * temperatures)[..., None, None]
    warm = kt > 0
    # 1 + 2 n = coth(x / 2), and 1 at absolute zero.
    half = QUANTUM * omega / (2 * torch.where(warm, kt, 1.0))
    occupation = torch.where(warm, 1 / torch.tanh(half), 1.0)
    amplitude = weights[:, None] * torch.where(vibrating, QUANTUM / (2 * omega), 0.0) * occupation
    parts = torch.view_as_real(eigenvectors.resolve_conj())
    tensors = torch.einsum("...qm,qmkax,qmkbx->...kab", amplitude, parts, parts)
    return tensors / masses[:, None, None]


def participation_ratios(eigenvectors: Tensor) -> Tensor:
    """Share of the atoms that take part in each mode: 1 if all do equally, 1/N if one does alone.

        P = (sum_k |e_k|^2)^2 / (N sum_k |e_k|^4)

    Args:
        eigenvectors: Mass-weighted, real or complex, (..., N, 3).

    Returns:
        (...).
    """
    squares = eigenvectors.abs().square().sum(-1)
    return squares.sum(-1).square() / (squares.shape[-1] * squares.square().sum(-1))
