r"""Measured error of a heat capacity that a truncated Hessian causes, and a bound of it.

Let D be the exact mass-weighted Hessian and K the stored one, both projected to the internal
motions. The heat capacity is the trace of a function of the matrix,

    Cv = tr c(D),   c(y) = k_B x^2 e^x / (e^x - 1)^2,   x = s sqrt(y),   s = hbar / k_B T,

and what truncation changes is the trace of R = c(D) - c(K). It is measured on m vectors z of
independent normal deviates. The Lanczos process of D and that of K from the same vectors give the
images R z, of which the unknown remainders nearly cancel. The estimate

    tr R = mean of z.R z   with the standard error   std(z.R z) / m^(1/2)

has no bias. The images also measure the Frobenius norm F of R. With a probability of at least 1 - p
each,

    F^2 <= sum |R z|^2 / chi2(p, m),
    |tr R - mean of z.R z| <= 2 F (sqrt(t / m) + t / m),        t = log(2 / p).

In the first line chi2(p, m) is the quantile of the chi-squared distribution: among all R of one
norm, the sum is most often small if R has rank one. The second line is the inequality of Laurent
and Massart for Gaussian quadratic forms. With p = 0.5 %, both lines, and the bound of |tr R| that
they give, hold with a confidence of 99 %. Relative to Cv the bound falls with the size of the
structure: F grows like the square root of the number of atoms.

Lanczos steps are made until two thirds of them give nearly the same images at the lowest
temperature of interest. What the images then still change is added to the bound. At higher
temperatures c is smoother, and fewer steps are needed. Below zero, c is continued
by its tangent. If there are imaginary modes, which have no harmonic heat capacity, the result is
that of the sum in which each of them counts as c(y).

Source: Laurent, Massart, Ann. Stat. 2000, 28, 1302; Roosta-Khorasani, Szekely, Ascher, SIAM/ASA J.
Uncertain. Quantif. 2015, 3, 61.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from mace_functional.stochastic.lanczos import Lanczos
from mace_functional.units import ANGULAR_FREQUENCY, HBAR, K_B

N_PROBES = 16
"""Number of vectors: a chunk of columns on a CPU.

