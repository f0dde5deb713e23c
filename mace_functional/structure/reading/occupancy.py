"""Sites that are partly occupied, or alternatives of each other: no structure to compute with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mace_functional.structure.reading.errors import StructureError

FULL = 0.01
"""A site whose occupancy differs from one by no more than this is taken as full: refinements give
0.998(2). Smaller ones are of another material."""

NAMED = 6
"""Most sites that a sentence names."""

ADVICE = (
    "a computation needs whole atoms: choose one of the alternatives, or make an ordered supercell"
)


def named(labels: Sequence[str]) -> str:
    """Some labels, and how many more there are."""
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


def check_occupancies(
    labels: Sequence[str], occupancies: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """Refuse sites that are partly occupied.

    Args:
        labels: Of the sites.
        occupancies: Of the sites.

    Returns:
        Sites that are taken as full without being exactly so.

    Raises:
        StructureError: If a site is not full.
    """
    sites = list(zip(labels, occupancies, strict=True))
    partial = [f"{label} ({value:g})" for label, value in sites if not abs(value - 1) <= FULL]
    if partial:
        raise StructureError(f"partly occupied sites {named(partial)}; {ADVICE}")
    return tuple((label, value) for label, value in sites if value != 1)


def check_alternatives(labels: Sequence[str], groups: Sequence[tuple[str, str]]) -> None:
    """Refuse sites that are alternatives of each other.

    Args:
        labels: Of the sites.
        groups: Of each site, the assembly that it belongs to, and the alternative of it that it is
            in; empty where there are none.

    Raises:
        StructureError: If an assembly has several alternatives, or one that symmetry makes several.
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
