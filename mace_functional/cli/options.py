"""Options that subcommands share: structure, model, relaxation, output files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
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
    STRONGEST,
    TIGHTEST,
    between,
    compute_device,
    count,
    functional_name,
    positive,
    pressure,
    symmetry_tolerance,
)

FUNCTIONAL = "pbe"
"""Functional of `--dispersion` without a name; it is the functional of MACE-MP's data."""


def add_options(parser: Parser, *, relax: bool = False, fmax: float = QUICK_FMAX) -> None:
    """Add the options for structure, model, and a relaxation before the computation.

    Args:
        parser: Parser of the subcommand.
        relax: True if structures are relaxed without --relax or --no-relax.
        fmax: Default of --fmax, eV/Å.
    """
    add_structure_and_model(parser)
    add_relax(parser, relax)
    parser.add_argument(
        "--fixed-cell", action="store_true", help="keep the cell when relaxing; needs --relax"
    )
    add_limits(parser, "; needs --relax", fmax)
    parser.add_argument(
        "--relaxed",
        type=Path,
        metavar="OUT",
        help="file for the geometry after every step of the relaxation, which continues from it if "
        "the file exists; needs --relax",
    )


def add_relax(parser: Parser, default: bool) -> None:
    """Add the options --relax and --no-relax.

    Args:
        parser: Parser of the subcommand.
        default: True if structures are relaxed without either option.
    """
    parser.add_argument(
        "--relax",
        action=argparse.BooleanOptionalAction,
        help="relax positions, and the cell along periodic directions, before the computation, or "
        f"use the given geometry ({'--relax' if default else '--no-relax'})",
    )
    parser.set_defaults(relax=default)


def add_limits(parser: Parser, needs: str = "", fmax: float = QUICK_FMAX) -> None:
    """Add the options --fmax and --max-steps, at which a relaxation stops.

    Args:
        parser: Parser of the subcommand.
        needs: Text on a required option, for the help.
        fmax: Default of --fmax, eV/Å.
    """
    parser.set_defaults(default_fmax=fmax)
    parser.add_argument(
        "--fmax",
        type=number("--fmax", positive, "eV/Å"),
        metavar="F",
        help=f"largest force of a relaxed structure, eV/Å, above zero ({fmax:g}){needs}",
    )
    parser.add_argument(
        "--max-steps",
        type=number("--max-steps", count),
        metavar="n",
        help=f"largest number of gradients of a relaxation, at least 1 ({MAX_STEPS}){needs}",
    )


def add_pressure(parser: Parser) -> None:
    """Add the option --pressure."""
    parser.add_argument(
        "--pressure",
        type=number("--pressure", pressure),
        default=0.0,
        metavar="P",
        help=f"external pressure on a crystal, GPa, from {-STRONGEST:g} to {STRONGEST:g} "
        "(%(default)s)",
    )


def add_temperatures(
    parser: Parser,
    more: str = "",
    *,
    default: Sequence[float] = TEMPERATURES,
    coldest: float = 0.0,
) -> None:
    """Add the option --temperatures.

    Args:
        parser: Parser of the subcommand.
        more: Further text for the help.
        default: Default of the option, K.
        coldest: Lowest accepted temperature, K.
    """
    parser.add_several(
        "--temperatures",
        can_be=is_number,
        type=numbers("--temperatures", between, coldest, HOTTEST, "K"),
        default=list(default),
        metavar="T,T,...",
        help=f"temperatures in K, from {coldest:g} to {HOTTEST:g} "
        f"({' '.join(f'{t:g}' for t in default)}){more}",
    )


def add_symprec(parser: Parser, needs: str = "") -> None:
    """Add the option --symprec, the tolerance of symmetry.

    Args:
        parser: Parser of the subcommand.
        needs: Text on a required option, for the help.
    """
    parser.add_argument(
        "--symprec",
        type=number("--symprec", symmetry_tolerance),
        metavar="d",
        help="largest distance of atoms from their symmetric positions, Å, from "
        f"{TIGHTEST:g} to {LOOSEST:g} ({SYMPREC:g}){needs}",
    )


