"""Message passing as operations with derivative rules: when to compute what, and what to keep.

Everything of the size of edges x channels is made for a few nodes at a time, so that it fits the
cache, and thrown away: computing the radial network again costs less than memory. Only where more
than one vector comes for the same structure are the edge products kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from mace_functional.autodiff.blocks import blocks
from mace_functional.autodiff.primitive import (
    Arguments,
    Dimensions,
    Memo,
    Outputs,
    Primitive,
    add_outputs,
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
from mace_functional.mace.radial import RadialFunction
from mace_functional.structure.species import gather

CACHED_NUMBERS = 2**18
"""Numbers in one tensor of a block of nodes on CPU, so that several tensors fit the cache."""

How = Literal["plain", "once", "kept"]
T = TypeVar("T")


class MessagePassing:
    """The messages of one layer, as a function with rules for its derivatives; call it."""

    def __init__(self, paths: Sequence[Path], radial: RadialFunction) -> None:
        self.paths, self.radial = paths, radial
        self.sources = 1 + max(path.source for path in paths)
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
        tensors = self.radial.tensors
        return list(_Messages(self)(senders, lengths, *couplings, *features, *tensors))

    def blocks(self, lengths: Tensor, number: int) -> list[slice]:
        """Nodes to treat at once with a number of vectors."""
        nodes, neighbours = lengths.shape[:2]
        widest = max((2 * path.l1 + 1) * path.channels for path in self.paths)
        return blocks(0, nodes, neighbours * widest * number, CACHED_NUMBERS, lengths.device)


@dataclass(frozen=True, eq=False)
class _Point:
    """Arguments, sorted: where the messages are differentiated."""

    passing: MessagePassing
    senders: Tensor
    variables: Variables
    tensors: Sequence[Tensor]

    @classmethod
    def of(cls, passing: MessagePassing, args: Sequence[Any], cotangents: bool) -> _Point:
        """Sort the arguments (cotangents, senders, lengths, couplings, features, tensors)."""
        paths = len(passing.paths)
        sizes = (paths if cotangents else 0, 1, 1, paths, passing.sources)
        parts, start = [], 0
        for size in sizes:
            parts.append(args[start : start + size])
            start += size
        g, (senders,), (lengths,), couplings, features = parts
        return cls(passing, senders, Variables(lengths, couplings, features, g), args[start:])

    def edges(self, order: int, features: bool, how: How, number: int) -> Iterator[_Here]:
        """What derivatives up to an order need, for some nodes after others.

        Args:
            order: Of the highest radial derivative.
            features: Whether derivatives by the features will be taken.
            how: "plain" has all nodes at once, in operations that may be differentiated; "once"
                goes block by block; "kept" too, from what was made and kept for all nodes.
            number: How many vectors there are.
        """
        passing, x = self.passing, self.variables
        every = [slice(None)] if how == "plain" else passing.blocks(x.lengths, number)
        if how == "kept":
            edges, curvature = self._kept(order, features)
            for rows in every:
                parts = edges.of(rows), curvature.of(rows)
                yield _Here(rows, self.senders[rows], x.of(rows), *parts)
            return
        scalars = passing.radial.scalars(x.lengths, self.senders, self.tensors, order)
        for rows in every:
            near, here = scalars.of(rows), x.of(rows)
            jet = passing.radial.jet(self.tensors, near)
            found = edge_products(passing.paths, here, near.senders, jet, features)
            yield _Here(rows, near.senders, here, *found)

    def key(self, features: bool) -> list[Tensor | None]:
        """What the edge products depend on."""
        x = self.variables
        needed = x.lengths if features else None
        return [needed, self.senders, x.lengths, *x.features, *self.tensors]

    def _kept(self, order: int, features: bool) -> tuple[EdgeProducts, Curvature]:
        """Edge products and curvature of all nodes, made when they are asked for first."""
        x, passing, key = self.variables, self.passing, self.key(features)

        def build() -> tuple[EdgeProducts, Curvature]:
            found = self.edges(order, features, "once", 1)
            first = next(found)
            edges = first.edges.room_for(len(x.lengths))
            curvature = first.curvature.room_for(len(x.lengths))
            for here in chain([first], found):
                edges.fill(here.rows, here.edges)
                curvature.fill(here.rows, here.curvature)
            return edges, curvature

        if order < 2:
            return passing.edges.get_or_build(key, build)
        found = passing.curvature.get_or_build([*key, *x.couplings, *x.cotangents], build)
        passing.edges.get_or_build(key, lambda: found)
        return found


@dataclass(frozen=True, eq=False)
class _Here:
    """Some nodes: which, their senders, variables, edge products and curvature."""

    rows: slice
    senders: Tensor
    variables: Variables
    edges: EdgeProducts
    curvature: Curvature


class _Messages(Primitive):
    """The messages, of senders, lengths, couplings, features and tensors."""

    def __init__(self, passing: MessagePassing) -> None:
        self.passing = passing

    def value(self, *args: Any) -> Outputs:
        return self._evaluate(args, "plain")

    def compute(self, *args: Any) -> Outputs:
        return self._evaluate(args, "once")

    def _evaluate(self, args: Sequence[Any], how: How) -> Outputs:
        point = _Point.of(self.passing, args, cotangents=False)
        found = [
            messages(here.variables, here.edges)
            for here in point.edges(order=0, features=False, how=how, number=1)
        ]
        return tuple(map(_joined, zip(*found, strict=True)))

    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        variables, tensors = _split(self.passing, tangents)
        if any(t is not None for t in tensors):
            return super().compute_jvp(args, tangents)
        vector, moved = _filled(self.passing, variables, args)
        point = _Point.of(self.passing, args, cotangents=False)
        along = _Vectors(self.passing, vector, moved)
        found = []
        for here in point.edges(order=1, features=moved, how="once", number=1):
            v, moving = along.at(here)
            pushed = push_forward(here.variables, here.edges, v, moving)
            found.append((messages(here.variables, here.edges), [w[:, 0] for w in pushed]))
        values, changes = (
            tuple(map(_joined, zip(*t, strict=True))) for t in zip(*found, strict=True)
        )
        return values, changes

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        variables, tensors = _split(self.passing, tangents)
        along = None
        if any(t is not None for t in variables):
            vector, moved = _filled(self.passing, variables, args)
            push = _Second(self.passing, moved, features=False, curved=False, pushed=True)
            along = push(*vector, *args)
        still = [None] * (len(args) - len(tensors))
        return add_outputs(along, self.plain_jvp(args, (*still, *tensors)))

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        variables, tensors = _split(self.passing, needed)
        features = any(variables[1 + len(self.passing.paths) :])
        still = [False] * (len(args) - len(tensors))
        out = self.plain_vjp(args, cotangents, (*still, *tensors))
        if any(variables):
            found = _Gradient(self.passing, features)(*cotangents, *args)
            out[1 : 1 + len(found)] = found
        return out


class _Gradient(Primitive):
    """Gradient of Phi by lengths, couplings and perhaps features, of cotangents and the rest."""

    def __init__(self, passing: MessagePassing, features: bool) -> None:
        self.passing, self.features = passing, features
        self.paths = len(passing.paths)

    def value(self, *args: Any) -> Outputs:
        return self._evaluate(args, [None] * len(args), "plain")

    def compute(self, *args: Any) -> Outputs:
        point = _Point.of(self.passing, args, cotangents=True)
        kept = self.passing.edges.get(point.key(self.features)) is not None
        return self._evaluate(args, [None] * len(args), "kept" if kept else "once")

    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        if any(dim is not None for dim in dims[self.paths :]):
            return None
        return self._evaluate(args, dims, "kept")

    def _evaluate(self, args: Sequence[Any], dims: Dimensions, how: How) -> Outputs:
        point = _Point.of(self.passing, args, cotangents=True)
        along, number = _columns(point.variables.cotangents, dims, 1)
        out = _Collected(point, how)
        for here in point.edges(order=1, features=self.features, how=how, number=number):
            g = [w[here.rows] for w in along]
            paths = self.passing.paths
            out.add(here, gradient(paths, here.variables, here.edges, g, self.features))
        return out.results(batched=any(dim is not None for dim in dims))

    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        paths = self.paths
        variables, tensors = _split(self.passing, tangents[paths:])
        if any(t is not None for t in tensors):
            return super().compute_jvp(args, tangents)
        vector, moved = _filled(self.passing, variables, args[paths:])
        point = _Point.of(self.passing, args, cotangents=True)
        along = _Vectors(self.passing, vector, moved)
        moving_g = _zeros_for(tangents[:paths], args[:paths])
        both = [torch.stack(pair, 1) for pair in zip(args[:paths], moving_g, strict=True)]
        out = _Collected(point, "once")
        for here in point.edges(order=2, features=self.features or moved, how="once", number=2):
            x, edges = here.variables, here.edges
            g = [w[here.rows] for w in both]
            found = gradient(self.passing.paths, x, edges, g, self.features)
            v, moving = along.at(here)
            curved = hessian(self.passing.paths, x, edges, here.curvature, v, moving, self.features)
            out.add(here, _add_to_second(found, curved))
        results = out.results(batched=True)
        return tuple(t[0] for t in results), tuple(t[1] for t in results)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        paths = self.paths
        variables, tensors = _split(self.passing, tangents[paths:])
        along = curved = None
        if any(t is not None for t in tangents[:paths]):
            along = self(*_zeros_for(tangents[:paths], args[:paths]), *args[paths:])
        if any(t is not None for t in variables):
            vector, moved = _filled(self.passing, variables, args[paths:])
            second = _Second(self.passing, moved, self.features, curved=True, pushed=False)
            curved = second(*vector, *args)
        still = [None] * (len(args) - len(tensors))
        return add_outputs(along, curved, self.plain_jvp(args, (*still, *tensors)))

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        paths = self.paths
        variables, tensors = _split(self.passing, needed[paths:])
        still = [False] * (len(args) - len(tensors))
        out = self.plain_vjp(args, cotangents, (*still, *tensors))
        pushed, wanted = any(needed[:paths]), any(variables[1 + paths :])
        if pushed or any(variables):
            vector = [*cotangents, *[None] * (1 + paths + self.passing.sources - len(cotangents))]
            second = _Second(self.passing, self.features, wanted, curved=True, pushed=pushed)
            found = list(second(*vector, *args))
            if pushed:
                out[:paths] = found[-paths:]
                del found[-paths:]
            out[1 + paths : 1 + paths + len(found)] = found
        return out


class _Second(Primitive):
    """Second derivatives of Phi times a vector: of the vector, perhaps cotangents, and the rest.

    The vector has lengths, couplings and features; its features are None where it has none.
    """

    def __init__(
        self, passing: MessagePassing, moved: bool, features: bool, *, curved: bool, pushed: bool
    ) -> None:
        """Choose parts.

        Args:
            passing: The messages.
            moved: Whether the vector has features.
            features: Whether results by features are wanted.
            curved: Whether results by lengths and couplings are wanted; takes cotangents.
            pushed: Whether results by cotangents are wanted: the change of the messages.
        """
        self.passing, self.moved, self.features = passing, moved, features
        self.curved, self.pushed = curved, pushed
        self.width = 1 + len(passing.paths) + passing.sources

    def value(self, *args: Any) -> Outputs:
        return self._evaluate(args, [None] * len(args), "plain")

    def compute(self, *args: Any) -> Outputs:
        again = self.passing.asked.note(args[self.width :])
        return self._evaluate(args, [None] * len(args), "kept" if again else "once")

    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        if any(dim is not None for dim in dims[self.width :]):
            return None
        return self._evaluate(args, dims, "kept")

    def _evaluate(self, args: Sequence[Any], dims: Dimensions, how: How) -> Outputs:
        passing = self.passing
        point = _Point.of(passing, args[self.width :], cotangents=self.curved)
        along = _Vectors(passing, args[: self.width], self.moved, dims)
        out = _Collected(point, how)
        order = 2 if self.curved else 1
        for here in point.edges(order, self.moved or self.features, how, along.number):
            x, edges = here.variables, here.edges
            v, moving = along.at(here)
            found = Variables(v.lengths, ())
            if self.curved:
                arguments = (x, edges, here.curvature, v, moving, self.features)
                found = hessian(passing.paths, *arguments)
            if self.pushed:
                found = found._replace(cotangents=push_forward(x, edges, v, moving))
            out.add(here, found)
        results = out.results(batched=any(dim is not None for dim in dims))
        return results if self.curved else results[1:]


class _Vectors:
    """Vectors in the space of the variables, laid out for the formulas."""

    def __init__(
        self,
        passing: MessagePassing,
        vector: Sequence[Any],
        moved: bool,
        dims: Dimensions | None = None,
    ) -> None:
        """Lay out.

        Args:
            passing: The messages.
            vector: Lengths, couplings and features.
            moved: Whether the features are not None.
            dims: Where each has a batch dimension; None for a single vector.
        """
        present = len(vector) if moved else len(vector) - passing.sources
        dims = [None] * present if dims is None else dims
        (lengths, *others), self.number = _columns(vector[:present], dims, -2)
        self.paths, count = passing.paths, len(passing.paths)
        self.vectors = Variables(lengths, others[:count], others[count:])

    def at(self, here: _Here) -> tuple[Variables, list[Tensor]]:
        """Those of some nodes with the features of the senders, and these times the weights."""
        sent = [gather(h, here.senders) for h in self.vectors.features]
        v = self.vectors.of(here.rows)._replace(features=sent)
        return v, weighted(self.paths, here.edges, v)


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


class _Collected:
    """Results for all nodes, put together from blocks of them."""

    def __init__(self, point: _Point, how: How) -> None:
        self.how = how
        self.senders = point.variables.features[0].shape[0]
        self.blocks: list[Variables] = []
        self.features: list[Tensor] = []

    def add(self, here: _Here, found: Variables) -> None:
        """Take the results of some nodes; those for features go to the senders."""
        self.blocks.append(found)
        index = here.senders.reshape(-1)
        rows = [f.flatten(0, 1) for f in found.features]
        if not self.features:
            self.features = [r.new_zeros(self.senders, *r.shape[1:]) for r in rows]
        add = Tensor.index_add if self.how == "plain" else Tensor.index_add_
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


def _columns(vectors: Sequence[Tensor], dims: Dimensions, place: int) -> tuple[list[Tensor], int]:
    """Vectors with their number as a dimension at `place`, and the number."""
    pairs = list(zip(vectors, dims, strict=False))
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


def _split(passing: MessagePassing, every: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """What belongs to the variables, and what to the tensors; the senders are left out."""
    end = 2 + len(passing.paths) + passing.sources
    return every[1:end], every[end:]


def _filled(
    passing: MessagePassing, tangents: Arguments, args: Arguments
) -> tuple[list[Tensor | None], bool]:
    """A vector from tangents of the variables, and whether it has features."""
    start = 1 + len(passing.paths)
    moved = any(t is not None for t in tangents[start:])
    vector = _zeros_for(tangents[:start], args[1 : 1 + start])
    if moved:
        return [*vector, *_zeros_for(tangents[start:], args[1 + start :])], True
    return [*vector, *[None] * passing.sources], False


def _zeros_for(tangents: Arguments, args: Arguments) -> list[Tensor]:
    pairs = zip(tangents, args, strict=False)
    return [torch.zeros_like(a) if t is None else t for t, a in pairs]
