"""Heat capacity that is missing where a crystal was computed at Gamma alone."""

from __future__ import annotations

from typing import NamedTuple

from mace_functional.phonons.acoustic import AcousticBranches
from mace_functional.screening.rows import Row, heat_capacities
from mace_functional.units import EV_PER_MOLECULE

LARGE = 0.02
"""Missing part of the heat capacity above which there is a finding, and above which a structure is
left out of the fit of a common factor: errors of potentials are 1 to 5 %. A crystal with 50 atoms
in its cell lacks about this much at 300 K."""


class Missing(NamedTuple):
    """Heat capacity of the acoustic branches, which is missing at Gamma.

    Attributes:
        bound: Upper bound, k_B for each branch, J/(g K).
        estimate: Estimate from speeds of sound, J/(g K); None where there is none.
        share: Estimate, or bound where there is none, relative to the heat capacity with it.
        reason: Reason why there is no estimate, in words.
    """

    bound: float
    estimate: float | None
    share: float
    reason: str | None


def branches_of(row: Row) -> AcousticBranches | None:
    """The acoustic branches that are missing in a row; None if none is missing.

    Records of earlier versions have no branches, and so no estimate: they have a bound.

    Args:
        row: Row of a structure.
    """
    record, spectrum = row.record, row.spectrum
    if not row.has_result or (spectrum is not None and len(spectrum.q) > 1):
        return None
    if record.n_acoustic_branches is not None:
        edges = None if record.acoustic_edges is None else tuple(record.acoustic_edges)
        found = AcousticBranches(record.n_acoustic_branches, edges, record.no_acoustic_estimate)
        return found if found.n_branches else None
    if record.n_rigid == 3:
        return AcousticBranches(3, None, "an earlier version computed this")
    return None


def missing_at_gamma(row: Row, temperature: float) -> Missing | None:
    """Heat capacity that is missing in a structure at a temperature.

    Args:
        row: Row of a structure.
        temperature: Temperature, K.

    Returns:
        Bound and estimate; None for molecules, meshes, and failed structures.
    """
    branches, mass = branches_of(row), row.record.mass
    if branches is None or not mass:
        return None
    unit = EV_PER_MOLECULE / mass
    heat = branches.heat_capacity(temperature)
    estimate = None if heat is None else unit * float(heat)
    bound = unit * branches.bound
    added = bound if estimate is None else estimate
    whole = float(heat_capacities([row], [temperature])[0, 0]) + added
    return Missing(bound, estimate, added / whole if whole > 0 else 0.0, branches.reason)


def is_large(row: Row, temperature: float) -> bool:
    """True if more than `LARGE` of the heat capacity is missing."""
    missing = missing_at_gamma(row, temperature)
    return missing is not None and missing.share > LARGE
