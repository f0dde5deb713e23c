"""`mace-functional elastic`: elastic constants, moduli and speeds of sound of a structure."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ase import Atoms
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.loaded_models import load_and_relax
from mace_functional.cli.output_files import write_figure, write_json
from mace_functional.cli.printed_results import print_subject, print_written, structure_results
from mace_functional.cli.worker_options import executor_of
from mace_functional.elasticity import ElasticConstants, IsotropicModuli, elastic_constants
from mace_functional.elasticity.voigt import PAIRS
from mace_functional.structure.selection import refuse_constraints


def run(options: argparse.Namespace) -> None:
    """Compute the constants, write the files and print the results."""
    console = Console(stderr=True)
    started = time.perf_counter()
    reading = find_structure(options.file, console)
    atoms = reading.atoms
    _check(options, atoms)
    model, relaxation = load_and_relax(options, atoms, console, pressure=options.pressure)
    with executor_of(options) as executor:
        constants = elastic_constants(
            model,
            atoms,
            pressure=options.pressure,
            solver=options.solver,
            executor=executor,
            progress=console.is_terminal,
        )
    directions = options.directions or constants.axes.tolist()
    results: dict[str, Any] = {
        **structure_results(options, atoms, model, relaxation),
        "structure": reading.record.as_dict(),
        "pressure_GPa": options.pressure,
        "elasticity": _results(constants, directions),
        "seconds": time.perf_counter() - started,
    }
    if options.json is not None:
        write_json(options.json, results)
    if options.figure is not None:
        from mace_functional.figures import young_figure  # imports matplotlib, only for figures

        write_figure(options.figure, young_figure(constants))
    _print(results)
    print_written(console, options.json, options.figure)


def _check(options: argparse.Namespace, atoms: Atoms) -> None:
    """Raise an error for options that do not fit the structure, before long computations."""
    refuse_constraints(atoms, "elastic", "take another file, without constraints")
    if not atoms.pbc.any():
        raise ValueError(
            f"{options.file} is a molecule, periodic in no direction: it has no strain and no "
            "elastic constants"
        )
    if options.pressure and not atoms.pbc.all():
        raise ValueError(
            f"--pressure is for crystals, but {options.file} is not periodic in three directions"
        )
    if options.pressure and options.fixed_cell:
        raise ValueError("--pressure needs a cell that can relax: leave out --fixed-cell")
    if options.figure is not None and atoms.pbc.sum() == 1:
        raise ValueError("--figure shows directions, and a rod has one: leave it out")


def _results(constants: ElasticConstants, directions: list[list[float]]) -> dict[str, Any]:
    """Return the constants and what follows from them for JSON."""
    c = constants
    crystal = c.dimensions == 3
    found: dict[str, Any] = {
        "unit": c.unit,
        "axes": c.axes.tolist(),
        "stiffness": c.stiffness.tolist(),
        "clamped_stiffness": c.clamped_stiffness.tolist(),
        "stress": c.stress.tolist(),
        "stability_eigenvalues": c.stability[0].tolist(),
        "softest_strain": c.softest_strain.tolist(),
        "stable": c.is_stable,
        "internal_strain_eV_per_A": c.internal_strain.tolist(),
        "response_A": c.response.tolist(),
        "directions": directions,
        "sound_velocities_km_per_s": c.sound_velocities(directions).tolist(),
        "largest_force_eV_per_A": c.largest_force,
        "smallest_curvature_eV_per_A2": c.smallest_curvature,
        "solver": c.solver,
        "residual": c.residual,
        "hessian_vector_products": c.n_products,
        "warnings": list(c.warnings),
    }
    if not c.is_stable:
        return found
    found |= {
        "compliance": c.compliance.tolist(),
        "young_moduli": c.young_modulus(directions).tolist(),
    }
    if c.dimensions > 1:
        found |= {
            "voigt": _moduli(c.voigt),
            "reuss": _moduli(c.reuss),
            "hill": _moduli(c.hill),
            "universal_anisotropy": c.anisotropy,
        }
    return found | ({"debye_temperature_K": c.debye_temperature} if crystal else {})


def _moduli(moduli: IsotropicModuli) -> dict[str, float]:
    return {name: float(value) for name, value in moduli._asdict().items()}


def _print(results: dict[str, Any]) -> None:
    """Print the constants and what follows from them to standard output."""
    console = Console()
    print_subject(console, results)
    found = results["elasticity"]
    unit = found["unit"]
    stress = max(abs(x) for row in found["stress"] for x in row)
    console.print(
        f"largest force {found['largest_force_eV_per_A']:.2e} eV/Å, largest stress "
        f"{stress:.2e} {unit}"
    )
    for name, title in ("stiffness", "relaxed ions"), ("clamped_stiffness", "clamped ions"):
        console.print(_matrix(found[name], f"elastic constants, {unit}, {title}"))
    if "voigt" in found:
        console.print(_averages(found))
    console.print(_along(found))
    if "universal_anisotropy" in found:
        console.print(f"universal anisotropy {found['universal_anisotropy']:.4f}")
    if "debye_temperature_K" in found:
        console.print(f"Debye temperature {found['debye_temperature_K']:.1f} K")
    softest = found["stability_eigenvalues"][0]
    console.print(
        f"{'stable' if found['stable'] else 'not stable'}: the softest strain has "
        f"{softest:.2f} {unit}",
        style="" if found["stable"] else BOLD,
    )
    console.print(
        f"response of the ions: {found['solver']}, {found['hessian_vector_products']} "
        f"Hessian-vector products, residual {found['residual']:.1e}"
    )
    console.print(f"{results['seconds']:.1f} s")


def _matrix(rows: list[list[float]], title: str) -> Table:
    """Return a matrix of elastic constants as a table."""
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    dimensions = {len(pairs): d for d, pairs in PAIRS.items()}[len(rows)]
    names = ["xyz"[i] + "xyz"[j] for i, j in PAIRS[dimensions]]
    for name in ("", *names):
        table.add_column(name, justify="right")
    for name, row in zip(names, rows, strict=True):
        table.add_row(name, *(f"{x:.2f}".replace("-0.00", "0.00") for x in row))
    return table


def _averages(found: dict[str, Any]) -> Table:
    """Return the moduli of polycrystals as a table."""
    unit = found["unit"]
    table = Table(title="moduli of a polycrystal", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in (f"bulk\n{unit}", f"shear\n{unit}", f"Young\n{unit}", "Poisson\n"):
        table.add_column(heading, justify="right")
    for name in ("voigt", "reuss", "hill"):
        m = found[name]
        values = [f"{m[key]:.2f}" for key in ("bulk", "shear", "young")]
        table.add_row(name.capitalize(), *values, f"{m['poisson']:.4f}")
    return table


def _along(found: dict[str, Any]) -> Table:
    """Return Young's moduli and speeds of sound along directions as a table."""
    table = Table(title="along directions", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("direction\n")
    table.add_column(f"Young\n{found['unit']}", justify="right")
    table.add_column("speeds of sound\nkm/s", justify="right")
    young = found.get("young_moduli", [None] * len(found["directions"]))
    rows = zip(found["directions"], young, found["sound_velocities_km_per_s"], strict=True)
    for direction, modulus, speeds in rows:
        table.add_row(
            " ".join(f"{x:g}" for x in direction),
            "" if modulus is None else f"{modulus:.2f}",
            "  ".join(f"{v:.4f}" for v in speeds),
        )
    return table
