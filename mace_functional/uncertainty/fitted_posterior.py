"""The distribution of weights that labelled structures determine.

Near the trained weights, a prediction y is linear in the weights, with the Jacobian `J = dy/dw`.
Labels with independent errors of variance `s^2 / b`, b the weight of their kind in the loss, and a
prior of variance `s^2 / r` for each weight give the covariance

    S = s^2 P^-1,      P = r 1 + sum b J^T J      (Gauss-Newton, or Laplace's approximation).

The scale s and the prior r are calibrated on labels that were not used: s so that errors z in units
of their standard deviations have `<z^2> = 1`, and r so that these errors are most likely. For the
weights of the last layer alone, in which the energy is linear, this is a linear Gaussian model of
the features of the network, and its variances are exact.

Source: Daxberger et al., NeurIPS 2021 (arXiv:2106.14806), for Laplace's approximation of the last
layer; Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024),
doi:10.1088/2632-2153/ad805f, for interatomic potentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mace_functional.autodiff.columns import columns_bar
from mace_functional.potential.parameters import named_leaves
from mace_functional.potential.protocol import Trainable
from mace_functional.support.defaults import LABEL_KINDS
from mace_functional.support.validation import in_order
from mace_functional.training.label_batches import Example
from mace_functional.training.labelled_structure import LabelledStructure
from mace_functional.training.losses import LossWeights
from mace_functional.training.trained_weights import chosen_weights
from mace_functional.uncertainty.label_jacobian import LabelRows, label_rows
from mace_functional.uncertainty.weight_posterior import WeightPosterior

LAST_LAYER = "*readouts.*.linear.weight", "*readouts.*.linear_2.weight"
"""Weights of the last layers of a MACE model, in which its energy is linear."""

MOST_WEIGHTS = 5000
"""Largest number of weights: the matrix P of so many has 200 MB."""

PRIORS = tuple(10.0**k for k in range(-10, 3))
"""Priors r that are tried, in units of the mean diagonal element of `sum b J^T J`."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Coverage of errors by a posterior, of the labels that it was calibrated on.

    Attributes:
        kind: Kind of the labels that scale and prior were calibrated on.
        scale: The scale s.
        prior: The prior r.
        n_labels: Number of labels of each kind.
        rms_z: Root-mean-square error in units of the standard deviation, for each kind: 1 for the
            kind that was calibrated on. Larger than 1 is too confident.
        within: Shares of the errors within one and two standard deviations, for each kind; 0.683
            and 0.954 for normal errors.
    """

    kind: str
    scale: float
    prior: float
    n_labels: dict[str, int]
    rms_z: dict[str, float]
    within: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        lines = [f"calibrated on {self.kind}: scale {self.scale:.3g}, prior {self.prior:.3g}"]
        for kind, n in self.n_labels.items():
            one, two = self.within[kind]
            lines.append(
                f"{kind}: {n} labels, rms z {self.rms_z[kind]:.2f}, within 1 sigma {one:.1%}, "
                f"within 2 sigma {two:.1%}"
            )
        return "\n".join(lines)


def fit_posterior(
    potential: Trainable,
    data: Sequence[LabelledStructure],
    calibration: Sequence[LabelledStructure],
    *,
    weights: str | Sequence[str] = LAST_LAYER,
    loss: LossWeights | None = None,
    kind: str = "forces",
    progress: bool = False,
) -> tuple[WeightPosterior, Calibration]:
    """Fit a normal distribution of weights to labelled structures, and calibrate it on others.

    Args:
        potential: A trained potential; its weights are the mean.
        data: The structures that it was trained on.
        calibration: Structures that it was not trained on.
        weights: Names of the weights that are uncertain, with `*` for any text; by default those of
            the last layers of a MACE model.
        loss: Weights of the kinds of labels, as in the training; None for the defaults of
            `LossWeights`.
        kind: Kind of labels that scale and prior are calibrated on: "energy", "forces", "stress" or
            "product".
        progress: Show a progress bar.

    Returns:
        The distribution, in the dtype and on the device of the potential, and how it covers the
        labels of `calibration`.

    Raises:
        TypeError: If arguments are of other classes.
        ValueError: If there are no structures, too many weights, no labels of the kind to calibrate
            on, or a potential that cannot compute a structure.
    """
    in_order("fit_posterior(potential, data, calibration)", (potential, "Trainable"))
    loss = LossWeights() if loss is None else loss
    names = chosen_weights(potential, weights)
    leaves = named_leaves(potential.params)
    size = sum(leaves[name].numel() for name in names)
    if size > MOST_WEIGHTS:
        raise ValueError(
            f"{size} weights are more than {MOST_WEIGHTS}, the most for a matrix of all pairs: "
            "choose fewer, such as those of the last layers"
        )
    if not data or not calibration:
        raise ValueError("a posterior needs structures to fit, and others to calibrate on")
    factors = dict(zip(LABEL_KINDS, loss.weights, strict=True))
    precision = torch.zeros(size, size, dtype=torch.float64)
    held: dict[str, list[LabelRows]] = {}
    with columns_bar("Posterior", len(data) + len(calibration), progress) as advance:
        for labelled in data:
            rows = label_rows(potential, Example.of(labelled, potential), names, loss)
            for name, part in rows.items():
                J = part.jacobian.double().cpu()
                precision += labelled.weight * factors[name] * J.T @ J
            advance(1)
        for labelled in calibration:
            rows = label_rows(potential, Example.of(labelled, potential), names, loss)
            for name, part in rows.items():
                held.setdefault(name, []).append(part)
            advance(1)
    if kind not in held:
        raise ValueError(
            f"there are no labels {kind!r} to calibrate on, only {', '.join(held) or 'none'}"
        )
    joined = {name: _joined(parts) for name, parts in held.items()}
    return _calibrated(potential, names, precision, joined, kind)


def _joined(parts: Sequence[LabelRows]) -> LabelRows:
    errors, jacobians = zip(*parts, strict=True)
    return LabelRows(torch.cat(errors).double().cpu(), torch.cat(jacobians).double().cpu())


def _calibrated(
    potential: Trainable,
    names: tuple[str, ...],
    precision: Tensor,
    held: dict[str, LabelRows],
    kind: str,
) -> tuple[WeightPosterior, Calibration]:
    """Choose prior and scale by the likelihood of the errors of one kind."""
    eigenvalues, vectors = torch.linalg.eigh(precision)
    eigenvalues = eigenvalues.clamp(min=0)
    mean = float(eigenvalues.mean())
    projected = {name: part.jacobian @ vectors for name, part in held.items()}
    errors = held[kind].errors
    best = (-float("inf"), 0.0, 0.0)
    for prior in (r * mean for r in PRIORS):
        variances = (projected[kind] ** 2 / (eigenvalues + prior)).sum(1)
        known = variances > 0
        scale2 = float((errors[known] ** 2 / variances[known]).mean())
        likelihood = -0.5 * float((scale2 * variances[known]).log().mean())
        best = max(best, (likelihood, prior, scale2**0.5))
    _, prior, scale = best
    factor = scale * vectors / (eigenvalues + prior).sqrt()
    statistics: dict[str, tuple[int, float, tuple[float, float]]] = {}
    for name, part in held.items():
        sigma = (part.jacobian @ factor).norm(dim=1)
        z = (part.errors / sigma).abs()
        shares = (float((z < 1).double().mean()), float((z < 2).double().mean()))
        statistics[name] = (len(z), float(z.square().mean().sqrt()), shares)
    calibration = Calibration(
        kind=kind,
        scale=scale,
        prior=prior,
        n_labels={name: s[0] for name, s in statistics.items()},
        rms_z={name: s[1] for name, s in statistics.items()},
        within={name: s[2] for name, s in statistics.items()},
    )
    leaves = named_leaves(potential.params)
    means = tuple(leaves[name].detach() for name in names)
    return WeightPosterior(names, means, factor.to(means[0])), calibration
