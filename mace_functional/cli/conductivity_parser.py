"""Options of `mace-functional conductivity`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from mace_functional.cli.arguments import Parser, UsageError, number
from mace_functional.cli.options import (
    add_options,
    add_symprec,
    add_temperatures,
    add_three,
    check_options,
)
from mace_functional.cli.output_files import FIGURES, check_folder
from mace_functional.cli.worker_options import add_workers, check_workers
from mace_functional.support.defaults import (
    CONDUCTIVITY_MESH_SPACING,
    CONDUCTIVITY_TEMPERATURES,
    FMAX,
    ConductivityMethod,
)
from mace_functional.support.validation import pair_cutoff, positive

COLDEST = 1.0
"""Lowest accepted temperature, K; near zero, meshes are too coarse for the few modes."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the command line."""
    parser: Parser = subparsers.add_parser(
        "conductivity",
        help="lattice thermal conductivity of a crystal",
        description="Compute the lattice thermal conductivity of a crystal: force constants of "
        "second and third order\nby exact derivatives in supercells, and the Boltzmann equation "
        "of phonons by phono3py. The crystal\nis relaxed with its symmetry first. Needs the extra "
        "`anharmonic`.",
    )
    add_options(parser, relax=True, fmax=FMAX)
    add_workers(parser, "third derivatives")
    add_symprec(parser)
    add_temperatures(parser, default=CONDUCTIVITY_TEMPERATURES, coldest=COLDEST)
    add_three(
        parser,
        "--supercell",
        "supercell of n x n x n cells for the third order (the smallest multiple of the "
        "conventional cell that is 10 Å thick, with at most 200 atoms)",
    )
    add_three(
        parser,
        "--phonon-supercell",
        "supercell of n x n x n cells for the second order (one that is 16 Å thick, with at most "
        "300 atoms)",
    )
    parser.add_argument(
        "--cutoff",
        type=number("--cutoff", pair_cutoff),
        metavar="r",
        help="leave out third derivatives of pairs of atoms that are farther apart, Å (none)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="OUT",
        help="npz file that keeps the third derivatives if the run is interrupted; the next run "
        "continues from it",
    )
    _add_boltzmann(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the results")
    parser.add_argument(
        "--hdf5", type=Path, metavar="OUT", help="file of phono3py (kappa-*.hdf5), with all modes"
    )
    parser.add_argument(
        "--phono3py",
        type=Path,
        metavar="FOLDER",
        help="folder for the force constants as files of phono3py",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="OUT",
        help="file for a figure of conductivity, its accumulation, and linewidths "
        f"({', '.join(FIGURES)})",
    )
    parser.set_defaults(run=_run)


def _add_boltzmann(parser: Parser) -> None:
    """Add the options of the Boltzmann equation."""
    add_three(
        parser,
        "--mesh",
        "mesh of n x n x n wave vectors of the primitive cell (neighbours at most "
        f"{CONDUCTIVITY_MESH_SPACING} 1/Å apart)",
    )
    parser.add_argument(
        "--mesh-spacing",
        type=number("--mesh-spacing", positive, "1/Å"),
        metavar="d",
        help="use the coarsest mesh whose wave vectors are at most this distance apart, 1/Å; "
        "instead of --mesh",
    )
    parser.add_argument(
        "--method",
        choices=get_args(ConductivityMethod),
        default="relaxation-time",
        help="solution of the Boltzmann equation: each mode relaxes alone, or all together "
        "(%(default)s)",
    )
    parser.add_argument(
        "--wigner",
        action="store_true",
        help="add the coherences of Wigner's transport equation, for poor conductors",
    )
    parser.add_argument(
        "--isotopes",
        action="store_true",
        help="add scattering by isotopes of natural abundance",
    )
    parser.add_argument(
        "--boundary",
        type=number("--boundary", positive, "µm"),
        metavar="L",
        help="add scattering by boundaries with this mean free path, µm",
    )


def _run(options: argparse.Namespace) -> None:
    """Check the options, then import the code that computes, and run it."""
    outputs = {
        "--json": options.json,
        "--hdf5": options.hdf5,
        "--checkpoint": options.checkpoint,
    }
    check_options(options, outputs)
    check_folder("--phono3py", options.phono3py)
    check_workers(options)
    if options.mesh is not None and options.mesh_spacing is not None:
        raise UsageError("--mesh and --mesh-spacing exclude each other: give only one")
    from mace_functional.cli import conductivity_command

    conductivity_command.run(options)
