"""Rows of tables and reports: structures with their records and their spectra or samplings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mace_functional.expansion.strained_modes import StrainedModes
from mace_functional.screening.record import Record, Spectrum
from mace_functional.screening.sampled_thermo import at_temperatures, sampling_fault
from mace_functional.stochastic import StochasticThermo
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations.thermodynamics import HarmonicThermo


@dataclass(frozen=True)
class Row:
    """One structure of a screening.

    Attributes:
        record: Results and settings of the structure.
        spectrum: Its frequencies; None if it failed, or was sampled by random vectors.
        folder: Folder of its files; None if there is none.
        strained: Modes with Grüneisen parameters, if it has a heat capacity at constant pressure.
        sampled: Thermodynamics from random vectors, in place of frequencies.
    """

    record: Record
    spectrum: Spectrum | None
    folder: Path | None = None
    strained: StrainedModes | None = None
    sampled: StochasticThermo | None = None

    @property
    def has_result(self) -> bool:
        """True if the structure did not fail."""
        return self.spectrum is not None or self.sampled is not None

    def thermo(self, temperatures: Sequence[float]) -> HarmonicThermo | StochasticThermo:
        """Harmonic thermodynamics of one cell; imaginary modes are left out.

        Args:
            temperatures: (T,) K. Those that were not sampled are NaN in the results.

        Raises:
            ValueError: If the structure failed.
        """
        if self.sampled is not None:
            return at_temperatures(self.sampled, temperatures)
        return spectrum_of(self).thermo(list(temperatures))


def checked(row: Row) -> Row:
    """The row, or a failed one in its place if its numbers are impossible.

    Args:
        row: A row from files, which may be damaged or made elsewhere.
    """
    if not row.has_result:
        return row
    reason = (
        _record_fault(row.record)
        or _spectrum_fault(row.spectrum)
        or _strained_fault(row.strained)
        or (None if row.sampled is None else sampling_fault(row.sampled))
    )
    if reason is None:
        return row
    record = replace(row.record, failure=f"its results cannot be used: {reason}")
    return replace(row, record=record, spectrum=None, strained=None, sampled=None)


def _record_fault(record: Record) -> str | None:
    """Reason why a record cannot be that of a structure with results."""
    if record.failure is not None:
        return record.failure
    for name, value in ("mass", record.mass), ("number of atoms", record.n_atoms):
        if value is None or not 0 < value < math.inf:
            return f"its {name} is no positive number"
    return None


def _spectrum_fault(spectrum: Spectrum | None) -> str | None:
    """Reason why numbers cannot be frequencies of a structure."""
    if spectrum is None:
        return None
    frequencies, weights, q = spectrum.frequencies, spectrum.weights, spectrum.q
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
    return None


def _strained_fault(modes: StrainedModes | None) -> str | None:
    """Reason why numbers cannot be those of a heat capacity at constant pressure."""
    if modes is None:
        return None
    if modes.eigenvalues.ndim != 2 or modes.strains.ndim != 3:
        return "Grüneisen parameters, strains and stiffness do not fit each other"
    (q, m), s = modes.eigenvalues.shape, len(modes.strains)
    shapes = {
        "parameters": (q, s, m),
        "weights": (q,),
        "strains": (s, 3, 3),
        "stiffness": (s, s),
        "slopes": (s,),
    }
    if any(getattr(modes, name).shape != shape for name, shape in shapes.items()):
        return "Grüneisen parameters, strains and stiffness do not fit each other"
    infinite = bool(modes.parameters.isinf().any())  # those of rigid motions are NaN
    others = modes.eigenvalues, modes.weights, modes.strains, modes.stiffness, modes.slopes
    if infinite or not all(bool(values.isfinite().all()) for values in others):
        return "Grüneisen parameters, strains or stiffness are not finite"
    return None


def heat_capacities(
    rows: Sequence[Row], temperatures: NDArray[np.float64] | Sequence[float]
) -> NDArray[np.float64]:
    """Harmonic heat capacities at constant volume, without imaginary modes, (R, T), J/(g K).

    Those of sampled structures are NaN at temperatures that were not sampled.

    Args:
        rows: Structures that did not fail, (R,).
        temperatures: (T,) K.

    Raises:
        ValueError: If a structure failed.
    """
    curves = [
        (row.thermo([*temperatures]).molar_heat_capacity / (row.record.mass or np.nan))
        .numpy(force=True)
        .astype(float)
        for row in rows
    ]
    return np.array(curves).reshape(len(rows), len(temperatures))


def cp_minus_cv(row: Row, temperatures: Sequence[float]) -> NDArray[np.float64] | None:
    """Difference of heat capacities at constant pressure and volume, (T,), J/(g K).

    Args:
        row: A structure.
        temperatures: (T,) K.

    Returns:
        The difference; None if the structure has no heat capacity at constant pressure.
    """
    if row.strained is None or not row.record.mass:
        return None
    thermal = row.strained.thermal(temperatures)
    difference = EV_PER_MOLECULE / row.record.mass * (thermal.cp - thermal.cv)
    return difference.numpy(force=True).astype(float)


def spectrum_of(row: Row) -> Spectrum:
    """The spectrum of a structure that has one.

    Raises:
        ValueError: If it failed, or was sampled.
    """
    if row.spectrum is None:
        raise ValueError(f"{row.record.name} failed or was sampled, without a spectrum")
    return row.spectrum
