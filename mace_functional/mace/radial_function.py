"""The radial weights of the edges as a function of their lengths: embedding and network."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.func import functional_call

from mace_functional.autodiff.jets import Jet
from mace_functional.mace.radial_embedding import RadialEmbedding
from mace_functional.mace.radial_inputs import RadialInputs
from mace_functional.mace.radial_network import NormalisedRadialNetwork, RadialNetwork
from mace_functional.mace.skeleton import skeleton
from mace_functional.structure.species import Species


class RadialFunction:
    """The radial weights of the edges as a function of lengths and of explicit tensors.

    Attributes:
        tensors: The tensors: parameters, and vectors of the nodes if the network reads them.
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

    def joined(
        self, count: int, rest: Sequence[Tensor], mapped: Sequence[bool]
    ) -> tuple[RadialFunction, list[Tensor]] | None:
        """Return the function of the edges of several structures, one after the other.

        Args:
            count: Number of structures.
            rest: Senders of each edge, (nodes, K), and `tensors`. Those that differ between the
                structures have a first dimension of size `count`.
            mapped: For each of them, True if it differs between the structures.

        Returns:
            The function, with senders and `tensors` of all structures; None if parameters differ.
        """
        start, vectors = 1 + self.widths[0], self.widths[1]
        stop = start + vectors
        if any((*mapped[1:start], *mapped[stop:])):
            return None
        senders, *nodes = (
            t if differs else t.expand(count, *t.shape)
            for t, differs in zip(
                (rest[0], *rest[start:stop]), (mapped[0], *mapped[start:stop]), strict=True
            )
        )
        joined = copy(self)
        species, sender_species = self.species
        joined.species = species.repeated(count), sender_species.repeated(count)
        first = sum(sender_species.counts) * torch.arange(count, device=senders.device)
        of_all = (senders + first[:, None, None]).flatten(0, 1)
        return joined, [of_all, *rest[1:start], *(t.flatten(0, 1) for t in nodes), *rest[stop:]]

    def inputs(
        self, lengths: Tensor, senders: Tensor, tensors: Sequence[Tensor], order: int
    ) -> RadialInputs:
        """Compute the inputs of the network, with derivatives by the lengths up to an order."""
        embedded, nodes = self.widths
        state = dict(zip(self.names, tensors[:embedded], strict=True))
        args = (lengths, senders, *self.species, order)
        basis, envelope = functional_call(skeleton(self.embedding), state, args, tie_weights=False)
        return RadialInputs(senders, basis, envelope, *tensors[embedded:][:nodes])

    def jet(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        """Compute the jet of the radial weights, (nodes, K, outputs) each."""
        return inputs.times_cutoff(self.without_cutoff(tensors, inputs))

    def without_cutoff(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> Jet:
        """Compute the jet of the network's outputs, before they are multiplied by the cutoff."""
        return self.network.jet(tensors[sum(self.widths) :], inputs)

    def factors(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> tuple[Jet, Tensor]:
        """Factorise the jet of the radial weights, `R^(n) = X^(n) W`.

        X is the jet of the inputs of the network's last layer times the cutoff function, (nodes, K,
        inputs) each, and W that layer's weight, (inputs, outputs). A bias is a row of W, for which
        X has a column of ones.
        """
        tensors = tensors[sum(self.widths) :]
        x, (weight, bias) = self.network.hidden(tensors, inputs), self.network.last(tensors)
        if bias is not None:
            one = torch.ones_like(x[0][..., :1])
            constant = [one, *[torch.zeros_like(one)] * (len(x) - 1)]
            x = [torch.cat(pair, -1) for pair in zip(x, constant, strict=True)]
            weight = torch.cat([weight, bias[None]])
        return inputs.times_cutoff(x), weight
