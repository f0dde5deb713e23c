"""Site occupancies: disordered structures are refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mace_functional.structure.reading.errors import StructureError

FULL = 0.01
"""Difference of an occupancy from one up to which the site is taken as full.

Refinements give values such as 0.998(2). A site that differs by more is refused.
"""

NAMED = 6
"""Largest number of sites that a message names."""

ADVICE = (
    "a computation needs whole atoms: choose one of the alternatives, or make an ordered supercell"
)
"""Advice in errors about disordered structures."""


def named(labels: Sequence[str]) -> str:
    """Join labels with commas; beyond the first `NAMED`, give only their number."""
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


def check_occupancies(
    labels: Sequence[str], occupancies: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """Raise if a site is partly occupied.

    Args:
        labels: Label of each site.
        occupancies: Occupancy of each site.

    Returns:
        Labels and occupancies of sites that are taken as full with an occupancy other than one.

    Raises:
        StructureError: If a site is partly occupied.
    """
    sites = list(zip(labels, occupancies, strict=True))
    partial = [f"{label} ({value:g})" for label, value in sites if not abs(value - 1) <= FULL]
    if partial:
        raise StructureError(f"partly occupied sites {named(partial)}; {ADVICE}")
    return tuple((label, value) for label, value in sites if value != 1)


def check_alternatives(labels: Sequence[str], groups: Sequence[tuple[str, str]]) -> None:
    """Raise if sites are alternatives of each other.

    Args:
        labels: Label of each site.
        groups: Disorder assembly and disorder group of each site; empty strings if it has none.

    Raises:
        StructureError: If an assembly has several groups, or one that symmetry repeats (its name
            begins with "-").
    """
    assemblies: dict[str, set[str]] = defaultdict(set)
    for assembly, group in groups:
        if group:
            assemblies[assembly].add(group)
    several = {
        assembly
        for assembly, alternatives in assemblies.items()
        if len(alternatives) > 1 or any(group.startswith("-") for group in alternatives)
    }
    found = [
        label
        for label, (assembly, group) in zip(labels, groups, strict=True)
        if group and assembly in several
    ]
    if found:
        raise StructureError(f"alternative positions of {named(found)}; {ADVICE}")
