"""`mace-functional thermo`: heat capacity, entropy and free energy of a structure."""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.units import GPa
from rich.console import Console
from rich.table import Table

from mace_functional.cli.files import read_structure, write_json
from mace_functional.cli.relaxation import relax
from mace_functional.gamma import gamma_modes
from mace_functional.interop.ase import MaceCalculator
from mace_functional.model import load_model
from mace_functional.thermo import HarmonicThermo, harmonic_thermo
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations import NormalModes

TEMPERATURES = (250.0, 275.0, 300.0, 325.0, 350.0, 375.0, 400.0)
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "thermo",
        help="heat capacity, entropy and free energy from the exact Hessian at Gamma",
        description="Harmonic thermodynamics of a crystal at the Gamma point, or of a molecule, "
        "from the exact Hessian of a MACE potential. Rigid motions are removed by projection; "
        "imaginary modes are reported and left out of the sums.",
    )
    parser.add_argument("file", type=Path, help="structure, in any format that ASE reads")
    parser.add_argument(
        "--model", required=True, help="checkpoint file, or name of a foundation model (small, ...)"
    )
    parser.add_argument("--head", help="head of a multi-head model")
    parser.add_argument(
        "--relax", action="store_true", help="relax positions, and the cell of a crystal, first"
    )
    parser.add_argument("--fixed-cell", action="store_true", help="keep the cell when relaxing")
    parser.add_argument(
        "--fmax", type=float, default=0.005, help="largest force to relax to, eV/Å (%(default)s)"
    )
    parser.add_argument(
        "--max-steps", type=int, default=1000, help="most steps of relaxation (%(default)s)"
    )
    parser.add_argument(
        "--relaxed",
        type=Path,
        metavar="OUT",
        help="write the structure here after every step of relaxation, and continue from it if it "
        "is there",
    )
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=list(TEMPERATURES), metavar="T", help="K"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all results here")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float64")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compute and report."""
    console = Console(stderr=True)
    started = time.perf_counter()
    _check(options)
    atoms = read_structure(options.file)
    with console.status(f"loading {options.model}"):
        model = load_model(
            options.model, dtype=DTYPES[options.dtype], device=options.device, head=options.head
        )
    relaxation = None
    if options.relax:
        relaxation = relax(
            atoms,
            model,
            fmax=options.fmax,
            max_steps=options.max_steps,
            fixed_cell=options.fixed_cell,
            output=options.relaxed,
            console=console,
        )
    modes = gamma_modes(model, atoms, progress=console.is_terminal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imaginary modes are in the report
        thermo = harmonic_thermo(modes.frequencies, options.temperatures)
    atoms.calc = MaceCalculator(model)
    results: dict[str, Any] = {
        "file": str(options.file),
        "model": str(options.model),
        "dtype": options.dtype,
        "formula": atoms.get_chemical_formula(),
        "relaxation": relaxation,
        **_structure(atoms),
        **_modes(modes),
        **_thermo(thermo, atoms),
        "seconds": time.perf_counter() - started,
    }
    _print(results)
    if options.json is not None:
        write_json(options.json, results)


def _check(options: argparse.Namespace) -> None:
    """Refuse bad options before anything long starts."""
    if any(not t >= 0 for t in options.temperatures):
        raise ValueError("temperatures must be zero or positive, in K")
    if not options.fmax > 0 or options.max_steps < 1:
        raise ValueError("--fmax and --max-steps must be positive")
    if options.relaxed is not None and not options.relax:
        raise ValueError("--relaxed needs --relax")
    for path in (options.json, options.relaxed):
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"there is no folder {path.resolve().parent} to write {path.name} to")


def _structure(atoms: Atoms) -> dict[str, Any]:
    """The structure that the results are for, and how far it is from a minimum."""
    stress = None
    if atoms.pbc.all():
        stress = float(abs(atoms.get_stress()).max() / GPa)
    return {
        "atoms": len(atoms),
        "mass_amu": float(atoms.get_masses().sum()),
        "energy_eV": atoms.get_potential_energy(),
        "largest_stress_GPa": stress,
        "numbers": atoms.numbers.tolist(),
        "positions_A": atoms.positions.tolist(),
        "cell_A": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def _modes(modes: NormalModes) -> dict[str, Any]:
    """The modes and their diagnostics."""
    return {
        "rigid_motions_removed": modes.n_rigid,
        "rigid_residual_cm-1": modes.rigid_residual,
        "imaginary_modes": modes.n_imaginary,
        "frequencies_cm-1": modes.frequencies.tolist(),
        "largest_force_eV_per_A": modes.largest_force,
        "acoustic_sum_residual_eV_per_A2": modes.acoustic_sum_residual,
        "hessian_asymmetry_eV_per_A2": modes.asymmetry,
    }


def _thermo(thermo: HarmonicThermo, atoms: Atoms) -> dict[str, Any]:
    """Thermodynamic functions at the temperatures."""
    return {
        "temperatures_K": thermo.temperatures.tolist(),
        "heat_capacity_J_per_gK": thermo.specific_heat_capacity(
            atoms.get_masses().tolist()
        ).tolist(),
        "heat_capacity_J_per_molK": thermo.molar_heat_capacity.tolist(),
        "heat_capacity_kB_per_atom": thermo.heat_capacity_per_atom(len(atoms)).tolist(),
        "entropy_J_per_molK": (EV_PER_MOLECULE * thermo.entropy).tolist(),
        "free_energy_eV": thermo.free_energy.tolist(),
        "internal_energy_eV": thermo.internal_energy.tolist(),
        "zero_point_energy_eV": float(thermo.zero_point_energy),
    }


def _print(results: dict[str, Any]) -> None:
    """The table and the diagnostics, on standard output."""
    console = Console()
    columns = {
        "T\nK": ("temperatures_K", "{:.2f}"),
        "Cv\nJ/(g K)": ("heat_capacity_J_per_gK", "{:.4f}"),
        "Cv\nJ/(mol K)": ("heat_capacity_J_per_molK", "{:.2f}"),
        "Cv\nk_B/atom": ("heat_capacity_kB_per_atom", "{:.4f}"),
        "S\nJ/(mol K)": ("entropy_J_per_molK", "{:.2f}"),
        "F\neV": ("free_energy_eV", "{:.4f}"),
        "U\neV": ("internal_energy_eV", "{:.4f}"),
    }
    table = Table(title=f"{results['formula']}: harmonic, per cell or molecule")
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in zip(*(results[key] for key, _ in columns.values()), strict=True):
        table.add_row(*(form.format(x) for x, (_, form) in zip(row, columns.values(), strict=True)))
    console.print(table)
    frequencies = results["frequencies_cm-1"]
    if frequencies:
        console.print(f"frequencies {frequencies[0]:.2f} to {frequencies[-1]:.2f} cm-1")
    console.print(
        f"rigid motions removed {results['rigid_motions_removed']}, "
        f"imaginary modes {results['imaginary_modes']}"
    )
    if results["imaginary_modes"]:
        imaginary = ", ".join(f"{f:.2f}" for f in frequencies[: results["imaginary_modes"]])
        console.print(f"[bold]imaginary modes, left out of the sums: {imaginary} cm-1[/bold]")
    console.print(f"largest force {results['largest_force_eV_per_A']:.2e} eV/Å", end="")
    if results["largest_stress_GPa"] is not None:
        console.print(f", largest stress {results['largest_stress_GPa']:.2e} GPa", end="")
    console.print(
        f"\nacoustic-sum-rule residual {results['acoustic_sum_residual_eV_per_A2']:.1e} eV/Å², "
        f"asymmetry of the Hessian {results['hessian_asymmetry_eV_per_A2']:.1e} eV/Å²"
    )
    console.print(f"{results['seconds']:.1f} s")
