"""Effect of the finite cell on the heat capacity, and the part of it that is bookkeeping.

At Gamma, a cell has 3N modes. Three of them are translations, which are left out of the sum. A
supercell of n³ cells, or an n x n x n mesh, also leaves out three modes, of 3N n³. The heat
capacity per gram therefore lacks

    R m / (M n³),    m = 3,

because m acoustic modes would be classical at all temperatures of interest. The sum grows with n,
by up to 3R (1 - 1/n³) / M, whatever the forces are: this is bookkeeping. Imaginary modes are left
out too, and m is then 3 plus their number. After the missing share is added to each sum, the rest
of the differences is physics: the dispersion of the other modes, and of the acoustic modes away
from Gamma.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

import mace_functional as mf
from benchmarks.hessian import table
from benchmarks.study import published
from benchmarks.study.drawing import BLUE, RED, panels
from benchmarks.study.plan import TEMPERATURE, Plan, Result, load
from mace_functional.units import EV_PER_MOLECULE, K_B

SIZES = (1, 2, 3)
"""Sizes n of the meshes: points along each reciprocal lattice vector."""

RIGID = 3
"""Number of translations of a crystal."""

GAS_CONSTANT = EV_PER_MOLECULE * K_B
"""Gas constant R, J/(mol K)."""


def dropped_share(mass: float, size: int = 1, modes: int = RIGID) -> float:
    """Return the classical heat capacity of the missing modes, R m / (M n³), J/(g K).

    Args:
        mass: Mass M of one cell, amu.
        size: Size n of the mesh or supercell.
        modes: Number m of missing modes in all its cells.
    """
    return GAS_CONSTANT * modes / (mass * size**3)


def run(plan: Plan) -> Iterator[Result]:
    """Compute heat capacities on all meshes, for crystals relaxed with each model."""
    for source, name, atoms in plan.by_size():
        if not atoms.pbc.all():
            continue
        relaxed = plan.relaxed(name, source)
        result: Result = {"mass": float(atoms.get_masses().sum()), "mesh": {}}
        for size in SIZES:
            on_mesh = plan.one(
                f"finite-size/{size}",
                partial(measure, size=size, device=plan.device),
                name,
                relaxed,
                source,
            )
            result |= {key: on_mesh[key] for key in ("structure", "model", "atoms")}
            result["mesh"][size] = on_mesh
        yield result


def measure(atoms: Atoms, source: str, size: int, device: str = "cpu") -> Result:
    """Compute the heat capacity on a mesh, without a correction for missing modes.

    Args:
        atoms: The relaxed crystal.
        source: Name or file of the model, see `load_model`.
        size: Points of the mesh along each reciprocal lattice vector.
        device: Device of the model.

    Returns:
        "heat_capacity" in J/(g K); "wave_vectors", the number of inequivalent ones; "left_out", the
        number of rigid and imaginary modes on the whole mesh; "largest_force" in eV/Å.
    """
    phonons = mf.phonons_of(load(source, device), atoms, method="replicas")
    mesh = mf.Mesh.of(atoms, 3 * [size])
    modes = mf.mesh_modes(phonons, mesh, eigenvectors=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imaginary modes")
        heat = mf.mesh_thermo(modes, TEMPERATURE).specific_heat_capacity
    left_out = (modes.eigenvalues <= 0).sum(1).cpu() * mesh.weights
    return {
        "heat_capacity": float(heat),
        "wave_vectors": len(mesh.q),
        "left_out": round(float(left_out.sum()) * size**3),
        "largest_force": phonons.diagnostics.largest_force,
    }


def growth(result: Result, size: int) -> float:
    """Return the heat capacity on the mesh minus the one at Gamma, J/(g K)."""
    mesh = result["mesh"]
    return mesh[size]["heat_capacity"] - mesh[1]["heat_capacity"]


def bookkeeping(result: Result, size: int) -> float:
    """Return the bookkeeping in the growth, 3R (1 - 1/n³) / M without imaginary modes, J/(g K)."""
    at_gamma, on_mesh = (
        dropped_share(result["mass"], n, result["mesh"][n]["left_out"]) for n in (1, size)
    )
    return at_gamma - on_mesh


def physics(result: Result, size: int) -> float:
    """Return the growth minus its bookkeeping, J/(g K)."""
    return growth(result, size) - bookkeeping(result, size)


def tables(results: Sequence[Result]) -> list[str]:
    """Return a table of all meshes, and the bookkeeping in their differences.

    Args:
        results: Results of `run`.
    """
    header = [
        "structure, model",
        *(f"{n}x{n}x{n}" for n in SIZES),
        "2x2x2 - Γ",
        "bookkeeping",
        "rest",
        "published",
        "3R(7/8)/M",
        "3x3x3 - Γ",
        "bookkeeping",
        "rest",
        "imaginary modes",
    ]
    rows = []
    for r in results:
        row = [f"{r['structure']}, {r['model']}"]
        row += [f"{r['mesh'][n]['heat_capacity']:.4f}" for n in SIZES]
        cell, supercell = published.SUPERCELL.get(r["structure"], (np.nan, np.nan))
        published_growth = "-" if np.isnan(cell) else f"{supercell - cell:.4f}"
        row += [*_split(r, 2), published_growth, f"{translations(r):.4f}", *_split(r, 3)]
        imaginary = (r["mesh"][n]["left_out"] - RIGID for n in SIZES)
        rows.append([*row, ", ".join(map(str, imaginary))])
    return [table(f"Cv at {TEMPERATURE:g} K, J/(g K)", header, rows), summary(results)]


def _split(result: Result, size: int) -> list[str]:
    parts = (growth(result, size), bookkeeping(result, size), physics(result, size))
    return [f"{part:.4f}" for part in parts]


def translations(result: Result) -> float:
    """Return the bookkeeping of a 2x2x2 mesh without imaginary modes, 3R (7/8) / M."""
    return dropped_share(result["mass"]) - dropped_share(result["mass"], 2)


def summary(results: Sequence[Result]) -> str:
    """Describe the means over the structures and the published ones in a sentence.

    Args:
        results: Results of `run`.
    """
    parts = [(growth(r, 2), bookkeeping(r, 2), physics(r, 2), translations(r)) for r in results]
    grown, booked, rest, formula = np.transpose(parts)
    words = (
        f"From Γ to 2x2x2 the heat capacity grows by {grown.mean():.4f} J/(g K) (mean of "
        f"{len(results)}), of which {booked.mean():.4f} is bookkeeping and {rest.mean():+.4f} the "
        f"rest (mean absolute value {abs(rest).mean():.4f})"
    )
    if len(results) > 2:
        words += f"; its correlation with 3R(7/8)/M is {np.corrcoef(grown, formula)[0, 1]:.3f}"
    return (
        f"{words}. Published: a mean growth of {published.SUPERCELL_MEAN}, with a correlation of "
        f"{published.SUPERCELL_CORRELATION}, over {published.SUPERCELL_COUNT} structures."
    )


def figure(results: Sequence[Result]) -> Figure:
    """Plot the growth over its bookkeeping, and the physics that remains.

    Args:
        results: Results of `run`.
    """
    drawing, (left, right) = panels(2)
    names = [r["structure"] for r in results]
    for size, colour, mark in ((2, BLUE, "o"), (3, RED, "s")):
        cells = f"{size}x{size}x{size}"
        style: dict[str, Any] = {
            "color": colour,
            "ms": 3 + size,
            "fillstyle": "none",
            "label": cells,
        }
        booked = [bookkeeping(r, size) for r in results]
        left.plot(booked, [growth(r, size) for r in results], mark, **style)
        rest = [100 * physics(r, size) / r["mesh"][size]["heat_capacity"] for r in results]
        right.plot(range(len(results)), rest, mark, **style)
    known = [r for r in results if r["structure"] in published.SUPERCELL]
    if known:
        booked = [translations(r) for r in known]
        grown = [-np.subtract(*published.SUPERCELL[r["structure"]]) for r in known]
        left.plot(booked, grown, "x", color="0.4", ms=5, label="2x2x2, published")
    end = 1.1 * max(bookkeeping(r, 3) for r in results)
    left.plot([0, end], [0, end], color="0.8", lw=0.8, zorder=0)
    left.set(xlim=(0, end), ylim=(0, None))
    left.set_xlabel("bookkeeping (J g$^{-1}$ K$^{-1}$)")
    left.set_ylabel("growth of $C_V$ from Γ (J g$^{-1}$ K$^{-1}$)")
    right.axhline(0, color="0.8", lw=0.8, zorder=0)
    right.set_xticks(range(len(names)), names, rotation=45, ha="right")
    right.set_ylabel("rest (% of $C_V$)")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7)
    return drawing
