r"""Passes of probing vectors: sums of quadratic forms, with their statistical and systematic error.

A pass with probes z_g (`probes`) estimates tr f(D), over all motions but the rigid ones, from
y_g = P z_g, where P removes the rigid motions:

    Q = sum_g y_g^T f(D) y_g,        N = sum_g |y_g|^2,        tr f(D) = (3N - r) mean Q / mean N.

The ratio is exact for constants, so that what rigid motions take from a probe does not count.

**Statistical error.** Let z be the signs of all coordinates and q_i = z_i (f(D) y_g)_i in the group
g of coordinate i, so that Q = sum_i q_i. Over passes, q_i scatters by sum_j F_ij^2 about F_ii, and

    variance of Q = 2 sum_i variance of q_i.

Hence two passes give an error with about as many degrees of freedom as there are atoms, where the
scatter of the two sums alone would have one. The images f(D) y are polynomials of half the degree
of the sums, and with few steps they miss couplings of distant atoms. The variance is therefore at
least that of the sums of the single vectors, whose scatter has as many degrees of freedom as there
are vectors.

**Systematic error.** k Lanczos steps bracket y^T f(D) y. For the heat capacity and the energies the
ends are the quadratures of Gauss and of Gauss-Radau with a node at zero. The entropy diverges at
zero, and Gauss is below it by an error that falls at least as 1 / k where the density of
frequencies is bounded, so that the other end is Q_k + (Q_k - Q_{k/2}). The estimate is the middle
of the bracket, and its systematic error half the width over sqrt(3), as of a uniform distribution.

**Corrections.** A second stage of passes estimates what more steps change, from one vector over all
coordinates each: the variance of this difference is small, so that few long iterations correct many
short ones. What is corrected is the Gauss quadrature B of k steps, for S and F with half of what
the last half of the steps changed. A node at zero would not do: where few modes are excited, it
takes weight where there is none. B is to first order the integral of an interpolant h
(`interpolants`), and the difference y^T f(D) y - B scatters as y^T r(D) y with r = f - h does:

    variance = 2 sum_ij R_ij^2 - 2 sum_i R_ii^2 <= 2 tr r(D)^2 = 2 sum_j w_j r_j^2,

with the nodes and weights w_j of the long quadrature, and r less its mean, as the ratio takes it
out. Modes that extend over many atoms have a small second sum. The variance has the variance
8 sum_j w_j r_j^4, so that one pass has

    nu = (sum_j w_j r_j^2)^2 / sum_j w_j r_j^4

degrees of freedom, about as many as modes contribute, and at least one. The standard error is
multiplied by half of Student's quantile for 95 % and nu, so that two standard errors keep their
meaning where nu is small.

Source: Giles, Acta Numerica 24, 259 (2015), for the two stages; Golub, Meurant, *Matrices, Moments
and Quadrature* (2010), chapter 6, for the bracket; Satterthwaite, Biometrics Bull. 2, 110 (1946),
for degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from mace_functional.stochastic.interpolants import hermite_interpolants
from mace_functional.stochastic.lanczos import Lanczos
from mace_functional.stochastic.probes import probes
from mace_functional.stochastic.spectral_functions import SpectralFunctions

Bracket = tuple[Tensor, Tensor]
"""Both ends of a quadrature of F functions, (F,) or (F, v) each."""

SEEDS = 1_000_003
"""Number of passes of a stage that have different seeds."""

CHECK_STEPS = 20
"""Number of Lanczos steps up to which each is checked for convergence; then fewer and fewer are."""

TWO_ERRORS = 0.97725
"""Probability that a normal variable is below two standard deviations."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Traces of F functions of the mass-weighted Hessian.

    Attributes:
        value: Estimate of each, (F,).
        variance: Statistical variance of each, (F,); infinite from one short pass.
        systematic: Half the width of the bracket, with its sign, (F,).
    """

    value: Tensor
    variance: Tensor
    systematic: Tensor

    def error(self) -> Tensor:
        """Return the standard error of each, (F,)."""
        return (self.variance + self.systematic.square() / 3).sqrt()

    def corrected(self, correction: Estimate) -> Estimate:
        """Return the estimate with a correction for more Lanczos steps, which has its own error."""
        return Estimate(
            self.value + correction.value,
            self.variance + correction.variance,
            correction.systematic,
        )


def bracket(lanczos: Lanczos, functions: SpectralFunctions, steps: int) -> Bracket:
    """Return both ends of the quadratures of all functions and vectors, (F, v) each."""
    gauss = lanczos.gauss(steps).sums(functions)
    if lanczos.complete and steps == lanczos.steps:
        return gauss, gauss
    shorter = lanczos.gauss(max(1, steps // 2)).sums(functions)
    other = functions.other_end(gauss, lanczos.radau(steps).sums(functions), shorter)
    return gauss, other


def base(lanczos: Lanczos, functions: SpectralFunctions, steps: int) -> Tensor:
    """Return the quadratures that long iterations correct, of all functions and vectors, (F, v)."""
    gauss = lanczos.gauss(steps).sums(functions)
    shorter = lanczos.gauss(max(1, steps // 2)).sums(functions)
    return gauss + functions.entropy_step(gauss, shorter) / 2


def remainder(lanczos: Lanczos, functions: SpectralFunctions, steps: int, at: Tensor) -> Tensor:
    """Return the functions that `base` lacks, at values (v, n) of each vector, (F, v, n)."""
    longer, shorter = (
        hermite_interpolants(functions, lanczos.gauss(k).values, at)
        for k in (steps, max(1, steps // 2))
    )
    return functions(at) - longer - functions.entropy_step(longer, shorter) / 2


def student_factor(degrees: Tensor) -> Tensor:
    """Return half of Student's two-sided quantile for two standard errors."""
    quantile = stdtrit(degrees.numpy(), TWO_ERRORS)
    return torch.as_tensor(quantile / 2, dtype=torch.float64)


