"""`mace-functional phonons`: band structure, density of states and heat capacity of a crystal."""

from __future__ import annotations

import argparse
import time
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from ase import Atoms
from rich.table import Table

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.loaded_models import load_and_relax
from mace_functional.cli.options import symprec_of
from mace_functional.cli.output_files import write_figure, write_json
from mace_functional.cli.phonons_parser import DISPLACEMENTS
from mace_functional.cli.printed_results import (
    mesh_text,
    no_warnings_of_printed_results,
    print_forces,
    print_subject,
    print_thermo,
    print_written,
    structure_results,
    thermo_results,
)
from mace_functional.cli.worker_options import executor_of
from mace_functional.interop.ase import MaceCalculator
from mace_functional.interop.finite_displacements import finite_displacements, largest_difference
from mace_functional.interop.phonopy import commensurate_points, phonopy_of, write_phonopy
from mace_functional.phonons import (
    BandStructure,
    DensityOfStates,
    Mesh,
    MeshModes,
    Phonons,
    band_structure,
    density_of_states,
    mesh_modes,
    mesh_thermo,
    phonons_of,
)
from mace_functional.phonons.bands import check_path
from mace_functional.phonons.mesh import mesh_size
from mace_functional.potential.protocol import Potential
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support.atomic_write import atomic_write
from mace_functional.vibrations.imaginary import ImaginaryMode, imaginary_modes

DIGITS = {"cm-1": ".2f", "THz": ".3f", "meV": ".3f"}
"""Format of a frequency in each unit."""

MAX_PRINTED = 5
"""Largest number of imaginary modes that are printed; the JSON file has all of them."""


def run(options: argparse.Namespace) -> None:
    """Compute the phonons, write the files and print the results."""
    with executor_of(options) as executor:
        _run(options, executor)


def _run(options: argparse.Namespace, executor: Executor | None) -> None:
    console = Console(stderr=True)
    started = time.perf_counter()
    reading = find_structure(options.file, console)
    atoms = reading.atoms
    _check(options, atoms)
    model, relaxation = load_and_relax(options, atoms, console)
    symprec = symprec_of(options)
    phonons = phonons_of(
        model,
        atoms,
        method=options.method,
        symprec=symprec,
        executor=executor,
        progress=console.is_terminal,
    )
    with no_warnings_of_printed_results():
        bands = band_structure(
            phonons,
            options.path,
            points=options.points,
            unit=options.unit,
            symprec=symprec,
            executor=executor,
            progress=console.is_terminal,
        )
        modes = mesh_modes(
            phonons,
            Mesh.of(atoms, options.mesh or mesh_size(atoms), symprec=symprec),
            checkpoint=options.checkpoint,
            executor=executor,
            progress=console.is_terminal,
        )
        thermo = mesh_thermo(modes, options.temperatures).thermo
    dos = density_of_states(modes, unit=options.unit)
    diagnostics = phonons.diagnostics
    results: dict[str, Any] = {
        **structure_results(options, atoms, model, relaxation),
        "structure": reading.record.as_dict(),
        "unit": options.unit,
        "diagnostics": {
            "largest_force_eV_per_A": diagnostics.largest_force,
            "acoustic_sum_residual_eV_per_A2": diagnostics.acoustic_sum_residual,
            "asymmetry_eV_per_A2_amu": diagnostics.asymmetry,
        },
        "bands": _bands(bands),
        "mesh": _mesh(modes, options.unit),
        "density_of_states": _density(dos, atoms),
        **thermo_results(thermo, atoms),
    }
    if options.compare_finite_differences:
        results["finite_displacements"] = _compare_with_finite_displacements(
            model, atoms, phonons, options, console
        )
    results["seconds"] = time.perf_counter() - started
    _write(options, results, phonons, bands, modes, dos)
    _print(results)
    print_written(console, options.json, options.npz, options.phonopy, options.figure)


def _check(options: argparse.Namespace, atoms: Atoms) -> None:
    """Raise an error for options that do not fit the structure, before long computations."""
    refuse_constraints(
        atoms, "phonons", "use mace-functional thermo, which supports them, or another file"
    )
    if not atoms.pbc.any():
        raise ValueError(
            f"{options.file} is not periodic and has no phonons: for the vibrations of a molecule, "
            "use mace-functional thermo"
        )
    if options.path is not None:
        check_path(atoms, options.path)
    Mesh.of(atoms, options.mesh or mesh_size(atoms), symmetry=False)
    if options.phonopy is not None or options.compare_finite_differences:
        phonopy_of(atoms, _supercell(options, atoms))


def _supercell(options: argparse.Namespace, atoms: Atoms) -> list[int]:
    """Return the repetitions along the lattice vectors, by default 2 along periodic ones."""
    return options.supercell or np.where(atoms.pbc, 2, 1).tolist()


def _bands(bands: BandStructure) -> dict[str, Any]:
    """Return a band structure for JSON."""
    return {
        "q": bands.q.tolist(),
        "distance_per_A": bands.distance.tolist(),
        "labels": [list(label) for label in bands.labels],
        "starts": list(bands.starts),
        "frequencies": bands.frequencies.tolist(),
        "imaginary": _imaginary(bands.imaginary_modes),
    }


def _mesh(modes: MeshModes, unit: str) -> dict[str, Any]:
    """Return the frequencies on a mesh for JSON."""
    return {
        "size": list(modes.mesh.size),
        "q": modes.mesh.q.tolist(),
        "weights": modes.mesh.weights.tolist(),
        "frequencies": modes.frequencies_in(unit).tolist(),
        "imaginary": _imaginary(
            imaginary_modes(modes.mesh.q, modes.frequencies_in(unit), modes.eigenvectors)
        ),
    }


