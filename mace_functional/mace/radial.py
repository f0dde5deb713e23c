"""Functions of the edge length: bases, cutoff, distance transforms, and the networks on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import perm
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mace_functional.autodiff.jets import Jet, compose, jet_of, multiply
from mace_functional.mace.activation import activation_derivatives
from mace_functional.mace.settings import Activation, RadialSettings
from mace_functional.mace.skeleton import skeleton
from mace_functional.structure.species import Species, gather


def polynomial_cutoff(r: Tensor, r_max: Tensor, p: int, order: int) -> Jet:
    """Polynomial that falls from 1 to 0 at `r_max`, with two vanishing derivatives there.

    `f(u) = 1 - (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) - p(p+1)/2 u^(p+2)`, `u = r / r_max`.
    Source: Gasteiger, Gross, Guennemann, ICLR 2020 (arXiv:2003.03123), eq. 8.
    """
    u = r / r_max
    inside = r < r_max
    coefficients = [(p, -(p + 1) * (p + 2) / 2), (p + 1, p * (p + 2)), (p + 2, -p * (p + 1) / 2)]
    out = []
    for n in range(order + 1):
        terms = [c * perm(power, n) * u ** (power - n) for power, c in coefficients if n <= power]
        value = sum(terms, torch.zeros_like(u)) / r_max**n
        out.append((1 + value if n == 0 else value) * inside)
    return out


class Bessel(nn.Module):
    """`sqrt(2 / r_max) sin(n pi r / r_max) / r` (arXiv:2003.03123, eq. 7)."""

    bessel_weights: Tensor
    prefactor: Tensor

    def forward(self, r: Tensor, order: int) -> Jet:
        """Basis functions (..., basis) of lengths (..., 1), and their derivatives."""
        w = self.bessel_weights
        sine = self.prefactor * torch.sin(w * r)
        waves, reciprocals = [sine], [1 / r]
        if order:
            waves.append(self.prefactor * w * torch.cos(w * r))
        for n in range(1, order + 1):
            reciprocals.append(-n * reciprocals[-1] / r)
            waves.append(-w * w * waves[n - 1])
        return multiply(waves[: order + 1], reciprocals)


class Gaussian(nn.Module):
    """Gaussians on an even grid, `exp(c (r - r_n)^2)`."""

    gaussian_weights: Tensor

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, r: Tensor, order: int) -> Jet:
        """Basis functions (..., basis) of lengths (..., 1), and their derivatives."""
        distance = r - self.gaussian_weights
        out = [torch.exp(self.coefficient * distance * distance)]
        for n in range(order):
            slope = distance * out[n]
            out.append(2 * self.coefficient * (slope + n * out[n - 1] if n else slope))
        return out


class Chebyshev(nn.Module):
    """Chebyshev polynomials of the first kind, `T_1(r) ... T_n(r)`, by their recursion."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, r: Tensor, order: int) -> Jet:
        """Basis functions (..., basis) of lengths (..., 1), and their derivatives."""
        one, zero = torch.ones_like(r), torch.zeros_like(r)
        x = [r, one, *[zero] * order][: order + 1]
        polynomials = [[one, *[zero] * order], x]
        while len(polynomials) <= self.size:
            pairs = zip(multiply(x, polynomials[-1]), polynomials[-2], strict=True)
            polynomials.append([2 * a - b for a, b in pairs])
        return [torch.cat(parts, -1) for parts in zip(*polynomials[1:], strict=True)]


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
        self,
        lengths: Tensor,
        senders: Tensor,
        species: Species,
        sender_species: Species,
        order: int,
    ) -> tuple[Jet, Jet | None]:
        """Radial basis (nodes, K, basis) and, where it is applied later, the cutoff function.

        Args:
            lengths: Edge lengths in Å, (nodes, K, 1).
            senders: What is at the other end, (nodes, K).
            species: Elements of the nodes.
            sender_species: Elements of what sends.
            order: Number of derivatives by the length.
        """
        r_max = self.cutoff_fn.r_max
        envelope = polynomial_cutoff(lengths, r_max, self.settings.cutoff_power, order)
        if self.distance_transform is None:
            basis = self.bessel_fn(lengths, order)
        else:
            table = self.distance_transform.covalent_radii[:, None]
            radii_i = species.expand(table[list(species.numbers)])[:, None]
            radii_j = gather(sender_species.expand(table[list(sender_species.numbers)]), senders)
            transform = partial(self.distance_transform, radii_i=radii_i, radii_j=radii_j)
            transformed = jet_of(transform, lengths, order)
            basis = compose(self.bessel_fn(transformed[0], order), transformed)
        return (
            (multiply(basis, envelope), None) if self.settings.apply_cutoff else (basis, envelope)
        )


