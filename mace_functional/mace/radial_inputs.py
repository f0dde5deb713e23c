"""The inputs of a radial network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from mace_functional.autodiff.jets import Jet, multiply
from mace_functional.structure.species import gather


@dataclass(frozen=True, eq=False)
class RadialInputs:
    """Invariants of the edges: jets in the edge length, and vectors of the nodes.

    Attributes:
        senders: Rows of what is at the other end, (nodes, K).
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

    def of(self, rows: slice) -> RadialInputs:
        """Inputs of some nodes."""
        return replace(
            self,
            senders=self.senders[rows],
            basis=[b[rows] for b in self.basis],
            envelope=None if self.envelope is None else [e[rows] for e in self.envelope],
            target=None if self.target is None else self.target[rows],
        )

    def times_cutoff(self, jet: Jet) -> Jet:
        """A jet times the cutoff function, where the basis does not hold it already."""
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
