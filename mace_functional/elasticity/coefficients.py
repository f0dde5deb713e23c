r"""Three elastic tensors of a crystal under stress, which agree where there is none.

Let e be a symmetric strain, x -> (1 + e) x, and sigma the stress before it. With the Lagrangian
strain eta = e + e^2 / 2, the energy per volume is

    E / V = sigma : e   + e : A : e / 2        A, second derivative by e,
          = sigma : eta + eta : C : eta / 2    C, Lagrangian coefficients,

to second order. The stress after the strain is sigma + B : e, with the Birch or stress-strain
coefficients B. Therefore

    C_ijkl = A_ijkl - (d_ik s_jl + d_il s_jk + d_jk s_il + d_jl s_ik) / 4,
    B_ijkl = C_ijkl + (d_ik s_jl + d_il s_jk + d_jk s_il + d_jl s_ik) / 2 - s_ij d_kl,

where d is the Kronecker delta and s the stress, positive under tension. B is what an experiment
measures, and what decides stability; it is symmetric under exchange of ij and kl if the stress is
isotropic. For a slab or a rod, d is the projector onto its periodic directions.

Source: Wallace, Thermodynamics of Crystals, chapter 1; Barron, Klein, Proc. Phys. Soc. 85, 523
(1965), doi:10.1088/0370-1328/85/3/313.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Coefficients = Literal["birch", "lagrangian", "second-derivative"]
"""Names of the elastic tensors of a crystal under stress."""


def check_coefficients(name: str) -> None:
    """Check the name of an elastic tensor.

    Raises:
        ValueError: If it is not one of `Coefficients`.
    """
    if name not in get_args(Coefficients):
        names = ", ".join(repr(known) for known in get_args(Coefficients))
        raise ValueError(f"coefficients must be one of {names}, not {name!r}")


def under_stress(
    name: Coefficients,
    second_derivative: Tensor,
    stress: Tensor,
    *,
    projector: Tensor | None = None,
) -> Tensor:
    """Return the elastic tensor with a name, (d, d, d, d), from the second derivative.

    Args:
        name: One of `Coefficients`.
        second_derivative: See `birch_coefficients`.
        stress: See `birch_coefficients`.
        projector: See `birch_coefficients`.

    Raises:
        ValueError: If the name is unknown.
    """
    check_coefficients(name)
    if name == "birch":
        return birch_coefficients(second_derivative, stress, projector=projector)
    if name == "lagrangian":
        return lagrangian_coefficients(second_derivative, stress, projector=projector)
    return second_derivative


def lagrangian_coefficients(
    second_derivative: Tensor, stress: Tensor, *, projector: Tensor | None = None
) -> Tensor:
    """Compute the Lagrangian elastic coefficients, second derivatives by the Lagrangian strain.

    Args:
        second_derivative: Second derivative of the energy by the strain e, per volume, in any unit
            of pressure, (3, 3, 3, 3).
        stress: Stress, positive under tension, in the same unit, (3, 3).
        projector: Projector onto the periodic directions of a slab or a rod, (3, 3); None for a
            crystal.

    Returns:
        Tensor in the same unit, (3, 3, 3, 3).

    Source: Wallace, Thermodynamics of Crystals, chapter 1.
    """
    return second_derivative - 0.25 * _stress_terms(stress, projector)


def birch_coefficients(
    second_derivative: Tensor, stress: Tensor, *, projector: Tensor | None = None
) -> Tensor:
    """Compute the Birch coefficients, derivatives d sigma_ij / d e_kl of the stress by the strain.

    Args:
        second_derivative: Second derivative of the energy by the strain e, per volume, in any unit
            of pressure, (3, 3, 3, 3).
        stress: Stress, positive under tension, in the same unit, (3, 3).
        projector: Projector onto the periodic directions of a slab or a rod, (3, 3); None for a
            crystal.

    Returns:
        Tensor in the same unit, (3, 3, 3, 3). It is symmetric under exchange of ij and kl if the
        stress is isotropic.

    Source: Barron, Klein, Proc. Phys. Soc. 85, 523 (1965).
    """
    d = _delta(stress, projector)
    with_volume = torch.einsum("ij,kl->ijkl", stress, d)
    return second_derivative + 0.25 * _stress_terms(stress, projector) - with_volume


def _stress_terms(stress: Tensor, projector: Tensor | None) -> Tensor:
    """Return `d_ik s_jl + d_il s_jk + d_jk s_il + d_jl s_ik`, (3, 3, 3, 3)."""
    product = torch.einsum("ik,jl->ijkl", _delta(stress, projector), stress)
    half = product + product.transpose(2, 3)
    return half + half.transpose(0, 1)


def _delta(stress: Tensor, projector: Tensor | None) -> Tensor:
    identity = torch.eye(len(stress), dtype=stress.dtype, device=stress.device)
    return identity if projector is None else projector
