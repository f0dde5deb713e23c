"""Strains and elastic tensors in Voigt notation.

A symmetric strain e has six components, v = (e_xx, e_yy, e_zz, 2 e_yz, 2 e_xz, 2 e_xy). With the
doubled shears, derivatives by v are entries of derivatives by e: `df/dv_4 = df/de_yz`.

Source: Nye, Physical Properties of Crystals, chapter VIII.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Cartesian directions of each Voigt component: xx, yy, zz, yz, xz, xy."""

COMPONENTS = ((0, 5, 4), (5, 1, 3), (4, 3, 2))
"""Number of the Voigt component of each pair of Cartesian directions."""


def unit_strains(like: Tensor) -> Tensor:
    """Return the strains of the six Voigt components, (6, 3, 3); shears have entries of 1/2.

    Args:
        like: Tensor whose dtype and device the strains get.
    """
    identity = torch.eye(3, dtype=like.dtype, device=like.device)
    strains = torch.stack([identity[i][:, None] * identity[j] for i, j in PAIRS])
    return 0.5 * (strains + strains.mT)


def expand(values: Tensor) -> Tensor:
    """Return derivatives by a strain (..., 3, 3), from those by its Voigt components (..., 6)."""
    components = torch.tensor(COMPONENTS, device=values.device)
    return values[..., components]


def to_voigt(tensor: Tensor) -> Tensor:
    """Return the 6 x 6 matrix of an elastic tensor.

    Args:
        tensor: Elastic tensor C[i, j, k, l], symmetric in i, j and in k, l, (3, 3, 3, 3).

    Returns:
        Matrix in the order xx, yy, zz, yz, xz, xy, (6, 6).

    Example:
        >>> to_voigt(torch.arange(81).view(3, 3, 3, 3))[0]
        tensor([0, 4, 8, 5, 2, 1])
    """
    i, j = torch.tensor(PAIRS, device=tensor.device).unbind(1)
    return tensor[i[:, None], j[:, None], i, j]


def from_voigt(matrix: Tensor) -> Tensor:
    """Return the elastic tensor C[i, j, k, l] (3, 3, 3, 3) of its 6 x 6 matrix.

    Args:
        matrix: Matrix in the order xx, yy, zz, yz, xz, xy, (6, 6).
    """
    return expand(expand(matrix.mT).movedim(0, -1))
