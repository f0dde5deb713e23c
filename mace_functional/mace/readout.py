"""Readouts: energies of the nodes, one for each head, from their invariant features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_functional.mace.activation import activate
from mace_functional.mace.irreps import Irreps
from mace_functional.mace.linear import Features, Linear
from mace_functional.mace.settings import ReadoutSettings


class Readout(nn.Module):
    """Energies of the nodes from their features, for one head.

    The kind "Linear" is one linear map. "NonLinear" has one hidden layer, "NonLinearBias" two, with
    biases. Each head has its own slice of a hidden layer.
    """

    def __init__(self, settings: ReadoutSettings, num_heads: int) -> None:
        super().__init__()
        self.activation = settings.activation
        self.num_heads = num_heads
        out, hidden = f"{num_heads}x0e", settings.hidden_irreps
        biased = settings.kind == "NonLinearBias"
        if settings.kind == "Linear":
            self.linear = Linear(settings.irreps_in, out)
            return
        self.linear_1 = Linear(settings.irreps_in, hidden)
        self.linear_2 = Linear(hidden, out, biases=biased)
        self.linear_mid = Linear(hidden, hidden, biases=True) if biased else None
        self.head_width = Irreps(hidden).dim // num_heads

    def forward(self, features: Features, head: int) -> Tensor:
        """Compute the energies of the nodes, (nodes,), for one head."""
        if hasattr(self, "linear"):
            return self.linear(features)[0][:, 0, head]
        hidden = self._activate(self.linear_1(features)[0], head)
        if self.linear_mid is not None:
            hidden = self._activate(self.linear_mid([hidden])[0], head)
        return self.linear_2([hidden])[0][:, 0, head]

    def _activate(self, hidden: Tensor, head: int) -> Tensor:
        """Activate a hidden layer, and set the slices of other heads to zero."""
        hidden = activate(hidden, self.activation)
        if self.num_heads == 1:
            return hidden
        owner = torch.arange(hidden.shape[-1], device=hidden.device) // self.head_width
        return hidden * (owner == head)
