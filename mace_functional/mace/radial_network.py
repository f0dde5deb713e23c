"""Radial networks, which map the inputs of an edge to its weights, as jets in the length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from mace_functional.autodiff.jets import Jet, compose, multiply
from mace_functional.mace.activation import activation_derivatives
from mace_functional.mace.radial_inputs import RadialInputs
from mace_functional.mace.settings import Activation


class DenseLayer(nn.Module):
    """A container of the weight (inputs, outputs) of one layer."""

    weight: Tensor


class RadialNetwork(nn.Module):
    """Linear layers times `1 / sqrt(inputs)`, without biases; scaled activations between them."""

    def __init__(self, depth: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        for i in range(depth):
            self.add_module(f"layer{i}", DenseLayer())

    def tensors(self) -> list[Tensor]:
        """Return the tensors that `jet` takes as its first argument."""
        layers: Iterable[Any] = self.children()
        return [layer.weight for layer in layers]

    def jet(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        """Compute the jet of the outputs, (nodes, K, outputs) each."""
        if len(tensors) == 1:
            return inputs.linear(_normalised(tensors[0]))
        weight = self.last(tensors)[0]
        return [d @ weight for d in self.hidden(tensors, inputs)]

    def hidden(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        """Compute the jet of the inputs of the last layer, (nodes, K, inputs) each."""
        if len(tensors) == 1:
            return inputs.joined()
        first, *deeper = tensors[:-1]
        x = inputs.linear(_normalised(first))
        for weight in deeper:
            weight = _normalised(weight)
            x = [d @ weight for d in self._activate(x)]
        return self._activate(x)

    def last(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return weight (inputs, outputs) and bias of the last layer; None for no bias."""
        return _normalised(tensors[-1]), None

    def _activate(self, x: Jet) -> Jet:
        return compose(activation_derivatives(x[0], self.activation, len(x) - 1), x)


def _normalised(weight: Tensor) -> Tensor:
    """Return a weight divided by the square root of the number of inputs."""
    return weight * weight.shape[0] ** -0.5


class AffineLayer(nn.Module):
    """A container of the weight and bias of a `torch.nn.Linear` or `torch.nn.LayerNorm`."""

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
        """Return the tensors that `jet` takes as its first argument."""
        layers: list[Any] = [layer for layer in self.net if isinstance(layer, AffineLayer)]
        return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]

    def jet(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        """Compute the jet of the outputs, (nodes, K, outputs) each."""
        weight, bias = tensors[-2:]
        if len(tensors) == 2:
            return _plus(inputs.linear(weight.T), bias)
        return _plus([d @ weight.T for d in self.hidden(tensors, inputs)], bias)

    def hidden(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        """Compute the jet of the inputs of the last layer, (nodes, K, inputs) each."""
        if len(tensors) == 2:
            return inputs.joined()
        weight, bias, *deeper = tensors[:-2]
        x = _plus(inputs.linear(weight.T), bias)
        for i in range(0, len(deeper), 4):
            scale, shift, *affine = deeper[i : i + 4]
            x = layer_norm(x, scale, shift)
            x = compose(activation_derivatives(x[0], Activation("silu"), len(x) - 1), x)
            if affine:
                weight, bias = affine
                x = _plus([d @ weight.T for d in x], bias)
        return x

    def last(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return weight (inputs, outputs) and bias of the last layer."""
        weight, bias = tensors[-2:]
        return weight.T, bias


def _plus(x: Jet, constant: Tensor) -> Jet:
    """Add a constant to a jet."""
    value, *derivatives = x
    return [value + constant, *derivatives]


def layer_norm(x: Jet, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Jet:
    """Compute the jet of the layer normalisation over the last dimension."""
    centred = [d - d.mean(-1, keepdim=True) for d in x]
    variance = [d.mean(-1, keepdim=True) for d in multiply(centred, centred)]
    root = [(variance[0] + eps) ** -0.5]
    for n in range(1, len(x)):
        root.append((0.5 - n) * root[-1] / (variance[0] + eps))
    value, *derivatives = (d * weight for d in multiply(centred, compose(root, variance)))
    return [value + bias, *derivatives]
