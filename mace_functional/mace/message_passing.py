"""Message passing as an operation with derivative rules: when to compute what, and what to keep.

Everything of the size of edges x channels is made for a few nodes at a time, so that it fits the
cache, and thrown away: computing the radial network again costs less than memory. Only where more
than one vector comes for the same structure are the edge products kept.

    differentiable      all nodes at once, out of place
    streamed            block by block of nodes, intermediates discarded
    cached              block by block, from edge products stored for all nodes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.blocks import node_slices
from mace_functional.autodiff.primitive import Arguments, Memo, Outputs
from mace_functional.autodiff.second_order import (
    Primals,
    SecondOrderOperation,
    Strategy,
    Tensors,
    Vectors,
    Wanted,
    filled,
)
from mace_functional.mace.messages import (
    Curvature,
    EdgeProducts,
    Path,
    Variables,
    edge_products,
    gradient,
    hessian,
    messages,
    push_forward,
    weighted,
)
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.structure.species import gather

MAX_BLOCK_FLOATS = 2**18
"""Numbers in one tensor of a block of nodes on CPU, so that several tensors fit the cache."""


class MessagePassing(SecondOrderOperation):
    """The messages of one layer, as a function with rules for its derivatives; call it.

    Its variables are lengths, couplings and features. The features are optional: those of the
    first layer do not depend on the positions. Its further tensors are the senders and those of
    the radial function.
    """

    def __init__(self, paths: Sequence[Path], radial: RadialFunction) -> None:
        self.paths, self.radial = paths, radial
        self.outputs, self.required = len(paths), 1 + len(paths)
        self.optional = 1 + max(path.source for path in paths)
        self.edges, self.curvature, self.asked = Memo(), Memo(), Memo()

    def __call__(
        self,
        senders: Tensor,
        lengths: Tensor,
        couplings: Sequence[Tensor],
        features: Sequence[Tensor],
    ) -> list[Tensor]:
        """Messages (nodes, 2 l3+1, channels) of each path.

        Args:
            senders: What is at the other end of each edge, (nodes, K).
            lengths: Å, (nodes, K, 1).
            couplings: For each path, (nodes, K, 2 l1+1, 2 l3+1).
            features: For each irrep of the senders, (senders, 2 l1+1, channels).
        """
        variables = [lengths, *couplings, *features]
        return list(self.apply(variables, [senders, *self.radial.tensors]))

    @override
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        blocks = _Arguments.of(self, at).blocks(0, False, strategy, 1)
        found = [messages(block.variables, block.edges) for block in blocks]
        return tuple(map(_joined, zip(*found, strict=True)))

    @override
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        arguments = _Arguments.of(self, at)
        if strategy == "streamed" and self.edges.get(arguments.key(optional)) is not None:
            strategy = "cached"
        cotangents, number = _columns(g, 1)
        out = _Accumulator(arguments, strategy)
        for block in arguments.blocks(1, optional, strategy, number):
            out.add(block, self._gradient(block, cotangents, optional))
        return out.results(g.batched)

    @override
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        if strategy == "streamed" and self.asked.note([*at.g, *at.x, *at.rest]):
            strategy = "cached"
        arguments, tangents = _Arguments.of(self, at), _Tangents(self, v)
        features = tangents.has_features or wanted.optional
        out = _Accumulator(arguments, strategy)
        order = 2 if wanted.hessian else 1
        for block in arguments.blocks(order, features, strategy, tangents.number):
            near = tangents.of(block)
            found = Variables(near[0].lengths, ())
            if wanted.hessian:
                found = self._hessian(block, *near, wanted.optional)
            if wanted.pushforward:
                found = found._replace(cotangents=push_forward(block.variables, block.edges, *near))
            out.add(block, found)
        results = out.results(v.batched)
        return results if wanted.hessian else results[1:]

    @override
    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs]:
        tangents = _Tangents(self, Vectors.single(v))
        values, changes = [], []
        for block in _Arguments.of(self, at).blocks(1, tangents.has_features, "streamed", 1):
            pushed = push_forward(block.variables, block.edges, *tangents.of(block))
            values.append(messages(block.variables, block.edges))
            changes.append([w[:, 0] for w in pushed])
        first, second = (tuple(map(_joined, zip(*t, strict=True))) for t in (values, changes))
        return first, second

    @override
    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs]:
        arguments, tangents = _Arguments.of(self, at), _Tangents(self, Vectors.single(v))
        both = [torch.stack(pair, 1) for pair in zip(at.g, filled(dg, at.g), strict=True)]
        out = _Accumulator(arguments, "streamed")
        features = tangents.has_features or optional
        for block in arguments.blocks(2, features, "streamed", 2):
            found = self._gradient(block, both, optional)
            out.add(
                block, _add_to_second(found, self._hessian(block, *tangents.of(block), optional))
            )
        results = out.results(batched=True)
        return tuple(t[0] for t in results), tuple(t[1] for t in results)

    def _gradient(self, block: _NodeBlock, g: Sequence[Tensor], features: bool) -> Variables:
        near = [w[block.rows] for w in g]
        return gradient(self.paths, block.variables, block.edges, near, features)

    def _hessian(
        self, block: _NodeBlock, v: Variables, moved: Sequence[Tensor], features: bool
    ) -> Variables:
        x, edges, curvature = block.variables, block.edges, block.curvature
        return hessian(self.paths, x, edges, curvature, v, moved, features)

    def node_slices(self, lengths: Tensor, number: int) -> list[slice]:
        """Nodes to treat at once with a number of vectors."""
        nodes, neighbours = lengths.shape[:2]
        widest = max((2 * path.l1 + 1) * path.channels for path in self.paths)
        floats = neighbours * widest * number
        return node_slices(0, nodes, floats, MAX_BLOCK_FLOATS, lengths.device)


@dataclass(frozen=True, eq=False)
class _Arguments:
    """The arguments at which messages are differentiated, sorted."""

    passing: MessagePassing
    senders: Tensor
    variables: Variables
    tensors: Sequence[Tensor]

    @classmethod
    def of(cls, passing: MessagePassing, at: Primals) -> _Arguments:
        """Sort the variables, and the further tensors."""
        (lengths, *others), (senders, *tensors) = at.x, at.rest
        couplings, features = others[: passing.outputs], others[passing.outputs :]
        return cls(passing, senders, Variables(lengths, couplings, features, at.g), tensors)

    def blocks(
        self, order: int, features: bool, strategy: Strategy, number: int
    ) -> Iterator[_NodeBlock]:
        """Blocks of nodes with all that derivatives up to an order need, one after the other.

        Args:
            order: Of the highest radial derivative.
            features: Whether derivatives by the features will be taken.
            strategy: "differentiable", "streamed" or "cached".
            number: How many vectors there are.
        """
        passing, x = self.passing, self.variables
        if strategy == "differentiable":
            every = [slice(None)]
        else:
            every = passing.node_slices(x.lengths, number)
        if strategy == "cached":
            edges, curvature = self._cached(order, features)
            for rows in every:
                parts = edges.of(rows), curvature.of(rows)
                yield _NodeBlock(rows, self.senders[rows], x.of(rows), *parts)
            return
        inputs = passing.radial.inputs(x.lengths, self.senders, self.tensors, order)
        for rows in every:
            near, variables = inputs.of(rows), x.of(rows)
            jet = passing.radial.jet(self.tensors, near)
            found = edge_products(passing.paths, variables, near.senders, jet, features)
            yield _NodeBlock(rows, near.senders, variables, *found)

    def key(self, features: bool) -> list[Tensor | None]:
        """The tensors that edge products depend on."""
        x = self.variables
        needed = x.lengths if features else None
        return [needed, self.senders, x.lengths, *x.features, *self.tensors]

    def _cached(self, order: int, features: bool) -> tuple[EdgeProducts, Curvature]:
        """Edge products and curvature of all nodes, made when they are asked for first."""
        x, passing, key = self.variables, self.passing, self.key(features)

        def build() -> tuple[EdgeProducts, Curvature]:
            found = self.blocks(order, features, "streamed", 1)
            first = next(found)
            edges = first.edges.room_for(len(x.lengths))
            curvature = first.curvature.room_for(len(x.lengths))
            for block in chain([first], found):
                edges.fill(block.rows, block.edges)
                curvature.fill(block.rows, block.curvature)
            return edges, curvature

        if order < 2:
            return passing.edges.get_or_build(key, build)
        found = passing.curvature.get_or_build([*key, *x.couplings, *x.cotangents], build)
        passing.edges.get_or_build(key, lambda: found)
        return found


@dataclass(frozen=True, eq=False)
class _NodeBlock:
    """A block of nodes: its rows, senders, variables, edge products and curvature."""

    rows: slice
    senders: Tensor
    variables: Variables
    edges: EdgeProducts
    curvature: Curvature


class _Tangents:
    """Vectors in the space of the variables, laid out for the formulas."""

    def __init__(self, passing: MessagePassing, v: Vectors) -> None:
        (lengths, *others), self.number = _columns(v, -2)
        self.paths, count = passing.paths, passing.outputs
        self.vectors = Variables(lengths, others[:count], others[count:])
        self.has_features = len(v.tensors) > passing.required

    def of(self, block: _NodeBlock) -> tuple[Variables, list[Tensor]]:
        """Vectors of a block, with the features of its senders, and these times the weights."""
        sent = [gather(h, block.senders) for h in self.vectors.features]
        v = self.vectors.of(block.rows)._replace(features=sent)
        return v, weighted(self.paths, block.edges, v)


def _add_to_second(pair: Variables, single: Variables) -> Variables:
    """Add one vector's results to the second of two."""

    def add(two: Tensor, one: Tensor) -> Tensor:
        first, second = two.unbind(-2)
        return torch.stack([first, second + one[..., 0, :]], -2)

    return Variables(
        add(pair.lengths, single.lengths),
        [add(*both) for both in zip(pair.couplings, single.couplings, strict=True)],
        [add(*both) for both in zip(pair.features, single.features, strict=True)],
    )


