"""The command line: `mace-functional VERB ...`, one verb a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mace_functional import __version__
from mace_functional.cli import phonons, relax, screen, thermo

VERBS = (relax, thermo, phonons, screen)
BEGINNING = """\
to begin, with a structure and a model that come with the package:
  mace-functional thermo quartz --model embedded
  mace-functional phonons quartz --model embedded --relax --figure quartz.png

  mace-functional relax quartz --model embedded --output relaxed.cif
  mace-functional screen quartz ethanol --model embedded --output results

what else there is to choose, structures and models of your own included:
  mace-functional relax --help
  mace-functional thermo --help
  mace-functional phonons --help
  mace-functional screen --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process if None.

    Returns:
        The exit code: 0, or 2 if the input was bad, or 130 if interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="mace-functional",
        description="Vibrations and thermodynamics of molecules and crystals, from exact second "
        "derivatives of\nMACE interatomic potentials.",
        epilog=BEGINNING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
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
