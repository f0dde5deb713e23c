"""Predicted against reference heat capacities, and a common factor on frequencies between them.

The error of a structure is C / C_ref - 1. A potential that is too soft or too stiff has similar
errors in all structures. One common factor s on all frequencies removes this part:

    s = argmin  mean_i | C_i(s nu_i, T) / C_i,ref - 1 |

Harmonic heat capacities depend on nu / T alone, so frequencies scaled by s give the heat capacity
at the temperature T / s.

A heat capacity at Gamma alone that lacks much (`missing`) does not measure the frequencies, and
that of a structure sampled by random vectors is known at single temperatures: such structures are
compared, and left out of the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from mace_functional.screening.missing import LARGE, missing_at_gamma
from mace_functional.screening.references import Reference
from mace_functional.screening.rows import Row, heat_capacities

SCALES = (0.5, 2.0)
"""Range in which a common factor on frequencies is sought."""

N_SCALES = 121
"""Number of points of the first, coarse search."""

FEWEST = 5
"""Smallest number of structures for a fitted factor and for R²; with fewer, both say little."""

SAME = 1e-9
"""Relative difference below which references count as equal."""


@dataclass(frozen=True)
class Errors:
    """Errors of predictions against references.

    Attributes:
        mean_absolute: mean |C - C_ref|, J/(g K).
        mean_relative: mean |C / C_ref - 1|, without signs.
        largest_relative: C / C_ref - 1 where it is largest in size, with its sign.
        worst: Index of the structure with the largest error.
        r_squared: 1 - sum (C - C_ref)^2 / sum (C_ref - mean C_ref)^2, the share of the variance of
            the references that predictions explain as they are, without a fitted line. None for
            fewer than `FEWEST` structures and for equal references.
    """

    mean_absolute: float
    mean_relative: float
    largest_relative: float
    worst: int
    r_squared: float | None

    @classmethod
    def of(cls, predicted: NDArray[np.float64], reference: NDArray[np.float64]) -> Errors:
        """Errors of predictions.

        Args:
            predicted: Finite, (N,), N > 0, J/(g K).
            reference: Finite and positive, (N,), J/(g K).
        """
        difference = predicted - reference
        relative = difference / reference
        worst = int(abs(relative).argmax())
        varies = float(np.ptp(reference)) > SAME * float(reference.max())
        enough = len(reference) >= FEWEST
        variance = ((reference - reference.mean()) ** 2).sum()
        return cls(
            mean_absolute=float(abs(difference).mean()),
            mean_relative=float(abs(relative).mean()),
            largest_relative=float(relative[worst]),
            worst=worst,
            r_squared=1 - float((difference**2).sum() / variance) if varies and enough else None,
        )


@dataclass(frozen=True, eq=False)
class Parity:
    """Structures with a reference, as computed and with all frequencies scaled.

    Attributes:
        reference: The reference, with its temperature.
        names: Names of the structures that both have, (N,).
        values: Heat capacities of the reference, (N,), J/(g K).
        predicted: Heat capacities as computed, (N,), J/(g K).
        errors: Errors of `predicted`.
        fitted: True for structures that the factor is fitted to, (N,). Structures at Gamma alone
            that lack much of their heat capacity are left out, and sampled ones.
        sampled: True for structures that were sampled by random vectors, (N,).
        scale: The common factor; None for fewer than `FEWEST` structures, and where there is no
            best one between `SCALES`.
        scaled: Heat capacities with frequencies times `scale`, (N,), J/(g K), NaN for sampled
            structures; None without one.
        scaled_errors: Errors of `scaled` for the fitted structures; None without a factor.
    """

    reference: Reference
    names: tuple[str, ...]
    values: NDArray[np.float64]
    predicted: NDArray[np.float64]
    errors: Errors
    fitted: NDArray[np.bool_]
    sampled: NDArray[np.bool_]
    scale: float | None
    scaled: NDArray[np.float64] | None
    scaled_errors: Errors | None


def parity_of(
    rows: Sequence[Row], reference: Reference, largest_missing: float = LARGE
) -> Parity | None:
    """Compare heat capacities with references.

    A structure is left out if it failed, is not in the reference, or has a reference that is not
    positive and finite.

    Args:
        rows: Structures of a screening.
        reference: Heat capacities to compare with.
        largest_missing: Largest part of the heat capacity that a structure at Gamma alone may lack,
            by the estimate, to take part in the fit.

    Returns:
        The comparison; None if there is nothing to compare.
    """
    known = [
        row
        for row in rows
        if row.has_result
        and np.isfinite(value := reference.values.get(row.record.name, np.nan))
        and value > 0
    ]
    temperature = [reference.temperature]
    predictions = heat_capacities(known, temperature)[:, 0] if known else np.zeros(0)
    known = [row for row, value in zip(known, predictions, strict=True) if np.isfinite(value)]
    if not known:
        return None
    predicted = predictions[np.isfinite(predictions)]
    names = tuple(row.record.name for row in known)
    values = np.array([reference.values[name] for name in names])

    missing = [missing_at_gamma(row, reference.temperature) for row in known]
    sampled = np.array([row.sampled is not None for row in known])
    complete = np.array([m is None or m.share <= largest_missing for m in missing])
    fitted = complete & ~sampled
    sound = [row for row, kept in zip(known, fitted, strict=True) if kept]

    def at_scales(scales: NDArray[np.float64]) -> NDArray[np.float64]:
        return heat_capacities(sound, reference.temperature / scales)

    scale = common_scale(at_scales, values[fitted])
    scaled = None
    if scale is not None:
        scaled = heat_capacities(known, [reference.temperature / scale])[:, 0]
    return Parity(
        reference=reference,
        names=names,
        values=values,
        predicted=predicted,
        errors=Errors.of(predicted, values),
        fitted=fitted,
        sampled=sampled,
        scale=scale,
        scaled=scaled,
        scaled_errors=None if scaled is None else Errors.of(scaled[fitted], values[fitted]),
    )


def common_scale(
    predicted: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    reference: NDArray[np.float64],
) -> float | None:
    """The factor on all frequencies of all structures that minimises the mean relative error.

    The mean of absolute values has a kink for every structure, and can have several minima. A grid
    is searched first, then the interval around its best point.

    Args:
        predicted: Heat capacities (N, S) of the structures for factors (S,).
        reference: Finite and positive, (N,), of the same unit.

    Returns:
        The factor; None for fewer than `FEWEST` structures, and where the error still falls at the
        ends of `SCALES`.
    """
    if len(reference) < FEWEST:
        return None

    def error(scales: NDArray[np.float64]) -> NDArray[np.float64]:
        return abs(predicted(scales) / reference[:, None] - 1).mean(0)

    grid = np.geomspace(*SCALES, N_SCALES)
    best = int(error(grid).argmin())
    if best in (0, N_SCALES - 1):
        return None
    found = minimize_scalar(
        lambda scale: float(error(np.array([scale]))[0]),
        bounds=(grid[best - 1], grid[best + 1]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.x)
