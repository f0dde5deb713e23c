"""`mace-functional thermo --stochastic`: thermodynamics of a large cell, with standard errors."""

from __future__ import annotations

import argparse
from concurrent.futures import Executor
from typing import Any

from ase import Atoms
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.printed_results import (
    no_warnings_of_printed_results,
    print_forces,
    print_subject,
)
from mace_functional.cli.stochastic_options import sampling_of
from mace_functional.potential.protocol import Potential
from mace_functional.stochastic import StochasticThermo, stochastic_thermo
from mace_functional.units import EV_PER_MOLECULE, K_B

COLUMNS = {
    "T\nK": ("temperatures_K", None, 2),
    "Cv\nJ/(g K)": ("heat_capacity_J_per_gK", "heat_capacity_error_J_per_gK", 4),
    "S\nJ/(g K)": ("entropy_J_per_gK", "entropy_error_J_per_gK", 4),
    "F\neV": ("free_energy_eV", "free_energy_error_eV", 3),
    "U\neV": ("internal_energy_eV", "internal_energy_error_eV", 3),
}
"""Heading, result, its standard error and digits of the columns of the table."""


def stochastic_results(
    options: argparse.Namespace,
    atoms: Atoms,
    model: Potential,
    executor: Executor | None,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Compute the thermodynamics of a large cell, and return it for JSON.

    Args:
        options: Options of the subcommand.
        atoms: The structure, relaxed.
        model: The potential.
        executor: Executor whose workers share the products, or None.
        progress: Show a line of progress.
    """
    with no_warnings_of_printed_results():
        found = stochastic_thermo(
            model,
            atoms,
            options.temperatures,
            executor=executor,
            checkpoint=options.checkpoint,
            progress=progress,
            **sampling_of(options),
        )
    return _as_dict(found)


def _as_dict(found: StochasticThermo) -> dict[str, Any]:
    """Return the results for JSON."""
    molar, per_gram = EV_PER_MOLECULE, EV_PER_MOLECULE / found.mass
    results: dict[str, Any] = {"temperatures_K": found.temperatures.tolist()}
    for infix in ("", "_error"):
        c, s = getattr(found, f"heat_capacity{infix}"), getattr(found, f"entropy{infix}")
        results |= {
            f"heat_capacity{infix}_J_per_gK": (per_gram * c).tolist(),
            f"heat_capacity{infix}_J_per_molK": (molar * c).tolist(),
            f"entropy{infix}_J_per_gK": (per_gram * s).tolist(),
            f"entropy{infix}_J_per_molK": (molar * s).tolist(),
            f"free_energy{infix}_eV": getattr(found, f"free_energy{infix}").tolist(),
            f"internal_energy{infix}_eV": getattr(found, f"internal_energy{infix}").tolist(),
            f"zero_point_energy{infix}_eV": float(getattr(found, f"zero_point_energy{infix}")),
        }
    n_atoms = (found.n_modes + found.n_rigid) // 3
    return {
        **results,
        "heat_capacity_kB_per_atom": (found.heat_capacity / (K_B * n_atoms)).tolist(),
        "converged": found.converged,
        "modes": found.n_modes,
        "rigid_motions_removed": found.n_rigid,
        "imaginary_modes_about": found.n_imaginary,
        "imaginary_modes_error": found.n_imaginary_error,
        "imaginary_modes_at_most": found.n_imaginary_bound,
        "lowest_ritz_value_cm-1": found.lowest_frequency,
        "highest_ritz_value_cm-1": found.highest_frequency,
        "largest_force_eV_per_A": found.largest_force,
        "hessian_vector_products": found.n_products,
        "vectors_per_pass": found.n_vectors,
        "lanczos_steps": found.n_steps,
        "passes": found.n_passes,
        "long_lanczos_steps": found.n_long_steps,
        "long_passes": found.n_long_passes,
    }


def print_stochastic(console: Console, results: dict[str, Any]) -> None:
    """Print the table and the diagnostics.

    Args:
        console: Console for the results.
        results: Results of the subcommand, including those of `stochastic_results`.
    """
    print_subject(console, results)
    console.print("sampling    Gamma alone, by random vectors")
    per = "cell" if any(results["pbc"]) else "molecule"
    zero_point, error = results["zero_point_energy_eV"], results["zero_point_energy_error_eV"]
    caption = (
        "± one standard error\n"
        f"F and U: with zero-point energy, {zero_point:.3f} ± {error:.3f} eV, without potential "
        "energy"
    )
    table = Table(
        title=f"Harmonic thermodynamics, per {per}",
        caption=caption,
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for i in range(len(results["temperatures_K"])):
        cells = []
        for name, error_name, digits in COLUMNS.values():
            cell = f"{results[name][i]:.{digits}f}"
            if error_name is not None:
                cell += f" ± {results[error_name][i]:.{digits}f}"
            cells.append(cell)
        table.add_row(*cells)
    console.print(table)
    if results["vectors_per_pass"]:
        console.print(
            f"{results['hessian_vector_products']} Hessian-vector products: {results['passes']} "
            f"passes of {results['vectors_per_pass']} vectors x {results['lanczos_steps']} steps"
            + (
                f", {results['long_passes']} long ones of {results['long_lanczos_steps']} steps"
                if results["long_passes"]
                else ""
            )
        )
    else:
        console.print("from all modes: the Hessian took fewer products than random vectors")
    if not results["converged"]:
        console.print(
            "the errors are larger than asked for: raise --max-products, --rel-error or "
            "--entropy-error, or leave out low temperatures",
            style=BOLD,
        )
    console.print(f"rigid motions removed: {results['rigid_motions_removed']}")
    lowest = results["lowest_ritz_value_cm-1"]
    if lowest < 0:
        console.print(
            f"imaginary modes, left out of the sums: the lowest Ritz value is {lowest:.2f} cm-1, "
            f"about {results['imaginary_modes_about']:.1f} modes ± "
            f"{results['imaginary_modes_error']:.1f}, at most "
            f"{results['imaginary_modes_at_most']:.1f}",
            style=BOLD,
        )
    print_forces(console, results["largest_force_eV_per_A"], results)
    console.print(f"{results['seconds']:.1f} s")
