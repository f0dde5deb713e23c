"""Rows of tables and reports: structures with their records and spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mace_functional.screening.record import Record, Spectrum


@dataclass(frozen=True)
class Row:
    """One structure of a screening.

    Attributes:
        record: Results and settings of the structure.
        spectrum: Its frequencies; None if it failed.
        folder: Folder of its files; None if there is none.
    """

    record: Record
    spectrum: Spectrum | None
    folder: Path | None = None


def checked(row: Row) -> Row:
    """The row, or a failed one in its place if its numbers are impossible.

    Args:
        row: A row from files, which may be damaged or made elsewhere.
    """
    if row.spectrum is None:
        return row
    reason = _fault(row.record, row.spectrum)
    if reason is None:
        return row
    record = replace(row.record, failure=f"its results cannot be used: {reason}")
    return replace(row, record=record, spectrum=None)


def _fault(record: Record, spectrum: Spectrum) -> str | None:
    """Reason why numbers cannot be results of a structure."""
    frequencies, weights, q = spectrum.frequencies, spectrum.weights, spectrum.q
    if record.failure is not None:
        return record.failure
    if frequencies.ndim != 2 or weights.shape != (len(frequencies),) or q.shape != (len(q), 3):
        return "frequencies, weights and wave vectors do not fit each other"
    if len(q) != len(frequencies) or not len(q):
        return "frequencies, weights and wave vectors do not fit each other"
    if not all(x.is_floating_point() for x in (frequencies, weights, q)):
        return "frequencies, weights or wave vectors are no decimal numbers"
    if not all(bool(x.isfinite().all()) for x in (frequencies, weights, q)):
        return "frequencies, weights or wave vectors are not finite"
    if not bool((weights >= 0).all()) or not float(weights.sum()) > 0:
        return "the weights of wave vectors are not positive"
    for name, value in ("mass", record.mass), ("number of atoms", record.n_atoms):
        if value is None or not 0 < value < math.inf:
            return f"its {name} is no positive number"
    return None


def heat_capacities(
    rows: Sequence[Row], temperatures: NDArray[np.float64] | Sequence[float]
) -> NDArray[np.float64]:
    """Harmonic heat capacities at constant volume, without imaginary modes, (R, T), J/(g K).

    Args:
        rows: Structures that did not fail, (R,).
        temperatures: (T,) K.

    Raises:
        ValueError: If a structure failed.
    """
    curves = [
        spectrum_of(row)
        .thermo(list(temperatures))
        .specific_heat_capacity([row.record.mass or np.nan])
        .numpy(force=True)
        .astype(float)
        for row in rows
    ]
    return np.array(curves).reshape(len(rows), len(temperatures))


def spectrum_of(row: Row) -> Spectrum:
    """The spectrum of a structure that did not fail.

    Raises:
        ValueError: If it failed.
    """
    if row.spectrum is None:
        raise ValueError(f"{row.record.name} failed and has no spectrum: leave it out")
    return row.spectrum
