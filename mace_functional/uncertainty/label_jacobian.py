"""Derivatives of the labels of structures by weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev

from mace_functional.potential.parameters import named_leaves, with_leaves
from mace_functional.potential.protocol import Potential
from mace_functional.training.label_batches import Example
from mace_functional.training.losses import LossWeights
from mace_functional.training.predictions import predictions_fn

ROWS = 32
"""Number of labels whose gradients are computed at once."""


class LabelRows(NamedTuple):
    """Labels of a structure of one kind, and their derivatives by K weights.

    Attributes:
        errors: Label minus prediction, (n,).
        jacobian: Derivatives of the predictions, (n, K).
    """

    errors: Tensor
    jacobian: Tensor


def label_rows(
    potential: Potential, example: Example, names: Sequence[str], loss: LossWeights
) -> dict[str, LabelRows]:
    """Compute errors and Jacobians of the labels of a structure.

    Args:
        potential: The potential.
        example: The structure.
        names: Names of the weights.
        loss: Weights; kinds of labels with weight zero are left out.

    Returns:
        For "energy" per atom, "forces", "stress" and "product", those that the structure has. A
        product is that along the first direction of the curvature, scaled to `|v|^2 = 3N`.
    """
    labels = _labels(example, loss)
    structure, leaves = example.structure, named_leaves(potential.params)
    energy = potential.energy_fn(structure.topology)
    predict = predictions_fn(energy, stress="stress" in labels, product="product" in labels)
    x, n_atoms = structure.positions, len(example.labelled.atoms)
    vectors = [labels.pop("direction").to(x)] if "direction" in labels else []

    def predicted(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        params = with_leaves(potential.params, weights)
        found = predict(x, structure.cell, params, *vectors)
        found["energy"] = found["energy"] / n_atoms
        flat = torch.cat([found[kind].reshape(-1) for kind in labels])
        return flat, flat

    weights = {name: leaves[name] for name in names}
    rows, values = jacrev(predicted, has_aux=True, chunk_size=ROWS)(weights)
    jacobian = torch.cat([rows[name].flatten(1) for name in names], 1).detach()
    errors = torch.cat([label.reshape(-1).to(x) for label in labels.values()]) - values.detach()
    sizes = [label.numel() for label in labels.values()]
    parts = zip(labels, errors.split(sizes), jacobian.split(sizes), strict=True)
    return {kind: LabelRows(error, part) for kind, error, part in parts}


def _labels(example: Example, loss: LossWeights) -> dict[str, Any]:
    """Return the labels whose weight is not zero, and the direction of the product."""
    labelled = example.labelled
    out: dict[str, Any] = {}
    if labelled.energy is not None and loss.energy:
        out["energy"] = torch.tensor(labelled.energy / len(labelled.atoms), dtype=torch.float64)
    if labelled.forces is not None and loss.forces:
        out["forces"] = torch.as_tensor(labelled.forces)
    if labelled.stress is not None and loss.stress:
        out["stress"] = torch.as_tensor(labelled.stress)
    if labelled.curvature is not None and loss.products:
        v, product = labelled.curvature.directions[0], labelled.curvature.products[0]
        scale = (v.size / (v**2).sum()) ** 0.5
        out["product"] = torch.as_tensor(scale * product)
        out["direction"] = torch.as_tensor(scale * v)
    return out
