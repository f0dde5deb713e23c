"""Functions of a few numbers, applied to every point separately, and their derivatives.

Points are edges, or nodes and channels. A function y = F(x) of a point has a Jacobian dF/dx and,
with a cotangent g, a Hessian H = sum_M g[M] d2F[M]/dx2: small matrices that depend on the primals
only. They are computed once and kept, so that a column of the Hessian of the energy costs a
matrix-vector product for each point, whatever F is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.primitive import Arguments, Memo, Outputs
from mace_functional.autodiff.second_order import (
    Primals,
    SecondOrderOperation,
    Strategy,
    Tensors,
    Vectors,
    Wanted,
)


class LocalFunction(ABC):
    """A function `y = F(x; rest)` from (points..., m) to (points..., M); call it.

    The methods are plain torch operations, to be differentiated with respect to `rest` too.
    """

    def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The value, with rules for its derivatives."""
        return _Matrices(self).apply([x], rest)[0]

    @abstractmethod
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        """`F(x)`, (points..., M)."""

    @abstractmethod
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        """`dF/dx`, (points..., M, m)."""

    @abstractmethod
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        """`sum_M g[M] d2F[M]/dx2`, (points..., m, m)."""

    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Value and Jacobian, where computing both is cheaper than one after the other."""
        return self.value(x, *rest), self.jacobian(x, *rest)

    def value_and_jacobian_along(
        self, direction: Tensor, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Value, Jacobian, and the change of the Jacobian along a direction (points..., m).

        None where the weighted Hessian costs no more.
        """
        return None


class _Matrices(SecondOrderOperation):
    """A local function's derivatives, as products with matrices that are made once and kept."""

    outputs = required = 1

    def __init__(self, function: LocalFunction) -> None:
        self.function = function
        self.jacobians, self.changes, self.hessians = Memo(), Memo(), Memo()

    @override
    def value(self, at: Primals, strategy: Strategy) -> Outputs:
        if strategy == "differentiable":
            return (self.function.value(*at.x, *at.rest),)
        return (self._value_and_jacobian(at)[0],)

    @override
    def gradient(self, at: Primals, g: Vectors, optional: bool, strategy: Strategy) -> Outputs:
        return (_times(self._jacobian(at, strategy).mT, g),)

    @override
    def product(self, at: Primals, v: Vectors, wanted: Wanted, strategy: Strategy) -> Outputs:
        out: Outputs = ()
        if wanted.hessian:
            out = (_times(self._hessian(at, strategy), v),)
        if wanted.pushforward:
            out = (*out, _times(self._jacobian(at, strategy), v))
        return out

    @override
    def value_along(self, at: Primals, v: Tensors) -> tuple[Outputs, Outputs] | None:
        found = self.function.value_and_jacobian_along(*v, *at.x, *at.rest)
        if found is None:
            return None
        value, jacobian, change = found
        self.jacobians.get_or_build((*at.x, *at.rest), lambda: (value, jacobian))
        self.changes.get_or_build((*v, *at.x, *at.rest), lambda: change)
        return (value,), (_times(jacobian, Vectors.single(v)),)

    @override
    def gradient_along(
        self, at: Primals, v: Tensors, dg: Arguments, optional: bool
    ) -> tuple[Outputs, Outputs] | None:
        change = self.changes.get((*v, *at.x, *at.rest))
        if change is None or dg[0] is None:
            return None
        (g,) = at.g
        pulled = self._jacobian(at, "cached").mT @ torch.stack([g, dg[0]], -1)
        of_x = (change.mT @ g[..., None])[..., 0]
        return (pulled[..., 0],), (pulled[..., 1] + of_x,)

    def _jacobian(self, at: Primals, strategy: Strategy) -> Tensor:
        if strategy == "differentiable":
            return self.function.jacobian(*at.x, *at.rest)
        return self._value_and_jacobian(at)[1]

    def _hessian(self, at: Primals, strategy: Strategy) -> Tensor:
        primals, build = (*at.g, *at.x, *at.rest), self.function.weighted_hessian
        if strategy == "differentiable":
            return build(*primals)
        return self.hessians.get_or_build(primals, lambda: build(*primals))

    def _value_and_jacobian(self, at: Primals) -> tuple[Tensor, Tensor]:
        primals, build = (*at.x, *at.rest), self.function.value_and_jacobian
        return self.jacobians.get_or_build(primals, lambda: build(*primals))


def _times(matrices: Tensor, vectors: Vectors) -> Tensor:
    """Matrices (points..., M, m) times a vector (points..., m), or times a batch of them."""
    (vector,), (dim,) = vectors
    columns = vector[..., None] if dim is None else vector.movedim(dim, -1)
    found = matrices * columns if matrices.shape[-1] == 1 else matrices @ columns
    return found[..., 0] if dim is None else found.movedim(-1, 0)
