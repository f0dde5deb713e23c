"""Options for meshes of wave vectors: by size, by spacing, or by refinement."""

from __future__ import annotations

import argparse
from typing import Final

from mace_functional.cli.arguments import Parser, UsageError, is_any_of, number, three
from mace_functional.cli.options import add_symprec, check_needs
from mace_functional.screening.screen_settings import MeshChoice
from mace_functional.support.defaults import MESH_TOLERANCE
from mace_functional.support.validation import positive

AUTO: Final = "auto"
"""Value of --mesh for a mesh that is refined until the heat capacity has converged."""


def add_mesh(parser: Parser, what: str) -> None:
    """Add --mesh, --mesh-spacing, --mesh-tolerance and --symprec.

    Args:
        parser: Parser of the subcommand.
        what: Object whose heat capacity is averaged, for the help.
    """
    parser.add_several(
        "--mesh",
        can_be=is_any_of(rf"{AUTO}|[+-]?\d+"),
        type=_mesh,
        metavar="n,n,n",
        help=f"average the heat capacity of {what} over a mesh of n x n x n wave vectors, instead "
        f"of Gamma alone; n is 1 along directions that are not periodic. {AUTO} refines the mesh "
        "until the heat capacity has converged",
    )
    parser.add_argument(
        "--mesh-spacing",
        type=number("--mesh-spacing", positive, "1/Å"),
        metavar="d",
        help="use the coarsest mesh whose wave vectors are at most this distance apart, 1/Å, for "
        "example 0.2; instead of --mesh",
    )
    parser.add_argument(
        "--mesh-tolerance",
        type=number("--mesh-tolerance", positive),
        metavar="t",
        help=f"relative error of the heat capacity for --mesh {AUTO} ({MESH_TOLERANCE:g})",
    )
    add_symprec(parser, "; needs a mesh")


def mesh_choice(options: argparse.Namespace) -> MeshChoice:
    """Return the mesh that the options select; None for Gamma alone.

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
        raise UsageError("--mesh and --mesh-spacing exclude each other: give only one")
    return float(options.mesh_spacing)


def mesh_tolerance(options: argparse.Namespace) -> float:
    """Return the relative error at which the refinement of a mesh stops."""
    return MESH_TOLERANCE if options.mesh_tolerance is None else float(options.mesh_tolerance)


def _mesh(words: str) -> MeshChoice:
    """Read the value of --mesh."""
    return AUTO if words == AUTO else three("--mesh")(words)
