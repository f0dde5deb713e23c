"""`mace-functional conductivity`: lattice thermal conductivity of a crystal."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from ase import Atoms
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.anharmonic import (
    ThermalConductivity,
    thermal_conductivity,
    write_kappa,
    write_phono3py,
)
from mace_functional.anharmonic.phono3py import require_phono3py
from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.loaded_models import load_and_relax
from mace_functional.cli.options import symprec_of
from mace_functional.cli.output_files import write_figure, write_json
from mace_functional.cli.printed_results import (
    mesh_text,
    print_forces,
    print_subject,
    print_written,
    structure_results,
)
from mace_functional.cli.worker_options import executor_of
from mace_functional.interop.phonopy import supercell_matrix
from mace_functional.screening.table import ROOM
from mace_functional.structure.selection import refuse_constraints

SMALL = 1e-3
"""Off-diagonal elements below this share of the largest element are not printed."""


def run(options: argparse.Namespace) -> None:
    """Compute the conductivity, write the files and print the results."""
    require_phono3py()
    console = Console(stderr=True)
    started = time.perf_counter()
    reading = find_structure(options.file, console)
    atoms = reading.atoms
    _check(options, atoms)
    symprec = symprec_of(options)
    model, relaxation = load_and_relax(options, atoms, console, symmetry=True, symprec=symprec)
    with executor_of(options) as executor:
        found = thermal_conductivity(
            model,
            atoms,
            options.temperatures,
            supercell=options.supercell,
            phonon_supercell=options.phonon_supercell,
            mesh=options.mesh or options.mesh_spacing,
            method=options.method,
            wigner=options.wigner,
            isotopes=options.isotopes,
            boundary=options.boundary,
            relaxed=True,
            cutoff=options.cutoff,
            symprec=symprec,
            checkpoint=options.checkpoint,
            executor=executor,
            progress=console.is_terminal,
        )
    results: dict[str, Any] = {
        **structure_results(options, atoms, model, relaxation),
        "structure": reading.record.as_dict(),
        "conductivity": _results(found),
        "seconds": time.perf_counter() - started,
    }
    if options.json is not None:
        write_json(options.json, results)
    if options.hdf5 is not None:
        write_kappa(options.hdf5, found)
    if options.phono3py is not None:
        write_phono3py(options.phono3py, found.constants)
    if options.figure is not None:
        from mace_functional.figures import conductivity_figure  # imports matplotlib

        write_figure(options.figure, conductivity_figure(found))
    _print(results)
    print_written(console, options.json, options.hdf5, options.phono3py, options.figure)


def _check(options: argparse.Namespace, atoms: Atoms) -> None:
    """Raise an error for options that do not fit the structure, before long computations."""
    refuse_constraints(atoms, "conductivity", "take another file, without constraints")
    if not atoms.pbc.all():
        raise ValueError(
            f"{options.file} is not periodic in three directions: a thermal conductivity needs a "
            "crystal"
        )
    for supercell in options.supercell, options.phonon_supercell:
        if supercell is not None:
            supercell_matrix(atoms, supercell)


def _results(found: ThermalConductivity) -> dict[str, Any]:
    """Return the conductivity for JSON."""
    nearest = float(found.temperatures[abs(found.temperatures - ROOM).argmin()])
    cumulative: dict[str, Any] = {"temperature_K": nearest}
    for name, (values, sums) in (
        ("frequencies_THz", found.cumulative_by_frequency(nearest)),
        ("mean_free_paths_nm", found.cumulative_by_mean_free_path(nearest)),
    ):
        axes = np.einsum("kaa->ka", sums)
        cumulative[name] = {"up_to": values.tolist(), "xx_yy_zz_W_per_mK": axes.tolist()}
    constants = found.constants
    return {
        "temperatures_K": found.temperatures.tolist(),
        "kappa_W_per_mK": found.kappa.tolist(),
        "populations_W_per_mK": found.populations.tolist(),
        "coherences_W_per_mK": found.coherences.tolist() if found.wigner else None,
        "relaxation_time_W_per_mK": found.relaxation_time.tolist(),
        "method": found.method,
        "isotopes": found.isotope_linewidths is not None,
        "boundary_um": found.boundary,
        "mesh": list(found.mesh),
        "inequivalent_wave_vectors": len(found.q),
        "imaginary_modes": found.n_imaginary,
        "lowest_frequency_THz": float(found.frequencies.min()),
        "supercell": constants.supercell.tolist(),
        "supercell_atoms": constants.values.shape[1],
        "phonon_supercell": constants.phonon_supercell.tolist(),
        "phonon_supercell_atoms": constants.second_order.shape[1],
        "cutoff_A": constants.cutoff,
        "third_derivatives": constants.n_pairs,
        "third_order_relative_error": constants.error,
        "frequency_error_THz": constants.frequency_error,
        "largest_force_eV_per_A": constants.largest_force,
        "cumulative": cumulative,
    }


def _print(results: dict[str, Any]) -> None:
    """Print the conductivity and what it was computed with to standard output."""
    console = Console()
    print_subject(console, results)
    found = results["conductivity"]
    print_forces(console, found["largest_force_eV_per_A"], results)
    cutoff = found["cutoff_A"]
    pairs = "all pairs" if cutoff is None else f"pairs within {cutoff:g} Å"
    console.print(
        f"third order {found['supercell_atoms']} atoms, {pairs}: {found['third_derivatives']} "
        f"derivatives, relative error {found['third_order_relative_error']:.1e}"
    )
    console.print(
        f"second order {found['phonon_supercell_atoms']} atoms: frequencies up to "
        f"{found['frequency_error_THz']:.2g} THz off"
    )
    console.print(f"sampling    {mesh_text(found['mesh'], found['inequivalent_wave_vectors'])}")
    if found["imaginary_modes"]:
        console.print(
            f"imaginary modes on the mesh, left out: {found['imaginary_modes']}, down to "
            f"{found['lowest_frequency_THz']:.3g} THz",
            style=BOLD,
        )
    console.print(_table(found))
    console.print(f"{results['seconds']:.1f} s")


def _table(found: dict[str, Any]) -> Table:
    """Return the conductivity over temperature as a table."""
    kappa = np.array(found["kappa_W_per_mK"])
    places = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2)}
    others = {"yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}
    if max(abs(kappa[:, i, j]).max() for i, j in others.values()) > SMALL * abs(kappa).max():
        places |= others
    columns = {name: kappa[:, i, j] for name, (i, j) in places.items()}
    if found["method"] == "direct":
        columns["mean by\nrelaxation time"] = _means(found["relaxation_time_W_per_mK"])
    if found["coherences_W_per_mK"] is not None:
        columns["mean of\ncoherences"] = _means(found["coherences_W_per_mK"])
    words = {"direct": "direct solution", "relaxation-time": "relaxation times"}[found["method"]]
    added = [
        name
        for name, is_there in (
            ("coherences", found["coherences_W_per_mK"] is not None),
            ("isotopes", found["isotopes"]),
            (f"boundaries at {found['boundary_um']} µm", found["boundary_um"] is not None),
        )
        if is_there
    ]
    title = "thermal conductivity, W/(m K), by " + ", ".join([words, *added])
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("T\nK", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
    for i, kelvin in enumerate(found["temperatures_K"]):
        table.add_row(f"{kelvin:g}", *(f"{values[i]:#.4g}" for values in columns.values()))
    return table


def _means(tensors: list[Any]) -> np.ndarray:
    """Return a third of the trace of each tensor."""
    means: np.ndarray = np.einsum("taa->t", np.array(tensors)) / 3
    return means
