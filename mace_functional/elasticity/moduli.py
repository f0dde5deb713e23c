r"""Moduli of an elastic tensor, in three, two or one dimensions.

For an elastic tensor C in d dimensions with the compliance S, its inverse on symmetric tensors
(sums over repeated indices),

    Voigt    K = C_iijj / d^2,    G = (d C_ijij - C_iijj) / (d (d - 1) (d + 2))
    Reuss    K = 1 / S_iijj,      G = (d - 1) (d + 2) / (4 (S_ijij - S_iijj / d))

are the moduli of a polycrystal under uniform strain and under uniform stress, and bounds of the
true ones. Hill's moduli are the means of both. Along directions n and m, with S_nnmm = S_ijkl n_i
n_j m_k m_l,

    Young 1 / S_nnnn,    Poisson -S_nnmm / S_nnnn,    shear 1 / (4 S_nmnm).

The functions are pure. They take C in any unit, (d, d, d, d), and directions in its axes.

Source: Hill, Proc. Phys. Soc. A 65, 349 (1952), doi:10.1088/0370-1298/65/5/307; Ranganathan,
Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008), doi:10.1103/PhysRevLett.101.055504.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.elasticity.voigt import unit_strains


class IsotropicModuli(NamedTuple):
    """Moduli of an isotropic material, in the unit of its elastic tensor.

    Attributes:
        bulk: Bulk modulus K; of a slab the area modulus.
        shear: Shear modulus G.
        young: Young's modulus.
        poisson: Poisson's ratio.
    """

    bulk: Tensor
    shear: Tensor
    young: Tensor
    poisson: Tensor


def symmetric_basis(like: Tensor) -> Tensor:
    """Return an orthonormal basis of the symmetric d x d tensors, (d (d + 1) / 2, d, d).

    Args:
        like: Tensor (d, ...) with the dtype and the device.
    """
    strains = unit_strains(like, like.shape[0])
    return strains / strains.square().sum((1, 2), keepdim=True).sqrt()


def compliance(stiffness: Tensor) -> Tensor:
    """Compute the compliance S, the strain per stress: the inverse of C on symmetric tensors.

    Args:
        stiffness: Elastic tensor C, (d, d, d, d).

    Returns:
        Compliance tensor in the inverse unit, (d, d, d, d).
    """
    basis = symmetric_basis(stiffness)
    matrix = torch.einsum("aij,ijkl,bkl->ab", basis, stiffness, basis)
    return torch.einsum("aij,ab,bkl->ijkl", basis, torch.linalg.inv(matrix), basis)


def voigt_moduli(stiffness: Tensor) -> IsotropicModuli:
    """Compute the moduli of a polycrystal under uniform strain, an upper bound.

    Args:
        stiffness: Elastic tensor C in two or three dimensions, (d, d, d, d).

    Returns:
        The moduli in the same unit.

    Source: Hill, Proc. Phys. Soc. A 65, 349 (1952).
    """
    d = stiffness.shape[0]
    trace, contraction = _invariants(stiffness)
    return _isotropic(trace / d**2, (d * contraction - trace) / (d * (d - 1) * (d + 2)), d)


def reuss_moduli(stiffness: Tensor) -> IsotropicModuli:
    """Compute the moduli of a polycrystal under uniform stress, a lower bound.

    Args:
        stiffness: Elastic tensor C in two or three dimensions, (d, d, d, d).

    Returns:
        The moduli in the same unit.

    Source: Hill, Proc. Phys. Soc. A 65, 349 (1952).
    """
    d = stiffness.shape[0]
    trace, contraction = _invariants(compliance(stiffness))
    return _isotropic(1 / trace, (d - 1) * (d + 2) / (4 * (contraction - trace / d)), d)


def hill_moduli(stiffness: Tensor) -> IsotropicModuli:
    """Compute the moduli of a polycrystal by Hill: bulk and shear are means of both bounds.

    Args:
        stiffness: Elastic tensor C in two or three dimensions, (d, d, d, d).

    Returns:
        The moduli in the same unit.

    Source: Hill, Proc. Phys. Soc. A 65, 349 (1952).
    """
    voigt, reuss = voigt_moduli(stiffness), reuss_moduli(stiffness)
    bulk, shear = 0.5 * (voigt.bulk + reuss.bulk), 0.5 * (voigt.shear + reuss.shear)
    return _isotropic(bulk, shear, stiffness.shape[0])


def universal_anisotropy(stiffness: Tensor) -> Tensor:
    """Compute the universal anisotropy, zero for an isotropic material and positive otherwise.

    `A = K_V / K_R + 5 G_V / G_R - 6` for a crystal, `K_V / K_R + 2 G_V / G_R - 3` for a slab.

    Args:
        stiffness: Elastic tensor C in two or three dimensions, (d, d, d, d).

    Source: Ranganathan, Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008).
    """
    d = stiffness.shape[0]
    shears = (d - 1) * (d + 2) // 2
    voigt, reuss = voigt_moduli(stiffness), reuss_moduli(stiffness)
    return voigt.bulk / reuss.bulk + shears * voigt.shear / reuss.shear - (1 + shears)


def young_modulus(stiffness: Tensor, directions: Tensor) -> Tensor:
    """Compute Young's modulus `1 / S_nnnn`: the stress per strain along n, under tension along n.

    Args:
        stiffness: Elastic tensor C, (d, d, d, d).
        directions: Directions n of any length, (..., d).

    Returns:
        Moduli in the unit of C, (...).
    """
    n = _unit(directions)
    return 1 / torch.einsum("ijkl,...i,...j,...k,...l->...", compliance(stiffness), n, n, n, n)


def poisson_ratio(stiffness: Tensor, directions: Tensor, across: Tensor) -> Tensor:
    """Compute Poisson's ratio `-S_nnmm / S_nnnn`: the contraction along m, under tension along n.

    Args:
        stiffness: Elastic tensor C, (d, d, d, d).
        directions: Directions n of the tension, of any length, (..., d).
        across: Directions m of the contraction, (..., d). Components along n are removed.

    Returns:
        The ratios, (...).
    """
    s, n = compliance(stiffness), _unit(directions)
    m = _perpendicular(across, n)
    along = torch.einsum("ijkl,...i,...j,...k,...l->...", s, n, n, n, n)
    return -torch.einsum("ijkl,...i,...j,...k,...l->...", s, n, n, m, m) / along


def shear_modulus(stiffness: Tensor, directions: Tensor, normals: Tensor) -> Tensor:
    """Compute the shear modulus `1 / (4 S_nmnm)` of planes with normal m that slide along n.

    Args:
        stiffness: Elastic tensor C, (d, d, d, d).
        directions: Directions n of any length, (..., d).
        normals: Normals m of the planes, (..., d). Components along n are removed.

    Returns:
        Moduli in the unit of C, (...).
    """
    n = _unit(directions)
    m = _perpendicular(normals, n)
    s = compliance(stiffness)
    return 0.25 / torch.einsum("ijkl,...i,...j,...k,...l->...", s, n, m, n, m)


def _invariants(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return `T_iijj` and `T_ijij`."""
    return torch.einsum("iijj->", tensor), torch.einsum("ijij->", tensor)


def _isotropic(bulk: Tensor, shear: Tensor, d: int) -> IsotropicModuli:
    """Return the moduli of an isotropic material in d dimensions from two of them."""
    k, g = bulk, shear
    denominator = d * (d - 1) * k + 2 * g
    return IsotropicModuli(k, g, 2 * d**2 * k * g / denominator, (d * k - 2 * g) / denominator)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def _perpendicular(vectors: Tensor, n: Tensor) -> Tensor:
    """Return unit vectors along the parts of vectors that are perpendicular to unit vectors n."""
    return _unit(vectors - (vectors * n).sum(-1, keepdim=True) * n)
