"""Command line of the package: `mace-functional SUBCOMMAND ...`.

Each subcommand has two files. `..._parser` defines its options and checks them, `..._command`
computes. `..._command`, and torch with it, is imported only if the options are valid.

    thermo_parser, thermo_command    heat capacity, entropy and free energy of a structure
    phonons_parser, phonons_command  band structure, density of states, heat capacity of a crystal
    elastic_parser, elastic_command  elastic constants, moduli and speeds of sound of a crystal
    conductivity_parser, conductivity_command  thermal conductivity of a crystal
    finetune_parser, finetune_command  training of a model on labelled structures
    posterior_parser, posterior_command  how uncertain the weights of a model are
    relax_parser, relax_command      relaxed geometry of a structure
    screen_parser, screen_command    heat capacities of many structures
    check_parser, check_command      checks of the derivatives, symmetries and phonons of a model

    arguments           options with several values, and checks of single values
    options             options that subcommands share
    mesh_options        options for meshes of wave vectors
    ideal_gas_options   options for the ideal gas of a molecule
    ideal_gas_results   its results for JSON files and their printed text
    label_options       options for labelled structures, and their reading
    uncertain_results   error bars for JSON files and their printed text
    stochastic_options  options for large cells without a Hessian
    stochastic_results  their results for JSON files and their printed text
    worker_options      options for many workers
    process_groups      processes that torchrun starts
    ranges              ranges of atoms, such as 0-5
    found_structures    reading of the structure
    loaded_models       loading of the model, and relaxation of the structure with it
    relaxed_structures  relaxation with progress on the console and geometries in a file
    printed_results     results for JSON files and their printed text
    output_files        output files, and checks that they can be written
    console             console for all printed text
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
    conductivity_parser,
    elastic_parser,
    finetune_parser,
    phonons_parser,
    posterior_parser,
    relax_parser,
    screen_parser,
    thermo_parser,
)
from mace_functional.cli.arguments import Parser, UsageError
from mace_functional.support.unsupported import UnsupportedModelError

SUBCOMMANDS = (
    relax_parser,
    thermo_parser,
    phonons_parser,
    elastic_parser,
    conductivity_parser,
    screen_parser,
    finetune_parser,
    posterior_parser,
    check_parser,
)

BEGINNING = """\
first steps, with an example structure and the embedded model:
  mace-functional thermo quartz --model embedded
  mace-functional phonons quartz --model embedded --relax --figure quartz.png

  mace-functional relax quartz --model embedded --output relaxed.cif
  mace-functional screen quartz ethanol --model embedded --output results

all options, including your own structures and models:
  mace-functional relax --help
  mace-functional thermo --help
  mace-functional phonons --help
  mace-functional elastic --help
  mace-functional conductivity --help
  mace-functional screen --help
  mace-functional finetune --help
  mace-functional posterior --help
  mace-functional check --help
"""

DEBUG = "MACE_FUNCTIONAL_DEBUG"
"""Name of the environment variable that makes every error print its traceback."""

BAD_INPUT, BUG, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141
"""Exit codes for invalid input, a bug, an interruption by Ctrl-C, and a closed output pipe.

70 is EX_SOFTWARE of sysexits.h; 130 is 128 + SIGINT, 141 is 128 + SIGPIPE.
"""

INPUT_ERRORS = (UsageError, UnsupportedModelError, ValueError, OSError, ImportError, MemoryError)
"""Errors that invalid input raises; their text explains the fault."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None for the words of the process.

    Returns:
        The exit code: 0 for success, 1 if a check of a model fails, 2 if the input is invalid, 3 if
        structures of a screening failed, 70 for a bug, 130 if interrupted, and 141 if the reader of
        a pipe closed it.
    """
    try:
        with _plain_warnings():
            options = make_parser().parse_args(arguments)
            code: int | None = options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # Discards buffered output: Python would report an error at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except INPUT_ERRORS as error:
        reason = " ".join(str(error).split()) or f"{type(error).__name__}, without a reason"
        return _end(BAD_INPUT, f"error: {reason}")
    except Exception as error:
        if _is_out_of_memory(error):
            return _end(
                BAD_INPUT, f"error: there is not enough memory: {str(error).splitlines()[0]}"
            )
        return _end(
            BUG,
            f"bug: {type(error).__name__}: {error}\nThis is an error in the program, not in your "
            f"input. Please report it, with the traceback that {DEBUG}=1 prints.",
        )
    return code or 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; it sets `run` to the function of the subcommand."""
    parser = Parser(
        prog="mace-functional",
        description="Vibrations and thermodynamics of molecules and crystals, from exact second "
        "derivatives of\nMACE interatomic potentials.",
        epilog=BEGINNING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="subcommands", required=True, metavar="SUBCOMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    return parser


def _end(code: int, message: str) -> int:
    """Print a message to standard error, and return the exit code."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    print(f"mace-functional: {message}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    """Return True if an error is torch's RuntimeError for too little memory."""
    return isinstance(error, RuntimeError) and "memory" in str(error).lower()


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as plain sentences, without the line of code, inside this context."""
    default: Callable[..., str] = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"mace-functional: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = default
