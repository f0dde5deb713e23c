"""The command line: `mace-functional SUBCOMMAND ...`.

Each subcommand has two files: `..._parser` has its options and checks them, `..._command` computes.
The second, and torch with it, is imported only when the options are right.

    thermo_parser, thermo_command    heat capacity, entropy and free energy of a structure
    phonons_parser, phonons_command  band structure, density of states, heat capacity of a crystal
    relax_parser, relax_command      a structure at rest
    screen_parser, screen_command    heat capacities of many structures
    check_parser, check_command      whether a model's derivatives, symmetries and phonons hold

    arguments           arguments that argparse would take for something else
    options             options that subcommands share
    mesh_options        meshes of wave vectors
    ranges              numbers of atoms in words
    found_structures    the structure that a subcommand is for
    loaded_models       the model, and the structure relaxed with it
    relaxed_structures  relaxations, shown and kept in a file
    printed_results     results as they are printed and written
    output_files        files that are written, checked before anything is computed
    console             the console that is printed to
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mace_functional import __version__
from mace_functional.cli import (
    check_parser,
    phonons_parser,
    relax_parser,
    screen_parser,
    thermo_parser,
)
from mace_functional.cli.arguments import Parser, UsageError
from mace_functional.support.unsupported import UnsupportedModelError

VERBS = (relax_parser, thermo_parser, phonons_parser, screen_parser, check_parser)
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
  mace-functional check --help
"""

DEBUG = "MACE_FUNCTIONAL_DEBUG"
"""Environment variable: if it is set, every error comes with its traceback."""

BAD_INPUT, BUG, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141
"""Exit codes: the input was bad; the program is wrong (EX_SOFTWARE of sysexits.h); interrupted by
Ctrl-C (128 + SIGINT); who read the output has gone (128 + SIGPIPE)."""

FORESEEN = (UsageError, UnsupportedModelError, ValueError, OSError, ImportError, MemoryError)
"""What bad input raises, with a sentence that says what is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process if None.

    Returns:
        The exit code: 0; 1 if a check of a model does not hold, 2 if the input was bad, 3 if
        structures of a screening failed, 70 if the program is wrong, 130 if interrupted, and 141 if
        who read the output has gone.
    """
    try:
        with _plain_warnings():
            options = make_parser().parse_args(arguments)
            code: int | None = options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # What is still buffered can go nowhere: Python would complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except FORESEEN as error:
        why = " ".join(str(error).split()) or f"{type(error).__name__}, without a reason"
        return _end(BAD_INPUT, f"error: {why}")
    except Exception as error:
        if _is_out_of_memory(error):
            return _end(
                BAD_INPUT, f"error: there is not enough memory: {str(error).splitlines()[0]}"
            )
        return _end(
            BUG,
            f"bug: {type(error).__name__}: {error}\nThis is a mistake in the program, not in its "
            f"input. Please report it, with the traceback that {DEBUG}=1 shows.",
        )
    return code or 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; a parsed line has its verb's function as `run`."""
    parser = Parser(
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
    return parser


def _end(code: int, words: str) -> int:
    """Say how it ended, on standard error."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    print(f"mace-functional: {words}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch has asked for more memory than there is; it says so by a RuntimeError."""
    return isinstance(error, RuntimeError) and "memory" in str(error).lower()


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as sentences, without the line of the program that they come from."""
    before: Callable[..., str] = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"mace-functional: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
