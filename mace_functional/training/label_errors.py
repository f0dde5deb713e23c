"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from ase.units import GPa

from mace_functional.potential.protocol import Potential
from mace_functional.training.label_batches import Example, LabelBatch, counts_of
from mace_functional.training.losses import LossTerms, LossWeights, weighted_loss


class Quantity(NamedTuple):
    """Name and unit under which an error is shown.

    Attributes:
        name: Name of the labels.
        factor: Factor from the unit of records to the one that is shown.
        unit: Unit that is shown.
    """

    name: str
    factor: float
    unit: str


QUANTITIES = {
    "energy_eV_per_atom": Quantity("energies", 1e3, "meV/atom"),
    "forces_eV_per_A": Quantity("forces", 1e3, "meV/Å"),
    "stress_eV_per_A3": Quantity("stresses", 1 / GPa, "GPa"),
    "products_eV_per_A2": Quantity("Hessian products", 1.0, "eV/Å²"),
}
"""Errors by their names in records, which are `rmse_` and these."""


def validated(
    potential: Potential,
    params: Any,
    examples: Sequence[Example],
    batches: Sequence[LabelBatch],
    loss: LossWeights,
) -> dict[str, float]:
    """Compute the loss and the root-mean-square error of each kind of label.

    Args:
        potential: The potential.
        params: Parameters to use in place of the potential's own.
        examples: Labelled structures.
        batches: The same structures in batches, which may be used for many calls.
        loss: Weights of the loss.

    Returns:
        The loss, and the errors by the names of `QUANTITIES`; kinds without labels are left out.
    """
    squares = LossWeights(
        energy=loss.energy, forces=loss.forces, stress=loss.stress, products=loss.products
    )
    with torch.no_grad():
        plain = _sums(b.squares(potential, params, squares) for b in batches)
        robust = plain
        if any(d is not None for d in loss.thresholds):
            robust = _sums(b.squares(potential, params, loss) for b in batches)
    result = {"loss": float(weighted_loss(robust, counts_of(examples), loss))}
    counts = counts_of(examples, weighted=True)
    for name, weight, total, n in zip(QUANTITIES, loss.weights, plain, counts, strict=True):
        if n and weight:
            result[f"rmse_{name}"] = float((total / n).sqrt())
    return result


def _sums(terms: Any) -> LossTerms:
    return LossTerms(*(torch.stack(column).sum() for column in zip(*terms, strict=True)))
