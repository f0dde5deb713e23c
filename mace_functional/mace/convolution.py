"""Tensor product of sender features with spherical harmonics, summed over neighbours."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mace_functional.mace.edges import Edges
from mace_functional.mace.irreps import Irreps
from mace_functional.mace.layer_messages import LayerMessages
from mace_functional.mace.linear import Features
from mace_functional.mace.messages import Path
from mace_functional.mace.radial_function import RadialFunction


class Convolution(nn.Module):
    """The messages of one layer; this class finds the couplings, `messages` has the formula."""

    def __init__(self, edge_irreps: str, harmonics_irreps: str, target_irreps: str) -> None:
        super().__init__()
        edge, target = Irreps(edge_irreps), Irreps(target_irreps)
        couplings = [
            (ir_out, Path(source, ir.l, ir_sh.l, ir_out.l, mul))
            for source, (mul, ir) in enumerate(edge)
            for _, ir_sh in Irreps(harmonics_irreps)
            for ir_out in ir * ir_sh
            if target.count(ir_out)
        ]
        couplings.sort(key=lambda coupling: coupling[0])
        self.sources = sorted({path.source for _, path in couplings})
        self.paths = [
            path._replace(source=self.sources.index(path.source)) for _, path in couplings
        ]
        self.harmonics = (Irreps(harmonics_irreps).lmax + 1) ** 2
        self.irreps_out = str(Irreps([(path.channels, ir) for ir, path in couplings]))

    def forward(self, features: Features, edges: Edges, radial: RadialFunction) -> Features:
        """Compute the messages, (nodes, 2 l3+1, channels) for each path.

        Args:
            features: Features of the senders, before they are gathered for the edges.
            edges: Geometry of the edges.
            radial: Radial weights, (nodes, K, sum of the paths' channels).
        """
        layer = LayerMessages(self.paths, radial, edges.coordinates)
        sent = [edges.sent(features[source]) for source in self.sources]
        coupling = self._matrix(edges.points)
        return layer(edges.points, edges.cell, sent, edges.edge_list, edges.r_max, coupling)

    def _matrix(self, like: Tensor) -> Tensor:
        """Return the linear map from harmonics to the couplings T of all paths.

        Its shape is ((l_max+1)^2, sum over paths of (2 l1+1) (2 l3+1)).
        """
        columns = []
        for path in self.paths:
            block = self._symbols(path, like).transpose(0, 1).flatten(1)
            above, below = path.l2**2, self.harmonics - (path.l2 + 1) ** 2
            columns.append(torch.nn.functional.pad(block, (0, 0, above, below)))
        return torch.cat(columns, 1)

    def _symbols(self, path: Path, like: Tensor) -> Tensor:
        """Return the Wigner 3j symbols (2 l1+1, 2 l2+1, 2 l3+1), times `sqrt(2 l3+1)`.

        The factor is e3nn's "component" normalisation. If one of the three degrees is 0, the
        symbols are `delta / sqrt(2l+1)`. The others are tensors of the checkpoint.
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
