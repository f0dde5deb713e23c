"""The table of a screening: a row for each structure, a column for each quantity and its unit."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mace_functional.screening.formula_units import formula_unit
from mace_functional.screening.missing import missing_at_gamma
from mace_functional.screening.record import Record
from mace_functional.screening.references import Reference
from mace_functional.screening.rows import Row, cp_minus_cv, heat_capacities
from mace_functional.screening.sampled_thermo import at_temperatures, method_words
from mace_functional.screening.wording import MISSING, formatted
from mace_functional.stochastic import StochasticThermo
from mace_functional.support.atomic_write import atomic_write
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations.thermodynamics import HarmonicThermo

CSV, JSON = "table.csv", "table.json"

ROOM = 300.0
"""Room temperature, K. Where one temperature is shown, it is the one nearest to this."""

COLUMNS = {
    "name": "name",
    "file": "file",
    "formula": "formula",
    "atoms": "n_atoms",
    "failure": "failure",
    "mass_amu": "mass",
    "volume_A3": "volume",
    "volume_read_A3": "volume_read",
    "bonds_broken": "n_bonds_broken",
    "bonds_formed": "n_bonds_formed",
    "shortest_contact": "shortest_contact",
    "energy_eV": "energy",
    "energy_from_free_atoms_eV_per_atom": "binding",
    "converged": "converged",
    "relaxation": "relaxation",
    "gradients": "n_gradients",
    "hessian_vector_products": "n_hvps",
    "largest_force_eV_per_A": "largest_force",
    "largest_stress_GPa": "largest_stress",
    "rigid_motions": "n_rigid",
    "mesh": "mesh",
    "mesh_error": "mesh_error",
    "imaginary_modes": "n_imaginary",
    "lowest_frequency_cm-1": "lowest_frequency",
    "acoustic_sum_residual_eV_per_A2": "acoustic_sum_residual",
    "hessian_asymmetry_eV_per_A2": "asymmetry",
    "seconds_relaxation": "seconds_relaxation",
    "seconds_modes": "seconds_modes",
    "computed": "computed",
    "key": "key",
}
"""Attributes of a record by the names of columns. Where `mesh` is empty, heat capacities are for
Gamma alone; otherwise they are averages over the mesh."""

THERMO = {
    "heat_capacity": "J_per_gK",
    "entropy": "J_per_molK",
    "free_energy": "eV",
    "internal_energy": "eV",
}
"""Units of thermodynamic functions, each with a column for each temperature."""

SAMPLED_COLUMNS = {
    "sampling_converged": "converged",
    "sampling_products": "n_products",
    "imaginary_modes_about": "n_imaginary",
    "imaginary_modes_error": "n_imaginary_error",
    "imaginary_modes_at_most": "n_imaginary_bound",
    "lowest_ritz_value_cm-1": "lowest_frequency",
    "highest_ritz_value_cm-1": "highest_frequency",
    "zero_point_energy_error_eV": "zero_point_energy_error",
}
"""Attributes of `StochasticThermo` by the names of columns, if a structure was sampled. For each
temperature there are the standard errors of thermodynamic functions too."""


def table(
    rows: Sequence[Row], temperatures: Sequence[float], references: Sequence[Reference] = ()
) -> list[dict[str, Any]]:
    """Values by column, for each structure.

    Args:
        rows: The structures.
        temperatures: Temperatures, K.
        references: Heat capacities to compare with. The relative error is computed / reference - 1.

    Returns:
        A dictionary for each structure, all with the same keys; None stands for missing values and
        those that are not finite.
    """
    with_cp = any(has_cp_result(row) for row in rows)
    with_sampled = any(row.sampled is not None for row in rows)
    values = [
        {
            **{column: _shown(getattr(row.record, name)) for column, name in COLUMNS.items()},
            **_formula(row),
            **_thermo(row, temperatures),
            **(_sampling(row, temperatures) if with_sampled else {}),
            **(_constant_pressure(row, temperatures) if with_cp else {}),
            **_missing(row, temperatures),
            **{k: v for r in references for k, v in _comparison(row, r).items()},
        }
        for row in rows
    ]
    return [{column: _finite(value) for column, value in line.items()} for line in values]


def heat_capacity(row: Row, temperature: float) -> float | None:
    """Heat capacity of a structure, J/(g K); None if it failed or the value is not finite."""
    if not row.has_result:
        return None
    return _finite(float(heat_capacities([row], [temperature])[0, 0]))


def heat_capacity_error(row: Row, temperature: float) -> float | None:
    """Standard error of the heat capacity of a sampled structure, J/(g K); None for others."""
    if row.sampled is None or not row.record.mass:
        return None
    error = at_temperatures(row.sampled, [temperature]).heat_capacity_error
    return _finite(float(error) * EV_PER_MOLECULE / row.record.mass)


def heat_capacity_words(row: Row, temperature: float) -> str:
    """The heat capacity of a structure, J/(g K), with its standard error if it was sampled."""
    words = formatted(heat_capacity(row, temperature), ".4f")
    error = heat_capacity_error(row, temperature)
    return words if error is None else f"{words} ± {error:.4f}"


def has_cp_result(row: Row) -> bool:
    """True if a heat capacity at constant pressure was asked for, and is there or has a reason."""
    return row.strained is not None or row.record.no_cp is not None


def heat_capacity_at_constant_pressure(row: Row, temperature: float) -> float | None:
    """Heat capacity at constant pressure, J/(g K); None if the structure has none."""
    cv, difference = heat_capacity(row, temperature), cp_minus_cv(row, [temperature])
    return None if cv is None or difference is None else _finite(cv + float(difference[0]))


def cp_words(row: Row, temperature: float) -> str:
    """The heat capacity at constant pressure, J/(g K), or the reason why there is none."""
    if row.record.no_cp is not None:
        return f"none: {row.record.no_cp}"
    return formatted(heat_capacity_at_constant_pressure(row, temperature), ".4f")


def formula_words(record: Record) -> str:
    """The formula of one formula unit, and the number of them in the cell: SiO2 × 3."""
    if record.formula is None:
        return MISSING
    unit, number = formula_unit(record.formula, crystal=record.volume is not None)
    return unit if number == 1 else f"{unit} × {number}"


def relative_error(row: Row, reference: Reference) -> float | None:
    """Relative error of the heat capacity; None without one or without a positive reference."""
    ours, theirs = heat_capacity(row, reference.temperature), reference.values.get(row.record.name)
    if ours is None or theirs is None or not 0 < theirs < math.inf:
        return None
    return ours / theirs - 1


def _finite(value: Any) -> Any:
    """The value, or None if it is infinite or NaN, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_table(folder: Path, values: list[dict[str, Any]]) -> None:
    """Write a table as CSV and JSON.

    Args:
        folder: Folder of the screening.
        values: Rows from `table`.
    """
    # Names of files may hold bytes that are no characters, which are written as \\udcff.
    text: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with atomic_write(folder / CSV) as partial, partial.open("w", **text) as file:
        writer = csv.DictWriter(file, list(values[0]) if values else list(COLUMNS))
        writer.writeheader()
        writer.writerows(values)
    with atomic_write(folder / JSON) as partial:
        partial.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


