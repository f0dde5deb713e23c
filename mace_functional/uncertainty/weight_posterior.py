"""A normal distribution of some weights of a potential, and the spread of functions of them.

To first order, a function f of weights w with mean m and covariance `S = A A^T` has the variance

    var f = g^T S g = |A^T g|^2,      g = df/dw at m.

One gradient, in the memory of one gradient, gives the error bar of anything that is a
differentiable function of the parameters. Nothing is computed again with other weights.

Source: MacKay, Neural Comput. 4, 448 (1992), doi:10.1162/neco.1992.4.3.448.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.potential.parameters import named_leaves, with_leaves
from mace_functional.potential.protocol import Trainable
from mace_functional.support.checkpoint_arrays import write_arrays
from mace_functional.support.validation import count, positive

FORMAT = "mace_functional weight posterior 1"
"""Mark of the files that `save` writes."""

FARTHEST = 3.0
"""Largest distance of a model from the mean of an ensemble, in units of that of its members."""


@dataclass(frozen=True, eq=False)
class WeightPosterior:
    """A normal distribution of K weights, which are flattened and joined in the order of `names`.

    Attributes:
        names: Names of the weights, as in `Trainable.weights`.
        mean: The weights, each in its own shape.
        factor: Factor A of the covariance `A A^T`, (K, r).

    Raises:
        ValueError: If shapes do not fit, or numbers are not finite.
    """

    names: tuple[str, ...]
    mean: tuple[Tensor, ...]
    factor: Tensor

    def __post_init__(self) -> None:
        size = sum(m.numel() for m in self.mean)
        if len(self.names) != len(self.mean) or self.factor.ndim != 2:
            raise ValueError("a posterior needs a mean for each name, and a factor (weights, r)")
        if self.factor.shape[0] != size:
            raise ValueError(
                f"the factor has {self.factor.shape[0]} rows, but there are {size} weights"
            )
        if not all(bool(torch.isfinite(t).all()) for t in (*self.mean, self.factor)):
            raise ValueError("mean and factor of a posterior must be finite")

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.factor.shape))
        return f"WeightPosterior({', '.join(self.names)}; factor {shape})"

    @classmethod
    def of_ensemble(cls, potentials: Sequence[Trainable]) -> tuple[Trainable, WeightPosterior]:
        """Return the mean potential of an ensemble, and the sample covariance of its weights.

        The error bars are those of an ensemble only if its members are near each other, such as
        those that were trained from one model, or differ in their readouts alone: the average of
        independent trainings is no good model.

        Args:
            potentials: At least two potentials with the same names and shapes of weights.

        Raises:
            ValueError: If there are fewer than two, or their weights differ in names or shapes.
        """
        if len(potentials) < 2:
            raise ValueError("an ensemble needs at least two potentials")
        names = potentials[0].weights
        leaves = [named_leaves(p.params) for p in potentials]
        kinds = {
            tuple((k, leaf[k].shape, leaf[k].dtype) for k in p.weights if k in leaf)
            for p, leaf in zip(potentials, leaves, strict=True)
        }
        if len(kinds) != 1:
            raise ValueError("the potentials of an ensemble must have the same weights")
        rows = torch.stack([_flat([leaf[k] for k in names]) for leaf in leaves])
        mean = _unflat(rows.mean(0), [leaves[0][k] for k in names])
        factor = (rows - rows.mean(0)).T / (len(potentials) - 1) ** 0.5
        params = with_leaves(potentials[0].params, dict(zip(names, mean, strict=True)))
        return potentials[0].with_params(params), cls(names, tuple(mean), factor)

    def spread(self, function: Callable[[Any], Tensor], params: Any) -> tuple[Tensor, Tensor]:
        """Compute a function of the parameters and the standard deviation of each of its elements.

        Each element takes one gradient. Inside, the weights require gradients of `torch.autograd`.

        Args:
            function: Function of the parameters of the potential, such as a free energy.
            params: Parameters of the potential, whose weights are those of the mean.

        Returns:
            The value and the standard deviation, in the shape of the value.

        Raises:
            ValueError: If the weights in `params` are not the mean.
        """
        value, gradients = self.gradients(function, params)
        return value, (gradients @ self.factor).norm(dim=-1).view(value.shape)

    def gradients(self, function: Callable[[Any], Tensor], params: Any) -> tuple[Tensor, Tensor]:
        """Compute a function of the parameters, and its gradients by the weights, (elements, K)."""
        self.check(params)
        leaves = named_leaves(params)
        weights = {name: leaves[name].detach().clone().requires_grad_() for name in self.names}
        with torch.enable_grad():
            value = function(with_leaves(params, weights))
            rows = [
                _flat(
                    torch.autograd.grad(
                        element,
                        list(weights.values()),
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                )
                for element in value.flatten()
            ]
        empty = self.factor.new_empty((0, self.factor.shape[0]))
        return value.detach(), torch.stack(rows) if rows else empty

    def check(self, params: Any) -> None:
        """Raise ValueError if the weights in `params` are not the mean."""
        leaves = named_leaves(params)
        for name, mean in zip(self.names, self.mean, strict=True):
            found = leaves.get(name)
            if found is None or found.shape != mean.shape or not torch.equal(found, mean.to(found)):
                raise ValueError(
                    f"the weights {name!r} of the potential are not those for which the posterior "
                    "was made: use the potential it was made for, or make another posterior"
                )

    def centred(self, params: Any) -> WeightPosterior:
        """Return the distribution with the weights in `params` as its mean.

        So an ensemble gives error bars to one of its members, or to a model trained as they were.

        Args:
            params: Parameters of the potential.

        Raises:
            ValueError: If the parameters lack a weight, or are three times as far from the mean as
                the members are.
        """
        leaves = named_leaves(params)
        found = [leaves.get(name) for name in self.names]
        means = tuple(
            t.detach().to(m)
            for t, m in zip(found, self.mean, strict=True)
            if t is not None and t.shape == m.shape
        )
        if len(means) < len(self.mean):
            raise ValueError(
                "the potential has not the weights of the ensemble: use a model of the same "
                "architecture"
            )
        distance, usual = (_flat(means) - _flat(self.mean)).norm(), self.factor.norm()
        if distance > FARTHEST * usual:
            raise ValueError(
                f"the weights of the potential are {float(distance / usual):.3g} times as far from "
                "the mean of the ensemble as those of its members: the ensemble must be trained "
                "like this model, and from the same start"
            )
        return replace(self, mean=means)

    def samples(self, params: Any, n: int, *, seed: int = 0) -> Iterator[Any]:
        """Yield parameters with random weights of the distribution, to check error bars with.

        Args:
            params: Parameters of the potential.
            n: Number of samples.
            seed: Seed of the random numbers.
        """
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count("n", n)):
            z = torch.randn(self.factor.shape[1], generator=generator, dtype=torch.float64)
            flat = _flat(self.mean) + self.factor @ z.to(self.factor)
            weights = _unflat(flat, self.mean)
            yield with_leaves(params, dict(zip(self.names, weights, strict=True)))

    def scaled(self, by: float) -> WeightPosterior:
        """Return the distribution with all standard deviations multiplied by a number."""
        return replace(self, factor=positive("by", by) * self.factor)

    def to(
        self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> WeightPosterior:
        """Return the distribution in another precision or on another device."""
        mean = tuple(m.to(dtype=dtype, device=device) for m in self.mean)
        return WeightPosterior(self.names, mean, self.factor.to(dtype=dtype, device=device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the distribution to a file (npz)."""
        means = {f"mean.{k}": m.cpu().numpy() for k, m in enumerate(self.mean)}
        names, factor = np.array(self.names), self.factor.cpu().numpy()
        arrays = {"format": np.array(FORMAT), "names": names, "factor": factor, **means}
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightPosterior:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is another one.
            OSError: If the file cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["format"]) != FORMAT:
                    raise ValueError(f"its format is {file['format']}")
                names = tuple(map(str, file["names"]))
                mean = tuple(torch.as_tensor(file[f"mean.{k}"]) for k in range(len(names)))
                return cls(names, mean, torch.as_tensor(file["factor"]))
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is no file of WeightPosterior.save: {error}") from error


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _unflat(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([t.numel() for t in like])
    return [part.view(t.shape).to(t) for part, t in zip(parts, like, strict=True)]
