"""What the heat capacity of a structure lacks that was computed at Gamma alone."""

from __future__ import annotations

from typing import NamedTuple

from mace_functional.phonons.acoustic import AcousticBranches
from mace_functional.screening.rows import Row, heat_capacities
from mace_functional.units import EV_PER_MOLECULE

LARGE = 0.02
"""Part of the heat capacity above which what is missing is a finding, and above which a structure
is left out of the fit of a common scale: errors of potentials are 1 to 5 %. A crystal of 50 atoms
a cell lacks about this much at 300 K."""


class Missing(NamedTuple):
    """What the acoustic branches would add to the heat capacity at Gamma.

    Attributes:
        bound: Most that it can be, k_B for each branch, J/(g K).
        estimate: From speeds of sound, J/(g K); None where there is none.
        share: The estimate, or the bound where there is none, over the heat capacity with it.
        reason: Why there is no estimate, in words.
    """

    bound: float
    estimate: float | None
    share: float
    reason: str | None


def branches_of(row: Row) -> AcousticBranches | None:
    """The acoustic branches that a row leaves out; None if it leaves out none.

    Records without branches are of an earlier version, which knew no estimate: they have a bound.

    Args:
        row: Of a structure.
    """
    record, spectrum = row.record, row.spectrum
    if spectrum is None or len(spectrum.q) > 1:
        return None
    if record.n_acoustic_branches is not None:
        edges = None if record.acoustic_edges is None else tuple(record.acoustic_edges)
        found = AcousticBranches(record.n_acoustic_branches, edges, record.no_acoustic_estimate)
        return found if found.n_branches else None
    if record.n_rigid == 3:
        return AcousticBranches(3, None, "an earlier version has computed this")
    return None


def missing_at_gamma(row: Row, temperature: float) -> Missing | None:
    """What a structure lacks at a temperature.

    Args:
        row: Of a structure.
        temperature: K.

    Returns:
        Bound and estimate; None for molecules, meshes, and structures that failed.
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
    """Whether more than `LARGE` of the heat capacity is missing."""
    missing = missing_at_gamma(row, temperature)
    return missing is not None and missing.share > LARGE
