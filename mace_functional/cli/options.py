"""What all verbs ask for: a structure, a model, a relaxation, files to write."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import (
    Parser,
    UsageError,
    checked,
    is_any_of,
    is_number,
    number,
    numbers,
    three,
)
from mace_functional.cli.output_files import check_figure, check_outputs
from mace_functional.structure.examples import STRUCTURES, is_example
from mace_functional.support.defaults import (
    DTYPES,
    MAX_STEPS,
    QUICK_FMAX,
    SYMPREC,
    TEMPERATURES,
)
from mace_functional.support.validation import (
    HOTTEST,
    LOOSEST,
    TIGHTEST,
    between,
    compute_device,
    count,
    functional_name,
    positive,
    symmetry_tolerance,
)

FUNCTIONAL = "pbe"
"""What `--dispersion` means without a name: the functional of MACE-MP's data."""


def add_options(parser: Parser) -> None:
    """Add the options that verbs share: structure, model, and a relaxation beforehand."""
    add_structure_and_model(parser)
    add_relax(parser, False)
    parser.add_argument(
        "--fixed-cell", action="store_true", help="keep the cell when relaxing; needs --relax"
    )
    add_limits(parser, "; needs --relax")
    parser.add_argument(
        "--relaxed",
        type=Path,
        metavar="OUT",
        help="the geometry on the way: write it here after every step of relaxation, and continue "
        "from it if it is there; needs --relax",
    )


def add_relax(parser: Parser, default: bool) -> None:
    """Add whether structures are relaxed.

    Args:
        parser: Of the verb.
        default: Whether they are if nothing is said.
    """
    parser.add_argument(
        "--relax",
        action=argparse.BooleanOptionalAction,
        help="relax positions, and the cell along periodic directions, first, or take structures "
        f"as they are ({'--relax' if default else '--no-relax'})",
    )
    parser.set_defaults(relax=default)


def add_limits(parser: Parser, needs: str = "") -> None:
    """Add the options that say when a relaxation stops.

    Args:
        parser: Of the verb.
        needs: What else must be given, for the help.
    """
    parser.add_argument(
        "--fmax",
        type=number("--fmax", positive, "eV/Å"),
        metavar="F",
        help=f"largest force to relax to, eV/Å, above zero ({QUICK_FMAX:g}){needs}",
    )
    parser.add_argument(
        "--max-steps",
        type=number("--max-steps", count),
        metavar="n",
        help=f"most gradients of a relaxation, at least 1 ({MAX_STEPS}){needs}",
    )


def add_temperatures(parser: Parser, more: str = "") -> None:
    """Add the temperatures of a table.

    Args:
        parser: Of the subcommand.
        more: What else there is to say about them, for the help.
    """
    parser.add_several(
        "--temperatures",
        can_be=is_number,
        type=numbers("--temperatures", between, 0.0, HOTTEST, "K"),
        default=list(TEMPERATURES),
        metavar="T,T,...",
        help=f"temperatures in K, from 0 to {HOTTEST:g} "
        f"({' '.join(f'{t:g}' for t in TEMPERATURES)}){more}",
    )


def add_symprec(parser: Parser, needs: str = "") -> None:
    """Add the tolerance of symmetry.

    Args:
        parser: Of the verb.
        needs: What else must be given, for the help.
    """
    parser.add_argument(
        "--symprec",
        type=number("--symprec", symmetry_tolerance),
        metavar="d",
        help="how far atoms may be from where symmetry puts them, Å, from "
        f"{TIGHTEST:g} to {LOOSEST:g} ({SYMPREC:g}){needs}",
    )


def add_three(parser: Parser, name: str, help: str) -> None:
    """Add an option that takes a whole number for each lattice vector."""
    parser.add_several(
        name, can_be=is_any_of(r"[+-]?\d+"), type=three(name), metavar="n,n,n", help=help
    )


def add_structure_and_model(parser: Parser) -> None:
    """Add what says which structure and which model, and where to compute."""
    list_structures(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="structure, in any format that ASE reads, or the name of one of those below",
    )
    add_model(parser)
    parser.add_argument(
        "--device",
        type=device("--device"),
        default="cpu",
        help="cpu, cuda, cuda:1, ... (%(default)s)",
    )


def list_structures(parser: Parser) -> None:
    """Put the structures of the package at the end of the help."""
    width = max(map(len, STRUCTURES))
    parser.epilog = "structures that come with the package:\n" + "".join(
        f"  {name:{width}}  {what}\n" for name, what in STRUCTURES.items()
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_model(parser: Parser) -> None:
    """Add what says which model."""
    parser.add_argument(
        "--model",
        required=True,
        help="embedded, the model that comes with the package; name of a foundation model (small, "
        "...), downloaded once; file of save_model, or mace-torch checkpoint",
    )
    parser.add_argument("--head", help="head of a multi-head model")
    parser.add_several(
        "--dispersion",
        can_be=_is_functional,
        alone=FUNCTIONAL,
        type=checked("--dispersion", _functional),
        metavar="FUNCTIONAL",
        help="add D3 dispersion with Becke-Johnson damping, for the functional that the model was "
        f"fitted to ({FUNCTIONAL} if none is named); needs the extra `dispersion`",
    )
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="float64",
        help="precision of the computation (%(default)s)",
    )


def device(option: str) -> Any:
    """The type of an option that takes a device: its name, if it is there."""
    return checked(option, lambda word: word if word == "cpu" else str(compute_device(word)))


def _is_functional(word: str) -> bool:
    """Whether a word behind --dispersion is that of a functional, not of a structure."""
    try:
        _functional(word)
    except (ValueError, ImportError):
        is_structure = is_example(word) or os.path.exists(word) or not word.isidentifier()
        return not is_structure
    return True


def _functional(word: str) -> str | None:
    """A functional that D3 has parameters for; None if no correction is wanted.

    Raises:
        ValueError: If it has none.
    """
    name = functional_name(word)
    if name is None:
        return None
    from mace_functional.dispersion.reference import damping_of

    damping_of(name)
    return word


def check_options(options: argparse.Namespace, outputs: dict[str, Path | None]) -> None:
    """Refuse options that contradict each other, and files that cannot be written.

    Args:
        options: Of a verb with the shared options and --figure.
        outputs: Its other files, by the options that name them.

    Raises:
        ValueError: If an option is bad.
    """
    if not options.relax:
        for name in "--fixed-cell", "--fmax", "--max-steps", "--relaxed":
            check_needs(options, name, "--relax")
    set_limits(options)
    check_figure("--figure", options.figure)
    written = {"--relaxed": options.relaxed, "--figure": options.figure, **outputs}
    check_outputs(written, [options.file, options.model])


def symprec_of(options: argparse.Namespace) -> float:
    """The tolerance of symmetry, Å."""
    return SYMPREC if options.symprec is None else float(options.symprec)


def check_needs(options: argparse.Namespace, name: str, needed: str) -> None:
    """Refuse an option that does nothing without another, which was not given.

    Raises:
        UsageError: If the option was given.
    """
    if getattr(options, name[2:].replace("-", "_")) not in (None, False):
        raise UsageError(f"{name} needs {needed}")


def set_limits(options: argparse.Namespace) -> None:
    """Fill in where a relaxation stops, if that was not said."""
    options.fmax = QUICK_FMAX if options.fmax is None else options.fmax
    options.max_steps = MAX_STEPS if options.max_steps is None else options.max_steps
