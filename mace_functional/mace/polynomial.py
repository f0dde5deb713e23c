"""Polynomials with equivariant coefficients, and their derivatives, monomial by monomial.

    B[M] = sum_nu sum_{m1 ... m_nu} T_nu[M, m1 ... m_nu] x[m1] ... x[m_nu],   T_nu = U_nu W_nu,

for each node and channel, with symbols U_nu and weights W_nu of each element. Selection rules make
most of the U zero: for x up to l = 3 and an invariant B of third order, 353 of 4096 are not zero.
The polynomials and their derivatives are therefore computed as sums over nonzero terms. A term is a
coefficient times a product of components of x, and it is added to one component of the result.
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
from mace_functional.structure.species import rows_at

MAX_BLOCK_FLOATS = 2**17
"""Largest number of numbers in a tensor of one slice of nodes on the CPU.

Several such tensors fit the cache together (8 bytes each in float64: 1 MiB a tensor).
"""


class Terms(NamedTuple):
    """The terms of one derivative of all polynomials.

    Attributes:
        places: Component of the result that a term is added to: M, and the m of each derivative,
            (1 + order, terms).
        factors: Components m of x in the product, (largest nu - order, terms). The index after the
            last component stands for a factor of one.
        sources: Rows of the flattened U_nu whose sum is the coefficient, one row for each
            permutation of the m; for each polynomial and nu, (nu!, terms of that nu).
        scales: Factor of that sum; for each polynomial and nu, (terms of that nu, 1).
    """

    places: Tensor
    factors: Tensor
    sources: list[Tensor]
    scales: list[Tensor]


class Monomials:
    """The nonzero terms of polynomials and of their first two derivatives.

    Args:
        symbols: U_nu (M, m, ..., m, k) for nu = 1, 2, ..., for each polynomial.
    """

    def __init__(self, symbols: Sequence[Sequence[Tensor]]) -> None:
        like = symbols[0][0]
        nonzero = [[_nonzero(u) for u in us] for us in symbols]
        self.largest = max(len(us) for us in symbols)
        self.size = sum(us[0].shape[0] for us in symbols)
        self.components = like.shape[1]
        self.terms = [self._terms(nonzero, order, like) for order in range(3)]

    def _terms(self, nonzero: Sequence[Sequence[np.ndarray]], order: int, like: Tensor) -> Terms:
        """Find the terms of a derivative; terms that differ in the order of the m count once."""
        width = max(self.largest - order, 0)
        places, factors, sources, scales = [], [], [], []
        start = 0
        for arrays in nonzero:
            for nu, array in enumerate(arrays, 1):
                terms = np.argwhere(array) if nu >= order else np.empty((0, 1 + order), dtype=int)
                ascending = (np.diff(terms[:, 1 + order :], axis=1) >= 0).all(1)
                terms = terms[ascending]
                ms = terms[:, 1 + order :]
                padded = np.full((len(terms), width), self.components)
                padded[:, : ms.shape[1]] = ms
                places.append(terms[:, : 1 + order] + [start, *[0] * order])
                factors.append(padded)
                permuted = [terms[:, [0, *p]] for p in permutations(range(1, 1 + nu)) if len(terms)]
                rows = [np.ravel_multi_index(tuple(t.T), array.shape) for t in permuted]
                sources.append(np.array(rows, dtype=int).reshape(factorial(nu), len(terms)))
                scale = [perm(nu, order) * _permutation_count(row) / factorial(nu) for row in ms]
                scales.append(np.array(scale, dtype=float).reshape(-1, 1))
            start += arrays[0].shape[0]

        def index(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.int64, device=like.device)

        return Terms(
            index(np.concatenate(places).T),
            index(np.concatenate(factors).T),
            [index(source) for source in sources],
            [torch.as_tensor(s, dtype=like.dtype, device=like.device) for s in scales],
        )


def _nonzero(symbols: Tensor) -> np.ndarray:
    """Return a mask (M, m, ..., m) of the U that are not zero once symmetrised over their m."""
    u = symbols.detach().cpu().double().numpy()
    axes = permutations(range(1, u.ndim - 1))
    total = np.sum([u.transpose(0, *p, u.ndim - 1) for p in axes], axis=0)
    return (total != 0).any(-1)


def _permutation_count(components: np.ndarray) -> int:
    """Return the number of distinct permutations of components, some of which may be equal."""
    repeats = np.unique(components, return_counts=True)[1]
    return factorial(len(components)) // prod(factorial(int(n)) for n in repeats)


class Polynomials(LocalFunction):
    """The polynomials B (nodes, channels, M) as a function of x (nodes, channels, m).

    Further arguments are, for each polynomial and nu = 1, 2, ..., the weights W_nu (all elements,
    k, channels), and then likewise the symbols U_nu (M, m, ..., m, k). The values of the symbols
    may differ from those that `Monomials` was made of, but their zeros may not: symbols that were
    zero there, once symmetrised over the m, are taken as zero.

    The methods return the value (nodes, channels, M), the Jacobian (nodes, channels, M, m), and,
    for a cotangent (nodes, channels, M), the weighted Hessian (nodes, channels, m, m).

    Args:
        monomials: The nonzero terms.
        elements: Rows of the weights, for each element in the structure.
        counts: Number of nodes of each of these elements, in the order of the nodes.
        structures: Number of structures with these nodes, one after the other.
    """

    def __init__(
        self,
        monomials: Monomials,
        elements: Sequence[int],
        counts: Sequence[int],
        structures: int = 1,
    ) -> None:
        self.monomials, self.elements, self.counts = monomials, elements, counts
        self.structures = structures

    @override
    def value(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self._in_blocks(rest, [_VALUE], x)[0]

    @override
    def jacobian(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self._in_blocks(rest, [_JACOBIAN], x)[0]

    @override
    def weighted_hessian(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        return self._in_blocks(rest, [_WEIGHTED_HESSIAN], x, cotangent)[0]

    @override
    def value_and_jacobian(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        value, jacobian = self._in_blocks(rest, [_VALUE, _JACOBIAN], x)
        return value, jacobian

    @override
    def value_and_jacobian_along(
        self, direction: Tensor, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, jacobians = self._in_blocks(rest, [_VALUE, _JACOBIAN_ALONG], x, direction)
        jacobian, d_jacobian = jacobians.unbind(2)
        return value, jacobian, d_jacobian

    @override
    def joined(
        self, count: int, rest: Sequence[Tensor], mapped: Sequence[bool]
    ) -> tuple[Polynomials, Sequence[Tensor]] | None:
        if any(mapped):
            return None
        structures = count * self.structures
        return Polynomials(self.monomials, self.elements, self.counts, structures), rest

    def _in_blocks(
        self, rest: Sequence[Tensor], functions: Sequence[_Function], *points: Tensor
    ) -> list[Tensor]:
        """Evaluate functions of x, and of a direction or cotangent, slice by slice of the nodes."""
        orders = [function.order for function in functions]
        coefficients = {order: self._coefficients(order, rest) for order in set(orders)}
        largest = max(self.monomials.terms[order].places.shape[1] for order in orders)
        channels, device = points[0].shape[1], points[0].device
        floats = self.structures * largest * channels
        points = tuple(t.unflatten(0, (self.structures, -1)) for t in points)
        by_slice: list[list[Tensor]] = [[] for _ in functions]
        start = 0
        for element, count in enumerate(self.counts):
            for rows in node_slices(start, count, floats, MAX_BLOCK_FLOATS, device):
                block = [t[:, rows].flatten(0, 1).permute(2, 0, 1) for t in points]
                one = torch.ones_like(block[0][:1])
                block[0] = torch.cat([block[0], one])
                for function, results in zip(functions, by_slice, strict=True):
                    c = coefficients[function.order][element]
                    result = function.evaluate(self.monomials, c, *block)
                    results.append(result.unflatten(1, (self.structures, -1)))
            start += count
        return [
            torch.cat(results, 2)
            .flatten(1, 2)
            .permute(1, 2, 0)
            .unflatten(-1, function.shape(self.monomials))
            for function, results in zip(functions, by_slice, strict=True)
        ]

    def _coefficients(self, order: int, rest: Sequence[Tensor]) -> list[Tensor]:
        """Compute the coefficients of the terms, (terms, channels), for each element."""
        terms = self.monomials.terms[order]
        half = len(rest) // 2
        coefficients = []
        for w, u, source, scale in zip(
            rest[:half], rest[half:], terms.sources, terms.scales, strict=True
        ):
            rows = u.flatten(0, -2).index_select(0, source.flatten()).unflatten(0, source.shape)
            coefficients.append((rows.sum(0) * scale.to(rows.dtype)) @ rows_at(w, self.elements))
        return list(torch.cat(coefficients, 1).unbind())


class _Function(NamedTuple):
    """A sum over the terms of a derivative.

    Attributes:
        order: Order of the derivative.
        shape: Function from the monomials to the dimensions of the result.
        evaluate: Function of the monomials, the coefficients, x (m, nodes, channels), and a
            direction or cotangent of the same layout. It returns the components of the result in
            front, (components, nodes, channels).
    """

    order: int
    shape: Callable[[Monomials], tuple[int, ...]]
    evaluate: Callable[..., Tensor]


def _sum(
    coefficients: Tensor,
    factors: Sequence[Tensor],
    places: Tensor,
    shape: Sequence[int],
    nodes: int,
) -> Tensor:
    """Multiply coefficients by factors, and add the products up by component of the result.

    Args:
        coefficients: Coefficients of the terms, (terms, channels).
        factors: Factors of the terms, (terms, nodes, channels) each.
        places: Component of the result that each term is added to, (1 or 2, terms).
        shape: Number of components of the result, along 1 or 2 dimensions.
        nodes: Number of nodes.

    Returns:
        The sums, (all components of the result, nodes, channels).
    """
    product = coefficients[:, None].expand(-1, nodes, -1)
    for factor in factors:
        product = product * factor
    return _added(product, places, shape)


def _added(product: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    """Add terms (terms, nodes, channels) up by component of the result, as `_sum` does."""
    place = places[0] if len(shape) == 1 else places[0] * shape[1] + places[1]
    return product.new_zeros(prod(shape), *product.shape[1:]).index_add(0, place, product)


def _factors(terms: Terms, x: Tensor) -> list[Tensor]:
    return [x.index_select(0, row) for row in terms.factors]


def _value(monomials: Monomials, coefficients: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    terms = monomials.terms[0]
    return _sum(coefficients, _factors(terms, x), terms.places, _of_value(monomials), x.shape[1])


def _jacobian(monomials: Monomials, coefficients: Tensor, x: Tensor) -> Tensor:
    terms = monomials.terms[1]
    shape = _of_jacobian(monomials)
    return _sum(coefficients, _factors(terms, x), terms.places, shape, x.shape[1])


def _jacobian_along(
    monomials: Monomials, coefficients: Tensor, x: Tensor, direction: Tensor
) -> Tensor:
    """Compute the Jacobian and its derivative along a direction (m, nodes, channels)."""
    terms, shape = monomials.terms[1], _of_jacobian(monomials)
    direction = torch.cat([direction, torch.zeros_like(direction[:1])])
    product = coefficients[:, None].expand(-1, x.shape[1], -1)
    d_product = torch.zeros_like(product)
    for factor, d_factor in zip(_factors(terms, x), _factors(terms, direction), strict=True):
        d_product = torch.addcmul(d_product * factor, product, d_factor)
        product = product * factor
    return torch.cat([_added(p, terms.places, shape) for p in (product, d_product)])


def _weighted_hessian(
    monomials: Monomials, coefficients: Tensor, x: Tensor, cotangent: Tensor
) -> Tensor:
    terms = monomials.terms[2]
    factors = [cotangent.index_select(0, terms.places[0]), *_factors(terms, x)]
    shape = _of_hessian(monomials)
    return _sum(coefficients, factors, terms.places[1:], shape, x.shape[1])


def _of_value(monomials: Monomials) -> tuple[int]:
    return (monomials.size,)


def _of_jacobian(monomials: Monomials) -> tuple[int, int]:
    return monomials.size, monomials.components


def _of_two_jacobians(monomials: Monomials) -> tuple[int, int, int]:
    return 2, monomials.size, monomials.components


def _of_hessian(monomials: Monomials) -> tuple[int, int]:
    return monomials.components, monomials.components


_VALUE = _Function(0, _of_value, _value)
_JACOBIAN = _Function(1, _of_jacobian, _jacobian)
_JACOBIAN_ALONG = _Function(1, _of_two_jacobians, _jacobian_along)
_WEIGHTED_HESSIAN = _Function(2, _of_hessian, _weighted_hessian)
