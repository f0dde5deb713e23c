"""The command line: `mace-functional VERB ...`, one verb a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mace_functional.cli import thermo

VERBS = (thermo,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process if None.

    Returns:
        The exit code: 0, or 2 if the input was bad, or 130 if interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="mace-functional",
        description="Vibrations and thermodynamics from exact second derivatives of MACE models.",
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"mace-functional: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mace-functional: interrupted", file=sys.stderr)
        return 130
    return 0
