"""The inputs of a radial network: jets of the radial basis, and vectors of the nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mace_functional.autodiff.jets import Jet, multiply
from mace_functional.structure.species import gather


@dataclass(frozen=True, eq=False)
class RadialInputs:
    """Inputs of a radial network: jets in the edge length, and vectors of the nodes.

    Attributes:
        senders: Sender of each edge, (nodes, K).
        basis: Jet of the radial basis, (nodes, K, basis) each.
        envelope: Jet of the cutoff function, (nodes, K, 1) each; None if the basis contains it.
        source: Vectors of the senders, (all senders, any); None if the network reads none.
        target: Vectors of the nodes, (nodes, any); None if the network reads none.
    """

    senders: Tensor
    basis: Jet
    envelope: Jet | None = None
    source: Tensor | None = None
    target: Tensor | None = None

    def of(self, rows: slice) -> RadialInputs:
        """Return the inputs of a slice of nodes."""
        return replace(
            self,
            senders=self.senders[rows],
            basis=[b[rows] for b in self.basis],
            envelope=None if self.envelope is None else [e[rows] for e in self.envelope],
            target=None if self.target is None else self.target[rows],
        )

    def times_cutoff(self, jet: Jet) -> Jet:
        """Multiply a jet by the cutoff function, unless the basis contains it."""
        return jet if self.envelope is None else multiply(jet, self.envelope)

    def joined(self) -> Jet:
        """Compute the jet of `[basis_ij, source_j, target_i]`, (nodes, K, inputs) each."""
        if self.source is None or self.target is None:
            return list(self.basis)
        nodes = [gather(self.source, self.senders)]
        nodes.append(self.target[:, None].expand(*nodes[0].shape[:2], -1))
        value, *derivatives = self.basis
        constant = [torch.zeros_like(n) for n in nodes]
        return [
            torch.cat([value, *nodes], -1),
            *(torch.cat([d, *constant], -1) for d in derivatives),
        ]

    def linear(self, weight: Tensor) -> Jet:
        """Compute the jet of `[basis_ij, source_j, target_i] W`, W (inputs, outputs).

        Each tensor of the jet is (nodes, K, outputs). The vectors of the nodes are multiplied
        before they are gathered: once per node, not once per edge.
        """
        if self.source is None or self.target is None:
            return [b @ weight for b in self.basis]
        widths = [self.basis[0].shape[-1], self.source.shape[-1], self.target.shape[-1]]
        radial, source, target = weight.split(widths)
        nodes = gather(self.source @ source, self.senders) + (self.target @ target)[:, None]
        value, *derivatives = (b @ radial for b in self.basis)
        return [value + nodes, *derivatives]
