"""What tables and reports of a screening are made of: structures, and what others say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mace_functional.screening.record import Record, Spectrum


@dataclass(frozen=True)
class Row:
    """One structure of a screening.

    Attributes:
        record: What is known of it.
        spectrum: Its frequencies; None if it failed.
    """

    record: Record
    spectrum: Spectrum | None


@dataclass(frozen=True)
class Reference:
    """Heat capacities from elsewhere, to compare with.

    Attributes:
        label: What they are called.
        temperature: That they are for, K.
        values: By name of the structure, J/(g K); structures may be missing, or be others.
    """

    label: str
    temperature: float
    values: dict[str, float]


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
