"""Functions of the edge length: bases, cutoff, distance transforms, and the networks on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mace_functional.engine.activation import activate, silu
from mace_functional.engine.settings import Activation, RadialSettings
from mace_functional.graph import Species, gather


def polynomial_cutoff(r: Tensor, r_max: Tensor, p: int) -> Tensor:
    """Polynomial that falls from 1 to 0 at `r_max`, with two vanishing derivatives there.

    `f(u) = 1 - (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) - p(p+1)/2 u^(p+2)`, `u = r / r_max`.
    Source: Gasteiger, Gross, Guennemann, ICLR 2020 (arXiv:2003.03123), eq. 8.
    """
    u = r / r_max
    polynomial = (p + 1) * (p + 2) / 2 - p * (p + 2) * u + p * (p + 1) / 2 * u * u
    return (1 - polynomial * u**p) * (r < r_max)


class Bessel(nn.Module):
    """`sqrt(2 / r_max) sin(n pi r / r_max) / r` (arXiv:2003.03123, eq. 7)."""

    bessel_weights: Tensor
    prefactor: Tensor

    def forward(self, r: Tensor) -> Tensor:
        """Basis functions (..., basis) of lengths (..., 1)."""
        return self.prefactor * torch.sin(self.bessel_weights * r) / r


class Gaussian(nn.Module):
    """Gaussians on an even grid, `exp(c (r - r_n)^2)`."""

    gaussian_weights: Tensor

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, r: Tensor) -> Tensor:
        """Basis functions (..., basis) of lengths (..., 1)."""
        distance = r - self.gaussian_weights
        return torch.exp(self.coefficient * distance * distance)


class Chebyshev(nn.Module):
    """Chebyshev polynomials of the first kind, `T_1(r) ... T_n(r)`, by their recursion."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, r: Tensor) -> Tensor:
        """Basis functions (..., basis) of lengths (..., 1)."""
        polynomials = [torch.ones_like(r), r]
        while len(polynomials) <= self.size:
            polynomials.append(2 * r * polynomials[-1] - polynomials[-2])
        return torch.cat(polynomials[1:], -1)


class CutoffRadius(nn.Module):
    """Holds the cutoff radius of the envelope."""

    r_max: Tensor


class Agnesi(nn.Module):
    """Agnesi transform, `1 / (1 + a x^q / (1 + x^(q-p)))`, `x = 2 r / (R_i + R_j)`.

    Source: Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    q: Tensor
    p: Tensor
    a: Tensor
    covalent_radii: Tensor

    def forward(self, r: Tensor, radii_i: Tensor, radii_j: Tensor) -> Tensor:
        """Transformed lengths (..., 1)."""
        x = r / (0.5 * (radii_i + radii_j))
        return 1 / (1 + self.a * x**self.q / (1 + x ** (self.q - self.p)))


class Soft(nn.Module):
    """Soft transform: r at long range, levelling off at 3/4 of the sum of covalent radii."""

    alpha: Tensor
    covalent_radii: Tensor

    def forward(self, r: Tensor, radii_i: Tensor, radii_j: Tensor) -> Tensor:
        """Transformed lengths (..., 1)."""
        bond = radii_i + radii_j
        inner, outer = 3 / 4 * bond, 4 / 3 * bond
        step = 0.5 * (1 + torch.tanh(self.alpha / (outer - inner) * (r - 0.5 * (inner + outer))))
        return inner + (r - inner) * step


class RadialEmbedding(nn.Module):
    """Radial basis of the (transformed) length and the cutoff function of the length itself."""

    def __init__(self, settings: RadialSettings) -> None:
        super().__init__()
        self.settings = settings
        bases: dict[str, Callable[[], nn.Module]] = {
            "bessel": Bessel,
            "gaussian": lambda: Gaussian(settings.gaussian_coefficient),
            "chebyshev": lambda: Chebyshev(settings.size),
        }
        self.bessel_fn = bases[settings.basis]()
        self.cutoff_fn = CutoffRadius()
        transforms: dict[str, type[Agnesi | Soft]] = {"Agnesi": Agnesi, "Soft": Soft}
        self.distance_transform = None
        if settings.distance_transform is not None:
            self.distance_transform = transforms[settings.distance_transform]()

    def forward(
        self, lengths: Tensor, senders: Tensor, species: Species
    ) -> tuple[Tensor, Tensor | None]:
        """Radial basis (nodes, K, basis) and, where it is applied later, the cutoff function.

        Args:
            lengths: Edge lengths in Å, (nodes, K, 1).
            senders: Node at the other end, (nodes, K).
            species: Elements of the nodes.
        """
        r_max = self.cutoff_fn.r_max
        envelope = polynomial_cutoff(lengths, r_max, self.settings.cutoff_power)
        if self.distance_transform is not None:
            table = self.distance_transform.covalent_radii[list(species.numbers), None]
            radii = species.expand(table)
            lengths = self.distance_transform(lengths, radii[:, None], gather(radii, senders))
        basis = self.bessel_fn(lengths)
        return (basis * envelope, None) if self.settings.apply_cutoff else (basis, envelope)


class EdgeScalars(NamedTuple):
    """Invariants of an edge: the radial basis, and vectors of both nodes where a model uses them.

    A linear map of their concatenation multiplies the node vectors before they are gathered, once
    per node and not once per edge.
    """

    radial: Tensor
    senders: Tensor
    source: Tensor | None = None
    target: Tensor | None = None

    def linear(self, weight: Tensor) -> Tensor:
        """`[radial_ij, source_j, target_i] W` (nodes, K, outputs), of W (inputs, outputs)."""
        if self.source is None or self.target is None:
            return self.radial @ weight
        widths = [self.radial.shape[-1], self.source.shape[-1], self.target.shape[-1]]
        radial, source, target = weight.split(widths)
        nodes = gather(self.source @ source, self.senders) + (self.target @ target)[:, None]
        return self.radial @ radial + nodes


class DenseLayer(nn.Module):
    """Holds the weight (inputs, outputs) of one layer."""

    weight: Tensor


class RadialNetwork(nn.Module):
    """Layers without biases, normalised by `1 / sqrt(inputs)`, with a scaled activation between."""

    def __init__(self, depth: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        for i in range(depth):
            self.add_module(f"layer{i}", DenseLayer())

    def forward(self, scalars: EdgeScalars) -> Tensor:
        """Outputs (nodes, K, outputs)."""
        first, *deeper = (layer.weight for layer in self.children())
        x = scalars.linear(_normalised(first))
        for weight in deeper:
            x = activate(x, self.activation) @ _normalised(weight)
        return x


def _normalised(weight: Any) -> Tensor:
    return weight * weight.shape[0] ** -0.5


class AffineLayer(nn.Module):
    """Holds weight and bias of a `torch.nn.Linear` or `torch.nn.LayerNorm`."""

    weight: Tensor
    bias: Tensor


class NormalisedRadialNetwork(nn.Module):
    """Linear layers with biases; layer normalisation and SiLU after each but the last."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [nn.Identity() if i % 3 == 2 else AffineLayer() for i in range(3 * depth - 2)]
        )

    def forward(self, scalars: EdgeScalars) -> Tensor:
        """Outputs (nodes, K, outputs)."""
        layers: list[Any] = list(self.net)
        x = scalars.linear(layers[0].weight.T) + layers[0].bias
        for norm, linear in zip(layers[1::3], layers[3::3], strict=True):
            x = silu(layer_norm(x, norm.weight, norm.bias)) @ linear.weight.T + linear.bias
        return x


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer normalisation over the last dimension, in operations with derivatives of any order."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * weight + bias
