r"""Density of states of large cells by kernel polynomials, from Hessian-vector products.

The interval [a, b] holds all eigenvalues l of the mass-weighted Hessian, x = (2 l - a - b)/(b - a)
maps it to [-1, 1], and x = cos t. With the moments m_n = tr T_n(x(D)) of Chebyshev polynomials,
estimated by probing vectors (`probes`), and Jackson's factors g_n, the number of modes between two
frequencies is

    n = (1 / pi) [g_0 m_0 t + 2 sum_{n=1}^{M-1} g_n m_n sin(n t) / n]_{t_2}^{t_1}.

Jackson's kernel is positive, and has the width pi / M in t. For a = 0 the frequency is
w = w_max |cos(t / 2)|, so that the width in frequency is nearly uniform:

    s(w) = (pi / 2 M) sqrt(w_max^2 - w^2).

Two moments take one product: m_2n = 2 v_n.v_n - m_0 and m_2n+1 = 2 v_n.v_n+1 - m_1, v_n = T_n v.

Source: Weiße, Wellein, Alvermann, Fehske, Rev. Mod. Phys. 78, 275 (2006),
doi:10.1103/RevModPhys.78.275.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import Tensor

from mace_functional.stochastic.hessian import VibrationalHessian
from mace_functional.stochastic.lanczos import Lanczos
from mace_functional.stochastic.probes import colours, probes
from mace_functional.support import validation
from mace_functional.units import frequency_factor
from mace_functional.vibrations.result_text import result_text, values_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.potential.protocol import Potential

EDGE_STEPS = 30
"""Number of Lanczos steps that find the ends of the spectrum.

In MOF-5, 15 steps find the highest eigenvalue to 1e-6.
"""

MARGIN = 0.01
"""Share of the spectrum by which the interval of the polynomials is wider at both ends.

