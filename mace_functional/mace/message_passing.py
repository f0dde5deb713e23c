"""Message passing as an operation with derivative rules.

`messages` has the formulas. This module decides which nodes they are evaluated for at a time, and
which intermediates are kept, by the strategies of `autodiff.second_order`:

    differentiable      all nodes at once, out of place
    streamed            slice by slice of nodes, intermediates are discarded
    cached              slice by slice, with edge products stored for all nodes

Tensors with one number per edge and channel are made for a few nodes at a time, so that they fit
the cache, and are then discarded: computing the radial network again takes less time than moving
its results through memory. Edge products are stored only if several vectors are multiplied at the
same structure.
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
    EdgeProducts,
    MessageCurvature,
    Path,
    RadialJet,
    Variables,
    Weighted,
    edge_products,
    gradient,
    gradient_along,
    hessian,
    messages,
    messages_along,
    push_forward,
    weight_features,
)
from mace_functional.mace.messages_along import (
    edge_products_along,
    pull_back_along,
    push_forward_along,
)
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.radial_inputs import RadialInputs
from mace_functional.structure.species import gather

MAX_BLOCK_FLOATS = 2**18
"""Largest number of numbers in a tensor of one slice of nodes on the CPU.

Several such tensors fit the cache together (8 bytes each in float64: 2 MiB a tensor).
"""


FEW = 8
"""Number of vectors for which blocks are small enough that all their tensors fit the cache."""


class MessagePassing(SecondOrderOperation):
    """The messages of one layer as a function of lengths, couplings and features.

    Its variables x are lengths, couplings and features. The features are the optional variables,
    because in the first layer they do not depend on the positions. Its further tensors `rest` are
    the senders and the tensors of the radial function.

    The overridden methods take and return lists of tensors in this order, with the shapes of
    `messages.Variables`; a batch of vectors has its dimension in front.
    """

    def __init__(self, paths: Sequence[Path], radial: RadialFunction) -> None:
        self.paths, self.radial = paths, radial
        self.outputs, self.required = len(paths), 1 + len(paths)
        self.optional = 1 + max(path.source for path in paths)
        self.edges, self.curvature, self.last_product = Memo(), Memo(), Memo()
        self.edges_along, self.curvature_along, self.jets = Memo(), Memo(), Memo()

    def blocks(self, at: Primals, order: int, features: bool) -> Iterator[NodeBlock]:
        """Yield all nodes in blocks, with the edge products that derivatives up to an order need.

        Args:
            at: Arguments; cotangents are needed for order 2.
            order: Order of the highest radial derivative.
            features: True if derivatives by the features are needed.
        """
        return _Arguments.of(self, at).blocks(order, features, "streamed", FEW)

    @override
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        blocks = _Arguments.of(self, at).blocks(0, False, strategy, 1)
        by_block = [messages(block.variables, block.edges) for block in blocks]
        return tuple(map(_joined, zip(*by_block, strict=True)))

    @override
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        arguments = _Arguments.of(self, at)
        if strategy == "streamed" and self.edges.get(arguments.key(optional)) is not None:
            strategy = "cached"
        cotangents, n = _columns(g, 1)
        out = _Accumulator(arguments, strategy)
        for block in arguments.blocks(1, optional, strategy, n):
            out.add(block.senders, self._gradient(block, cotangents, optional))
        return out.results(g.batched)

    @override
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        if strategy == "streamed" and self.last_product.note([*at.g, *at.x, *at.rest]):
            strategy = "cached"
        arguments, tangents = _Arguments.of(self, at), _Tangents(self, v)
        features = tangents.has_features or wanted.optional
        out = _Accumulator(arguments, strategy)
        order = 2 if wanted.hessian else 1
        for block in arguments.blocks(order, features, strategy, tangents.n):
            v_block, r_dh = tangents.of(block)
            parts = Variables(v_block.lengths, ())
            if wanted.hessian:
                term = Weighted(block.variables.cotangents, block.edges, r_dh)
                parts = hessian(self.paths, block.curvature, v_block, [term], wanted.optional)
            if wanted.pushforward:
                pushed = push_forward(block.variables, block.edges, v_block, r_dh)
                parts = parts._replace(cotangents=pushed)
            out.add(block.senders, parts)
        results = out.results(v.batched)
        return results if wanted.hessian else results[1:]

    @override
    def product_along(
        self, at: Primals, v: Vectors, w: Tensors, dg: Tensors, wanted: Wanted, strategy: Strategy
    ) -> Outputs:
        arguments, tangents = _Arguments.of(self, at), _Tangents(self, v)
        move = _vector(self, w)._replace(cotangents=dg)
        features = tangents.has_features or wanted.optional
        out = _Accumulator(arguments, strategy)
        order = 2 if wanted.hessian else 1
        for block, moved in arguments.blocks_along(move, order, features, strategy, tangents.n):
            v_block, r_dh = tangents.of(block)
            d_r_dh = weight_features(self.paths, moved.edges, v_block)
            parts = Variables(v_block.lengths, ())
            if wanted.hessian:
                terms = [Weighted(block.variables.cotangents, moved.edges, d_r_dh)]
                if dg:
                    terms.append(Weighted(moved.variables.cotangents, block.edges, r_dh))
                parts = hessian(self.paths, moved.curvature, v_block, terms, wanted.optional)
            if wanted.pushforward:
                point = block.variables, moved.variables, block.edges, moved.edges
                pushed = push_forward_along(*point, v_block, r_dh, d_r_dh)
                parts = parts._replace(cotangents=pushed)
            out.add(block.senders, parts)
        results = out.results(v.batched)
        return results if wanted.hessian else results[1:]

    @override
    def pull_back_along(
        self, at: Primals, g: Vectors, w: Tensors, optional: bool, strategy: Strategy
    ) -> Outputs:
        arguments, move = _Arguments.of(self, at), _vector(self, w)
        cotangents, n = _columns(g, 1)
        out = _Accumulator(arguments, strategy)
        for block, moved in arguments.blocks_along(move, 1, optional, strategy, n):
            point = block.variables, moved.variables, block.edges, moved.edges
            g_block = [t[block.rows] for t in cotangents]
            out.add(block.senders, pull_back_along(self.paths, *point, g_block, optional))
        return out.results(g.batched)

    @override
    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs]:
        arguments, tangents = _Arguments.of(self, at), _vector(self, v)
        values, d_values = [], []
        for rows, radial in arguments.radial_jets():
            block = arguments.variables.of(rows), arguments.senders[rows], radial
            both = messages_along(self.paths, *block, tangents.of(rows))
            values.append(both[0])
            d_values.append(both[1])
        y, dy = (tuple(map(_joined, zip(*t, strict=True))) for t in (values, d_values))
        return y, dy

    @override
    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs]:
        arguments = _Arguments.of(self, at)
        tangents = _vector(self, v)._replace(cotangents=filled(dg, at.g))
        outs = [_Accumulator(arguments, "streamed") for _ in range(2)]
        for rows, radial in arguments.radial_jets():
            senders = arguments.senders[rows]
            block = arguments.variables.of(rows), senders, radial
            results = gradient_along(self.paths, *block, tangents.of(rows), optional)
            for out, result in zip(outs, results, strict=True):
                out.add(senders, result.unsqueezed())
        one, derivative = (out.results(batched=False) for out in outs)
        return one, derivative

    def _gradient(self, block: NodeBlock, g: Sequence[Tensor], features: bool) -> Variables:
        g_block = [w[block.rows] for w in g]
        return gradient(self.paths, block.variables, block.edges, g_block, features)

    def radial_jet(self, tensors: Sequence[Tensor], inputs: RadialInputs) -> RadialJet:
        """Compute the radial weights of a slice of nodes for one Hessian-vector product."""
        (x, slope, second), matrix = self.radial.factors(tensors, inputs)
        return RadialJet(x @ matrix, slope @ matrix, second, matrix)

    def node_slices(self, lengths: Tensor, n: int) -> list[slice]:
        """Return slices of nodes such that tensors for n vectors fit the cache."""
        nodes, neighbours = lengths.shape[:2]
        widest = max((2 * path.l1 + 1) * path.channels for path in self.paths)
        floats = neighbours * widest * n
        return node_slices(0, nodes, floats, MAX_BLOCK_FLOATS, lengths.device)


@dataclass(frozen=True, eq=False)
class _Arguments:
    """Arguments of message passing: senders, variables of Phi, tensors of the radial part."""

    passing: MessagePassing
    senders: Tensor
    variables: Variables
    tensors: Sequence[Tensor]

    @classmethod
    def of(cls, passing: MessagePassing, at: Primals) -> _Arguments:
        """Sort the flat lists of an operation's arguments."""
        (lengths, *others), (senders, *tensors) = at.x, at.rest
        couplings, features = others[: passing.outputs], others[passing.outputs :]
        return cls(passing, senders, Variables(lengths, couplings, features, at.g), tensors)

    def blocks(self, order: int, features: bool, strategy: Strategy, n: int) -> Iterator[NodeBlock]:
        """Yield blocks of nodes with the edge products that derivatives up to an order need.

        Args:
            order: Order of the highest radial derivative.
            features: True if derivatives by the features are needed.
            strategy: "differentiable", "streamed" or "cached".
            n: Number of vectors.
        """
        passing, x = self.passing, self.variables
        if strategy == "differentiable":
            slices = [slice(None)]
        else:
            slices = passing.node_slices(x.lengths, n)
        if strategy == "cached":
            edges, curvature = self._cached(order, features)
            for rows in slices:
                products = edges.of(rows), curvature.of(rows)
                yield NodeBlock(rows, self.senders[rows], x.of(rows), *products)
            return
        inputs = passing.radial.inputs(x.lengths, self.senders, self.tensors, order)
        for rows in slices:
            block_inputs, variables = inputs.of(rows), x.of(rows)
            senders, jet = block_inputs.senders, passing.radial.jet(self.tensors, block_inputs)
            products = edge_products(passing.paths, variables, senders, jet, features)
            yield NodeBlock(rows, senders, variables, *products)

    def radial_jets(self) -> list[tuple[slice, RadialJet]]:
        """Return slices of nodes with their radial weights; they are kept for the way back."""
        passing, lengths = self.passing, self.variables.lengths

        def build() -> list[tuple[slice, RadialJet]]:
            inputs = passing.radial.inputs(lengths, self.senders, self.tensors, 2)
            slices = passing.node_slices(lengths, 2)
            return [(rows, passing.radial_jet(self.tensors, inputs.of(rows))) for rows in slices]

        key = [lengths, self.senders, *self.tensors]
        blocks: list[tuple[slice, RadialJet]] = passing.jets.get_or_build(key, build)
        return blocks

    def key(self, features: bool) -> list[Tensor | None]:
        """Return the tensors that edge products depend on, as the key of the cache."""
        x = self.variables
        with_weights = x.lengths if features else None
        return [with_weights, self.senders, x.lengths, *x.features, *self.tensors]

    def blocks_along(
        self, w: Variables, order: int, features: bool, strategy: Strategy, n: int
    ) -> Iterator[tuple[NodeBlock, NodeBlock]]:
        """Yield blocks of nodes, and the same blocks with the derivatives of their tensors along w.

        The first block of each pair has no curvature; the variables of the second are those of w.

        Args:
            w: A single vector in the space of the variables.
            order: 2 for the derivatives of the curvature too, 1 for those of edge products alone.
            features: True if derivatives by the features are needed.
            strategy: "streamed" or "cached".
            n: Number of vectors that are multiplied.
        """
        passing, x = self.passing, self.variables
        slices = passing.node_slices(x.lengths, n)
        if strategy == "cached":
            edges, none = self._cached(1, features)
            d_edges, curvature = self._cached_along(w, order, features)
            for rows in slices:
                yield (
                    self._block(rows, x, edges.of(rows), none.of(rows)),
                    self._block(rows, w, d_edges.of(rows), curvature.of(rows)),
                )
            return
        inputs = passing.radial.inputs(x.lengths, self.senders, self.tensors, order + 1)
        for rows in slices:
            block_inputs, here, move = inputs.of(rows), x.of(rows), w.of(rows)
            senders, jet = block_inputs.senders, passing.radial.jet(self.tensors, block_inputs)
            products = edge_products(passing.paths, here, senders, jet[:2], features)
            moved = edge_products_along(passing.paths, here, move, senders, jet, features)
            yield self._block(rows, x, *products), self._block(rows, w, *moved)

    def _block(
        self, rows: slice, x: Variables, edges: EdgeProducts, curvature: MessageCurvature
    ) -> NodeBlock:
        return NodeBlock(rows, self.senders[rows], x.of(rows), edges, curvature)

    def _cached(self, order: int, features: bool) -> tuple[EdgeProducts, MessageCurvature]:
        """Return edge products and curvature of all nodes; the first call makes them."""
        x, passing = self.variables, self.passing
        features = features or passing.edges.get(self.key(features=True)) is not None
        key = self.key(features)

        def build() -> tuple[EdgeProducts, MessageCurvature]:
            return self._of_all_nodes(self.blocks(order, features, "streamed", 1))

        if order < 2:
            return passing.edges.get_or_build(key, build)
        products = passing.curvature.get_or_build([*key, *x.couplings, *x.cotangents], build)
        passing.edges.get_or_build(key, lambda: products)
        return products

    def _cached_along(
        self, w: Variables, order: int, features: bool
    ) -> tuple[EdgeProducts, MessageCurvature]:
        """Return their derivatives along w; the first call makes them."""
        x, passing = self.variables, self.passing
        moves = [w.lengths, *w.couplings, *w.features]
        with_features = [*self.key(features=True), *moves]
        features = features or passing.edges_along.get(with_features) is not None
        key = with_features if features else [*self.key(features=False), *moves]

        def build() -> tuple[EdgeProducts, MessageCurvature]:
            pairs = self.blocks_along(w, order, features, "streamed", 1)
            return self._of_all_nodes(moved for _, moved in pairs)

        if order < 2:
            return passing.edges_along.get_or_build(key, build)
        of_curvature = [*key, *x.couplings, *x.cotangents, *w.cotangents]
        products = passing.curvature_along.get_or_build(of_curvature, build)
        passing.edges_along.get_or_build(key, lambda: products)
        return products

    def _of_all_nodes(self, blocks: Iterator[NodeBlock]) -> tuple[EdgeProducts, MessageCurvature]:
        """Copy edge products and curvature of all blocks into tensors of all nodes."""
        nodes, first = len(self.variables.lengths), next(blocks)
        edges, curvature = first.edges.room_for(nodes), first.curvature.room_for(nodes)
        for block in chain([first], blocks):
            edges.fill(block.rows, block.edges)
            curvature.fill(block.rows, block.curvature)
        return edges, curvature