def _thermo(row: Row, temperatures: Sequence[float]) -> dict[str, float | None]:
    """Thermodynamic functions of a structure at all temperatures."""
    columns = [f"{name}_{t:g}K_{unit}" for t in temperatures for name, unit in THERMO.items()]
    if not row.has_result or row.record.mass is None:
        return {"zero_point_energy_eV": None, **dict.fromkeys(columns)}
    thermo = row.thermo(temperatures)
    functions = _in_units(thermo, row.record.mass)
    values = [functions[name][i] for i in range(len(temperatures)) for name in THERMO]
    return {
        "zero_point_energy_eV": float(thermo.zero_point_energy),
        **dict(zip(columns, values, strict=True)),
    }


def _sampling(row: Row, temperatures: Sequence[float]) -> dict[str, float | str | None]:
    """Method, standard errors and evidence of imaginary modes of a sampled structure."""
    names = [f"{name}_error_{t:g}K_{unit}" for t in temperatures for name, unit in THERMO.items()]
    values: dict[str, float | str | None] = {
        "method": method_words(row.record) if row.has_result else None,
        **dict.fromkeys([*SAMPLED_COLUMNS, *names]),
    }
    found, mass = row.sampled, row.record.mass
    if found is None or not mass:
        return values
    for column, name in SAMPLED_COLUMNS.items():
        value = getattr(found, name)
        values[column] = value if isinstance(value, bool | int) else float(value)
    here = at_temperatures(found, temperatures)
    for i, t in enumerate(temperatures):
        for name, unit in THERMO.items():
            error = float(getattr(here, f"{name}_error")[i])
            scale = {"J_per_gK": EV_PER_MOLECULE / mass, "J_per_molK": EV_PER_MOLECULE, "eV": 1.0}
            values[f"{name}_error_{t:g}K_{unit}"] = scale[unit] * error
    return values


