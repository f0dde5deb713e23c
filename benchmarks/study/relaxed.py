"""Heat capacities by other models at the published geometries, without another relaxation.

The geometries are minima of MACE-MP-0 medium with D3. MACE-MP-0 small is another model of the same
family, and MACE-DAC-1 is fine-tuned from medium. For these two models the geometries are not
minima, as the largest forces and the imaginary modes show. The closer the models, the better the
agreement with the published heat capacities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from ase import Atoms
from matplotlib.figure import Figure

import mace_functional as mf
from benchmarks.hessian import table
from benchmarks.study import published
from benchmarks.study.drawing import ELEMENTS, panels
from benchmarks.study.plan import DISPERSION, TEMPERATURE, Plan, Result, heat_capacity, load


def run(plan: Plan) -> Iterator[Result]:
    """Compute heat capacities for every model and geometry, without and with dispersion."""
    for source, name, atoms in plan.by_size():
        for label, functional in DISPERSION.items():
            result = plan.one(
                f"relaxed/{label.replace(' ', '-')}",
                partial(measure, dispersion=functional, device=plan.device),
                name,
                atoms,
                source,
            )
            yield result | {"dispersion": label}


def measure(
    atoms: Atoms, source: str, dispersion: str | None = None, device: str = "cpu"
) -> Result:
    """Compute the heat capacity at Gamma, and measures of the distance from a minimum.

    Args:
        atoms: The structure at the published geometry.
        source: Name or file of the model, see `load_model`.
        dispersion: Functional of the D3 correction; None without it.
        device: Device of the model.

    Returns:
        "heat_capacity" in J/(g K), without imaginary modes; "imaginary", the number of imaginary
        modes; "lowest", the lowest frequency in cm-1; "largest_force" in eV/Å.
    """
    modes = mf.gamma_modes(load(source, device, torch.float64, dispersion), atoms)
    return {
        "heat_capacity": heat_capacity(modes),
        "imaginary": modes.n_imaginary,
        "lowest": float(modes.frequencies[0]),
        "largest_force": modes.largest_force,
    }


def tables(results: Sequence[Result]) -> list[str]:
    """Return a table of heat capacities, beside the published ones.

    Args:
        results: Results of `run`.
    """
    theirs = published.medium_d3().values
    header = [
        "structure",
        "model",
        "Cv, J/(g K)",
        "published",
        "difference, %",
        "imaginary modes",
        "lowest, cm-1",
        "largest force, eV/Å",
    ]
    rows = []
    for r in sorted(results, key=lambda r: (r["atoms"], r["structure"], r["model"])):
        value = theirs.get(r["structure"])
        both = ["-", "-"]
        if value is not None:
            both = [f"{value:.4f}", f"{100 * (r['heat_capacity'] / value - 1):+.2f}"]
        rows.append(
            [
                r["structure"],
                f"{r['model']}, {r['dispersion']}",
                f"{r['heat_capacity']:.4f}",
                *both,
                str(r["imaginary"]),
                f"{r['lowest']:.1f}",
                f"{r['largest_force']:.3f}",
            ]
        )
    return [table(f"Cv at {TEMPERATURE:g} K, at Γ, published geometries", header, rows)]


def figure(results: Sequence[Result]) -> Figure:
    """Plot relative differences from the published heat capacities.

    Args:
        results: Results of `run`.
    """
    theirs = published.medium_d3().values
    known = [r for r in results if r["structure"] in theirs]
    names = list(dict.fromkeys(r["structure"] for r in sorted(known, key=lambda r: r["atoms"])))
    drawing, (axis,) = panels(1)
    kinds = list(dict.fromkeys((r["model"], r["dispersion"]) for r in known))
    for number, kind in enumerate(kinds):
        ours = [r for r in known if (r["model"], r["dispersion"]) == kind]
        difference = [100 * (r["heat_capacity"] / theirs[r["structure"]] - 1) for r in ours]
        x = np.array([names.index(r["structure"]) for r in ours]) + 0.1 * number
        colour = ELEMENTS[number % len(ELEMENTS)]
        axis.plot(x, difference, "o", color=colour, ms=4, label=", ".join(kind))
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xticks(np.arange(len(names)) + 0.05 * (len(kinds) - 1), names)
    axis.set_ylabel("difference of $C_V$ (%)")
    if kinds:
        axis.legend(frameon=False, fontsize=7)
    return drawing
