"""Options of `mace-functional relax`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, checked, is_any_of
from mace_functional.cli.options import (
    add_limits,
    add_pressure,
    add_structure_and_model,
    add_symprec,
    check_needs,
    set_limits,
)
from mace_functional.cli.output_files import check_outputs

ALL_STRAINS: dict[str, bool | str] = {"all": True, "none": False, "isotropic": "isotropic"}
"""Names of sets of strains on the command line, with the argument of `relax`."""

STRAIN_NAMES = ["xx", "yy", "zz", "yz", "xz", "xy"]
"""Names of the strains in Voigt order, as in `relax`."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "relax",
        help="relax positions and cell, with second derivatives",
        description="Relax a structure: positions, and the cell along periodic directions. The "
        "first Hessian is\nthat of a force field of bonds and angles; every gradient updates it. "
        "Near the minimum, exact\nproducts along the softest directions verify that it is a "
        "minimum and not a saddle point.",
    )
    add_structure_and_model(parser)
    add_limits(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file for the relaxed structure, written after every step; the relaxation continues "
        "from it if the file exists",
    )
    parser.add_several(
        "--cell",
        can_be=is_any_of("|".join([*ALL_STRAINS, *STRAIN_NAMES])),
        type=checked("--cell", _cell),
        default=True,
        metavar="STRAIN,STRAIN,...",
        help=f"strains that relax: {', '.join(ALL_STRAINS)}, or some of "
        f"{' '.join(STRAIN_NAMES)} (all)",
    )
    add_pressure(parser)
    parser.add_argument(
        "--symmetry", action="store_true", help="keep the space group found by spglib"
    )
    add_symprec(parser, "; needs --symmetry")
    parser.add_argument(
        "--trajectory", type=Path, metavar="OUT", help="file for all structures (ASE's .traj)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all results")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    set_limits(options)
    if not options.symmetry:
        check_needs(options, "--symprec", "--symmetry")
    _check_files(options)
    from mace_functional.cli import relax_command

    relax_command.run(options)


def _check_files(options: argparse.Namespace) -> None:
    """Raise an error for files that cannot be written; only the structure may be replaced."""
    written = {"--output": options.output, "--trajectory": options.trajectory}
    in_place = options.output.resolve() == Path(options.file).resolve()
    check_outputs(
        {**written, "--json": options.json},
        [options.model, *([] if in_place else [options.file])],
    )


def _cell(words: str) -> bool | str | list[bool]:
    """Convert the value of --cell to the argument of `relax`.

    Raises:
        ValueError: If a strain is unknown.
    """
    if words in ALL_STRAINS:
        return ALL_STRAINS[words]
    names = [name.strip() for name in words.split(",")]
    unknown = [name for name in names if name not in STRAIN_NAMES]
    if unknown:
        raise ValueError(
            f"strains are {', '.join(ALL_STRAINS)}, or some of {' '.join(STRAIN_NAMES)}, not "
            f"{' '.join(names)!r}"
        )
    return [name in names for name in STRAIN_NAMES]