class _Accumulator:
    """Results for all nodes, put together from those of blocks."""

    def __init__(self, arguments: _Arguments, strategy: Strategy) -> None:
        self.strategy = strategy
        self.senders = arguments.variables.features[0].shape[0]
        self.blocks: list[Variables] = []
        self.features: list[Tensor] = []

    def add(self, block: _NodeBlock, found: Variables) -> None:
        """Take the results of some nodes; those for features go to the senders."""
        self.blocks.append(found)
        index = block.senders.reshape(-1)
        rows = [f.flatten(0, 1) for f in found.features]
        if not self.features:
            self.features = [r.new_zeros(self.senders, *r.shape[1:]) for r in rows]
        add = Tensor.index_add if self.strategy == "differentiable" else Tensor.index_add_
        pairs = zip(self.features, rows, strict=True)
        self.features = [add(total, 0, index, r) for total, r in pairs]

    def results(self, batched: bool) -> Outputs:
        """Lengths, couplings, features and cotangents; a batch in front, or no such dimension."""
        lengths = _joined([b.lengths for b in self.blocks])
        couplings = map(_joined, zip(*(b.couplings for b in self.blocks), strict=True))
        cotangents = map(_joined, zip(*(b.cotangents for b in self.blocks), strict=True))
        placed = [(t, -2) for t in (lengths, *couplings, *self.features)]
        placed += [(t, 1) for t in cotangents]
        return tuple(t.movedim(place, 0) if batched else t.squeeze(place) for t, place in placed)


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))


def _columns(vectors: Vectors, place: int) -> tuple[list[Tensor], int]:
    """Vectors with their number as a dimension at `place`, and the number."""
    pairs = list(zip(vectors.tensors, vectors.dims, strict=True))
    number = next((v.shape[dim] for v, dim in pairs if dim is not None), 1)
    out = []
    for v, dim in pairs:
        if dim is not None:
            out.append(v.movedim(dim, place).contiguous())
        else:
            single = v.unsqueeze(place)
            sizes = [-1] * single.ndim
            sizes[place] = number
            out.append(single.expand(sizes))
    return out, number