def add_three(parser: Parser, name: str, help: str) -> None:
    """Add an option that takes an integer for each lattice vector."""
    parser.add_several(
        name, can_be=is_any_of(r"[+-]?\d+"), type=three(name), metavar="n,n,n", help=help
    )


def add_structure_and_model(parser: Parser) -> None:
    """Add the options for the structure, the model and the device."""
    list_structures(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="file of the structure, in any format that ASE reads, or the name of an example below",
    )
    add_model(parser)
    parser.add_argument(
        "--device",
        type=device("--device"),
        default="cpu",
        help="device: cpu, cuda, cuda:1, ... (%(default)s)",
    )


def list_structures(parser: Parser) -> None:
    """List the example structures at the end of the help."""
    width = max(map(len, STRUCTURES))
    parser.epilog = "example structures:\n" + "".join(
        f"  {name:{width}}  {description}\n" for name, description in STRUCTURES.items()
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_model(parser: Parser) -> None:
    """Add the options for the model: its source, head, dispersion and precision."""
    parser.add_argument(
        "--model",
        required=True,
        help="embedded, for the model in the package; the name of a foundation model (small, ...), "
        "which is downloaded once; a file of save_model, or a mace-torch checkpoint",
    )
    parser.add_argument("--head", help="head of a multi-head model")
    parser.add_several(
        "--dispersion",
        can_be=_is_functional,
        alone=FUNCTIONAL,
        type=checked("--dispersion", _functional),
        metavar="FUNCTIONAL",
        help="add D3 dispersion with Becke-Johnson damping, for the functional of the model's "
        f"training data ({FUNCTIONAL} without a name); needs the extra `dispersion`",
    )
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="float64",
        help="precision of the computation (%(default)s)",
    )


def device(option: str) -> Any:
    """Return the `type` of an option that takes the name of an available device."""
    return checked(option, lambda word: word if word == "cpu" else str(compute_device(word)))


def _is_functional(word: str) -> bool:
    """Return True if a word after --dispersion is a functional and not a structure."""
    try:
        _functional(word)
    except (ValueError, ImportError):
        is_structure = is_example(word) or os.path.exists(word) or not word.isidentifier()
        return not is_structure
    return True


def _functional(word: str) -> str | None:
    """Return a functional that D3 has parameters for; None for no correction.

    Raises:
        ValueError: If D3 has no parameters for it.
    """
    name = functional_name(word)
    if name is None:
        return None
    from mace_functional.dispersion.reference import damping_of

    damping_of(name)
    return word


def check_options(options: argparse.Namespace, outputs: dict[str, Path | None]) -> None:
    """Raise an error for contradictory options and for files that cannot be written.

    Args:
        options: Options of a subcommand with the shared options and --figure.
        outputs: Its other output files, by the names of their options.

    Raises:
        ValueError: If an option is invalid.
    """
    if not options.relax:
        for name in "--fixed-cell", "--fmax", "--max-steps", "--relaxed":
            check_needs(options, name, "--relax")
    set_limits(options)
    check_figure("--figure", options.figure)
    written = {"--relaxed": options.relaxed, "--figure": options.figure, **outputs}
    check_outputs(written, [options.file, options.model])


def symprec_of(options: argparse.Namespace) -> float:
    """Return the tolerance of symmetry, Å."""
    return SYMPREC if options.symprec is None else float(options.symprec)


def check_needs(options: argparse.Namespace, name: str, needed: str) -> None:
    """Raise an error if an option is given without the option that it needs.

    Raises:
        UsageError: If the option is given.
    """
    if is_given(options, name):
        raise UsageError(f"{name} needs {needed}")


def is_given(options: argparse.Namespace, name: str) -> bool:
    """Return True if an option without a default is given, also with the value 0."""
    value = getattr(options, name[2:].replace("-", "_"))
    return value is not None and value is not False


def set_limits(options: argparse.Namespace) -> None:
    """Set --fmax and --max-steps to their defaults if they are not given."""
    options.fmax = options.default_fmax if options.fmax is None else options.fmax
    options.max_steps = MAX_STEPS if options.max_steps is None else options.max_steps
