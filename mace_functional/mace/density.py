"""The learnt density of neighbours, `rho_i = sum_j tanh(d(r_ij)^2) f_cut(r_ij)`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.jets import Jet, compose, multiply
from mace_functional.autodiff.local import LocalFunction
from mace_functional.mace.activation import activation_derivatives
from mace_functional.mace.edges import Edges
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.settings import Activation


class _NeighbourDensity(LocalFunction):
    """The contribution of an edge to the density, as a function of its length.

    With x the lengths (nodes, K, 1), value and cotangent have the shape of x; the Jacobian and the
    weighted Hessian have one more dimension, of size 1.
    """

    def __init__(self, radial: RadialFunction) -> None:
        self.radial = radial

    @override
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self._jet(x, rest, 0)[0]

    @override
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self._jet(x, rest, 1)[1][..., None]

    @override
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        return (self._jet(x, rest, 2)[2] * cotangent)[..., None]

    @override
    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = self._jet(x, rest, 1)
        return value, slope[..., None]

    @override
    def joined(
        self, count: int, rest: Sequence[Tensor], mapped: Sequence[bool]
    ) -> tuple[_NeighbourDensity, Sequence[Tensor]] | None:
        joined = self.radial.joined(count, rest, mapped)
        return None if joined is None else (_NeighbourDensity(joined[0]), joined[1])

    def _jet(self, lengths: Tensor, rest: Sequence[Tensor], order: int) -> Jet:
        """Compute the jet of `tanh(d^2) f_cut` in the length, (nodes, K, 1) each."""
        senders, *tensors = rest
        inputs = self.radial.inputs(lengths, senders, tensors, order)
        d = self.radial.without_cutoff(tensors, inputs)
        square = multiply(d, d)
        tanh = activation_derivatives(square[0], Activation("tanh"), order)
        return inputs.times_cutoff(compose(tanh, square))


def density(radial: RadialFunction, edges: Edges) -> Tensor:
    """Compute the density around each node, (nodes, 1, 1); `d` is the radial network's output."""
    lengths, mask = edges.lengths()
    contributions = _NeighbourDensity(radial)(lengths, edges.senders, *radial.tensors)
    return (contributions * mask).sum(1, keepdim=True)
