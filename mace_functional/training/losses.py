"""Losses of energies, forces, stresses and Hessian products.

The loss of a set of structures is

    L = w_E <((E - E0) / N)^2> + w_F <(F - F0)^2> + w_S <(sigma - sigma0)^2> + w_H <((H - H0) v)^2>,

with means <> over all labels of a kind: structures, components of forces, of stresses and of
products. Each square has the weight of its structure. The first three terms are those of mace-torch
(`WeightedEnergyForcesStressLoss`). For random v with independent components of unit variance, the
expectation of `|(H - H0) v|^2` is the squared Frobenius norm of the error of the Hessian,
`sum_ij (H - H0)_ij^2`, so a single product for each structure and step is an unbiased estimate.

Where large errors should count less, squares are replaced by Huber's function: up to the threshold
d it is the square, and from there the straight line `d (2 |error| - d)`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from mace_functional.support.defaults import (
    ENERGY_WEIGHT,
    FORCES_WEIGHT,
    PRODUCTS_WEIGHT,
    STRESS_WEIGHT,
)
from mace_functional.support.validation import positive


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of a loss, and thresholds above which errors count linearly.

    The defaults give the terms about the same size for errors of 10 meV per atom, 50 meV/Å, and
    0.5 eV/Å² along a random direction.

    Attributes:
        energy: Weight w_E of the squared error of the energy per atom, (eV)^-2.
        forces: Weight w_F of the squared errors of forces, (eV/Å)^-2.
        stress: Weight w_S of the squared errors of stresses, (eV/Å³)^-2.
        products: Weight w_H of the squared errors of products, (eV/Å²)^-2; 0 for none, which saves
            half of the time.
        energy_threshold: Huber's threshold of energies per atom, eV; None for squares.
        forces_threshold: That of forces, eV/Å.
        stress_threshold: That of stresses, eV/Å³.
        products_threshold: That of products, eV/Å².

    Raises:
        ValueError: If a weight is negative or not finite, all are zero, or a threshold is not
            positive.
    """

    energy: float = ENERGY_WEIGHT
    forces: float = FORCES_WEIGHT
    stress: float = STRESS_WEIGHT
    products: float = PRODUCTS_WEIGHT
    energy_threshold: float | None = None
    forces_threshold: float | None = None
    stress_threshold: float | None = None
    products_threshold: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_threshold"):
                if value is not None:
                    positive(field.name, value)
            elif not 0 <= value < float("inf"):
                raise ValueError(f"the weight of {field.name} must be 0 or more, not {value!r}")
        if not any(self.weights):
            raise ValueError("all weights of the loss are zero: give at least one")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights of energies, forces, stresses and products."""
        return self.energy, self.forces, self.stress, self.products

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        """Thresholds of energies, forces, stresses and products."""
        return (
            self.energy_threshold,
            self.forces_threshold,
            self.stress_threshold,
            self.products_threshold,
        )


class LossTerms(NamedTuple):
    """A number for each term of a loss, such as its sum of squares or its count of labels.

    Attributes:
        energy: That of energies per atom.
        forces: That of components of forces.
        stress: That of components of stresses.
        products: That of components of products.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    products: Tensor


def huber(error: Tensor, threshold: float | None) -> Tensor:
    """Return the square of errors up to a threshold, and `d (2 |error| - d)` beyond it."""
    if threshold is None:
        return error.square()
    size = error.abs()
    inside = size.clamp(max=threshold)
    return inside * (2 * size - inside)


def weighted_loss(sums: LossTerms, counts: LossTerms, weights: LossWeights) -> Tensor:
    """Return the loss from sums of squares and counts of labels of all terms."""
    terms = zip(weights.weights, sums, counts, strict=True)
    means = [w * s / n.clamp(min=1) for w, s, n in terms]
    return torch.stack(means).sum()
