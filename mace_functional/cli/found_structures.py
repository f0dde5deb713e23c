"""The structure that a subcommand is for."""

from __future__ import annotations

from mace_functional.cli.console import BOLD, Console
from mace_functional.structure.reading import Reading, find


def find_structure(name: str, console: Console) -> Reading:
    """Read the structure of a file, or take one of the package, and tell what was found.

    Args:
        name: Of the file or the structure.
        console: Where findings are printed.

    Raises:
        StructureError: If the file cannot be read, or holds no material that can be computed.
    """
    reading = find(name)
    for finding in reading.record.findings:
        print_finding(console, name, finding)
    return reading


def print_finding(console: Console, name: str, finding: str) -> None:
    """Print what was found in a structure as it was read."""
    console.print(f"{name}: {finding}", style=BOLD, highlight=False, soft_wrap=True)
