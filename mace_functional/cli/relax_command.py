"""`mace-functional relax`: a structure at rest."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ase import Atoms

from mace_functional.cli.arguments import Parser, checked, is_any_of, number
from mace_functional.cli.console import Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.options import (
    add_limits,
    add_structure_and_model,
    add_symprec,
    check_needs,
    holds_axes,
    load,
    set_limits,
    symprec_of,
)
from mace_functional.cli.output_files import (
    check_outputs,
    check_structure_file,
    write_json,
    write_structure,
)
from mace_functional.cli.printed_results import print_rest, print_written, structure_results
from mace_functional.cli.relaxed_structures import relax_in_place
from mace_functional.optimize.coordinates import VOIGT
from mace_functional.support.validation import STRONGEST, pressure

AXES = "xyz"
ALL_STRAINS: dict[str, bool | str] = {"all": True, "none": False, "isotropic": "isotropic"}
STRAIN_NAMES = [AXES[i] + AXES[j] for i, j in VOIGT]


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: Parser = verbs.add_parser(
        "relax",
        help="relax positions and cell, with second derivatives",
        description="Relax a structure: positions, and the cell along periodic directions. The "
        "Hessian begins as\nthat of a force field of bonds and angles, and learns from every "
        "gradient. Near rest, exact\nproducts with the softest directions show that the end is a "
        "minimum, not a saddle point.",
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
    parser.add_several(
        "--cell",
        can_be=is_any_of("|".join([*ALL_STRAINS, *STRAIN_NAMES])),
        type=checked("--cell", _cell),
        default=True,
        metavar="STRAIN,STRAIN,...",
        help=f"strains that relax: {', '.join(ALL_STRAINS)}, or some of "
        f"{' '.join(STRAIN_NAMES)} (all)",
    )
    parser.add_argument(
        "--pressure",
        type=number("--pressure", pressure),
        default=0.0,
        metavar="P",
        help=f"external pressure on a crystal, GPa, from {-STRONGEST:g} to {STRONGEST:g} "
        "(%(default)s)",
    )
    parser.add_argument(
        "--symmetry", action="store_true", help="keep the space group, as spglib finds it"
    )
    add_symprec(parser, "; needs --symmetry")
    parser.add_argument(
        "--trajectory", type=Path, metavar="OUT", help="write all structures here (ASE's .traj)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all results here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Relax and report."""
    console = Console(stderr=True)
    started = time.perf_counter()
    set_limits(options)
    if not options.symmetry:
        check_needs(options, "--symprec", "--symmetry")
    _check_files(options)
    reading = find_structure(options.file, console)
    atoms = reading.atoms
    _check(options, atoms)
    model = load(options, console)
    relaxation = relax_in_place(
        atoms,
        model,
        output=options.output,
        console=console,
        fmax=options.fmax,
        max_steps=options.max_steps,
        cell=options.cell,
        pressure=options.pressure,
        symmetry=options.symmetry,
        symprec=symprec_of(options),
        trajectory=options.trajectory,
    )
    write_structure(options.output, atoms)
    results = {
        **structure_results(options, atoms, model, relaxation),
        "structure": reading.record.as_dict(),
        "pressure_GPa": options.pressure,
        "seconds": time.perf_counter() - started,
    }
    if options.json is not None:
        write_json(options.json, results)
    _print(results)
    print_written(console, options.output, options.trajectory, options.json)


def _check_files(options: argparse.Namespace) -> None:
    """Refuse files that cannot be written. The structure itself may be continued in place."""
    written = {"--output": options.output, "--trajectory": options.trajectory}
    in_place = options.output.resolve() == Path(options.file).resolve()
    check_outputs(
        {**written, "--json": options.json},
        [options.model, *([] if in_place else [options.file])],
    )


def _check(options: argparse.Namespace, atoms: Atoms) -> None:
    """Refuse what does not fit the structure, before anything long starts.

    Raises:
        ValueError: If the file cannot hold the structure, or there is a pressure on what is no
            crystal or cannot give way.
    """
    turns = options.cell in (True, False, "isotropic") and not holds_axes(atoms)
    check_structure_file("--output", options.output, atoms, may_turn=turns)
    if options.pressure and not atoms.pbc.all():
        raise ValueError(f"--pressure is for crystals, and {options.file} has no volume")
    if options.pressure and options.cell is False:
        raise ValueError("--pressure needs a cell that relaxes: leave out --cell none")


def _cell(words: str) -> bool | str | list[bool]:
    """The strains that relax, as `relax` takes them.

    Raises:
        ValueError: If there is no such strain.
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


def _print(results: dict[str, Any]) -> None:
    """How it went, on standard output."""
    console = Console()
    relaxation = results["relaxation"]
    console.print(
        f"{results['formula']}: {'relaxed' if relaxation['converged'] else 'not relaxed'}, "
        f"{relaxation['reason']}"
    )
    console.print(f"energy {results['energy_eV']:.6f} eV")
    print_rest(console, relaxation["largest_force_eV_per_A"], results)
    console.print(
        f"{relaxation['steps']} gradients, {relaxation['hessian_vector_products']} Hessian-vector "
        f"products, {results['seconds']:.1f} s"
    )
