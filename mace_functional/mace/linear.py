"""Equivariant linear maps, with one set of weights or one for each element.

Weights are stored flat, as a sequence of blocks, one for each pair of equal irreps. Each is divided
by the square root of the number of inputs of its output, as e3nn does ("element" normalisation).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from mace_functional.autodiff.concatenation import join, split
from mace_functional.mace.irreps import Irreps
from mace_functional.structure.species import Species, rows_at

Features = list[Tensor]
"""Node features: one tensor (nodes, 2l+1, channels) for each irrep."""


class _EquivariantMap(nn.Module):
    """Base of linear maps between equal irreps; its paths pair inputs with outputs."""

    def __init__(self, irreps_in: str, irreps_out: str) -> None:
        super().__init__()
        inputs, outputs = Irreps(irreps_in), Irreps(irreps_out)
        self.paths = [
            (i, o)
            for i, (_, ir_in) in enumerate(inputs)
            for o, (_, ir_out) in enumerate(outputs)
            if ir_in == ir_out
        ]
        self.widths = [(inputs[i].mul, outputs[o].mul) for i, o in self.paths]
        fan_in = [
            sum(m for (_, out), (m, _) in zip(self.paths, self.widths, strict=True) if out == o)
            for o in range(len(outputs))
        ]
        self.scales = [fan_in[o] ** -0.5 for _, o in self.paths]
        self.out_shapes = [(ir.dim, mul) for mul, ir in outputs]

    def _sum(self, terms: Iterable[Tensor], like: Tensor) -> Features:
        """Add the terms of all paths to their outputs; an output without a path is zero."""
        out: list[Tensor | None] = [None] * len(self.out_shapes)
        for (_, o), term in zip(self.paths, terms, strict=True):
            total = out[o]
            out[o] = term if total is None else total + term
        return [
            like.new_zeros(like.shape[0], *shape) if y is None else y
            for y, shape in zip(out, self.out_shapes, strict=True)
        ]


class Linear(_EquivariantMap):
    """Linear map `y[out] = sum_in x[in] W[in, out] / sqrt(fan_in) + b[out]`; only 0e has biases."""

    weight: Tensor
    bias: Tensor

    def __init__(self, irreps_in: str, irreps_out: str, biases: bool = False) -> None:
        super().__init__(irreps_in, irreps_out)
        self.biased = [
            (o, mul) for o, (mul, ir) in enumerate(Irreps(irreps_out)) if biases and ir.is_scalar()
        ]

    def forward(self, features: Features, scale: float = 1.0) -> Features:
        """Map features (nodes, 2l+1, mul) of `irreps_in` to `irreps_out`, times `scale`."""
        blocks = zip(self.paths, self.widths, self._blocks(scale), strict=True)
        terms = (features[i] @ block.view(shape) for (i, _), shape, block in blocks)
        out = self._sum(terms, like=features[0])
        biases = self.bias.split([mul for _, mul in self.biased]) if self.biased else ()
        for (o, _), bias in zip(self.biased, biases, strict=True):
            out[o] = out[o] + bias
        return out

    def _blocks(self, scale: float) -> Iterable[Tensor]:
        """Return the normalised weights of the paths, times `scale`."""
        sizes = [m * n for m, n in self.widths]
        if len(set(self.scales)) == 1:
            return (self.weight * (scale * self.scales[0])).split(sizes)
        blocks = zip(self.weight.split(sizes), self.scales, strict=True)
        return [block * (scale * path_scale) for block, path_scale in blocks]


class ElementLinear(_EquivariantMap):
    """Linear map of each element, `y_i[out] = sum_in x_i[in] W[in, z_i, out] / sqrt(fan_in n_z)`.

    z_i is the element of node i, n_z the number of elements.
    """

    weight: Tensor

    def __init__(self, irreps_in: str, irreps_out: str, num_elements: int) -> None:
        super().__init__(irreps_in, irreps_out)
        self.num_elements = num_elements

    def forward(self, features: Features, species: Species) -> Features:
        """Map features (nodes, 2l+1, mul), each node with the weights of its element."""
        blocks = self.weight.split([m * self.num_elements * n for m, n in self.widths])
        terms = []
        for (i, _), (m, n), block, scale in zip(
            self.paths, self.widths, blocks, self.scales, strict=True
        ):
            by_element = block.view(m, self.num_elements, n).transpose(0, 1)
            of_elements = rows_at(by_element, species.elements)
            weights = (of_elements * (scale * self.num_elements**-0.5)).unbind()
            nodes = zip(split(features[i], species.counts, 0), weights, strict=True)
            terms.append(join([x @ w for x, w in nodes], 0))
        return self._sum(terms, like=features[0])


class ElementEmbedding(nn.Module):
    """A vector for each element, `W[z] / sqrt(n_z)`: the linear map of one-hot elements."""

    weight: Tensor

    def __init__(self, num_elements: int, channels: int) -> None:
        super().__init__()
        self.num_elements, self.channels = num_elements, channels

    def forward(self, species: Species) -> Tensor:
        """Return the vectors of the nodes, (nodes, channels)."""
        table = self.weight.view(self.num_elements, self.channels)
        rows = rows_at(table, species.elements)
        return species.expand(rows * self.num_elements**-0.5)
