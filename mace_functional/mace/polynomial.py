"""Polynomials with equivariant coefficients, and their derivatives, monomial by monomial.

    B[M] = sum_nu sum_{m1 ... m_nu} T_nu[M, m1 ... m_nu] x[m1] ... x[m_nu],   T_nu = U_nu W_nu,

for each node and channel, with symbols U_nu and weights W_nu of each element. Selection rules leave
few of the U: of 4096 for x up to l = 3 and an invariant B of third order, 353. So a derivative is a
sum over terms: a coefficient, the product of the remaining x, and the component that it goes to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from math import factorial, perm, prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mace_functional.autodiff.blocks import node_slices
from mace_functional.autodiff.local import LocalFunction

MAX_BLOCK_FLOATS = 2**17
"""Numbers in one tensor of a block of nodes on CPU, so that several tensors fit the cache."""


class Terms(NamedTuple):
    """The terms of a derivative of some order, of all polynomials.

    Attributes:
        places: M, and for each derivative its m, (1 + order, terms).
        factors: Components of x to multiply, (largest nu - order, terms); one past the last
            component stands for the number one.
        sources: For each polynomial and nu, the rows of the flattened U_nu to add, one for each
            order of the m, (nu!, its terms).
        scales: What to multiply their sum by, (its terms, 1).
    """

    places: Tensor
    factors: Tensor
    sources: list[Tensor]
    scales: list[Tensor]


class Monomials:
    """The terms of some polynomials and of their derivatives.

    Args:
        symbols: For each polynomial, U_nu (M, m, ..., m, k) for nu = 1, 2, ... .
    """

    def __init__(self, symbols: Sequence[Sequence[Tensor]]) -> None:
        like = symbols[0][0]
        present = [[_present(u) for u in us] for us in symbols]
        self.largest = max(len(us) for us in symbols)
        self.size = sum(us[0].shape[0] for us in symbols)
        self.components = like.shape[1]
        self.terms = [self._terms(present, order, like) for order in range(3)]

    def _terms(self, present: Sequence[Sequence[np.ndarray]], order: int, like: Tensor) -> Terms:
        width = max(self.largest - order, 0)
        places, factors, sources, scales = [], [], [], []
        start = 0
        for arrays in present:
            for nu, array in enumerate(arrays, 1):
                found = np.argwhere(array) if nu >= order else np.empty((0, 1 + order), dtype=int)
                rest = found[:, 1 + order :]
                found = found[(np.diff(rest, axis=1) >= 0).all(1)]
                rest = found[:, 1 + order :]
                filled = np.full((len(found), width), self.components)
                filled[:, : rest.shape[1]] = rest
                places.append(found[:, : 1 + order] + [start, *[0] * order])
                factors.append(filled)
                turned = [found[:, [0, *p]] for p in permutations(range(1, 1 + nu)) if len(found)]
                rows = [np.ravel_multi_index(tuple(t.T), array.shape) for t in turned]
                sources.append(np.array(rows, dtype=int).reshape(factorial(nu), len(found)))
                count = [perm(nu, order) * _arrangements(row) / factorial(nu) for row in rest]
                scales.append(np.array(count, dtype=float).reshape(-1, 1))
            start += arrays[0].shape[0]

        def index(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.int64, device=like.device)

        return Terms(
            index(np.concatenate(places).T),
            index(np.concatenate(factors).T),
            [index(source) for source in sources],
            [torch.as_tensor(s, dtype=like.dtype, device=like.device) for s in scales],
        )


def _present(symbols: Tensor) -> np.ndarray:
    """Where U, averaged over the orders of its m, is not zero."""
    u = symbols.detach().cpu().double().numpy()
    orders = permutations(range(1, u.ndim - 1))
    total = np.sum([u.transpose(0, *p, u.ndim - 1) for p in orders], axis=0)
    return (total != 0).any(-1)


def _arrangements(components: np.ndarray) -> int:
    """In how many orders the same components can stand."""
    repeats = np.unique(components, return_counts=True)[1]
    return factorial(len(components)) // prod(factorial(int(n)) for n in repeats)


class Polynomials(LocalFunction):
    """From x (nodes, channels, m) to B (nodes, channels, M).

    Further arguments are, for each polynomial and nu = 1, 2, ..., the weights W_nu (all elements,
    k, channels), and then likewise the symbols U_nu (M, m, ..., m, k), of which only the values
    count: those that were zero, averaged over the order of the m, when the monomials were found
    stay so.

    Args:
        monomials: The terms.
        elements: Rows of the weights for the elements present.
        counts: Number of nodes of each, in the order of the nodes.
    """

    def __init__(
        self, monomials: Monomials, elements: Sequence[int], counts: Sequence[int]
    ) -> None:
        self.monomials, self.elements, self.counts = monomials, elements, counts

    @override
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self._in_blocks(rest, [_VALUE], x)[0]

    @override
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self._in_blocks(rest, [_JACOBIAN], x)[0]

    @override
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        return self._in_blocks(rest, [_CURVATURE], x, cotangent)[0]

    @override
    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        value, jacobian = self._in_blocks(rest, [_VALUE, _JACOBIAN], x)
        return value, jacobian

    @override
    def value_and_jacobian_along(
        self, direction: Tensor, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, jacobian, change = self._in_blocks(rest, [_VALUE, _JACOBIAN, _CHANGE], x, direction)
        return value, jacobian, change

    def _in_blocks(
        self, rest: Sequence[Tensor], functions: Sequence[_Function], *points: Tensor
    ) -> list[Tensor]:
        """Results of functions of the coefficients, x and more, for some nodes after others."""
        orders = [function.order for function in functions]
        coefficients = {order: self._coefficients(order, rest) for order in set(orders)}
        largest = max(self.monomials.terms[order].places.shape[1] for order in orders)
        x = points[0]
        floats = largest * x.shape[1]
        found: list[list[Tensor]] = [[] for _ in functions]
        start = 0
        for element, count in enumerate(self.counts):
            for rows in node_slices(start, count, floats, MAX_BLOCK_FLOATS, x.device):
                block = [t[rows].permute(2, 0, 1) for t in points]
                one = torch.ones_like(block[0][:1])
                block[0] = torch.cat([block[0], one])
                for function, results in zip(functions, found, strict=True):
                    c = coefficients[function.order][element]
                    results.append(function.evaluate(self.monomials, c, *block))
            start += count
        return [torch.cat(results) for results in found]

    def _coefficients(self, order: int, rest: Sequence[Tensor]) -> list[Tensor]:
        """Coefficients of the terms, (terms, channels), for each element present."""
        terms = self.monomials.terms[order]
        half = len(rest) // 2
        elements = list(self.elements)
        found = []
        for w, u, source, scale in zip(
            rest[:half], rest[half:], terms.sources, terms.scales, strict=True
        ):
            rows = u.flatten(0, -2).index_select(0, source.flatten()).unflatten(0, source.shape)
            found.append((rows.sum(0) * scale.to(rows.dtype)) @ w[elements])
        return list(torch.cat(found, 1).unbind())


class _Function(NamedTuple):
    """A sum over terms: their order, and the sum for some nodes, from (m, nodes, channels)."""

    order: int
    evaluate: Callable[..., Tensor]


def _sum(
    coefficients: Tensor,
    factors: Sequence[Tensor],
    places: Tensor,
    shape: Sequence[int],
    nodes: int,
) -> Tensor:
    """Products of coefficients (terms, channels) and factors, summed by place.

    Args:
        coefficients: (terms, channels).
        factors: (terms, nodes, channels) each.
        places: Components of the result, (1 or 2, terms).
        shape: How many components there are.
        nodes: How many nodes there are.

    Returns:
        (nodes, channels, *shape).
    """
    product = coefficients[:, None].expand(-1, nodes, -1)
    for factor in factors:
        product = product * factor
    place = places[0] if len(shape) == 1 else places[0] * shape[1] + places[1]
    total = product.new_zeros(prod(shape), *product.shape[1:]).index_add(0, place, product)
    return total.permute(1, 2, 0).unflatten(-1, shape)


def _factors(terms: Terms, x: Tensor) -> list[Tensor]:
    return [x.index_select(0, row) for row in terms.factors]


def _value(of: Monomials, coefficients: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    terms = of.terms[0]
    return _sum(coefficients, _factors(terms, x), terms.places, (of.size,), x.shape[1])


def _jacobian(of: Monomials, coefficients: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    terms = of.terms[1]
    return _sum(
        coefficients, _factors(terms, x), terms.places, (of.size, of.components), x.shape[1]
    )


def _change(of: Monomials, coefficients: Tensor, x: Tensor, direction: Tensor) -> Tensor:
    """Change of the Jacobian along a direction."""
    terms = of.terms[2]
    factors = [direction.index_select(0, terms.places[2]), *_factors(terms, x)]
    return _sum(coefficients, factors, terms.places[:2], (of.size, of.components), x.shape[1])


def _curvature(of: Monomials, coefficients: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
    terms = of.terms[2]
    factors = [cotangent.index_select(0, terms.places[0]), *_factors(terms, x)]
    return _sum(coefficients, factors, terms.places[1:], (of.components,) * 2, x.shape[1])


_VALUE, _JACOBIAN = _Function(0, _value), _Function(1, _jacobian)
_CHANGE, _CURVATURE = _Function(2, _change), _Function(2, _curvature)
