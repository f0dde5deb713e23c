"""`mace-functional thermo`: heat capacity, entropy and free energy of a structure."""

from __future__ import annotations

import argparse
import time
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from ase import Atoms
from ase.constraints import FixAtoms

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.found_structures import find_structure
from mace_functional.cli.ideal_gas_options import check_molecule
from mace_functional.cli.ideal_gas_results import ideal_gas_results, print_ideal_gas
from mace_functional.cli.loaded_models import load_and_relax
from mace_functional.cli.mesh_options import AUTO, mesh_choice, mesh_tolerance
from mace_functional.cli.options import symprec_of
from mace_functional.cli.output_files import write_figure, write_json
from mace_functional.cli.printed_results import (
    convergence_results,
    expansion_results,
    mesh_text,
    missing_results,
    no_warnings_of_printed_results,
    print_convergence,
    print_expansion,
    print_forces,
    print_missing,
    print_soft,
    print_subject,
    print_thermo,
    print_written,
    structure_results,
    thermo_results,
)
from mace_functional.cli.ranges import numbers_in
from mace_functional.cli.stochastic_results import print_stochastic, stochastic_results
from mace_functional.cli.uncertain_results import (
    print_uncertain,
    read_posterior,
    uncertain_results,
)
from mace_functional.cli.worker_options import executor_of
from mace_functional.expansion import thermal_expansion
from mace_functional.phonons import (
    Mesh,
    MeshModes,
    acoustic_branches,
    converged_mesh_thermo,
    mesh_modes,
    mesh_size,
    mesh_thermo,
    phonons_of,
)
from mace_functional.phonons.acoustic import NO_BRANCHES
from mace_functional.phonons.modes import check_crystal
from mace_functional.screening.screen_settings import MeshChoice
from mace_functional.structure.selection import check_vibrates, free_atoms, refuse_constraints
from mace_functional.vibrations.gamma import gamma_modes
from mace_functional.vibrations.harmonic_modes import NormalModes
from mace_functional.vibrations.thermodynamics import harmonic_thermo

VIBRATIONS_ONLY = "vibrations only, without translation and rotation"
"""Contributions to Cv, S, F and U of a molecule in the table; a gas has others too."""


def run(options: argparse.Namespace) -> None:
    """Compute the thermodynamics, write the files and print the results."""
    with executor_of(options) as executor:
        _run(options, executor)


