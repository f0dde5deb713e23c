"""Options of `mace-functional thermo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mace_functional.cli.arguments import Parser, is_any_of
from mace_functional.cli.ideal_gas_options import add_ideal_gas, check_ideal_gas
from mace_functional.cli.mesh_options import add_mesh, mesh_choice
from mace_functional.cli.options import add_options, add_temperatures, check_options
from mace_functional.cli.output_files import FIGURES
from mace_functional.cli.ranges import RANGE
from mace_functional.cli.stochastic_options import add_stochastic, check_stochastic
from mace_functional.cli.worker_options import add_workers, check_workers

MODEL_FILE = r".+\.(npz|safetensors|model|pth?)"
"""Files of models, or of a distribution of their weights."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "thermo",
        help="heat capacity, entropy and free energy from the exact Hessian",
        description="Compute harmonic thermodynamics of a molecule, or of a crystal at the Gamma "
        "point or on a\nmesh of wave vectors, from the exact Hessian of a MACE potential. Rigid "
        "motions are projected\nout; imaginary modes are reported and left out of the sums. For a "
        "molecule, enthalpy, entropy\nand Gibbs energy of the ideal gas are computed too. With "
        "--free, only some atoms vibrate, such\nas an adsorbate, and all others are fixed.",
    )
    add_options(parser)
    add_workers(parser, "columns of the Hessian and wave vectors")
    add_mesh(parser, "a crystal")
    parser.add_argument(
        "--cp",
        action="store_true",
        help="add the heat capacity of a crystal at constant pressure, to first order in its "
        "thermal expansion; needs relaxed positions and cell, and takes third derivatives of the "
        "energy along all modes, much longer than the modes",
    )
    parser.add_several(
        "--uncertainty",
        can_be=is_any_of(MODEL_FILE),
        type=lambda text: [Path(word.strip()) for word in text.split(",")],
        metavar="FILE,FILE,...",
        help="add standard deviations for a crystal, from a distribution of the weights of the "
        "model that `mace-functional posterior` wrote, or from an ensemble: the files of two or "
        "more models that were trained like this one from the same start",
    )
    parser.add_several(
        "--free",
        can_be=is_any_of(RANGE.pattern),
        metavar="ATOM,ATOM,...",
        help="atoms that move, also in --relax; the others and the cell are fixed. Numbers from 0 "
        "and ranges, as in 0 1 2 or 0-5,9; negative numbers count from the end (-3--1 for the last "
        "three). (all atoms that the file does not fix)",
    )
    add_stochastic(parser)
    add_ideal_gas(parser)
    add_temperatures(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all results")
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="OUT",
        help=f"file for a figure of spectrum and heat capacity ({', '.join(FIGURES)})",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    check_options(options, {"--json": options.json, "--checkpoint": options.checkpoint})
    check_stochastic(options)
    mesh_choice(options)
    check_workers(options)
    check_ideal_gas(options)
    from mace_functional.cli import thermo_command

    thermo_command.run(options)
