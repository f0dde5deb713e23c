"""Standard deviations of thermodynamics for JSON files, and their printed text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ase import Atoms
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import Console
from mace_functional.cli.loaded_models import load
from mace_functional.phonons import Mesh
from mace_functional.uncertainty import WeightPosterior, uncertain_thermo
from mace_functional.uncertainty.uncertain_spectra import Response

COLUMNS = {
    "Cv\nJ/(g K)": ("heat_capacity_J_per_gK", "{:.4f}"),
    "Cv\nJ/(mol K)": ("heat_capacity_J_per_molK", "{:.2f}"),
    "S\nJ/(mol K)": ("entropy_J_per_molK", "{:.2f}"),
    "F\neV": ("free_energy_eV", "{:.5f}"),
    "U\neV": ("internal_energy_eV", "{:.5f}"),
}
"""Columns of the printed table."""

FEW = 4
"""Largest number of weights that are printed by name."""


def read_posterior(
    options: argparse.Namespace, atoms: Atoms, free: Sequence[int], console: Console
) -> WeightPosterior | None:
    """Read the files of --uncertainty, a distribution or the models of an ensemble; None without.

    Raises:
        ValueError: If the structure is no crystal with all atoms free, --stochastic is given, or a
            file is another one.
    """
    if options.uncertainty is None:
        return None
    if not atoms.pbc.any() or len(free) < len(atoms) or options.stochastic:
        raise ValueError(
            "--uncertainty is for a crystal whose atoms are all free, and not for --stochastic: "
            "leave it out"
        )
    if len(options.uncertainty) == 1:
        return WeightPosterior.load(options.uncertainty[0])
    members = [
        load(argparse.Namespace(**{**vars(options), "model": str(path)}), console)
        for path in options.uncertainty
    ]
    return WeightPosterior.of_ensemble(members)[1]


def uncertain_results(
    options: argparse.Namespace,
    model: Any,
    atoms: Atoms,
    posterior: WeightPosterior | None,
    mesh: Mesh | None,
    console: Console,
) -> dict[str, Any] | None:
    """Compute the standard deviations, in the units of the other results; None without a posterior.

    The cell follows the weights if it was relaxed, and the ions otherwise.

    Raises:
        ValueError: If the distribution or the ensemble is that of another model.
    """
    if posterior is None:
        return None
    if len(options.uncertainty) > 1:
        posterior = posterior.centred(model.params)
    follows_cell = options.relax and not options.fixed_cell and atoms.pbc.all()
    response: Response = "cell" if follows_cell else "ions"
    with console.status("standard deviations"):
        found = uncertain_thermo(
            model,
            atoms,
            posterior.to(dtype=model.dtype, device=model.device),
            options.temperatures,
            mesh=(1, 1, 1) if mesh is None else mesh.size,
            response=response,
        ).spread
    return {
        "weights": list(posterior.names),
        "response": response,
        "temperatures_K": found.temperatures.tolist(),
        "heat_capacity_J_per_gK": found.specific_heat_capacity().tolist(),
        "heat_capacity_J_per_molK": found.molar_heat_capacity.tolist(),
        "entropy_J_per_molK": found.molar_entropy.tolist(),
        "free_energy_eV": found.free_energy.tolist(),
        "internal_energy_eV": found.internal_energy.tolist(),
        "zero_point_energy_eV": float(found.zero_point_energy),
    }


def print_uncertain(console: Console, results: dict[str, Any]) -> None:
    """Print the table of standard deviations, if there are any."""
    found = results["standard_deviations"]
    if found is None:
        return
    follows = {"cell": "positions and cell follow", "ions": "positions follow"}[found["response"]]
    table = Table(
        title="Standard deviations from those of the weights",
        caption=f"uncertain: {_names(found['weights'])}; {follows} the weights",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("T\nK", justify="right")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    values = (found[key] for key, _ in COLUMNS.values())
    for kelvin, *row in zip(found["temperatures_K"], *values, strict=True):
        cells = (form.format(x) for x, (_, form) in zip(row, COLUMNS.values(), strict=True))
        table.add_row(f"{kelvin:.2f}", *cells)
    console.print(table)


def _names(weights: Sequence[str]) -> str:
    """Return the names of weights, or how many there are if these are many."""
    few = len(weights) <= FEW
    return ", ".join(weights) if few else f"{len(weights)} tensors of weights"
