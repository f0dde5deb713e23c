"""Messages of one layer as a function of points, cell and features, with derivative rules.

The lengths r and couplings `T = Y W` of the edges are functions of points and cell
(`edge_coordinates`), and the messages are functions of r, T and the features h
(`message_passing`). This module joins the two by the chain rule: with `Phi = <g, A>` and an edge
vector v,

    dPhi/dv = J^T (phi_r, phi_T W^T),
    d2Phi/dv2 dv = J^T (hv_r, hv_T W^T) + (phi_r d2r/dv2 + phi_T W^T d2Y/dv2) dv,

and likewise their derivatives as points, cell and features move along a single vector w, with the
derivative of J along w.

Many vectors at a single small structure are multiplied by matrices between all points instead
(`dense_messages`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.derivative_rules import apply_operation
from mace_functional.autodiff.primitive import Arguments, Memo, Outputs
from mace_functional.autodiff.second_order import (
    Primals,
    SecondOrderOperation,
    Strategy,
    Tensors,
    Vectors,
    Wanted,
)
from mace_functional.mace.dense_messages import (
    CurvatureMatrices,
    LinearMatrices,
    all_matrices,
    dense_pays,
    linear_matrices,
)
from mace_functional.mace.edge_arguments import EdgeArguments, split_by_path
from mace_functional.mace.edge_coordinates import EdgeCoordinates
from mace_functional.mace.message_passing import MessagePassing
from mace_functional.mace.messages import Path
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.structure.topology import EdgeList

EDGE_TENSORS = len(EdgeList._fields)


class LayerMessages(SecondOrderOperation):
    """The messages of one layer as a function of points, cell and features; call it.

    Its variables x are points and cell, and the features as optional variables. Its further
    tensors `rest` are those of the `EdgeList`, the cutoff radius, the map W from harmonics to
    couplings, and the tensors of the radial function.
    """

    required = 2

    def __init__(
        self, paths: Sequence[Path], radial: RadialFunction, coordinates: EdgeCoordinates
    ) -> None:
        self.paths, self.coordinates = paths, coordinates
        self.passing = MessagePassing(paths, radial)
        self.outputs, self.optional = self.passing.outputs, self.passing.optional
        self.couplings, self.bending, self.bending_along = Memo(), Memo(), Memo()
        self.linear, self.curvature, self.moves = Memo(), Memo(), Memo()
        self.last_product, self.last_along = Memo(), Memo()

    def __call__(
        self,
        points: Tensor,
        cell: Tensor,
        features: Sequence[Tensor],
        edges: EdgeList,
        r_max: Tensor,
        coupling: Tensor,
    ) -> list[Tensor]:
        """Compute the messages of each path, (nodes, 2 l3+1, channels).

        Args:
            points: Positions of the points, Å, (points, 3).
            cell: Lattice vectors, Å, (3, 3).
            features: Features of each irrep of the senders, (senders, 2 l1+1, channels).
            edges: The edges.
            r_max: Cutoff radius, Å, ().
            coupling: W, (M, sum over paths of (2 l1+1) (2 l3+1)).
        """
        rest: list[Any] = [*edges, r_max, coupling, *self.passing.radial.tensors]
        return list(apply_operation(self, [points, cell, *features], rest))

    @override
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        return self.passing.value(self._at(at, strategy).primals, strategy)

    @override
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        if strategy == "streamed" and self.linear.get(self._key(at, optional)) is not None:
            strategy = "cached"
        if strategy == "cached" and self._dense(at, optional):
            gradient = self._linear_matrices(at, optional).gradient(_batch(g))
            return gradient if g.batched else _first(gradient)
        here = self._at(at, strategy)
        phi = self.passing.gradient(here.primals, g, optional, strategy)
        if g.batched:
            return here.pulled_back(phi)
        return _first(here.pulled_back([t[None] for t in phi]))

    @override
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        if strategy == "streamed" and self.last_product.note([*at.g, *at.x, *at.rest]):
            strategy = "cached"
        features = wanted.optional or len(v.tensors) > self.required
        if strategy == "cached" and self._dense(at, features):
            products = self._dense_product(at, _batch(v), wanted, features)
        else:
            products = self._product_along_edges(at, v, wanted, strategy)
        return products if v.batched else _first(products)

    def _product_along_edges(
        self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy
    ) -> Outputs:
        here = self._at(at, strategy)
        dv, vectors = here.along(v)
        products = self.passing.product(here.primals, vectors, wanted, strategy)
        if not wanted.hessian:
            return products
        bent = dv @ self._bending(at, here, strategy)
        hv = products[: len(products) - self.outputs * wanted.pushforward]
        return (*here.pulled_back(hv, bent), *products[len(hv) :])

    @override
    def product_along(
        self, at: Primals, v: Vectors, w: Tensors, dg: Tensors, wanted: Wanted, strategy: Strategy
    ) -> Outputs:
        if strategy == "streamed" and self.last_along.note([*w, *dg, *at.g, *at.x, *at.rest]):
            strategy = "cached"
        batch, passing = _batch(v), self.passing
        here, (moved, _, tangents) = self._at(at, strategy), self._move(at, w)
        dv, vectors = here.along(batch)
        bends = moved.along(Vectors(batch.tensors[:2], batch.dims[:2]))[1]
        primals = here.primals
        along = passing.product_along(primals, vectors, tangents, dg, wanted, strategy)
        bent = passing.product(primals, bends, wanted, strategy)
        products = tuple(a + b for a, b in zip(along, bent, strict=True))
        if wanted.hessian:
            rows = len(products) - self.outputs * wanted.pushforward
            hessian = Wanted(hessian=True, pushforward=False, optional=False)
            hv = passing.product(primals, vectors, hessian, strategy)
            to_vectors = dv @ self._bending_along(at, w, dg, strategy)
            points, cell, *features = here.pulled_back(products[:rows], to_vectors)
            d_points, d_cell = moved.pulled_back(hv)
            products = (points + d_points, cell + d_cell, *features, *products[rows:])
        return products if v.batched else _first(products)

    @override
    def pull_back_along(
        self, at: Primals, g: Vectors, w: Tensors, optional: bool, strategy: Strategy
    ) -> Outputs:
        batch = _batch(g)
        here, (moved, _, tangents) = self._at(at, strategy), self._move(at, w)
        phi = self.passing.gradient(here.primals, batch, False, strategy)
        d_phi = self.passing.pull_back_along(here.primals, batch, tangents, optional, strategy)
        points, cell, *features = here.pulled_back(d_phi)
        d_points, d_cell = moved.pulled_back(phi)
        gradient = (points + d_points, cell + d_cell, *features)
        return gradient if g.batched else _first(gradient)

    @override
    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs]:
        here = self._at(at, "streamed")
        return self.passing.value_along(here.primals, here.along_one(v)[1])

    @override
    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs]:
        here = self._at(at, "streamed")
        dv, tangents = here.along_one(v)
        phi, d_phi = self.passing.gradient_along(here.primals, tangents, dg, optional)
        bent = dv @ here.weighted_hessian(phi)
        one, other = ([t[None] for t in part] for part in (phi, d_phi))
        return _first(here.pulled_back(one)), _first(here.pulled_back(other, bent))

    @override
    def joined(
        self, count: int, x: Tensors, rest: Tensors, mapped: Sequence[bool]
    ) -> tuple[LayerMessages, Tensors] | None:
        edges, points = EdgeList(*rest[:EDGE_TENSORS]), x[0].shape[0] // count
        constants, first = rest[EDGE_TENSORS : EDGE_TENSORS + 2], EDGE_TENSORS + 2
        if any(mapped[EDGE_TENSORS:first]) or points * count != x[self.required].shape[0]:
            return None
        if edges.factors is not None:
            return None
        radial_rest, radial_mapped = [edges.senders, *rest[first:]], [mapped[1], *mapped[first:]]
        joint = self.passing.radial.joined(count, radial_rest, radial_mapped)
        if joint is None:
            return None
        radial, (_, *tensors) = joint
        coordinates, of_all = self.coordinates.joined(count, points, edges, mapped[:EDGE_TENSORS])
        layer = LayerMessages(self.paths, radial, coordinates)
        rest_of_all: list[Any] = [*of_all, *constants, *tensors]
        return layer, rest_of_all

    def _at(self, at: Primals, strategy: Strategy) -> EdgeArguments:
        """Compute the coordinates of the edges and the arguments of the message passing."""
        (points, cell, *features), rest = at.x, at.rest
        edges = EdgeList(*rest[:EDGE_TENSORS])
        r_max, coupling, *radial = rest[EDGE_TENSORS:]
        point = self.coordinates.at(points, cell, edges, r_max, strategy)

        def couplings() -> list[Tensor]:
            return [t.contiguous() for t in split_by_path(self.paths, point.harmonics @ coupling)]

        if strategy == "differentiable":
            ts = couplings()
        else:
            ts = self.couplings.get_or_build([point.harmonics, coupling], couplings)
        x = [point.lengths, *ts, *features]
        return EdgeArguments(
            self.paths, point, coupling, Primals(x, [edges.senders, *radial], at.g)
        )

    def _bending(self, at: Primals, here: EdgeArguments, strategy: Strategy) -> Tensor:
        """Compute the second derivative of Phi by v that comes from d2r/dv2 and d2Y/dv2."""

        def compute() -> Tensor:
            g = Vectors.single(at.g)
            return here.weighted_hessian(self.passing.gradient(here.primals, g, False, strategy))

        if strategy == "differentiable":
            return compute()
        return self.bending.get_or_build([*at.g, *at.x, *at.rest], compute)

    def _move(self, at: Primals, w: Tensors) -> tuple[EdgeArguments, Tensor, list[Tensor]]:
        """Return arguments with dJ along w in place of J, dv, and the tangents of r, T and h."""

        def build() -> tuple[EdgeArguments, Tensor, list[Tensor]]:
            here = self._at(at, "streamed")
            dv, tangents = here.along_one(w)
            return here.moved_along(dv[:, :, 0]), dv[:, :, 0], tangents

        return self.moves.get_or_build([*w, *at.x, *at.rest], build)

    def _bending_along(self, at: Primals, w: Tensors, dg: Tensors, strategy: Strategy) -> Tensor:
        """Compute the derivative of `_bending` along w and dg."""

        def build() -> Tensor:
            here, passing = self._at(at, strategy), self.passing
            _, dv, tangents = self._move(at, w)
            phi = passing.gradient(here.primals, Vectors.single(at.g), False, strategy)
            hessian = Wanted(hessian=True, pushforward=False, optional=False)
            d_phi = passing.product(here.primals, Vectors.single(tangents), hessian, strategy)
            if dg:
                by_g = passing.gradient(here.primals, Vectors.single(dg), False, strategy)
                d_phi = tuple(a + b for a, b in zip(d_phi, by_g, strict=True))
            return here.weighted_hessian_along(phi, d_phi, dv)

        return self.bending_along.get_or_build([*w, *dg, *at.g, *at.x, *at.rest], build)

    def _dense(self, at: Primals, features: bool) -> bool:
        edges, points = EdgeList(*at.rest[:EDGE_TENSORS]), at.x[0]
        if edges.factors is not None:
            return True
        if at.x[1].shape[0] > 3:
            return False  # several structures
        return dense_pays(self.paths, points.shape[0], edges.senders, features, points.dtype)

    def _dense_product(self, at: Primals, v: Vectors, wanted: Wanted, features: bool) -> Outputs:
        if not wanted.hessian:
            return self._linear_matrices(at, features).push_forward(v)

        def build() -> tuple[LinearMatrices, CurvatureMatrices]:
            return all_matrices(self.passing, self._at(at, "streamed"), features)

        key = self._key(at, features)
        built = self.curvature.get_or_build([*at.g, *key], build)
        linear, curvature = self.linear.get_or_build(key, lambda: built[0]), built[1]
        hv = curvature.product(v, wanted.optional)
        return (*hv, *linear.push_forward(v)) if wanted.pushforward else hv

    def _linear_matrices(self, at: Primals, features: bool) -> LinearMatrices:
        """Return the matrices of first derivatives at this structure; the first call makes them."""

        def build() -> LinearMatrices:
            return linear_matrices(self.passing, self._at(at, "streamed"), features)

        return self.linear.get_or_build(self._key(at, features), build)

    def _key(self, at: Primals, features: bool) -> list[Tensor | None]:
        return [at.x[0] if features else None, *at.x, *at.rest]


def _batch(v: Vectors) -> Vectors:
    """Return a single vector as a batch of one."""
    return v if v.batched else Vectors([t[None] for t in v.tensors], [0] * len(v.tensors))


def _first(batch: Outputs) -> Outputs:
    """Return the first vector of a batch."""
    return tuple(t[0] for t in batch)
