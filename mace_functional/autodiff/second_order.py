"""Operations with formulas for their derivatives.

An operation is `y = F(x; rest)`, with variables x and further tensors `rest`. With cotangents g of
y, all derivatives up to third order by x follow from `Phi(x, g; rest) = <g, F(x; rest)>`:

    value               y = dPhi/dg
    gradient            dPhi/dx
    product             d2Phi/dx2 v  (the Hessian of Phi times v)  and  d2Phi/dg dx v = dF/dx v
    product along w     d3Phi/dx3 v w  and  d2F/dx2 v w, the product's derivative as x moves along w

`derivative_rules` makes a primitive of each of the four. The last one differentiates the product
where an operation has no formula for it.

Each formula has three strategies:

    differentiable      under transforms: all at once, out of place, nothing is kept
    streamed            plain tensors and one vector: in blocks, intermediates are discarded
    cached              plain tensors and many vectors: from intermediates that were made once

A batch of points x is joined to one point (`batches`), at which the same strategies apply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mace_functional.autodiff.forward_mode import jvp
from mace_functional.autodiff.primitive import Arguments, Dimensions, Memo, Outputs

Strategy = Literal["differentiable", "streamed", "cached"]
Tensors = Sequence[Tensor]


class Primals(NamedTuple):
    """The point at which an operation is differentiated.

    Attributes:
        x: Variables.
        rest: Further tensors.
        g: Cotangents of y; empty if the Hessian of Phi is not needed.
    """

    x: Tensors
    rest: Tensors
    g: Tensors = ()


class Vectors(NamedTuple):
    """A vector in the space of x or of y, or a batch of them.

    Attributes:
        tensors: One for each tensor of x or y.
        dims: Batch dimension of each tensor; None if it has none.
    """

    tensors: Tensors
    dims: Dimensions

    @property
    def batched(self) -> bool:
        """True if one of the tensors has a batch dimension."""
        return any(dim is not None for dim in self.dims)

    def expanded(self, n: int) -> list[Tensor]:
        """Return the tensors of n vectors, the batch in front; a single vector is repeated."""
        pairs = zip(self.tensors, self.dims, strict=True)
        return [t.expand(n, *t.shape) if d is None else t.movedim(d, 0) for t, d in pairs]

    @classmethod
    def single(cls, tensors: Tensors) -> Vectors:
        """Make a single vector, without a batch."""
        return cls(tensors, [None] * len(tensors))


class Wanted(NamedTuple):
    """The parts of a product that the caller needs.

    Attributes:
        hessian: True for `d2Phi/dx2 v`.
        pushforward: True for `dF/dx v`.
        optional: True to include the Hessian's rows of the optional variables.
    """

    hessian: bool
    pushforward: bool
    optional: bool


class SecondOrderOperation(ABC):
    """An operation `y = F(x; rest)` with formulas for its derivatives.

    Make one object for each call: intermediates that the formulas keep are freed with it. Results
    of a batch have the batch dimension in front.

    Attributes:
        outputs: Number of tensors in y.
        required: Number of variables in x that are always differentiated together.
        optional: Number of variables after them, differentiated only if a derivative needs them.
    """

    outputs: int
    required: int
    optional: int = 0

    @abstractmethod
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        """Compute `F(x; rest)`."""

    @abstractmethod
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        """Compute `dPhi/dx` for cotangents g; by the optional variables too if `optional`."""

    @abstractmethod
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        """Compute `d2Phi/dx2 v` and `dF/dx v`, in this order, those that are wanted.

        v may end before the optional variables: their parts of v are then zero.
        """

    def product_along(
        self, at: Primals, v: Vectors, w: Tensors, dg: Tensors, wanted: Wanted, strategy: Strategy
    ) -> Outputs:
        """Compute the derivative of `product` as x moves along w, and g along dg.

        These are `d3Phi/dx3 v w + d2<dg, F>/dx2 v` and `d2F/dx2 v w`. Override this with formulas
        if differentiating the product is expensive; they are called for plain tensors.

        Args:
            at: The point.
            v: Vector, or batch of vectors.
            w: A single vector; like v, it may end before the optional variables.
            dg: A single tangent of the cotangents; empty if they are constant.
            wanted: The parts that are needed.
            strategy: "streamed" or "cached".
        """
        return self.differentiated_product(at, v, w, dg, wanted)

    def differentiated_product(
        self, at: Primals, v: Vectors, w: Tensors, dg: Tensors, wanted: Wanted
    ) -> Outputs:
        """Compute the same as `product_along` by differentiating `product`."""

        def product(*moved: Tensor) -> Outputs:
            x, g = (*moved[: len(w)], *at.x[len(w) :]), moved[len(w) :] if dg else at.g
            return self.product(Primals(x, at.rest, g), v, wanted, "differentiable")

        primals = (*at.x[: len(w)], *(at.g if dg else ()))
        return jvp(product, primals, (*w, *dg))[1]

    def pull_back_along(
        self, at: Primals, g: Vectors, w: Tensors, optional: bool, strategy: Strategy
    ) -> Outputs:
        """Compute the derivative of `gradient` as x moves along a single vector w.

        It is the Hessian of Phi times w for every cotangent in g, for plain tensors. Override this
        with formulas if differentiating the gradient is expensive.
        """

        def gradient(*moved: Tensor) -> Outputs:
            here = Primals((*moved, *at.x[len(w) :]), at.rest)
            return self.gradient(here, g, optional, "differentiable")

        return jvp(gradient, tuple(at.x[: len(w)]), tuple(w))[1]

    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs] | None:
        """Compute `F` and `dF/dx v` of plain tensors; None if both together are not cheaper."""
        return None

    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs] | None:
        """Compute `dPhi/dx` and its derivative along v and dg, of plain tensors.

        None if both together are not cheaper. dg is None for a cotangent that is constant.
        """
        return None

    def joined(
        self, count: int, x: Tensors, rest: Tensors, mapped: Sequence[bool]
    ) -> tuple[SecondOrderOperation, Tensors] | None:
        """Return the operation on several points joined to one, and its further tensors.

        Each variable of the joined point is that of the points one after the other, along the first
        dimension; so is each result.

        Args:
            count: Number of points.
            x: Variables of the joined point.
            rest: Further tensors. Those that differ between the points have a first dimension of
                size `count`.
            mapped: For each of them, True if it differs between the points.

        Returns:
            The operation and its `rest`; None if the points cannot be joined.
        """
        return None

    @cached_property
    def memos(self) -> defaultdict[Hashable, Memo]:
        """Joined points, and the operations on them, of the batches that were last computed."""
        return defaultdict(Memo)


def filled(tangents: Arguments, primals: Arguments) -> list[Tensor]:
    """Return the tangents, with zeros in place of None."""
    pairs = zip(tangents, primals, strict=True)
    return [torch.zeros_like(p) if t is None else t for t, p in pairs]
