"""The groups of slow tests: which files each has, and which one runs on a day.

`pytest -n 2 --slow=GROUP` runs a group, `pytest -n 2 --slow=today` the one of the day. A group is
the slow tests of some folders and files; a file belongs to the group that names it, or else its
folder. CI has eight minutes on two cores for one: split a group that takes longer.
"""

from __future__ import annotations

from datetime import date

GROUPS: dict[str, tuple[str, ...]] = {
    "notebooks": ("project/test_notebooks.py",),
    "project": ("project",),
    "screening": ("screening",),
    "parallel": ("parallel",),
    "cli": ("cli",),
    "structure": ("structure",),
    "anharmonic": ("anharmonic",),
    "training": ("training", "uncertainty"),
    "phonons": ("phonons", "vibrations", "dispersion", "interop"),
    "optimize": ("optimize",),
    "expansion": ("expansion",),
    "derivatives": ("derivatives", "sparse"),
    "elasticity": ("elasticity",),
    "repeats": ("derivatives/test_repeats.py",),
    "mace": ("mace", "autodiff", "certificate"),
    "export": ("mace/test_export.py",),
    "frameworks": ("derivatives/test_frameworks.py",),
}
"""Folders and files, within `tests`, of the slow tests of a group."""


def group_of(path: str) -> str | None:
    """The group of a file, named by its path within `tests`; None where no group has it."""
    found = {place: name for name, places in GROUPS.items() for place in places}
    return found.get(path, found.get(path.partition("/")[0]))


def today() -> str:
    """The group whose turn it is, by the day of the year."""
    names = list(GROUPS)
    return names[date.today().timetuple().tm_yday % len(names)]