def _constant_pressure(row: Row, temperatures: Sequence[float]) -> dict[str, float | str | None]:
    """Heat capacity at constant pressure and expansion at all temperatures, or their lack."""
    values: dict[str, float | str | None] = {
        "no_heat_capacity_at_constant_pressure": row.record.no_cp,
        "strain_to_minimum": row.record.strain_to_minimum,
        "seconds_constant_pressure": row.record.seconds_cp,
    }
    for t in temperatures:
        cp = heat_capacity_at_constant_pressure(row, t)
        values[f"heat_capacity_at_constant_pressure_{t:g}K_J_per_gK"] = cp
        thermal = None if row.strained is None else row.strained.thermal([t])
        volumetric = None if thermal is None else float(thermal.expansion[0].trace())
        values[f"volumetric_expansion_{t:g}K_per_K"] = volumetric
    return values


def _shown(value: Any) -> Any:
    """A value of a record; the size of a mesh in words, as 4x4x4."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else value


def _formula(row: Row) -> dict[str, str | int | None]:
    """One formula unit, and the number of them in the cell."""
    record = row.record
    unit, number = None, None
    if record.formula is not None:
        unit, number = formula_unit(record.formula, crystal=record.volume is not None)
    return {"formula_unit": unit, "formula_units": number}


def _missing(row: Row, temperatures: Sequence[float]) -> dict[str, float | None]:
    """Bound and estimates of the heat capacity that is missing at Gamma alone."""
    values: dict[str, float | None] = {"heat_capacity_missing_at_gamma_at_most_J_per_gK": None}
    for t in temperatures:
        missing = missing_at_gamma(row, t)
        if missing is not None:
            values["heat_capacity_missing_at_gamma_at_most_J_per_gK"] = missing.bound
        estimate = None if missing is None else missing.estimate
        values[f"heat_capacity_missing_at_gamma_{t:g}K_J_per_gK"] = estimate
    return values


def _in_units(thermo: HarmonicThermo | StochasticThermo, mass: float) -> dict[str, list[float]]:
    return {
        "heat_capacity": (thermo.molar_heat_capacity / mass).tolist(),
        "entropy": thermo.molar_entropy.tolist(),
        "free_energy": thermo.free_energy.tolist(),
        "internal_energy": thermo.internal_energy.tolist(),
    }


def _comparison(row: Row, reference: Reference) -> dict[str, float | None]:
    """A reference, the heat capacity at its temperature, and its error."""
    return {
        f"reference_{reference.label}_J_per_gK": reference.values.get(row.record.name),
        f"reference_{reference.label}_here_J_per_gK": heat_capacity(row, reference.temperature),
        f"reference_{reference.label}_relative_error": relative_error(row, reference),
    }
