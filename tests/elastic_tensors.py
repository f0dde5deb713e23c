"""Measured elastic constants of a cubic and a trigonal crystal."""

from __future__ import annotations

import torch
from torch import Tensor

from mace_functional.elasticity import from_voigt

C11, C12, C44 = 165.7, 63.9, 79.6
"""Silicon, GPa (Hall, Phys. Rev. 161, 756, 1967)."""

QUARTZ = {"11": 86.8, "33": 105.75, "12": 7.04, "13": 11.91, "14": -18.04, "44": 58.2}
"""Elastic constants, GPa (Heyliger, Ledbetter, Kim, J. Acoust. Soc. Am. 114, 644, 2003)."""


def cubic() -> Tensor:
    matrix = torch.diag(torch.tensor([C11 - C12] * 3 + [C44] * 3, dtype=torch.float64))
    matrix[:3, :3] += C12
    return from_voigt(matrix)


def quartz() -> Tensor:
    c = QUARTZ
    matrix = torch.zeros(6, 6).double()
    for i, j, value in (
        (0, 0, c["11"]), (1, 1, c["11"]), (2, 2, c["33"]), (0, 1, c["12"]), (0, 2, c["13"]),
        (1, 2, c["13"]), (3, 3, c["44"]), (4, 4, c["44"]), (5, 5, (c["11"] - c["12"]) / 2),
        (0, 3, c["14"]), (1, 3, -c["14"]), (4, 5, c["14"]),
    ):  # fmt: skip
        matrix[i, j] = matrix[j, i] = value
    return from_voigt(matrix)