@dataclass(frozen=True, eq=False)
class EdgeScalars:
    """Invariants of the edges: jets in the edge length, and what else their weights depend on.

    Attributes:
        senders: What is at the other end, (nodes, K).
        basis: Jet of the radial basis, (nodes, K, basis) each.
        envelope: Jet of the cutoff function, (nodes, K, 1) each, if it multiplies the weights.
        source: Vectors that the senders contribute, (all senders, any), if a model uses them.
        target: Vectors of the nodes themselves, (nodes, any), if a model uses them.
    """

    senders: Tensor
    basis: Jet
    envelope: Jet | None = None
    source: Tensor | None = None
    target: Tensor | None = None

    def of(self, rows: slice) -> EdgeScalars:
        """Those of some nodes."""
        return replace(
            self,
            senders=self.senders[rows],
            basis=[b[rows] for b in self.basis],
            envelope=None if self.envelope is None else [e[rows] for e in self.envelope],
            target=None if self.target is None else self.target[rows],
        )

    def enveloped(self, jet: Jet) -> Jet:
        """Times the cutoff function, where the basis does not hold it already."""
        return jet if self.envelope is None else multiply(jet, self.envelope)

    def linear(self, weight: Tensor) -> Jet:
        """Jet of `[basis_ij, source_j, target_i] W` (nodes, K, outputs), W (inputs, outputs).

        The node vectors are multiplied before they are gathered, once per node and not per edge.
        """
        if self.source is None or self.target is None:
            return [b @ weight for b in self.basis]
        widths = [self.basis[0].shape[-1], self.source.shape[-1], self.target.shape[-1]]
        radial, source, target = weight.split(widths)
        nodes = gather(self.source @ source, self.senders) + (self.target @ target)[:, None]
        value, *derivatives = (b @ radial for b in self.basis)
        return [value + nodes, *derivatives]


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

    def tensors(self) -> list[Tensor]:
        """The tensors that `jet` takes."""
        layers: Iterable[Any] = self.children()
        return [layer.weight for layer in layers]

    def jet(self, tensors: Sequence[Tensor], scalars: EdgeScalars) -> Jet:
        """Jet of the outputs, (nodes, K, outputs)."""
        first, *deeper = tensors
        x = scalars.linear(_normalised(first))
        for weight in deeper:
            x = compose(activation_derivatives(x[0], self.activation, len(x) - 1), x)
            weight = _normalised(weight)
            x = [d @ weight for d in x]
        return x


def _normalised(weight: Tensor) -> Tensor:
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

    def tensors(self) -> list[Tensor]:
        """The tensors that `jet` takes."""
        layers: list[Any] = [layer for layer in self.net if isinstance(layer, AffineLayer)]
        return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]

    def jet(self, tensors: Sequence[Tensor], scalars: EdgeScalars) -> Jet:
        """Jet of the outputs, (nodes, K, outputs)."""
        weight, bias, *deeper = tensors
        value, *derivatives = scalars.linear(weight.T)
        x = [value + bias, *derivatives]
        for i in range(0, len(deeper), 4):
            scale, shift, weight, bias = deeper[i : i + 4]
            x = layer_norm(x, scale, shift)
            x = compose(activation_derivatives(x[0], Activation("silu"), len(x) - 1), x)
            value, *derivatives = (d @ weight.T for d in x)
            x = [value + bias, *derivatives]
        return x


def layer_norm(x: Jet, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Jet:
    """Layer normalisation over the last dimension."""
    centred = [d - d.mean(-1, keepdim=True) for d in x]
    variance = [d.mean(-1, keepdim=True) for d in multiply(centred, centred)]
    root = [(variance[0] + eps) ** -0.5]
    for n in range(1, len(x)):
        root.append((0.5 - n) * root[-1] / (variance[0] + eps))
    value, *derivatives = (d * weight for d in multiply(centred, compose(root, variance)))
    return [value + bias, *derivatives]


class RadialFunction:
    """Weights of the edges as a function of their lengths and of explicit tensors.

    Attributes:
        tensors: The tensors: parameters, and vectors of the nodes where the network reads them.
    """

    def __init__(
        self,
        embedding: RadialEmbedding,
        network: RadialNetwork | NormalisedRadialNetwork,
        species: Species,
        sender_species: Species,
        nodes: tuple[Tensor, ...] = (),
    ) -> None:
        self.embedding, self.network = embedding, network
        self.species = species, sender_species
        named = dict(embedding.named_buffers())
        self.names = list(named)
        self.widths = len(named), len(nodes)
        self.tensors = (*named.values(), *nodes, *network.tensors())

    def scalars(
        self, lengths: Tensor, senders: Tensor, tensors: Sequence[Tensor], order: int
    ) -> EdgeScalars:
        """What the network reads, with derivatives up to an order."""
        embedded, nodes = self.widths
        state = dict(zip(self.names, tensors[:embedded], strict=True))
        inputs = (lengths, senders, *self.species, order)
        basis, envelope = functional_call(
            skeleton(self.embedding), state, inputs, tie_weights=False
        )
        return EdgeScalars(senders, basis, envelope, *tensors[embedded:][:nodes])

    def jet(self, tensors: Sequence[Tensor], scalars: EdgeScalars) -> Jet:
        """Jet of the weights, (nodes, K, outputs)."""
        return scalars.enveloped(self.output(tensors, scalars))

    def output(self, tensors: Sequence[Tensor], scalars: EdgeScalars) -> Jet:
        """Jet of what the network gives, without the cutoff function that multiplies it."""
        return self.network.jet(tensors[sum(self.widths) :], scalars)
