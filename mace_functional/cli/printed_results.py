"""Results of subcommands as data for JSON files and as printed text."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.units import GPa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import BOLD, Console
from mace_functional.expansion import ThermalExpansion
from mace_functional.interop.ase import MaceCalculator
from mace_functional.phonons.acoustic import AcousticBranches
from mace_functional.phonons.mesh_sums import ConvergedThermo
from mace_functional.potential.protocol import Potential
from mace_functional.screening.missing import LARGE
from mace_functional.screening.table import ROOM
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations.harmonic_modes import LARGEST_FORCE, SOFT
from mace_functional.vibrations.thermodynamics import HarmonicThermo

CP_COLUMN = ("Cp\nJ/(g K)", ("heat_capacity_at_constant_pressure_J_per_gK", "{:.4f}"))
"""Heading, result and format of the column of the heat capacity at constant pressure."""


@contextmanager
def no_warnings_of_printed_results() -> Iterator[None]:
    """Suppress warnings of imaginary modes, forces and meshes; the printed text has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imaginary modes")
        warnings.filterwarnings("ignore", message="the largest force is")
        warnings.filterwarnings("ignore", message="the heat capacity has an error")
        warnings.filterwarnings("ignore", message="after .* Hessian-vector products, the largest")
        warnings.filterwarnings("ignore", message="the structure is no minimum: the lowest Ritz")
        yield


def structure_results(
    options: argparse.Namespace, atoms: Atoms, model: Potential, relaxation: dict[str, Any] | None
) -> dict[str, Any]:
    """Return options, structure, relaxation, energy and stress for JSON."""
    computed = atoms.copy()
    computed.calc = MaceCalculator(model)
    stress = None
    if computed.pbc.all():
        stress = float(abs(computed.get_stress()).max() / GPa)
    return {
        "file": options.file,
        "model": str(options.model),
        "dtype": options.dtype,
        "dispersion": options.dispersion,
        "relaxation": relaxation,
        "formula": computed.get_chemical_formula(),
        "atoms": len(computed),
        "mass_amu": float(computed.get_masses().sum()),
        "energy_eV": computed.get_potential_energy(),
        "largest_stress_GPa": stress,
        "numbers": computed.numbers.tolist(),
        "positions_A": computed.positions.tolist(),
        "cell_A": computed.cell.array.tolist(),
        "pbc": computed.pbc.tolist(),
    }


def thermo_results(thermo: HarmonicThermo, atoms: Atoms) -> dict[str, Any]:
    """Return the thermodynamic functions at the temperatures for JSON."""
    return {
        "temperatures_K": thermo.temperatures.tolist(),
        "heat_capacity_J_per_gK": thermo.specific_heat_capacity(
            atoms.get_masses().tolist()
        ).tolist(),
        "heat_capacity_J_per_molK": thermo.molar_heat_capacity.tolist(),
        "heat_capacity_kB_per_atom": thermo.heat_capacity_per_atom(len(atoms)).tolist(),
        "entropy_J_per_molK": thermo.molar_entropy.tolist(),
        "free_energy_eV": thermo.free_energy.tolist(),
        "internal_energy_eV": thermo.internal_energy.tolist(),
        "zero_point_energy_eV": float(thermo.zero_point_energy),
    }


def expansion_results(expansion: ThermalExpansion | None, thermo: HarmonicThermo) -> dict[str, Any]:
    """Return Cp and thermal expansion for JSON; None without a calculation of them."""
    if expansion is None:
        return {
            "heat_capacity_at_constant_pressure_J_per_gK": None,
            "thermal_expansion_per_K": None,
        }
    difference = (expansion.specific_cp - expansion.specific_cv).cpu()
    cv = thermo.molar_heat_capacity.cpu() / expansion.mass
    return {
        "heat_capacity_at_constant_pressure_J_per_gK": (cv + difference).tolist(),
        "thermal_expansion_per_K": expansion.expansion.tolist(),
    }


def missing_results(
    branches: AcousticBranches, thermo: HarmonicThermo, atoms: Atoms
) -> dict[str, Any] | None:
    """Return the heat capacity of acoustic modes missing at Gamma; None if none is missing."""
    if not branches.n_branches:
        return None
    per_gram = EV_PER_MOLECULE / float(atoms.get_masses().sum())
    heat = branches.heat_capacity(thermo.temperatures)
    added = branches.thermo(thermo.temperatures)
    share = None
    if heat is not None:
        heat = heat.to(thermo.heat_capacity)
        share = (heat / (thermo.heat_capacity + heat).clamp(min=1e-30)).tolist()
    return {
        "acoustic_modes": branches.n_branches,
        "at_most_J_per_gK": per_gram * branches.bound,
        "at_most_J_per_molK": EV_PER_MOLECULE * branches.bound,
        "about_J_per_gK": None if heat is None else (per_gram * heat).tolist(),
        "about_J_per_molK": None if heat is None else (EV_PER_MOLECULE * heat).tolist(),
        "share": share,
        "entropy_about_J_per_molK": None if added is None else added.molar_entropy.tolist(),
        "acoustic_edges_cm-1": branches.edges,
        "no_estimate_because": branches.reason,
    }