class Stage:
    """Passes with equal groups and equal numbers of Lanczos steps.

    Args:
        multiply: Product of the mass-weighted Hessian with vectors (v, 3N), inside of P.
        project: Projection P of vectors (v, 3N).
        functions: Functions of the eigenvalues.
        n_modes: Number 3N - r of modes.
        colour: Colour of each atom, (N,); None for one probe over all coordinates.
        n_atoms: Number N of atoms.
        seed: Seed of the signs.
        base: Number of steps to which the stage is a correction; 0 for none.

    Attributes:
        steps: Number k of Lanczos steps; 0 before the first pass.
        n_passes: Number of passes.
        lowest, highest: Extreme Ritz values of all passes, each with its residual, eV/Å²/amu.
        below_zero: Largest weight that the quadratures allow below zero, as a sum over passes.
    """

    def __init__(
        self,
        multiply: Callable[[Tensor], Tensor],
        project: Callable[[Tensor], Tensor],
        functions: SpectralFunctions,
        *,
        n_modes: int,
        colour: np.ndarray | None,
        n_atoms: int,
        seed: int,
        base: int = 0,
    ) -> None:
        self._multiply, self._project, self._functions = multiply, project, functions
        self._n_modes, self._colour, self._n_atoms = n_modes, colour, n_atoms
        self._seed, self.base = seed, base
        self.steps = self.n_passes = 0
        self.lowest, self.highest, self.below_zero = (np.inf, 0.0), (-np.inf, 0.0), 0.0
        f, d, g = functions.count, 3 * n_atoms, self.n_vectors
        shapes: dict[str, tuple[int, ...]] = {"ends": (2, f), "norm": ()}
        if base:
            shapes |= dict.fromkeys(("r2", "r4"), (f,))
        else:
            shapes |= {"uncorrected": (f,)}
            shapes |= dict.fromkeys(("q", "qq", "qn"), (f, d)) | dict.fromkeys(("n", "nn"), (d,))
            shapes |= dict.fromkeys(("v", "vv", "vm"), (f, g)) | dict.fromkeys(("m", "mm"), (g,))
        self._sums = {name: torch.zeros(s, dtype=torch.float64) for name, s in shapes.items()}

    @property
    def n_vectors(self) -> int:
        """Number of probes of a pass."""
        return 3 * self.n_colours or 1

    @property
    def n_colours(self) -> int:
        """Number of colours; 0 for one probe over all coordinates."""
        return 0 if self._colour is None else int(self._colour.max()) + 1

    @property
    def n_products(self) -> int:
        """Number of Hessian-vector products of all passes."""
        return self.n_passes * self.n_vectors * self.steps

    def run(
        self,
        *,
        enough: Callable[[Bracket], bool] | None = None,
        most_steps: int = 0,
        report: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Make a pass.

        Args:
            enough: For the first pass, which chooses the number of steps: True if the quadratures
                with these ends (F,) are accurate enough.
            most_steps: Largest number of steps of the first pass.
            report: It is called with the number of products of this pass, after each step.
        """
        generator = torch.Generator().manual_seed(self._seed * SEEDS + self.n_passes)
        signs = probes(self._colour, self._n_atoms, generator)
        start = self._project(signs)
        lanczos = Lanczos(self._multiply, start)
        while lanczos.steps < (self.steps or most_steps):
            lanczos.step()
            report(lanczos.steps * len(signs))
            if not self.steps and (lanczos.complete or self._is_enough(lanczos, enough)):
                break
        self.steps = lanczos.steps
        self._add(signs, start, lanczos)

    def _is_enough(self, lanczos: Lanczos, enough: Callable[[Bracket], bool] | None) -> bool:
        k = lanczos.steps
        if enough is None or k < max(3, self.base + 1) or k % (1 + k // CHECK_STEPS):
            return False
        gauss, other = bracket(lanczos, self._functions, k)
        return enough((gauss.sum(-1), other.sum(-1)))

    def _add(self, signs: Tensor, start: Tensor, lanczos: Lanczos) -> None:
        ends = torch.stack(bracket(lanczos, self._functions, self.steps))
        sizes = start.square().sum(1)
        added = {"norm": sizes.sum()}
        if self.base:
            ends = ends - base(lanczos, self._functions, self.base)
            nodes = lanczos.gauss()
            r = remainder(lanczos, self._functions, self.base, nodes.values)
            r2 = (r - (ends.mean(0) / sizes)[..., None]).square()
            added |= {"r2": (nodes.weights * r2).sum((1, 2))}
            added |= {"r4": (nodes.weights * r2.square()).sum((1, 2))}
        else:
            q = torch.zeros_like(self._sums["q"])
            for v in range(len(signs)):
                image = lanczos.images(self._functions, v)
                q += (signs[v].to(image) * image).cpu()
            n = (signs * start).sum(0).cpu()
            vectors = base(lanczos, self._functions, self.steps)
            added |= {"uncorrected": vectors.sum(-1), "q": q, "qq": q * q, "qn": q * n}
            added |= {"n": n, "nn": n * n, "v": vectors, "vv": vectors.square()}
            added |= {"vm": vectors * sizes, "m": sizes, "mm": sizes.square()}
        added["ends"] = ends.sum(-1)
        for name, value in added.items():
            self._sums[name] += value.cpu()
        self.n_passes += 1
        values, residuals = (x.cpu() for x in lanczos.extremes())
        low, high = int(values[:, 0].argmin()), int(values[:, 1].argmax())
        self.lowest = min(self.lowest, (float(values[low, 0]), float(residuals[low, 0])))
        self.highest = max(self.highest, (float(values[high, 1]), float(residuals[high, 1])))
        nodes = lanczos.gauss()
        # the mass below zero is at most that of the nodes below zero and of the next one
        next_one = torch.where(nodes.values < 0, torch.inf, nodes.values).argmin(1, keepdim=True)
        below = (nodes.weights * (nodes.values < 0)).sum() + nodes.weights.gather(1, next_one).sum()
        self.below_zero += float(below)

    def estimate(self) -> Estimate:
        """Return the traces from all passes, or what they add to those of short passes."""
        scale = self._n_modes / float(self._sums["norm"])
        first, second = scale * self._sums["ends"]
        variance = scale**2 * (self._of_long_vectors() if self.base else self._of_signs())
        return Estimate((first + second) / 2, variance, (second - first) / 2)

    def uncorrected(self) -> Estimate:
        """Return the traces that a later stage corrects; it has their systematic error."""
        scale = self._n_modes / float(self._sums["norm"])
        value = scale * self._sums["uncorrected"]
        return Estimate(value, self.estimate().variance, torch.zeros_like(value))

    def _of_signs(self) -> Tensor:
        """Return the variance of the sum over all short passes, (F,)."""
        s, p = self._sums, self.n_passes
        if p < 2:
            return torch.full_like(s["uncorrected"], np.inf)
        c = (s["q"].sum(1) / s["norm"])[:, None]

        def scatter(x: str, y: str) -> Tensor:
            """Return the sum of squared deviations of x - c y from their means over passes."""
            squares = s[x + x] - 2 * c * s[x + y] + c**2 * s[y + y]
            return (squares - (s[x] - c * s[y]).square() / p).sum(1).clamp(min=0)

        return p / (p - 1) * torch.maximum(2 * scatter("q", "n"), scatter("v", "m"))

    def _of_long_vectors(self) -> Tensor:
        """Return the variance of the sum over all long passes, with Student's factor, (F,)."""
        r2, r4 = self._sums["r2"], self._sums["r4"]
        degrees = (r2.square() / torch.where(r4 > 0, r4, 1.0)).clamp(min=1)
        return torch.where(r4 > 0, 2 * r2 * student_factor(degrees).square(), 0.0)

    def below_zero_bound(self) -> float:
        """Return the largest number of modes below zero that the quadratures allow, as a mean."""
        return self.below_zero * self._n_modes / float(self._sums["norm"])

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that a checkpoint holds."""
        numbers = {
            "steps": self.steps,
            "passes": self.n_passes,
            "base": self.base,
            "n_colours": self.n_colours,
            "lowest": self.lowest,
            "highest": self.highest,
            "below_zero": self.below_zero,
        }
        return {
            **{name: np.array(value) for name, value in numbers.items()},
            **{name: value.numpy() for name, value in self._sums.items()},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from the state of a checkpoint."""
        self.steps, self.n_passes = int(state["steps"]), int(state["passes"])
        self.base, self.below_zero = int(state["base"]), float(state["below_zero"])
        self.lowest = (float(state["lowest"][0]), float(state["lowest"][1]))
        self.highest = (float(state["highest"][0]), float(state["highest"][1]))
        self._sums = {name: torch.as_tensor(state[name]) for name in self._sums}