def _run(options: argparse.Namespace, executor: Executor | None) -> None:
    console = Console(stderr=True)
    started = time.perf_counter()
    reading = find_structure(options.file, console)
    atoms = reading.atoms
    choice = mesh_choice(options)
    if choice is not None:  # an invalid mesh is an error before long computations
        check_crystal(atoms, "a mesh")
        if choice != AUTO:
            _mesh_of(atoms, choice, symmetry=False)
    free = _fix_other_atoms(options, atoms, choice)
    check_molecule(options, atoms, free)
    if options.cp and (not atoms.pbc.any() or len(free) < len(atoms)):
        raise ValueError(
            "--cp needs a crystal whose atoms are all free: a molecule and fixed atoms have no "
            "thermal expansion; leave out --cp"
        )
    if choice is None:
        check_vibrates(atoms, free, options.file)
    posterior = read_posterior(options, atoms, free, console)
    model, relaxation = load_and_relax(options, atoms, console)
    results: dict[str, Any]
    if options.stochastic:
        results = {
            **structure_results(options, atoms, model, relaxation),
            "structure": reading.record.as_dict(),
            **stochastic_results(options, atoms, model, executor, progress=console.is_terminal),
            "seconds": time.perf_counter() - started,
        }
        if options.json is not None:
            write_json(options.json, results)
        print_stochastic(Console(), results)
        print_written(console, options.json)
        return
    on_mesh = converged = phonons = None
    branches = NO_BRANCHES
    with no_warnings_of_printed_results():
        if choice is None:
            modes = gamma_modes(model, atoms, executor=executor, progress=console.is_terminal)
        else:
            with console.status("phonons"):
                phonons = phonons_of(model, atoms, symprec=symprec_of(options), executor=executor)
            modes = replace(phonons.gamma_modes(), largest_force=phonons.diagnostics.largest_force)
        if choice in (None, AUTO):
            branches = acoustic_branches(model, atoms, modes)
        if phonons is not None and choice is not None and choice != AUTO:
            mesh = _mesh_of(atoms, choice, symprec=symprec_of(options))
            on_mesh = mesh_modes(
                phonons,
                mesh,
                eigenvectors=False,
                executor=executor,
                progress=console.is_terminal,
            )
        elif phonons is not None and branches.n_branches:
            converged = converged_mesh_thermo(
                phonons,
                options.temperatures,
                tolerance=mesh_tolerance(options),
                symprec=symprec_of(options),
                executor=executor,
                progress=console.is_terminal,
            )
            on_mesh = converged.result.modes
        if on_mesh is None:
            thermo = harmonic_thermo(modes, options.temperatures)
        else:
            thermo, branches = mesh_thermo(on_mesh, options.temperatures).thermo, NO_BRANCHES
        expansion = None
        if options.cp:
            expansion = thermal_expansion(
                model,
                atoms,
                options.temperatures,
                mesh=(1, 1, 1) if on_mesh is None else on_mesh.mesh,
                symprec=symprec_of(options),
                executor=executor,
                progress=console.is_terminal,
            )
        subject = structure_results(options, atoms, model, relaxation)
        gas = ideal_gas_results(options, subject["energy_eV"], atoms, modes, free)
        sampled = None if on_mesh is None else on_mesh.mesh
        uncertain = uncertain_results(options, model, atoms, posterior, sampled, console)
    results = {
        **subject,
        "structure": reading.record.as_dict(),
        "free_atoms": free,
        **_modes(modes),
        "mesh": None if on_mesh is None else _mesh(on_mesh),
        "mesh_convergence": None if converged is None else convergence_results(converged),
        **thermo_results(thermo, atoms[free]),
        **expansion_results(expansion, thermo),
        "standard_deviations": uncertain,
        "missing_at_gamma": missing_results(branches, thermo, atoms),
        "ideal_gas": gas,
        "part_of_thermodynamics": None if _is_extended(atoms, modes) else VIBRATIONS_ONLY,
        "seconds": time.perf_counter() - started,
    }
    if options.json is not None:
        write_json(options.json, results)
    if options.figure is not None:
        from mace_functional.figures import thermo_figure  # imports matplotlib, only for figures

        write_figure(options.figure, thermo_figure(on_mesh or modes, options.temperatures))
    _print(results)
    print_written(console, options.json, options.figure)


def _mesh_of(atoms: Atoms, choice: tuple[int, int, int] | float, **options: Any) -> Mesh:
    """Return the mesh with a given size or spacing."""
    size = mesh_size(atoms, choice) if isinstance(choice, float) else choice
    return Mesh.of(atoms, size, **options)


def _fix_other_atoms(options: argparse.Namespace, atoms: Atoms, choice: MeshChoice) -> list[int]:
    """Fix all atoms that are not free, and then also the cell; return the free atoms.

    Raises:
        ValueError: If the value of --free is invalid, or a mesh is combined with fixed atoms.
    """
    chosen = None if options.free is None else numbers_in([options.free], len(atoms))
    free = free_atoms(atoms, chosen)
    fixed = sorted(set(range(len(atoms))) - set(free))
    if chosen is None and choice is not None:
        refuse_constraints(atoms, "--mesh", f"free all with --free 0-{len(atoms) - 1}")
    if fixed and choice is not None:
        raise ValueError(
            f"--mesh needs all atoms free, but {len(fixed)} of {len(atoms)} are fixed: leave out "
            f"--mesh, or free all with --free 0-{len(atoms) - 1}"
        )
    if chosen is not None:
        atoms.set_constraint(FixAtoms(fixed) if fixed else None)
    options.fixed_cell = options.fixed_cell or bool(fixed)
    return free


