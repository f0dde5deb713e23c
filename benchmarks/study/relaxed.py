"""What do other models say of the published geometries, without relaxing them again?

The geometries are minima of MACE-MP-0 medium with D3. MACE-MP-0 small is another model of that
family, MACE-DAC-1 was fine-tuned from medium: to both these are no minima, which the largest force
and the imaginary modes show, and agreement with the published heat capacities is a matter of how
alike the models are.
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
    """Heat capacities for every model and geometry, without and with dispersion."""
    for source, name, atoms in plan.by_size():
        for label, functional in DISPERSION.items():
            found = plan.one(
                f"relaxed/{label.replace(' ', '-')}",
                partial(measure, dispersion=functional, device=plan.device),
                name,
                atoms,
                source,
            )
            yield found | {"dispersion": label}


def measure(
    atoms: Atoms, source: str, dispersion: str | None = None, device: str = "cpu"
) -> Result:
    """The heat capacity at the Gamma point, and how far the geometry is from a minimum.

    Args:
        atoms: The geometry.
        source: The model, see `load_model`.
        dispersion: Functional of a D3 correction; none if None.
        device: For the model.

    Returns:
        "heat_capacity" in J/(g K), without the imaginary modes; how many "imaginary" ones there
        are, the "lowest" frequency in cm-1, and the "largest_force" in eV/Å.
    """
    modes = mf.gamma_modes(load(source, device, torch.float64, dispersion), atoms)
    return {
        "heat_capacity": heat_capacity(modes),
        "imaginary": modes.n_imaginary,
        "lowest": float(modes.frequencies[0]),
        "largest_force": modes.largest_force,
    }


def tables(results: Sequence[Result]) -> list[str]:
    """Heat capacities beside the published ones.

    Args:
        results: From `run`.
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
    return [table(f"Cv at {TEMPERATURE:g} K, at Γ, published geometries as they are", header, rows)]


def figure(results: Sequence[Result]) -> Figure:
    """Relative differences to the published heat capacities.

    Args:
        results: From `run`.
    """
    theirs = published.medium_d3().values
    known = [r for r in results if r["structure"] in theirs]
    names = list(dict.fromkeys(r["structure"] for r in sorted(known, key=lambda r: r["atoms"])))
    drawing, (axis,) = panels(1)
    kinds = list(dict.fromkeys((r["model"], r["dispersion"]) for r in known))
    for number, kind in enumerate(kinds):
        ours = [r for r in known if (r["model"], r["dispersion"]) == kind]
        difference = [100 * (r["heat_capacity"] / theirs[r["structure"]] - 1) for r in ours]
        places = np.array([names.index(r["structure"]) for r in ours]) + 0.1 * number
        colour = ELEMENTS[number % len(ELEMENTS)]
        axis.plot(places, difference, "o", color=colour, ms=4, label=", ".join(kind))
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xticks(np.arange(len(names)) + 0.05 * (len(kinds) - 1), names)
    axis.set_ylabel("$C_V$ less the published, %")
    if kinds:
        axis.legend(frameon=False, fontsize=7)
    return drawing
