"""Structure of a subcommand, read from a file or taken from the examples."""

from __future__ import annotations

from mace_functional.cli.console import BOLD, Console
from mace_functional.structure.reading import Reading, find


def find_structure(name: str, console: Console) -> Reading:
    """Read the structure of a file, or an example structure, and print all findings.

    Args:
        name: Name of the file or of the example.
        console: Console for the findings.

    Raises:
        StructureError: If the file cannot be read, or its material cannot be computed.
    """
    reading = find(name)
    for finding in reading.record.findings:
        print_finding(console, name, finding)
    return reading


def print_finding(console: Console, name: str, finding: str) -> None:
    """Print a finding about a structure that was read."""
    console.print(f"{name}: {finding}", style=BOLD, highlight=False, soft_wrap=True)