def _imaginary(modes: list[ImaginaryMode]) -> list[dict[str, Any]]:
    """Return wave vectors and frequencies of imaginary modes for JSON."""
    return [{"q": mode.q.tolist(), "frequency": mode.frequency} for mode in modes]


def _density(dos: DensityOfStates, atoms: Atoms) -> dict[str, Any]:
    """Return a density of states, total and by element, for JSON."""
    assert dos.per_atom is not None
    symbols = np.array(atoms.get_chemical_symbols())
    return {
        "frequencies": dos.frequencies.tolist(),
        "total": dos.total.tolist(),
        "per_element": {
            element: dos.per_atom[torch.as_tensor(symbols == element)].sum(0).tolist()
            for element in dict.fromkeys(symbols.tolist())
        },
    }


def _compare_with_finite_displacements(
    model: Potential, atoms: Atoms, phonons: Phonons, options: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    """Compute the largest difference of the frequencies for each displacement."""
    calculator, rows = MaceCalculator(model), []
    for distance in options.displacements or DISPLACEMENTS:
        with console.status("finite displacements") as status:

            def show(number: int, count: int, distance: float = distance) -> None:
                status.update(f"displacements of {distance} Å: {number + 1} of {count}")

            approximate = finite_displacements(
                calculator, atoms, _supercell(options, atoms), distance, report=show
            )
        rows.append(
            {
                "supercell": _supercell(options, atoms),
                "wave_vectors": len(commensurate_points(approximate)),
                "displacement_A": distance,
                "largest_difference": largest_difference(phonons, approximate, unit=options.unit),
            }
        )
    return rows


def _write(
    options: argparse.Namespace,
    results: dict[str, Any],
    phonons: Phonons,
    bands: BandStructure,
    modes: MeshModes,
    dos: DensityOfStates,
) -> None:
    """Write all files that the options name."""
    if options.json is not None:
        write_json(options.json, results)
    if options.npz is not None:
        assert modes.eigenvectors is not None
        assert dos.per_atom is not None
        arrays: dict[str, Any] = {
            "band_q": bands.q,
            "band_distance": bands.distance,
            "band_frequencies": bands.frequencies,
            "band_eigenvectors": bands.eigenvectors,
            "mesh_q": modes.mesh.q,
            "mesh_weights": modes.mesh.weights,
            "mesh_frequencies": modes.frequencies_in(options.unit),
            "mesh_eigenvectors": modes.eigenvectors,
            "dos_frequencies": dos.frequencies,
            "dos_total": dos.total,
            "dos_per_atom": dos.per_atom,
        }
        with atomic_write(options.npz) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file, **{name: array.cpu().numpy() for name, array in arrays.items()}
            )
    if options.phonopy is not None:
        write_phonopy(options.phonopy, phonons, _supercell(options, phonons.atoms))
    if options.figure is not None:
        from mace_functional.figures import band_figure  # imports matplotlib, only for figures

        symbols = phonons.atoms.get_chemical_symbols()
        write_figure(options.figure, band_figure(bands, dos, symbols))


def _print(results: dict[str, Any]) -> None:
    """Print tables and diagnostics to standard output."""
    console = Console()
    unit, mesh = results["unit"], results["mesh"]
    print_subject(console, results)
    console.print(f"sampling    {mesh_text(mesh['size'], len(mesh['q']))}")
    print_thermo(console, results, "Harmonic thermodynamics, per cell")
    bands = results["bands"]["frequencies"]
    lowest, highest = min(min(row) for row in bands), max(max(row) for row in bands)
    digits = DIGITS[unit]
    console.print(f"frequencies on the path {lowest:{digits}} to {highest:{digits}} {unit}")
    for where in "bands", "mesh":
        _print_imaginary(console, results[where]["imaginary"], where, unit)
    diagnostics = results["diagnostics"]
    print_forces(console, diagnostics["largest_force_eV_per_A"], results)
    console.print(
        f"acoustic-sum-rule residual {diagnostics['acoustic_sum_residual_eV_per_A2']:.1e} eV/Å², "
        f"asymmetry of the dynamical matrix {diagnostics['asymmetry_eV_per_A2_amu']:.1e} eV/Å²/amu"
    )
    if "finite_displacements" in results:
        _print_compared(console, results["finite_displacements"], unit)
    console.print(f"{results['seconds']:.1f} s")


def _print_imaginary(console: Console, modes: list[dict[str, Any]], where: str, unit: str) -> None:
    """Print the number of imaginary modes, and the first ones."""
    place = {"bands": "on the path", "mesh": "on the mesh, left out of the sums"}[where]
    if not modes:
        console.print(f"imaginary modes {place.split(',')[0]}: none")
        return
    console.print(f"imaginary modes {place}: {len(modes)}", style=BOLD)
    for mode in modes[:MAX_PRINTED]:
        q = ", ".join(f"{x:.4f}" for x in mode["q"])
        console.print(f"  {mode['frequency']:{DIGITS[unit]}} {unit} at q = ({q})")
    if len(modes) > MAX_PRINTED:
        console.print("  ...")


def _print_compared(console: Console, rows: list[dict[str, Any]], unit: str) -> None:
    """Print the comparison with finite displacements."""
    size = " x ".join(map(str, rows[0]["supercell"]))
    console.print(
        f"phonopy's displacements in {size} cells, at {rows[0]['wave_vectors']} wave vectors:"
    )
    table = Table()
    table.add_column("displacement\nÅ", justify="right")
    table.add_column(f"largest difference\n{unit}", justify="right")
    for row in rows:
        table.add_row(f"{row['displacement_A']:g}", f"{row['largest_difference']:.2e}")
    console.print(table)
