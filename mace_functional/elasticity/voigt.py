"""Strains and elastic tensors in Voigt notation, in three, two or one dimensions.

A symmetric strain e has six components, v = (e_xx, e_yy, e_zz, 2 e_yz, 2 e_xz, 2 e_xy); in two
dimensions it has three, (e_xx, e_yy, 2 e_xy), in one dimension one. With the doubled shears,
derivatives by v are entries of derivatives by e: `df/dv_4 = df/de_yz`.

Source: Nye, Physical Properties of Crystals, chapter VIII.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = {
    1: ((0, 0),),
    2: ((0, 0), (1, 1), (0, 1)),
    3: ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)),
}
"""Directions of each Voigt component, by the number of dimensions: xx, yy, zz, yz, xz, xy."""


def unit_strains(like: Tensor, dimensions: int = 3) -> Tensor:
    """Return the strains of the Voigt components, (M, d, d); shears have entries of 1/2.

    Args:
        like: Tensor whose dtype and device the strains get.
        dimensions: Number of dimensions d.
    """
    identity = torch.eye(dimensions, dtype=like.dtype, device=like.device)
    strains = torch.stack([identity[i][:, None] * identity[j] for i, j in PAIRS[dimensions]])
    return 0.5 * (strains + strains.mT)


def expand(values: Tensor) -> Tensor:
    """Return derivatives by a strain (..., d, d), from those by its Voigt components (..., M)."""
    d = {len(pairs): d for d, pairs in PAIRS.items()}[values.shape[-1]]
    number = {pair: k for k, pair in enumerate(PAIRS[d])}
    components = [[number[min(i, j), max(i, j)] for j in range(d)] for i in range(d)]
    return values[..., torch.tensor(components, device=values.device)]


def to_voigt(tensor: Tensor) -> Tensor:
    """Return the 6 x 6 matrix of an elastic tensor.

    Args:
        tensor: Elastic tensor C[i, j, k, l], symmetric in i, j and in k, l, (3, 3, 3, 3); or
            (2, 2, 2, 2) or (1, 1, 1, 1).

    Returns:
        Matrix in the order xx, yy, zz, yz, xz, xy, (6, 6); or xx, yy, xy, (3, 3); or (1, 1).

    Example:
        >>> to_voigt(torch.arange(81).view(3, 3, 3, 3))[0]
        tensor([0, 4, 8, 5, 2, 1])
    """
    i, j = torch.tensor(PAIRS[tensor.shape[0]], device=tensor.device).unbind(1)
    return tensor[i[:, None], j[:, None], i, j]


def from_voigt(matrix: Tensor) -> Tensor:
    """Return the elastic tensor C[i, j, k, l] (3, 3, 3, 3) of its 6 x 6 matrix.

    Args:
        matrix: Matrix in the order xx, yy, zz, yz, xz, xy, (6, 6); or xx, yy, xy, (3, 3); or
            (1, 1).
    """
    return expand(expand(matrix.mT).movedim(0, -1))
