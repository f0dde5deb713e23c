r"""Lanczos iterations from many vectors, each in its own Krylov space.

From a start vector y, k products with a symmetric matrix D give orthonormal vectors V (k, d) and a
tridiagonal matrix T (k, k) with V D V^T = T, whose first row of V is y / |y|. With the eigenvalues
t_j and eigenvectors s_j of T,

    y^T f(D) y = |y|^2 sum_j s_1j^2 f(t_j),        f(D) y = |y| sum_j s_1j f(t_j) V^T s_j,

the first exactly for polynomials of degree 2 k - 1 (Gauss), the second of degree k - 1. A further
node at zero, an eigenvalue of the tridiagonal matrix with a last diagonal entry chosen for it,
makes the first exact to degree 2 k (Gauss-Radau).

The k products also give one vector more than f(D) y above uses. With twice that last diagonal
entry, which is the limit of all diagonal entries for a spectrum without gaps that begins at zero,
f(D) y is exact to degree k, and no node is at zero.

All vectors are multiplied together, once per step. New vectors are orthogonalised against all
earlier ones.

Source: Golub, Meurant, *Matrices, Moments and Quadrature* (2010), chapters 4, 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BREAKDOWN = 1e-10
"""Size of a new vector, relative to the largest eigenvalue, at which a Krylov space is complete."""


class Nodes(NamedTuple):
    """Nodes and weights of a quadrature for each vector.

    Attributes:
        values: Nodes, eV/Å²/amu, (v, k).
        weights: Weights, which add up to |y|^2, (v, k).
    """

    values: Tensor
    weights: Tensor

    def sums(self, functions: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute y^T f(D) y for each function and vector, (F, v).

        Args:
            functions: Map from values (...) to values of F functions (F, ...).
        """
        return (functions(self.values) * self.weights).sum(-1)


class Lanczos:
    """Lanczos iterations from v vectors of length d.

    Args:
        multiply: Product of the symmetric matrix with vectors (v, d).
        start: Start vectors, (v, d).

    Attributes:
        start: Start vectors, (v, d).
        steps: Number k of steps that were made.
    """

    def __init__(self, multiply: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self.start, self._multiply, self._sizes = start, multiply, start.norm(dim=1)
        self._basis = self._divide(start, self._sizes)[:, None]  # (v, k + 1, d), and room for more
        self._diagonal: list[Tensor] = []
        self._beside: list[Tensor] = []

    @property
    def steps(self) -> int:  # noqa: D102
        return len(self._diagonal)

    @property
    def basis(self) -> Tensor:
        """Orthonormal vectors V of all steps, (v, k, d)."""
        return self._basis[:, : self.steps]

    def step(self) -> None:
        """Multiply the newest vectors, and orthogonalise the products."""
        k = self.steps
        vectors = self._basis[:, k]
        product = self._multiply(vectors)
        diagonal = (vectors * product).sum(1)
        if self._beside:  # a complete space gets nodes of weight zero inside the spectrum
            diagonal = torch.where(self._beside[-1] > 0, diagonal, self._diagonal[0])
        self._diagonal.append(diagonal)
        basis = self._basis[:, : k + 1]
        for _ in range(2):  # the second time removes what rounding left of the first
            overlaps = basis @ product[..., None]
            product = product - (basis.mT @ overlaps)[..., 0]
        size = product.norm(dim=1)
        largest = torch.stack(self._diagonal).abs().amax(0)
        size = torch.where(size > BREAKDOWN * largest, size, torch.zeros_like(size))
        self._beside.append(size)
        if self._basis.shape[1] == k + 1:
            self._basis = torch.cat([self._basis, torch.zeros_like(self._basis)], 1)
        self._basis[:, k + 1] = self._divide(product, size)

    @property
    def complete(self) -> bool:
        """True if all Krylov spaces are complete, so that further steps change nothing."""
        return bool(self._beside) and not bool(self._beside[-1].any())

    def gauss(self, steps: int | None = None) -> Nodes:
        """Return the nodes of the Gauss quadrature after `steps` steps; None for all."""
        values, vectors = torch.linalg.eigh(self.tridiagonal(steps or self.steps))
        return self._nodes(values, vectors)

    def radau(self, steps: int | None = None) -> Nodes:
        """Return the nodes of the Gauss-Radau quadrature with a node at zero.

        Vectors with a Ritz value at or below zero, and complete Krylov spaces, keep the Gauss
        nodes; the node that is added has no weight.
        """
        extended, bordered = self._extended(steps or self.steps, 1.0)
        values, vectors = torch.linalg.eigh(extended)
        values[:, 0] = torch.where(bordered, 0.0, values[:, 0])  # without the rounding error
        return self._nodes(values, vectors)

    def images(
        self, functions: Callable[[Tensor], Tensor], vector: int, steps: int | None = None
    ) -> Tensor:
        """Compute f(D) y for one vector and F functions, (F, d).

        Args:
            functions: Map from values (...) to values of F functions (F, ...).
            vector: Number of the vector.
            steps: Number of steps to use; None for all.
        """
        k = steps or self.steps
        values, vectors = torch.linalg.eigh(self._extended(k, 2.0)[0][vector])
        coefficients = (functions(values) * vectors[0]) @ vectors.mT
        return self._sizes[vector] * coefficients @ self._basis[vector, : k + 1]

    def _extended(self, k: int, factor: float) -> tuple[Tensor, Tensor]:
        """Return the tridiagonal matrices with one row more, and for which they are joined to it.

        The last diagonal entry is `factor` times that which has an eigenvalue at zero. Vectors with
        a Ritz value at or below zero, and complete Krylov spaces, are not joined to the new row.
        """
        matrix = self.tridiagonal(k)
        lowest = torch.linalg.eigvalsh(matrix)[:, 0]
        extended = matrix.new_zeros(len(matrix), k + 1, k + 1)
        extended[:, :k, :k] = matrix
        last = self._beside[k - 1]
        bordered = (lowest > 0) & (last > 0)
        corner = torch.where(bordered[:, None, None], matrix, torch.eye(k).to(matrix))
        unit = matrix.new_zeros(len(matrix), k)
        unit[:, -1] = last.square()
        delta = torch.linalg.solve(corner, unit)[:, -1]
        extended[:, k, k] = torch.where(bordered, factor * delta, matrix[:, 0, 0])
        extended[:, k, k - 1] = extended[:, k - 1, k] = torch.where(bordered, last, 0.0)
        return extended, bordered

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest Ritz value of each vector, and their residuals, (v, 2)."""
        values, vectors = torch.linalg.eigh(self.tridiagonal(self.steps))
        ends = [0, -1]
        return values[:, ends], self._beside[-1][:, None] * vectors[:, -1, ends].abs()

    def _nodes(self, values: Tensor, vectors: Tensor) -> Nodes:
        return Nodes(values, self._sizes.square()[:, None] * vectors[:, 0].square())

    def tridiagonal(self, k: int) -> Tensor:
        """Return the tridiagonal matrices T of the first k steps, (v, k, k)."""
        matrix = torch.diag_embed(torch.stack(self._diagonal[:k], 1))
        if k > 1:
            beside = torch.stack(self._beside[: k - 1], 1)
            matrix += torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
        return matrix

    @staticmethod
    def _divide(vectors: Tensor, sizes: Tensor) -> Tensor:
        """Divide vectors by their sizes; a vector of size zero stays zero."""
        return vectors / torch.where(sizes > 0, sizes, 1.0)[:, None]
