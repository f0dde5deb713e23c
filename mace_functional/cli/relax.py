"""`mace-functional relax`: a structure at rest."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from mace_functional.cli.files import write_json, write_structure
from mace_functional.cli.options import (
    add_limits,
    add_structure_and_model,
    check_limits,
    check_outputs,
    load,
)
from mace_functional.cli.relaxation import relax_in_place
from mace_functional.cli.report import print_rest, print_written, structure_results
from mace_functional.optimize.coordinates import VOIGT
from mace_functional.structures.files import find_structure

AXES = "xyz"
STRAIN_NAMES = [AXES[i] + AXES[j] for i, j in VOIGT]


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "relax",
        help="relax positions and cell, with second derivatives",
        description="Relax a structure: positions, and the cell along periodic directions. The "
        "exact Hessian of\nthe first geometry, corrected on the way, takes a fraction of the steps "
        "of first-order\noptimisers, and the end is a minimum, not a saddle point.",
    )
    add_structure_and_model(parser)
    add_limits(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="write the structure here after every step, and continue from it if it is there",
    )
    parser.add_argument(
        "--cell",
        nargs="+",
        default=["all"],
        metavar="STRAIN",
        help="strains that relax: all, none, isotropic, or some of "
        f"{' '.join(STRAIN_NAMES)} (%(default)s)",
    )
    parser.add_argument("--pressure", type=float, default=0.0, help="GPa (%(default)s)")
    parser.add_argument(
        "--symmetry", action="store_true", help="keep the space group, as spglib finds it"
    )
    parser.add_argument(
        "--trajectory", type=Path, metavar="OUT", help="write all structures here (ASE's .traj)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all results here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Relax and report."""
    console = Console(stderr=True)
    started = time.perf_counter()
    check_limits(options)
    check_outputs(options.output, options.trajectory, options.json)
    cell = _cell(options.cell)
    atoms = find_structure(options.file)
    model = load(options, console)
    relaxation = relax_in_place(
        atoms,
        model,
        output=options.output,
        console=console,
        fmax=options.fmax,
        max_steps=options.max_steps,
        cell=cell,
        pressure=options.pressure,
        symmetry=options.symmetry,
        trajectory=options.trajectory,
    )
    write_structure(options.output, atoms)
    results = {
        **structure_results(options, atoms, model, relaxation),
        "pressure_GPa": options.pressure,
        "seconds": time.perf_counter() - started,
    }
    _print(results)
    if options.json is not None:
        write_json(options.json, results)
    print_written(console, options.output, options.trajectory, options.json)


def _cell(names: list[str]) -> bool | str | list[bool]:
    """The strains that relax, as `relax` takes them.

    Raises:
        ValueError: If there is no such strain.
    """
    if len(names) == 1 and names[0] in ("all", "none", "isotropic"):
        return {"all": True, "none": False}.get(names[0], names[0])
    unknown = [name for name in names if name not in STRAIN_NAMES]
    if unknown:
        raise ValueError(
            f"--cell takes all, none, isotropic, or some of {' '.join(STRAIN_NAMES)}, not "
            f"{' '.join(unknown)}"
        )
    return [name in names for name in STRAIN_NAMES]


def _print(results: dict[str, Any]) -> None:
    """How it went, on standard output."""
    console = Console()
    relaxation = results["relaxation"]
    console.print(
        f"{results['formula']}: {'relaxed' if relaxation['converged'] else 'not relaxed'}, "
        f"{relaxation['reason']}"
    )
    console.print(f"energy {results['energy_eV']:.6f} eV")
    print_rest(console, relaxation["largest_force_eV_per_A"], results["largest_stress_GPa"])
    console.print(
        f"{relaxation['steps']} gradients, {relaxation['hessian_vector_products']} Hessian-vector "
        f"products, {results['seconds']:.1f} s"
    )
