r"""Measured bound of the error of a heat capacity that a truncated Hessian causes.

Let D be the exact mass-weighted Hessian, K the stored one, both projected to the internal motions
(n of them), and E = D - K. The heat capacity is the trace of a function of the matrix,

    Cv = tr c(D),   c(y) = k_B x^2 e^x / (e^x - 1)^2,   x = s sqrt(y),   s = hbar / k_B T,

which has bounded derivatives: c decreases and is convex, and -c' and c'' decrease,

    |c'| <= L = k_B s^2 / 12,        |c''| <= M = k_B s^4 / 120.

By Taylor's formula for traces, and by Lidskii's inequality for the eigenvalues of D and K,

    |tr c(D) - tr c(K) - tr c'(K) E| <= M F^2 / 2,    |tr c(D) - tr c(K)| <= L sqrt(n) F,

with the Frobenius norm F of E. F and the trace are measured on m vectors z of independent normal
deviates, by products `E z` with the exact and with the stored matrix. With a probability of at
least 1 - p each,

    F^2 <= sum |E z|^2 / chi2(p, m),
    |tr c'(K) E - mean of z.c'(K) E z| <= 2 L F (sqrt(t / m) + t / m),        t = log(2 / p).

In the first line chi2(p, m) is the quantile of the chi-squared distribution: among all E of one
norm, the sum is most often small if E has rank one. The second line is the inequality of Laurent
and Massart for Gaussian quadratic forms, with |c'(K) E| <= L F in both norms. With p = 0.5 %, the
bound holds with a confidence of 99 %. It is relative to Cv of order F / (m^(1/2) n), so it falls
with the size of the structure.

Below zero, c is continued by its tangent. If there are imaginary modes, which have no harmonic heat
capacity, the bound is for the sum in which each of them counts as c(y).

The vectors `c'(K) z` come from the Lanczos process on the stored matrix, at any temperature later.

Source: Bhatia, *Matrix Analysis* (1997), III.4 and X.4; Laurent, Massart, Ann. Stat. 2000, 28,
1302; Roosta-Khorasani, Szekely, Ascher, SIAM/ASA J. Uncertain. Quantif. 2015, 3, 61.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.stats import chi2

from mace_functional.units import ANGULAR_FREQUENCY, HBAR, K_B

N_PROBES = 16
"""Number of products with the exact matrix: a chunk of columns on a CPU.

With 8 the bound is 2.3 times as large, with 32 half as large.
"""

FAILURE = 0.01
"""Probability that the bound does not hold."""

N_LANCZOS = 100
"""Largest number of Lanczos steps. At 300 K 30 give 1e-10, at 50 K 100 give 1e-4."""

SMALL_ARGUMENT = 1e-2
"""Squared quantum over kT below which the series of c and c' are used."""


class HeatCapacityError(NamedTuple):
    """Difference of a heat capacity between the exact and the stored Hessian, exact minus stored.

    Attributes:
        shift: Estimate of the difference, eV/K.
        bound: Bound of its magnitude, which holds with a confidence of 99 %, eV/K.
        heat_capacity: Heat capacity of the stored Hessian, estimated within a few percent, eV/K.
    """

    shift: float
    bound: float
    heat_capacity: float

    @property
    def relative_bound(self) -> float:
        """Bound relative to the heat capacity."""
        return self.bound / self.heat_capacity


@dataclass(frozen=True, eq=False)
class TruncationError:
    """Difference of a truncated and the exact Hessian, measured with products of both.

    Attributes:
        norm: Upper bound of the Frobenius norm of D - K, eV/Å²/amu; it holds with a confidence of
            99.5 %.
        n_internal: Number n of internal motions.
        n_probes: Number of products with the exact Hessian.
    """

    norm: float
    n_internal: int
    n_probes: int
    _forms: tuple[_Form, ...]

    def __repr__(self) -> str:
        return f"TruncationError(norm below {self.norm:.2g} eV/Å²/amu, {self.n_probes} probes)"

    def heat_capacity(self, temperature: float) -> HeatCapacityError:
        """Compute how far the heat capacity at a temperature in K can be off."""
        slope, curvature = _largest_derivatives(temperature)
        traces = np.array([form.traces(temperature) for form in self._forms])
        short = np.array([form.shorter().traces(temperature) for form in self._forms])
        capacity, shift = traces.mean(0)
        t = np.log(2 / (FAILURE / 2))
        m = len(self._forms)
        spread = 2 * slope * self.norm * (np.sqrt(t / m) + t / m)
        not_converged = np.abs(traces - short).mean(0)[1]
        remainder = curvature * self.norm**2 / 2
        bound = min(
            abs(shift) + spread + not_converged + remainder,
            slope * np.sqrt(self.n_internal) * self.norm,
        )
        return HeatCapacityError(float(shift), float(bound), float(capacity))


