"""Messages: neighbour features times radial weights, coupled with spherical harmonics, summed.

For a path from sender features of degree l1 and harmonics of degree l2 to messages of degree l3,

    A_i[m3, c] = sum_{j, m1} ( sum_{m2} C[m1, m2, m3] Y_l2[ij, m2] ) R[ij, c] h_j[m1, c],

where the bracket carries no channels, so that the sum over neighbours and m1 is one batched matrix
product `[2 l3+1, K (2 l1+1)] @ [K (2 l1+1), channels]` and nothing of size edges x harmonics x
channels is ever formed.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn

from mace_functional.engine.edges import Edges
from mace_functional.engine.linear import Features
from mace_functional.graph import gather


class Path(NamedTuple):
    """One coupling: features `source` (degree l1) with harmonics l2 into messages of degree l3."""

    source: int
    l1: int
    l2: int
    l3: int
    channels: int


class Convolution(nn.Module):
    """Tensor product of sender features with spherical harmonics, weighted and summed per node."""

    def __init__(self, edge_irreps: str, harmonics_irreps: str, target_irreps: str) -> None:
        super().__init__()
        edge, target = o3.Irreps(edge_irreps), o3.Irreps(target_irreps)
        couplings = [
            (ir_out, Path(source, ir.l, ir_sh.l, ir_out.l, mul))
            for source, (mul, ir) in enumerate(edge)
            for _, ir_sh in o3.Irreps(harmonics_irreps)
            for ir_out in ir * ir_sh
            if ir_out in target
        ]
        couplings.sort(key=lambda coupling: coupling[0])
        self.paths = [path for _, path in couplings]
        self.irreps_out = str(o3.Irreps([(path.channels, ir) for ir, path in couplings]))

    def forward(self, features: Features, edges: Edges, weights: Tensor) -> Features:
        """Messages, one (nodes, 2 l3+1, channels) for each path.

        Args:
            features: Node features that travel along the edges.
            edges: Geometry of the edges.
            weights: Radial weights (nodes, K, sum of the paths' channels).
        """
        sent = [gather(h, edges.senders) for h in features]
        radial = weights.split([path.channels for path in self.paths], -1)
        messages = []
        for path, r in zip(self.paths, radial, strict=True):
            coupled = torch.einsum(
                "nkb,abc->ncka", edges.harmonics[path.l2], self._coupling(path, weights)
            )
            values = r[:, :, None, :] * sent[path.source]
            messages.append(coupled.flatten(2) @ values.flatten(1, 2))
        return messages

    def _coupling(self, path: Path, like: Tensor) -> Tensor:
        """Wigner 3j symbols (2 l1+1, 2 l2+1, 2 l3+1) normalised so that components have norm one.

        The symbols with a scalar among the three are `delta / sqrt(2l+1)`; the others are tensors
        of the checkpoint.
        """
        _, l1, l2, l3, _ = path
        shape = (2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1)
        if 0 in (l1, l2, l3):
            size = max(shape)
            symbols = torch.eye(size, dtype=like.dtype, device=like.device) / sqrt(size)
            symbols = symbols.view(shape)
        else:
            symbols = getattr(self._compiled_main_left_right, f"_w3j_{l1}_{l2}_{l3}")
        return symbols * sqrt(2 * l3 + 1)