With 8 the bound is 2.3 times as large, with 32 half as large.
"""

FAILURE = 0.01
"""Probability that the bound does not hold."""

FIRST_STEPS = 6
"""Smallest number of Lanczos steps."""

MOST_STEPS = 40
"""Largest number of Lanczos steps. At 300 K 8 are made for MOF-5, at 100 K 16."""

UNCONVERGED = 0.25
"""Part of the bound that may be due to too few Lanczos steps."""

SMALL_ARGUMENT = 1e-2
"""Squared quantum over kT below which the series of c is used."""

Product = Callable[[np.ndarray], np.ndarray]
"""Product of a symmetric matrix with columns, (3N, k) to (3N, k)."""


class HeatCapacityError(NamedTuple):
    """Difference of a heat capacity between the exact and the stored Hessian, exact minus stored.

    Attributes:
        shift: Estimate of the difference, eV/K.
        standard_error: Standard error of the estimate, eV/K.
        bound: Bound of the magnitude of the difference, which holds with a confidence of 99 %,
            eV/K.
        heat_capacity: Heat capacity of the stored Hessian, estimated within a few percent, eV/K.
    """

    shift: float
    standard_error: float
    bound: float
    heat_capacity: float

    @property
    def relative_bound(self) -> float:
        """Bound relative to the heat capacity."""
        return self.bound / self.heat_capacity


@dataclass(frozen=True, eq=False)
class TruncationError:
    """Difference of a truncated and the exact Hessian, measured by m Lanczos processes of each.

    Attributes:
        temperature: Lowest temperature at which the difference is known, K.
        n_products: Number of products with the exact Hessian.
        norm: Upper bound of the Frobenius norm of D - K, eV/Å²/amu; it holds with a confidence of
            99.5 %.
    """

    temperature: float
    n_products: int
    _lengths: Tensor  # of the vectors z, (m,)
    _exact: Tensor  # tridiagonal matrices of D, (m, k, k)
    _stored: Tensor  # tridiagonal matrices of K, (m, k, k)
    _joint: Tensor  # all Lanczos vectors of D, then of K, in one orthonormal basis, (m, b, 2k)

    def __repr__(self) -> str:
        return f"TruncationError(norm below {self.norm:.2g} eV/Å²/amu, {self.n_products} products)"

    @property
    def norm(self) -> float:  # noqa: D102
        return _norm_from(self._differences(lambda y: y, self._exact.shape[-1]).images)

    def heat_capacity(self, temperature: float) -> HeatCapacityError:
        """Estimate and bound the difference of the heat capacity at a temperature in K.

        Raises:
            ValueError: If the temperature is below that at which the difference was measured.
        """
        if temperature < self.temperature:
            raise ValueError(
                f"the error was measured for temperatures from {self.temperature:g} K on, not for "
                f"{temperature:g} K: give sparse_hessian this temperature"
            )
        return self._heat_capacity(temperature)[0]

    @property
    def is_converged(self) -> bool:
        """True if further Lanczos steps would change little of the bound."""
        error, unconverged = self._heat_capacity(self.temperature)
        return unconverged <= UNCONVERGED * error.bound

    def _heat_capacity(self, temperature: float) -> tuple[HeatCapacityError, float]:
        """Return the error, and the part of its bound that is due to too few Lanczos steps."""
        steps, m = self._exact.shape[-1], len(self._lengths)
        c = partial(_heat_capacity, temperature=temperature)
        found, shorter = (self._differences(c, k) for k in (steps, 2 * steps // 3))
        t = np.log(2 / (FAILURE / 2))
        spread = 2 * (np.sqrt(t / m) + t / m)
        shift, standard_error = found.traces.mean(), found.traces.std() / np.sqrt(m)
        unconverged = (found.traces - shorter.traces).mean().abs()
        unconverged += spread * _norm_from(found.images - shorter.images)
        bound = shift.abs() + spread * _norm_from(found.images) + unconverged
        capacity = (self._lengths * _images(self._stored, c, steps)[:, 0]).mul(self._lengths).mean()
        error = map(float, (shift, standard_error, bound, capacity))
        return HeatCapacityError(*error), float(unconverged)

    def _differences(self, function: Callable[[Tensor], Tensor], steps: int) -> _Differences:
        """Compute (f(D) - f(K)) z with a number of Lanczos steps."""
        exact, stored = (_images(m, function, steps) for m in (self._exact, self._stored))
        both = torch.cat([exact, -stored], 1) * self._lengths[:, None]
        images = (self._joint @ both[..., None])[..., 0]
        return _Differences(images, (exact - stored)[:, 0] * self._lengths.square())


class _Differences(NamedTuple):
    """Differences of images and of quadratic forms: (f(D) - f(K)) z, (m, b), and z of it, (m,)."""

    images: Tensor
    traces: Tensor


def exact_process(exact: Product, rigid: np.ndarray, *, seed: int = 0) -> Lanczos:
    """Return the Lanczos process of an exact mass-weighted Hessian, before its first step.

    Args:
        exact: Product of the exact matrix with columns.
        rigid: Orthonormal rigid motions in mass-weighted coordinates, (3N, r).
        seed: Seed of the vectors.
    """
    z = np.random.default_rng(seed).standard_normal((len(rigid), N_PROBES))
    start = torch.as_tensor(z - rigid @ (rigid.T @ z)).T
    return Lanczos(_internal(exact, rigid), start)


def truncation_error(
    process: Lanczos, stored: Product, rigid: np.ndarray, *, temperature: float
) -> TruncationError:
    """Measure the difference of two mass-weighted Hessians.

    Args:
        process: Lanczos process of the exact matrix. It goes on as far as needed.
        stored: Product of the stored matrix with columns.
        rigid: Orthonormal rigid motions in mass-weighted coordinates, (3N, r).
        temperature: Lowest temperature at which the error shall be known, K.
    """
    other = Lanczos(_internal(stored, rigid), process.start)
    steps = max(FIRST_STEPS, process.steps)
    while True:
        for lanczos in (process, other):
            while lanczos.steps < steps:
                lanczos.step()
        joint = torch.cat([process.basis, other.basis], 1)
        error = TruncationError(
            temperature=temperature,
            n_products=N_PROBES * steps,
            _lengths=process.start.norm(dim=1),
            _exact=process.tridiagonal(steps),
            _stored=other.tridiagonal(steps),
            _joint=torch.linalg.qr(joint.mT, mode="r").R,
        )
        complete = process.complete and other.complete
        if complete or steps >= MOST_STEPS or error.is_converged:
            return error
        steps += 1


def _internal(product: Product, rigid: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Return the product with internal motions, as a function of rows (v, 3N)."""

    def multiply(vectors: Tensor) -> Tensor:
        found = product(vectors.T.numpy()).astype(np.float64)
        return torch.as_tensor(found - rigid @ (rigid.T @ found)).T

    return multiply


def _images(matrices: Tensor, function: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Compute the components of f(T) e_1 with a number of Lanczos steps, (m, k); e_1 of all k."""
    values, vectors = torch.linalg.eigh(matrices[:, :steps, :steps])
    found = vectors @ (function(values) * vectors[:, 0])[..., None]
    padding = matrices.shape[-1] - steps
    return torch.nn.functional.pad(found[..., 0], (0, padding))


def _norm_from(images: Tensor) -> float:
    """Return an upper bound of the norm of a matrix from its images of all vectors."""
    return float(images.norm()) / float(np.sqrt(chi2.ppf(FAILURE / 2, len(images))))


def _heat_capacity(y: Tensor, temperature: float) -> Tensor:
    """Return c(y) in eV/K; below zero its tangent."""
    quantum = HBAR * ANGULAR_FREQUENCY / (K_B * temperature)
    square = quantum**2 * y
    near = square.clamp(min=0.0)
    x = torch.where(square < SMALL_ARGUMENT, 1.0, square).sqrt()
    c = (x / 2 / torch.sinh(x / 2)) ** 2
    return K_B * torch.where(square < SMALL_ARGUMENT, 1 - square / 12 + near**2 / 240, c)