def truncation_error(
    exact: Callable[[np.ndarray], np.ndarray],
    stored: Callable[[np.ndarray], np.ndarray],
    rigid: np.ndarray,
    *,
    seed: int = 0,
) -> TruncationError:
    """Measure the difference of two mass-weighted Hessians.

    Args:
        exact: Product of the exact matrix with columns, (3N, k) to (3N, k).
        stored: Product of the stored matrix with columns.
        rigid: Orthonormal rigid motions in mass-weighted coordinates, (3N, r).
        seed: Seed of the vectors.
    """
    size, n_rigid = rigid.shape

    def internal(v: np.ndarray) -> np.ndarray:
        return v - rigid @ (rigid.T @ v)

    z = internal(np.random.default_rng(seed).standard_normal((size, N_PROBES)))
    difference = internal(exact(z) - stored(z))
    squares = (difference**2).sum()
    norm = np.sqrt(squares / chi2.ppf(FAILURE / 2, N_PROBES))
    forms = (
        _form(lambda v: internal(stored(v)), start, other)
        for start, other in zip(z.T, difference.T, strict=True)
    )
    return TruncationError(float(norm), size - n_rigid, N_PROBES, tuple(forms))


class _Form(NamedTuple):
    """Lanczos process from z, which gives z.f(K) z and z.f(K) y for any function f.

    Attributes:
        diagonal: Diagonal of the tridiagonal matrix, (steps,).
        beside: Elements beside the diagonal, (steps - 1,).
        components: Components of y along the Lanczos vectors, (steps,).
        length: Length of z.
    """

    diagonal: np.ndarray
    beside: np.ndarray
    components: np.ndarray
    length: float

    def traces(self, temperature: float) -> tuple[float, float]:
        """Return z.c(K) z and z.c'(K) y."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.beside)
        c, slope = _heat_capacity(values, temperature)
        first = self.length * vectors[0]
        return (
            float(first @ (c * vectors[0]) * self.length),
            float(first @ (slope * (vectors.T @ self.components))),
        )

    def shorter(self) -> _Form:
        """Return the process with two thirds of the steps."""
        steps = max(1, 2 * len(self.diagonal) // 3)
        return _Form(
            self.diagonal[:steps], self.beside[: steps - 1], self.components[:steps], self.length
        )


def _form(product: Callable[[np.ndarray], np.ndarray], z: np.ndarray, y: np.ndarray) -> _Form:
    """Run the Lanczos process from z, with all vectors kept orthogonal."""
    length = float(np.linalg.norm(z))
    vectors = np.zeros((min(N_LANCZOS, len(z)), len(z)))
    diagonal: list[float] = []
    beside: list[float] = []
    vector, scale = z / length, 0.0
    for step in range(len(vectors)):
        vectors[step] = vector
        image = product(vector)
        diagonal.append(float(vector @ image))
        known = vectors[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(np.linalg.norm(image))
        scale = max(scale, abs(diagonal[-1]), rest)
        if rest <= 1e-12 * scale or step == len(vectors) - 1:
            break
        beside.append(rest)
        vector = image / rest
    return _Form(np.array(diagonal), np.array(beside), vectors[: len(diagonal)] @ y, length)


def _quantum_over_kt(temperature: float) -> float:
    """Return s = hbar / k_B T, for angular frequencies in sqrt(eV/Å²/amu)."""
    return HBAR * ANGULAR_FREQUENCY / (K_B * temperature)


def _largest_derivatives(temperature: float) -> tuple[float, float]:
    """Return L and M, the largest |c'| and |c''|."""
    s2 = _quantum_over_kt(temperature) ** 2
    return K_B * s2 / 12, K_B * s2**2 / 120


def _heat_capacity(y: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return c(y) and c'(y), eV/K and eV/K per eV/Å²/amu."""
    s2 = _quantum_over_kt(temperature) ** 2
    square = s2 * y
    small = square < SMALL_ARGUMENT
    near = np.maximum(square, 0.0)
    x = np.sqrt(np.where(small, 1.0, square))
    n = np.exp(-x) / -np.expm1(-x)
    c = x**2 * n * (1 + n)
    # dc/dx = c (2/x - (1 + 2n)), and d(x^2) = 2x dx
    slope = c * (2 / x - (1 + 2 * n)) / (2 * x)
    c = np.where(small, 1 - square / 12 + near**2 / 240, c)
    slope = np.where(small, -1 / 12 + near / 120 - near**2 / 2016, slope)
    return K_B * c, K_B * s2 * slope