The lower end is zero if no Ritz value is negative.
"""

BINS_PER_WIDTH = 2
"""Number of frequencies of the default grid in one width of the kernel."""

MOST_BINS = 100_000
"""Largest number of frequencies of a grid."""


@dataclass(frozen=True, eq=False)
class StochasticDensityOfStates:
    """Density of states on a grid of frequencies, with its standard error and its resolution.

    Attributes:
        frequencies: Evenly spaced frequencies in `unit`, (E,).
        total: Modes of the cell per `unit`, the mean over each step of the grid, centred, (E,). For
            a grid that covers the spectrum, the steps add up to the number of modes, 3N - r.
        error: Standard error of each, from the scatter of the passes, (E,).
        resolution: Standard deviation of the kernel at each frequency, in `unit`, (E,).
        n_moments: Number of Chebyshev moments.
        n_products: Number of Hessian-vector products.
        unit: Unit of the frequencies.
    """

    frequencies: Tensor
    total: Tensor
    error: Tensor
    resolution: Tensor
    n_moments: int
    n_products: int
    unit: str

    def __repr__(self) -> str:
        return result_text(
            self,
            values_text(self.frequencies, self.unit),
            f"resolution {float(self.resolution.max()):.3g} {self.unit}",
            f"{self.n_products} Hessian-vector products",
        )


def stochastic_dos(
    potential: Potential,
    atoms: Atoms,
    *,
    resolution: float | None = None,
    grid: Sequence[float] | Tensor | None = None,
    n_passes: int = 4,
    n_colours: int = 1,
    unit: str = "cm-1",
    seed: int = 0,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> StochasticDensityOfStates:
    """Compute the density of states of a large cell at Gamma without its Hessian.

    Rigid motions are left out; imaginary modes are at negative frequencies.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        resolution: Largest standard deviation of the kernel, in `unit`; half of it takes twice the
            products. None for a hundredth of the highest frequency.
        grid: Evenly spaced, ascending frequencies in `unit`; None for two in each width, over the
            whole spectrum.
        n_passes: Number of passes of probing vectors, at least 2. Four times as many halve the
            error.
        n_colours: Number of colours of atoms in a pass, which takes three vectors for each.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        seed: Seed of the random signs.
        chunk_size: Vectors that are multiplied at once; see `hessian`.
        memory_budget: Bytes that chunks may fill; see `hessian`.
        executor: Executor whose workers share products with several vectors; see `WorkerProcesses`.
            A small `chunk_size` shares few vectors better. None to compute in this process.
        progress: Show a line of progress.

    Returns:
        The density of states with its error and its resolution.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential, has no vibrations, or has
            constraints, or an option is out of range; also under a transform.
        ArithmeticError: If a product is not finite, or an eigenvalue lies outside of the interval.

    Source: Weiße, Wellein, Alvermann, Fehske, Rev. Mod. Phys. 78, 275 (2006).
    """
    factor = frequency_factor(unit)
    n_passes = validation.count("n_passes", n_passes, least=2)
    n_colours = validation.count("n_colours", n_colours)
    seed = validation.count("seed", seed, least=0)
    if resolution is not None:
        resolution = validation.positive("resolution", resolution, unit)
    hessian = VibrationalHessian(
        potential,
        atoms,
        what="stochastic_dos",
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        executor=executor,
    )
    if hessian.n_modes == 0:
        raise ValueError("a single atom has no vibrations, and no density of states")
    with Console(stderr=True, quiet=not progress).status("ends of the spectrum") as status:
        interval, n_products = _interval(hessian, seed)
        highest = factor * math.sqrt(max(map(abs, interval)))
        resolution = highest / 100 if resolution is None else resolution
        n_moments = max(4, math.ceil(math.pi * highest / (2 * resolution)))
        frequencies = _grid(grid, interval, resolution, factor)
        step = float(frequencies[1] - frequencies[0])
        edges = torch.cat([frequencies - step / 2, frequencies[-1:] + step / 2]) / factor
        colour = colours(hessian.positions, hessian.cell, hessian.pbc, n_colours)
        counts = []
        for index in range(n_passes):
            generator = torch.Generator().manual_seed(seed * (n_passes + 1) + index)
            start = hessian.project(probes(colour, hessian.n_atoms, generator))
            moments = _moments(hessian, start, interval, n_moments)
            n_products += len(start) * (n_moments // 2)
            counts.append(_counts(moments * hessian.n_modes / moments[0], edges, interval))
            status.update(f"{n_products} Hessian-vector products")
    density = torch.stack(counts) / step
    return StochasticDensityOfStates(
        frequencies=frequencies,
        total=density.mean(0),
        error=density.std(0) / n_passes**0.5,
        resolution=_widths(frequencies / factor, interval, n_moments) * factor,
        n_moments=n_moments,
        n_products=n_products,
        unit=unit,
    )


def _interval(hessian: VibrationalHessian, seed: int) -> tuple[tuple[float, float], int]:
    """Return an interval of eigenvalues that holds the spectrum, and the products it took."""
    generator = torch.Generator().manual_seed(seed)
    start = hessian.project(probes(None, hessian.n_atoms, generator))
    lanczos = Lanczos(hessian.multiply, start)
    while lanczos.steps < EDGE_STEPS and not lanczos.complete:
        lanczos.step()
    (values,), (residuals,) = lanczos.extremes()
    low, high = float(values[0] - residuals[0]), float(values[1] + residuals[1])
    low = low if float(values[0]) < 0 else 0.0
    if not math.isfinite(low + high):
        raise ArithmeticError("a Hessian-vector product is not finite: check the structure")
    margin = MARGIN * max(high - low, 1e-12)
    return (low - margin if low < 0 else 0.0, high + margin), lanczos.steps


def _grid(
    grid: Sequence[float] | Tensor | None,
    interval: tuple[float, float],
    resolution: float,
    factor: float,
) -> Tensor:
    """Return the frequencies of the grid; the default ones cover the interval."""
    if grid is None:
        low, high = (factor * math.copysign(math.sqrt(abs(x)), x) for x in interval)
        step = resolution / BINS_PER_WIDTH
        n_bins = math.ceil((high - low) / step)
        if n_bins > MOST_BINS:
            raise ValueError(f"the grid has {n_bins} frequencies: choose a larger resolution")
        return low + step * (torch.arange(n_bins, dtype=torch.float64) + 0.5)
    values = torch.as_tensor(grid, dtype=torch.float64)
    if values.ndim != 1 or len(values) < 2 or not values.isfinite().all():
        raise ValueError("the grid must be a list of at least two frequencies")
    steps = values.diff()
    if not (steps > 0).all() or (steps - steps.mean()).abs().max() > 1e-3 * steps.mean():
        raise ValueError("the grid must be evenly spaced and ascending")
    return values


def _moments(
    hessian: VibrationalHessian, start: Tensor, interval: tuple[float, float], count: int
) -> Tensor:
    """Return the Chebyshev moments of all vectors together, (count,)."""
    low, high = interval

    def scaled(vectors: Tensor) -> Tensor:
        return (2 * hessian.multiply(vectors) - (high + low) * vectors) / (high - low)

    before, vectors = start, scaled(start)
    first, second = float((start * start).sum()), float((start * vectors).sum())
    moments = [first, second]
    while len(moments) < count:
        moments.append(2 * float((vectors * vectors).sum()) - first)
        before, vectors = vectors, 2 * scaled(vectors) - before
        moments.append(2 * float((vectors * before).sum()) - second)
        if not abs(moments[-2]) <= first * (1 + 1e-6):
            raise ArithmeticError(
                "an eigenvalue of the Hessian lies outside of the interval of the polynomials, or "
                "a product is not finite: try another seed, and check the structure"
            )
    return torch.tensor(moments[:count], dtype=torch.float64)


def _counts(moments: Tensor, edges: Tensor, interval: tuple[float, float]) -> Tensor:
    """Return the number of modes between edges, frequencies in sqrt(eV/Å²/amu), (E + 1,)."""
    low, high = interval
    x = (2 * edges.sign() * edges.square() - (high + low)) / (high - low)
    t = torch.arccos(x.clamp(-1, 1))
    n = torch.arange(len(moments), dtype=torch.float64)
    angle = math.pi / (len(moments) + 1)
    jackson = (len(moments) - n + 1) * torch.cos(n * angle)
    jackson = (jackson + torch.sin(n * angle) / math.tan(angle)) / (len(moments) + 1)
    waves = torch.sin(t[:, None] * n[1:]) / n[1:]
    below = (jackson[0] * moments[0] * t + 2 * waves @ (jackson * moments)[1:]) / math.pi
    return below[:-1] - below[1:]


def _widths(frequencies: Tensor, interval: tuple[float, float], count: int) -> Tensor:
    """Return the width of the kernel at frequencies in sqrt(eV/Å²/amu), (E,).

    If there are negative eigenvalues, the width s of the kernel in l does not vanish at l = 0. The
    width in frequency is then sqrt(|l| + s) - sqrt(|l|).
    """
    low, high = interval
    values = (frequencies.sign() * frequencies.square()).clamp(low, high)
    if low == 0:
        return math.pi / (2 * count) * (high - values).sqrt()
    width = math.pi / count * ((values - low) * (high - values)).sqrt()
    return (values.abs() + width).sqrt() - values.abs().sqrt()