def _modes(modes: NormalModes) -> dict[str, Any]:
    """Return the modes at Gamma and their diagnostics for JSON."""
    return {
        "rigid_motions_removed": modes.n_rigid,
        "rotations_removed": modes.n_rotations,
        "connected_parts": modes.n_parts,
        "rigid_residual_cm-1": modes.rigid_residual,
        "imaginary_modes": modes.n_imaginary,
        "frequencies_cm-1": modes.frequencies.tolist(),
        "largest_force_eV_per_A": modes.largest_force,
        "acoustic_sum_residual_eV_per_A2": modes.acoustic_sum_residual,
        "hessian_asymmetry_eV_per_A2": modes.asymmetry,
    }


def _is_extended(atoms: Atoms, modes: NormalModes) -> bool:
    """Return True if no rotation was removed and the structure is periodic or has fixed atoms."""
    has_fixed_atoms = modes.acoustic_sum_residual is None
    return bool(atoms.pbc.any() or has_fixed_atoms) and not modes.n_rotations


def _rigid_text(results: dict[str, Any]) -> str:
    """Describe the rigid motions that were removed."""
    count, rotations = results["rigid_motions_removed"], results["rotations_removed"]
    text = f"rigid motions removed: {count}"
    if rotations:
        text += f" ({count - rotations} translations, {rotations} rotations)"
    if results["connected_parts"] > 1:
        text += f", of {results['connected_parts']} parts that do not interact"
    return text


def _mesh(modes: MeshModes) -> dict[str, Any]:
    """Return the frequencies on a mesh for JSON."""
    return {
        "size": list(modes.mesh.size),
        "q": modes.mesh.q.tolist(),
        "weights": modes.mesh.weights.tolist(),
        "frequencies_cm-1": modes.frequencies_in("cm-1").tolist(),
        "imaginary_modes": modes.n_imaginary,
    }


def _print(results: dict[str, Any]) -> None:
    """Print the table and the diagnostics to standard output."""
    console = Console()
    free, atoms = len(results["free_atoms"]), results["atoms"]
    per = "cell" if any(results["pbc"]) else "molecule"
    if free < atoms:
        per = f"{free} free of {atoms} atoms"
    mesh, part = results["mesh"], results["part_of_thermodynamics"]
    print_subject(console, results)
    if mesh is not None:
        console.print(f"sampling    {mesh_text(mesh['size'], len(mesh['q']))}")
    elif results["missing_at_gamma"] is not None:
        console.print("sampling    Gamma alone")
    note = "" if part is None else f"Cv, S, F and U: {part}"
    print_thermo(console, results, f"Harmonic thermodynamics, per {per}", note)
    print_ideal_gas(console, results)
    print_expansion(console, results)
    print_uncertain(console, results)
    print_missing(console, results)
    if results["mesh_convergence"] is not None:
        print_convergence(console, results["mesh_convergence"])
    frequencies = results["frequencies_cm-1"]
    where = "" if mesh is None else " at Gamma"
    if frequencies:
        console.print(f"frequencies{where} {frequencies[0]:.2f} to {frequencies[-1]:.2f} cm-1")
    console.print(f"{_rigid_text(results)}, imaginary modes{where}: {results['imaginary_modes']}")
    if results["rotations_removed"] and any(results["pbc"]):
        console.print(
            f"{results['rotations_removed']} free rotations in the box are not in the table: "
            "periodic images do not interact",
            style=BOLD,
        )
    if results["imaginary_modes"]:
        imaginary = ", ".join(f"{f:.2f}" for f in frequencies[: results["imaginary_modes"]])
        console.print(f"imaginary modes, left out of the sums: {imaginary} cm-1", style=BOLD)
    if mesh is not None and mesh["imaginary_modes"]:
        lowest = min(min(row) for row in mesh["frequencies_cm-1"])
        console.print(
            f"imaginary modes on the mesh, left out of the sums: {mesh['imaginary_modes']}, "
            f"down to {lowest:.2f} cm-1",
            style=BOLD,
        )
    print_soft(console, frequencies)
    print_forces(console, results["largest_force_eV_per_A"], results)
    if results["acoustic_sum_residual_eV_per_A2"] is not None:
        console.print(
            f"acoustic-sum-rule residual {results['acoustic_sum_residual_eV_per_A2']:.1e} eV/Å², ",
            end="",
        )
    console.print(f"asymmetry of the Hessian {results['hessian_asymmetry_eV_per_A2']:.1e} eV/Å²")
    console.print(f"{results['seconds']:.1f} s")
