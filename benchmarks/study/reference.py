"""Errors of heat capacities against density functional theory (DFT).

A screening relaxes the structures with each model, without and with D3. Heat capacities use modes
at Gamma, as the DFT reference does. Errors are relative, |C / C_DFT - 1|. A common scale of all
frequencies of all structures corrects the systematic softness of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from ase.formula import Formula
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mace_functional as mf
from benchmarks.hessian import table
from benchmarks.study import published
from benchmarks.study.drawing import ELEMENTS, panels
from benchmarks.study.finite_size import dropped_share
from benchmarks.study.plan import (
    DISPERSION,
    FMAX,
    MAX_STEPS,
    TEMPERATURE,
    Plan,
    Result,
    model_label,
)
from mace_functional.screening.parity import Errors, Parity, parity_of
from mace_functional.screening.references import Reference
from mace_functional.screening.rows import Row, heat_capacities

ALL = math.inf
"""Largest share of the heat capacity that a structure at Gamma may lack to take part in the scale.

There is no limit here, because the published heat capacities and scales use Gamma only.
"""

STYLES = ("-", "--", ":", "-.")
"""Line styles of different structures."""


def run(plan: Plan) -> Iterator[Result]:
    """Screen all structures with each model, without and with dispersion.

    Structures that fail are only in the records of the screening.
    """
    for source in plan.models:
        for label, functional in DISPERSION.items():
            settings = mf.ScreenSettings(
                source, dispersion=functional, fmax=FMAX, max_steps=MAX_STEPS
            )
            folder = f"reference/{model_label(source)}-{label.replace(' ', '-')}"
            plan.say(folder)
            screening = mf.screen(
                plan.structures,
                plan.output / folder,
                settings,
                devices=[plan.device],
                workers=1 if plan.device == "cpu" else None,
            )
            rows = [row for row in screening.rows() if row.spectrum is not None]
            yield {"model": model_label(source), "dispersion": label, "rows": rows}


def tables(results: Sequence[Result]) -> list[str]:
    """Return a table of all structures at 300 K, and tables of errors if there are references.

    Args:
        results: Results of `run`.
    """
    compared = any(parity_of(r["rows"], at_room_temperature()) for r in results)
    return [_structures(results), *([_temperatures(results), _classes(results)] * compared)]


def at_room_temperature() -> Reference:
    """Return the DFT heat capacities at the temperature of the study."""
    return next(r for r in published.dft() if r.temperature == TEMPERATURE)


def _label(result: Result) -> str:
    return f"{result['model']}, {result['dispersion']}"


def _structures(results: Sequence[Result]) -> str:
    """Return a table of the heat capacities of all structures."""
    dft, theirs = at_room_temperature().values, published.medium_d3().values
    rows: list[list[str]] = []
    for result in results:
        heats = heat_capacities(result["rows"], [TEMPERATURE])[:, 0]
        for row, heat in zip(result["rows"], heats, strict=True):
            name = row.record.name
            known = name in dft
            rows.append(
                [
                    name,
                    _label(result),
                    f"{heat:.4f}",
                    f"{dft[name]:.4f}" if known else "-",
                    f"{100 * (heat / dft[name] - 1):+.1f}" if known else "-",
                    f"{theirs[name]:.4f}" if known else "-",
                    f"{100 * (theirs[name] / dft[name] - 1):+.1f}" if known else "-",
                    str(row.record.n_imaginary),
                    f"{row.record.largest_force:.0e}",
                ]
            )
    order = {name: n for n, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    rows.sort(key=lambda row: order[row[0]])
    header = [
        "structure",
        "model",
        "Cv, J/(g K)",
        "DFT",
        "error, %",
        "medium + D3, published",
        "error, %",
        "imaginary modes",
        "largest force, eV/Å",
    ]
    return table(f"Cv at {TEMPERATURE:g} K, at Γ", header, rows)


def _temperatures(results: Sequence[Result]) -> str:
    """Return a table of mean errors and common scales at all temperatures."""
    header = ["mean error, % / scale / mean error with it, %"]
    header += [f"{reference.temperature:g} K" for reference in published.dft()]
    rows = []
    for result in results:
        parities = [parity_of(result["rows"], reference, ALL) for reference in published.dft()]
        rows.append([_label(result), *map(_scaled, parities)])
    whole = published.RELATIVE_ERRORS["all"], published.SCALE, published.SCALED_ERROR
    theirs = " / ".join(f"{value:g}" for value in whole)
    rows.append(
        [
            "MACE-MP-0 medium, D3, 232 structures, published",
            *(theirs if r.temperature == TEMPERATURE else "-" for r in published.dft()),
        ]
    )
    return table("Mean relative errors to DFT, and the best common frequency scale", header, rows)


def _scaled(parity: Parity | None) -> str:
    """Format the mean error, the common scale, and the mean error with this scale."""
    if parity is None:
        return "-"
    before = f"{100 * parity.errors.mean_relative:.1f}"
    if parity.scaled_errors is None:
        return before
    return f"{before} / {parity.scale:.3f} / {100 * parity.scaled_errors.mean_relative:.1f}"


def _classes(results: Sequence[Result]) -> str:
    """Return a table of mean errors for each class of materials."""
    kinds = published.kinds()
    dft, theirs = at_room_temperature(), published.medium_d3()
    columns = ["all", "MOF", "COF", "zeo"]
    rows = []
    for result in results:
        row = [_label(result)]
        for kind in columns:
            members = [r for r in result["rows"] if kind in ("all", kinds.get(r.record.name))]
            parity = parity_of(members, dft)
            row.append(
                "-"
                if parity is None
                else f"{100 * parity.errors.mean_relative:.1f} ({len(parity.names)})"
            )
        rows.append(row)
    row = ["MACE-MP-0 medium, D3, published, the same structures"]
    compared = {r.record.name for result in results for r in result["rows"]} & set(dft.values)
    for kind in columns:
        names = [name for name in compared if kind in ("all", kinds[name])]
        row.append(f"{100 * _mean_error(names, theirs, dft):.1f} ({len(names)})" if names else "-")
    rows.append(row)
    whole = [f"{published.RELATIVE_ERRORS[kind]:g}" for kind in columns]
    rows.append(["MACE-MP-0 medium, D3, published, 232 structures", *whole])
    header = ["mean error, % (structures)", "all", "MOFs", "COFs", "zeolites"]
    return table(f"Classes of materials at {TEMPERATURE:g} K", header, rows)


def _mean_error(names: Sequence[str], found: Reference, reference: Reference) -> float:
    predicted, values = (np.array([r.values[n] for n in names]) for r in (found, reference))
    return Errors.of(predicted, values).mean_relative


def figure(results: Sequence[Result]) -> Figure:
    """Plot the parity with DFT, and heat capacities of silica over temperature.

    Args:
        results: Results of `run`.
    """
    drawing, (left, right) = panels(2)
    _draw_parity(left, results)
    _draw_silica(right, results)
    return drawing


def _draw_parity(axis: Axes, results: Sequence[Result]) -> None:
    dft, theirs = at_room_temperature(), published.medium_d3()
    values = list(dft.values.values())
    ends = [0.9 * min(values), 1.15 * max(values)]
    axis.plot(ends, ends, color="0.8", lw=0.8, zorder=0)
    axis.plot(
        values,
        [theirs.values[n] for n in dft.values],
        "x",
        color="0.4",
        ms=5,
        label="MACE-MP-0 medium, D3, published",
    )
    for number, result in enumerate(results):
        parity = parity_of(result["rows"], dft)
        if parity is not None:
            colour = ELEMENTS[number % len(ELEMENTS)]
            label = _label(result)
            axis.plot(parity.values, parity.predicted, "o", color=colour, ms=3.5, label=label)
    axis.set(xlim=ends, ylim=ends)
    axis.set_xlabel("$C_V$ by DFT (J g$^{-1}$ K$^{-1}$)")
    axis.set_ylabel("$C_V$ by MACE (J g$^{-1}$ K$^{-1}$)")
    axis.legend(frameon=False, fontsize=6.5)


def _draw_silica(axis: Axes, results: Sequence[Result]) -> None:
    """Draw heat capacities of silica, with three classical modes added for the translations.

    With this correction, all frameworks of silica have similar heat capacities per gram.
    """
    masses = published.masses()
    for name in (name for name, kind in published.kinds().items() if kind == "zeo"):
        known = [r for r in published.dft() if name in r.values]
        heats = [r.values[name] + dropped_share(masses[name]) for r in known]
        points = [r.temperature for r in known]
        axis.plot(points, heats, "x", color="0.4", ms=5, label=f"{name}, DFT")
    temperatures = np.linspace(200, 450, 51)
    for number, result in enumerate(results):
        silica = [row for row in result["rows"] if _is_silica(row)]
        curves = heat_capacities(silica, temperatures)
        for count, (row, curve) in enumerate(zip(silica, curves, strict=True)):
            axis.plot(
                temperatures,
                curve + dropped_share(row.record.mass or np.nan),
                STYLES[count % len(STYLES)],
                color=ELEMENTS[number % len(ELEMENTS)],
                lw=1,
                label=f"{row.record.name}, {_label(result)}",
            )
    axis.set_xlabel("temperature (K)")
    axis.set_ylabel("$C_V$ + 3R/M of silica (J g$^{-1}$ K$^{-1}$)")
    axis.legend(frameon=False, fontsize=6.5)


def _is_silica(row: Row) -> bool:
    return set(Formula(row.record.formula or "").count()) == {"Si", "O"}
