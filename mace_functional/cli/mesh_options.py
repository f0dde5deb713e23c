"""Meshes of wave vectors on the command line: a size, a spacing, or one that is refined."""

from __future__ import annotations

import argparse
from typing import Final

from mace_functional.cli.arguments import Parser, UsageError, is_any_of, number, three
from mace_functional.cli.options import add_symprec, check_needs
from mace_functional.screening.screen_settings import MeshChoice
from mace_functional.support.defaults import MESH_TOLERANCE
from mace_functional.support.validation import positive

AUTO: Final = "auto"


def add_mesh(parser: Parser, what: str) -> None:
    """Add --mesh, --mesh-spacing, --mesh-tolerance and --symprec.

    Args:
        parser: Of the subcommand.
        what: Whose heat capacity is averaged, for the help.
    """
    parser.add_several(
        "--mesh",
        can_be=is_any_of(rf"{AUTO}|[+-]?\d+"),
        type=_mesh,
        metavar="n,n,n",
        help=f"average {what} over a mesh of n x n x n wave vectors, instead of Gamma alone; 1 "
        f"along directions that are not periodic. {AUTO} refines a mesh until the heat capacity "
        "has converged",
    )
    parser.add_argument(
        "--mesh-spacing",
        type=number("--mesh-spacing", positive, "1/Å"),
        metavar="d",
        help="in place of --mesh: the coarsest mesh whose wave vectors are at most so far apart, "
        "1/Å, as 0.2",
    )
    parser.add_argument(
        "--mesh-tolerance",
        type=number("--mesh-tolerance", positive),
        metavar="t",
        help=f"relative error of the heat capacity that --mesh {AUTO} ends at ({MESH_TOLERANCE:g})",
    )
    add_symprec(parser, "; needs a mesh")


def mesh_choice(options: argparse.Namespace) -> MeshChoice:
    """Which mesh is asked for; None for Gamma alone.

    Raises:
        UsageError: If the options contradict each other.
    """
    mesh: MeshChoice = options.mesh
    if options.mesh_tolerance is not None and mesh != AUTO:
        raise UsageError(f"--mesh-tolerance needs --mesh {AUTO}")
    if options.mesh_spacing is None:
        if mesh is None:
            check_needs(options, "--symprec", "--mesh or --mesh-spacing")
        return mesh
    if mesh is not None:
        raise UsageError("--mesh and --mesh-spacing exclude each other: give one of them")
    return float(options.mesh_spacing)


def mesh_tolerance(options: argparse.Namespace) -> float:
    """Relative error that a refined mesh ends at."""
    return MESH_TOLERANCE if options.mesh_tolerance is None else float(options.mesh_tolerance)


def _mesh(words: str) -> MeshChoice:
    return AUTO if words == AUTO else three("--mesh")(words)
