"""Functions of a few numbers, applied to every point separately, and their derivatives.

Points are edges, or nodes and channels. A function y = F(x) of a point has a Jacobian dF/dx and,
with a cotangent g, a Hessian H = sum_M g[M] d2F[M]/dx2: small matrices that depend on the primals
only. They are computed once and kept, so that a column of the Hessian of the energy costs a
matrix-vector product for each point, whatever F is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mace_functional.autodiff.primitive import (
    Arguments,
    Dimensions,
    Memo,
    Outputs,
    Primitive,
    add_outputs,
)


class LocalFunction(ABC):
    """A function `y = F(x; rest)` from (points..., m) to (points..., M); call it.

    The methods are plain torch operations, to be differentiated with respect to `rest` too.
    """

    def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
        """The value, with rules for its derivatives."""
        return _Value(self)(x, *rest)[0]

    @abstractmethod
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        """`F(x)`, (points..., M)."""

    @abstractmethod
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        """`dF/dx`, (points..., M, m)."""

    @abstractmethod
    def curvature(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        """`sum_M g[M] d2F[M]/dx2`, (points..., m, m)."""

    def linearised(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Value and Jacobian, where computing both is cheaper than one after the other."""
        return self.value(x, *rest), self.jacobian(x, *rest)

    def linearised_along(
        self, direction: Tensor, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Value, Jacobian, and the change of the Jacobian along a direction (points..., m).

        None where the curvature costs no more.
        """
        return None


class _Value(Primitive):
    """`F(x)`, of x and rest."""

    def __init__(self, function: LocalFunction) -> None:
        self.function = function
        self.memo = memo = Memo()

        def linearised(*args: Tensor) -> tuple[Tensor, Tensor]:
            return memo.get_or_build(args, lambda: function.linearised(*args))

        def jacobian(*args: Tensor) -> Tensor:
            return linearised(*args)[1]

        # They know the memo, not this object: no cycle delays the release of what is kept.
        self.linearised = linearised
        self.push = _Matrices(function.jacobian, jacobian)
        self.pull = _Pull(function, jacobian)

    def value(self, *args: Any) -> Outputs:
        return (self.function.value(*args),)

    def compute(self, *args: Any) -> Outputs:
        return (self.linearised(*args)[0],)

    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        moved, *others = tangents
        found = None
        if moved is not None and all(t is None for t in others):
            found = self.function.linearised_along(moved, *args)
        if found is None:
            return super().compute_jvp(args, tangents)
        value, jacobian, change = found
        self.memo.get_or_build(args, lambda: (value, jacobian))
        self.pull.change.get_or_build((moved, *args), lambda: change)
        return (value,), ((jacobian @ moved[..., None])[..., 0],)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        moved, *others = tangents
        along = None if moved is None else self.push(moved, *args)
        return add_outputs(along, self.plain_jvp(args, (None, *others)))

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        out = self.plain_vjp(args, cotangents, (False, *needed[1:]))
        if needed[0]:
            (out[0],) = self.pull(*cotangents, *args)
        return out


class _Matrices(Primitive):
    """`A v` with matrices A (points..., M, m) that depend on further arguments: of v and those."""

    def __init__(
        self,
        matrices: Callable[..., Tensor],
        remembered: Callable[..., Tensor],
        transposed: bool = False,
    ) -> None:
        self.matrices, self.remembered, self.transposed = matrices, remembered, transposed

    def value(self, *args: Any) -> Outputs:
        vector, *primals = args
        return (self._apply(self.matrices(*primals), vector[..., None])[..., 0],)

    def compute(self, *args: Any) -> Outputs:
        vector, *primals = args
        return (self._apply(self.remembered(*primals), vector[..., None])[..., 0],)

    def compute_batch(self, args: Arguments, dims: Dimensions) -> Outputs | None:
        vector, *primals = args
        if any(dim is not None for dim in dims[1:]):
            return None
        columns = vector.movedim(dims[0], -1)
        return (self._apply(self.remembered(*primals), columns).movedim(-1, 0),)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        moved, *others = tangents
        along = None if moved is None else self(moved, *args[1:])
        return add_outputs(along, self.plain_jvp(args, (None, *others)))

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        out = self.plain_vjp(args, cotangents, (False, *needed[1:]))
        if needed[0]:
            turned = _Matrices(self.matrices, self.remembered, not self.transposed)
            (out[0],) = turned(*cotangents, *args[1:])
        return out

    def _apply(self, matrices: Tensor, columns: Tensor) -> Tensor:
        a = matrices.mT if self.transposed else matrices
        return a * columns if a.shape[-1] == 1 else a @ columns


class _Pull(_Matrices):
    """`(dF/dx)^T g`, of g, x and rest; its derivative in x is the symmetric curvature."""

    def __init__(self, function: LocalFunction, remembered: Callable[..., Tensor]) -> None:
        super().__init__(function.jacobian, remembered, transposed=True)
        self.change, curvature = Memo(), Memo()
        self.curvature = _Matrices(
            function.curvature,
            lambda *primals: curvature.get_or_build(primals, lambda: function.curvature(*primals)),
        )

    def compute_jvp(self, args: Arguments, tangents: Arguments) -> tuple[Outputs, Outputs | None]:
        g, x, *rest = args
        along, moved, *others = tangents
        change = None if moved is None else self.change.get((moved, x, *rest))
        if change is None or along is None or any(t is not None for t in others):
            return super().compute_jvp(args, tangents)
        jacobian = self.remembered(x, *rest)
        pulled = jacobian.mT @ torch.stack([g, along], -1)
        bent = (change.mT @ g[..., None])[..., 0]
        return (pulled[..., 0],), (pulled[..., 1] + bent,)

    def jvp(self, args: Arguments, tangents: Arguments) -> Outputs | None:
        along, moved, *others = tangents
        curved = None if moved is None else self.curvature(moved, *args)
        return add_outputs(curved, super().jvp(args, (along, None, *others)))

    def vjp(self, args: Arguments, cotangents: Outputs, needed: Sequence[bool]) -> Arguments:
        out = list(super().vjp(args, cotangents, (needed[0], False, *needed[2:])))
        if needed[1]:
            (out[1],) = self.curvature(*cotangents, *args)
        return out
