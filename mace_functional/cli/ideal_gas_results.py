"""Results of the ideal gas of a molecule as data for JSON files and as printed text."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

from ase import Atoms
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mace_functional.cli.console import BOLD, Console
from mace_functional.cli.ideal_gas_options import STANDARD_PRESSURE, is_molecule
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations.harmonic_modes import NormalModes
from mace_functional.vibrations.ideal_gas import IdealGasThermo, ideal_gas_thermo
from mace_functional.vibrations.soft_modes import GRIMME_CUTOFF

STANDARD = 298.15
"""Temperature of standard thermodynamic data, K."""


def ideal_gas_results(
    options: argparse.Namespace,
    energy: float,
    atoms: Atoms,
    modes: NormalModes,
    free: Sequence[int],
) -> dict[str, Any] | None:
    """Return the thermodynamics of the ideal gas for JSON.

    Args:
        options: Options of the subcommand.
        energy: Energy of the structure, eV.
        atoms: The structure.
        modes: Its modes.
        free: Atoms that move.

    Returns:
        The results; None for a periodic structure and with fixed atoms. For a molecule that has no
        ideal gas, the reason alone, `refused_because`.
    """
    if not is_molecule(atoms, free):
        return None
    if modes.n_imaginary and not options.transition_state:
        return {
            "refused_because": f"{modes.n_imaginary} imaginary modes, so that the structure is no "
            "minimum: relax it further, from atoms moved along the mode (--transition-state for a "
            "saddle point with one)"
        }
    settings: dict[str, Any] = {
        "pressure": STANDARD_PRESSURE if options.gas_pressure is None else options.gas_pressure,
        "multiplicity": 1 if options.multiplicity is None else options.multiplicity,
        "symmetry_number": options.symmetry_number,
        "transition_state": options.transition_state,
        "energy": energy,
    }
    rotors = {"rotor_cutoff": options.rotor_cutoff, "rotor_energies": options.rotor_energies}
    temperatures = [t for t in options.temperatures if t > 0] + [STANDARD]
    try:
        thermo = ideal_gas_thermo(modes, atoms, temperatures, **settings, **rotors)
    except ValueError as error:
        return {"refused_because": str(error)}
    *_, gibbs_energy = thermo.gibbs_energy.tolist()
    change = None
    soft = [f for f in modes.frequencies_in("cm-1").tolist() if 0 < f < GRIMME_CUTOFF]
    if soft and options.rotor_cutoff is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = ideal_gas_thermo(modes, atoms, STANDARD, **settings, rotor_cutoff=GRIMME_CUTOFF)
        change = float(other.gibbs_energy) - gibbs_energy
    return {
        "pressure_bar": settings["pressure"],
        "top": thermo.top,
        "symmetry_number": int(thermo.symmetry_number),
        "symmetry_number_found": options.symmetry_number is None,
        "multiplicity": settings["multiplicity"],
        **{f"{name}_cm-1" if name == "rotor_cutoff" else name: x for name, x in rotors.items()},
        "transition_state": options.transition_state,
        "moments_of_inertia_amu_A2": thermo.moments_of_inertia.tolist(),
        "rotational_constants_cm-1": thermo.rotational_constants.tolist(),
        "standard": _at(thermo, slice(-1, None), STANDARD),
        "soft_modes": len(soft),
        "gibbs_energy_change_by_rotors_eV": change,
        **_at(thermo, slice(None, -1)),
    }


def _at(thermo: IdealGasThermo, part: slice, temperature: float | None = None) -> dict[str, Any]:
    """Return the thermodynamic functions at some temperatures, or at a single one."""
    molar = EV_PER_MOLECULE
    columns = {
        "temperatures_K": thermo.temperatures,
        "heat_capacity_p_J_per_molK": molar * thermo.heat_capacity_p,
        "heat_capacity_v_J_per_molK": molar * thermo.heat_capacity,
        "entropy_J_per_molK": molar * thermo.entropy,
        "translational_entropy_J_per_molK": molar * thermo.translational_entropy,
        "rotational_entropy_J_per_molK": molar * thermo.rotational_entropy,
        "vibrational_entropy_J_per_molK": molar * thermo.vibrational_entropy,
        "electronic_entropy_J_per_molK": (molar * thermo.electronic_entropy).expand_as(
            thermo.entropy
        ),
        "internal_energy_eV": thermo.internal_energy,
        "enthalpy_eV": thermo.enthalpy,
        "gibbs_energy_eV": thermo.gibbs_energy,
    }
    values = {name: column[part].tolist() for name, column in columns.items()}
    if temperature is None:
        return values
    del values["temperatures_K"]
    return {"temperature_K": temperature, **{name: x[0] for name, x in values.items()}}


def print_ideal_gas(console: Console, results: dict[str, Any]) -> None:
    """Print the table of the ideal gas, the molecule as a rotor, and the standard Gibbs energy."""
    gas = results["ideal_gas"]
    if gas is None:
        return
    if "refused_because" in gas:
        console.print(f"no ideal gas: {gas['refused_because']}", style=BOLD)
        return
    columns = {
        "T\nK": ("temperatures_K", "{:.2f}"),
        "Cp\nJ/(mol K)": ("heat_capacity_p_J_per_molK", "{:.2f}"),
        "S\nJ/(mol K)": ("entropy_J_per_molK", "{:.2f}"),
        "H\neV": ("enthalpy_eV", "{:.4f}"),
        "G\neV": ("gibbs_energy_eV", "{:.4f}"),
    }
    table = Table(
        title=f"Ideal gas at {gas['pressure_bar']:g} bar, per molecule",
        caption="H and G: with potential and zero-point energy",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in zip(*(gas[key] for key, _ in columns.values()), strict=True):
        table.add_row(*(form.format(x) for x, (_, form) in zip(row, columns.values(), strict=True)))
    if gas["temperatures_K"]:
        console.print(table)
    found = " (found)" if gas["symmetry_number_found"] else ""
    words = f"{gas['top']}, symmetry number {gas['symmetry_number']}{found}, "
    words += f"multiplicity {gas['multiplicity']}"
    constants = [f"{x:.4g}" for x in gas["rotational_constants_cm-1"]]
    if constants:
        words += f", rotational constants {', '.join(constants)} cm-1"
    console.print(words)
    if gas["transition_state"]:
        console.print("transition state: the imaginary mode is left out")
    if gas["rotor_cutoff_cm-1"] is not None:
        what = "S, H and Cp" if gas["rotor_energies"] else "S"
        console.print(
            f"{what} of soft vibrations: between vibration and rotor, half each at "
            f"{gas['rotor_cutoff_cm-1']:g} cm-1"
        )
    elif gas["soft_modes"]:
        console.print(
            f"{gas['soft_modes']} vibrations below {GRIMME_CUTOFF:g} cm-1: G({STANDARD:g} K) is "
            f"{gas['gibbs_energy_change_by_rotors_eV']:+.4f} eV different with --rotor-cutoff "
            f"{GRIMME_CUTOFF:g}"
        )
    standard = gas["standard"]
    console.print(
        f"G({STANDARD:g} K, {gas['pressure_bar']:g} bar) = {standard['gibbs_energy_eV']:.6f} eV, "
        f"H = {standard['enthalpy_eV']:.6f} eV, S = {standard['entropy_J_per_molK']:.2f} J/(mol K)",
        style=BOLD,
    )