@dataclass(frozen=True, eq=False)
class NodeBlock:
    """A slice of nodes with its senders, variables, edge products and curvature."""

    rows: slice
    senders: Tensor
    variables: Variables
    edges: EdgeProducts
    curvature: MessageCurvature


class _Tangents:
    """Vectors in the space of the variables, in the layout of `messages.Variables`."""

    def __init__(self, passing: MessagePassing, v: Vectors) -> None:
        (lengths, *others), self.n = _columns(v, -2)
        self.paths, count = passing.paths, passing.outputs
        self.vectors = Variables(lengths, others[:count], others[count:])
        self.has_features = len(v.tensors) > passing.required

    def of(self, block: NodeBlock) -> tuple[Variables, list[Tensor]]:
        """Return the vectors of a block, with dh gathered for the edges, and `R dh`."""
        dh = [gather(h, block.senders) for h in self.vectors.features]
        v = self.vectors.of(block.rows)._replace(features=dh)
        return v, weight_features(self.paths, block.edges, v)


def _vector(passing: MessagePassing, v: Tensors) -> Variables:
    """Sort the flat list of a single vector."""
    count = passing.outputs
    return Variables(v[0], v[1 : 1 + count], v[1 + count :])


class _Accumulator:
    """Results for all nodes, assembled from the results of blocks."""

    def __init__(self, arguments: _Arguments, strategy: Strategy) -> None:
        self.strategy = strategy
        self.senders = arguments.variables.features[0].shape[0]
        self.blocks: list[Variables] = []
        self.features: list[Tensor] = []

    def add(self, senders: Tensor, parts: Variables) -> None:
        """Take the results of a block; derivatives by features are added to the senders."""
        self.blocks.append(parts)
        index = senders.reshape(-1)
        rows = [f.flatten(0, 1) for f in parts.features]
        if not self.features:
            self.features = [r.new_zeros(self.senders, *r.shape[1:]) for r in rows]
        add = Tensor.index_add if self.strategy == "differentiable" else Tensor.index_add_
        pairs = zip(self.features, rows, strict=True)
        self.features = [add(total, 0, index, r) for total, r in pairs]

    def results(self, batched: bool) -> Outputs:
        """Return results by lengths, couplings, features and cotangents, a batch in front."""
        lengths = _joined([b.lengths for b in self.blocks])
        couplings = map(_joined, zip(*(b.couplings for b in self.blocks), strict=True))
        cotangents = map(_joined, zip(*(b.cotangents for b in self.blocks), strict=True))
        with_dims = [(t, -2) for t in (lengths, *couplings, *self.features)]
        with_dims += [(t, 1) for t in cotangents]
        return tuple(t.movedim(dim, 0) if batched else t.squeeze(dim) for t, dim in with_dims)


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))


def _columns(vectors: Vectors, place: int) -> tuple[list[Tensor], int]:
    """Move the batch dimension of vectors to `place`; return the vectors and their number n."""
    pairs = list(zip(vectors.tensors, vectors.dims, strict=True))
    n = next((v.shape[dim] for v, dim in pairs if dim is not None), 1)
    out = []
    for v, dim in pairs:
        if dim is not None:
            out.append(v.movedim(dim, place).contiguous())
        else:
            single = v.unsqueeze(place)
            sizes = [-1] * single.ndim
            sizes[place] = n
            out.append(single.expand(sizes))
    return out, n