def print_subject(console: Console, results: dict[str, Any]) -> None:
    """Print the structure, the model, the relaxation and the energy.

    Args:
        console: Console for the results.
        results: Results of a subcommand, including those of `structure_results`.
    """
    periodic = sum(results["pbc"])
    kind = f"periodic in {periodic} directions" if periodic else "a molecule"
    console.print(
        f"structure   {results['file']}: {results['formula']}, {results['atoms']} atoms, {kind}"
    )
    dispersion = results["dispersion"]
    correction = "" if dispersion is None else f", with D3({dispersion})"
    console.print(f"model       {results['model']}{correction}, {results['dtype']}")
    console.print(f"relaxation  {_relaxation_text(results['relaxation'])}")
    console.print(f"energy      {results['energy_eV']:.6f} eV, without vibrations")


def _relaxation_text(relaxation: dict[str, Any] | None) -> str:
    """Describe a relaxation: its variables, its end and its cost."""
    if relaxation is None:
        return "none, the given geometry is used"
    variables = "positions and cell" if relaxation["cell_relaxed"] else "positions"
    return (
        f"{variables}, {relaxation['reason']}; {relaxation['steps']} gradients, "
        f"{relaxation['hessian_vector_products']} Hessian-vector products"
    )


def mesh_text(size: Sequence[int], inequivalent: int) -> str:
    """Describe a mesh by its size and its numbers of wave vectors."""
    shape = " x ".join(map(str, size))
    return f"{shape} mesh: {math.prod(size)} wave vectors, {inequivalent} inequivalent"


def print_missing(console: Console, results: dict[str, Any]) -> None:
    """Print the heat capacity missing at Gamma, at the temperature nearest to 300 K."""
    missing = results["missing_at_gamma"]
    if missing is None:
        return
    most, temperatures = missing["at_most_J_per_gK"], results["temperatures_K"]
    nearest = min(range(len(temperatures)), key=lambda i: abs(temperatures[i] - ROOM))
    words = f"Gamma alone leaves out {missing['acoustic_modes']} acoustic modes per cell: "
    if missing["share"] is None:
        share = most / (most + results["heat_capacity_J_per_gK"][nearest])
        words += f"at most {most:.4f} J/(g K) (no estimate: {missing['no_estimate_because']})"
    else:
        share = missing["share"][nearest]
        words += (
            f"about {missing['about_J_per_gK'][nearest]:.4f} J/(g K) at "
            f"{temperatures[nearest]:g} K, {100 * share:.1f} % of the total, at most {most:.4f}"
        )
    if share > LARGE:
        console.print(f"{words}; average over a mesh with --mesh auto", style=BOLD)
    else:
        console.print(words)


def print_thermo(console: Console, results: dict[str, Any], title: str, note: str = "") -> None:
    """Print the table of thermodynamic functions.

    Args:
        console: Console for the results.
        results: Results of a subcommand, including those of `thermo_results`.
        title: Title of the table.
        note: Note below the table.
    """
    columns = {
        "T\nK": ("temperatures_K", "{:.2f}"),
        "Cv\nJ/(g K)": ("heat_capacity_J_per_gK", "{:.4f}"),
        "Cv\nJ/(mol K)": ("heat_capacity_J_per_molK", "{:.2f}"),
        "Cv\nk_B/atom": ("heat_capacity_kB_per_atom", "{:.4f}"),
        "S\nJ/(mol K)": ("entropy_J_per_molK", "{:.2f}"),
        "F\neV": ("free_energy_eV", "{:.4f}"),
        "U\neV": ("internal_energy_eV", "{:.4f}"),
    }
    if results.get("heat_capacity_at_constant_pressure_J_per_gK") is not None:
        del columns["Cv\nk_B/atom"]  # the table has 80 characters
        columns = {
            name: values
            for old in columns
            for name, values in (
                [(old, columns[old]), CP_COLUMN] if old == "Cv\nJ/(g K)" else [(old, columns[old])]
            )
        }
    missing = results.get("missing_at_gamma")
    if missing is not None and missing["about_J_per_gK"] is not None:
        columns["missing\nJ/(g K)"] = ("missing", "{:.4f}")
        results = {**results, "missing": missing["about_J_per_gK"]}
    zero_point = results["zero_point_energy_eV"]
    notes = [f"F and U: with zero-point energy, {zero_point:.4f} eV, without potential energy"]
    caption = "\n".join([note, *notes] if note else notes)
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in zip(*(results[key] for key, _ in columns.values()), strict=True):
        table.add_row(*(form.format(x) for x, (_, form) in zip(row, columns.values(), strict=True)))
    console.print(table)


