"""Embedding of extra features of a structure or of its atoms, such as total charge and spin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mace_functional.mace.activation import silu
from mace_functional.mace.settings import FeatureSettings


class AffineMap(nn.Module):
    """An affine map `x W^T + b`, with or without the bias."""

    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map (nodes, inputs) to (nodes, outputs)."""
        y = x @ self.weight.T
        return y + self.bias if hasattr(self, "bias") else y


class CategoricalEmbedding(nn.Module):
    """A table of vectors, one for each value of an integer feature."""

    weight: Tensor

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, values: Tensor) -> Tensor:
        """Return vectors (nodes, outputs) for values (nodes,)."""
        return self.weight.index_select(0, (values + self.offset).to(torch.int64))


class ContinuousEmbedding(nn.Module):
    """Two affine maps of a real feature, with a SiLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", AffineMap())
        self.add_module("2", AffineMap())

    def forward(self, values: Tensor) -> Tensor:
        """Compute vectors (nodes, outputs) from values (nodes,) or (nodes, inputs)."""
        x = values[:, None] if values.ndim == 1 else values
        return self.get_submodule("2")(silu(self.get_submodule("0")(x)))


class JointEmbedding(nn.Module):
    """The embedding of all features: embedded, concatenated, mixed by a linear map, activated."""

    def __init__(self, settings: Sequence[FeatureSettings]) -> None:
        super().__init__()
        self.settings = settings
        self.embedders = nn.ModuleDict(
            {
                s.name: CategoricalEmbedding(s.offset)
                if s.type == "categorical"
                else ContinuousEmbedding()
                for s in settings
            }
        )
        self.project = nn.ModuleList([AffineMap()])

    def forward(self, features: Mapping[str, Tensor], order: Tensor) -> Tensor:
        """Compute the vectors to add to the initial node features, (nodes, channels).

        Args:
            features: Values by name: a number for a feature of the structure, (atoms,) or
                (atoms, inputs) for a feature of the atoms.
            order: Atom of each node, (nodes,).
        """
        embedded = []
        for s in self.settings:
            value = features[s.name]
            nodes = value.expand(len(order)) if s.per == "graph" else value.index_select(0, order)
            embedded.append(self.embedders[s.name](nodes))
        return silu(self.project[0](torch.cat(embedded, -1)))