def print_expansion(console: Console, results: dict[str, Any]) -> None:
    """Print the thermal expansion at the temperature nearest to 300 K, if it was computed.

    Args:
        console: Console for the results.
        results: Results of a subcommand, including those of `expansion_results`.
    """
    expansion, temperatures = results["thermal_expansion_per_K"], results["temperatures_K"]
    if expansion is None:
        return
    nearest = min(range(len(temperatures)), key=lambda i: abs(temperatures[i] - ROOM))
    tensor = expansion[nearest]
    axes = ", ".join(f"{1e6 * tensor[i][i]:.2f}" for i in range(3))
    console.print(
        f"thermal expansion at {temperatures[nearest]:g} K: volume "
        f"{1e6 * sum(tensor[i][i] for i in range(3)):.2f}, along x, y, z {axes} 1e-6/K; "
        "it and Cp are to first order"
    )


def print_forces(console: Console, largest_force: float, results: dict[str, Any]) -> None:
    """Print the largest force and stress, and advice if the structure is not relaxed.

    Args:
        console: Console for the results.
        largest_force: Largest force on an atom, eV/Å.
        results: Results of the subcommand, with the largest stress and the relaxation.
    """
    largest_stress = results["largest_stress_GPa"]
    console.print(f"largest force {largest_force:.2e} eV/Å", end="")
    if largest_stress is not None:
        console.print(f", largest stress {largest_stress:.2e} GPa", end="")
    console.print()
    if largest_force > LARGEST_FORCE:
        advice = _relaxation_advice(results["relaxation"])
        console.print(f"not relaxed, so frequencies are not reliable: {advice}", style=BOLD)


def _relaxation_advice(relaxation: dict[str, Any] | None) -> str:
    """Return advice for a structure with large forces, by the relaxation before."""
    if relaxation is None:
        return "add --relax"
    if relaxation["converged"]:
        return "lower --fmax"
    return "allow more steps (--max-steps), or start from a better geometry"


def print_soft(console: Console, frequencies: Sequence[float]) -> None:
    """Print vibrations that are so soft that they may be free motions.

    Args:
        console: Console for the results.
        frequencies: Frequencies of a molecule, or of a crystal at Gamma, cm-1.
    """
    soft = [f for f in frequencies if 0 < f < SOFT]
    if soft:
        console.print(
            f"{len(soft)} vibrations below {SOFT:g} cm-1, the lowest at {min(soft):.2f} cm-1, "
            "contribute almost k_B each: check if a part of the structure can move freely",
            style=BOLD,
        )


def print_written(console: Console, *paths: Path | None) -> None:
    """Print the names of the files that were written."""
    written = [str(path) for path in paths if path is not None]
    if written:
        console.print(f"wrote {' and '.join(written)}")


def convergence_results(converged: ConvergedThermo) -> dict[str, Any]:
    """Return the meshes of a refinement for JSON."""
    return {
        "tolerance": converged.tolerance,
        "converged": converged.converged,
        "meshes": [
            {
                "size": list(step.size),
                "wave_vectors": step.n_q,
                "heat_capacity_J_per_gK": list(step.specific_heat_capacity),
                "relative_change": step.change,
                "relative_missing_at_gamma": step.missing,
            }
            for step in converged.steps
        ],
    }


def print_convergence(console: Console, convergence: dict[str, Any]) -> None:
    """Print the meshes of a refinement, and the end of it."""
    for mesh in convergence["meshes"]:
        change = mesh["relative_change"]
        heat = mesh["heat_capacity_J_per_gK"]
        values = f"{min(heat):.4f}" if len(heat) == 1 else f"{min(heat):.4f} to {max(heat):.4f}"
        console.print(
            f"{mesh_text(mesh['size'], mesh['wave_vectors'])}: Cv {values} J/(g K)"
            + ("" if change is None else f", largest change {change:.1e}")
            + f", at most {mesh['relative_missing_at_gamma']:.1e} missing"
        )
    if convergence["converged"]:
        console.print(f"converged to {convergence['tolerance']:g}")
    else:
        console.print(
            f"not converged to {convergence['tolerance']:g}: the next mesh has too many wave "
            "vectors; use a larger --mesh-tolerance, or give the size",
            style=BOLD,
        )
