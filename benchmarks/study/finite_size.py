"""What does a finite cell change in the heat capacity, and how much of that is bookkeeping?

A cell at Gamma has 3N modes, of which three are translations and hold nothing. A supercell of n³
cells, or an n x n x n mesh, leaves out three as well, of 3N n³. Per gram the sum therefore lacks

    R m / (M n³),    m = 3,

of m acoustic modes that are warm at any temperature of interest, and grows with n by
3R (1 - 1/n³) / M at most, whatever the forces are. Imaginary modes that are left out count as more
of them: m is then 3 and their number. Adding its share to each sum completes the count of modes,
and what is then left of the differences is physics: how the other modes, and the acoustic ones away
from Gamma, depend on the wave vector.
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
"""Of the meshes, along each reciprocal lattice vector."""

RIGID = 3
"""Translations of a crystal."""

GAS_CONSTANT = EV_PER_MOLECULE * K_B
"""J/(mol K)."""


def dropped_share(mass: float, size: int = 1, modes: int = RIGID) -> float:
    """R m / (M n³): what modes that are left out would hold classically, J/(g K).

    Args:
        mass: M of one cell, amu.
        size: n, of a mesh or supercell.
        modes: m, in all of its cells.
    """
    return GAS_CONSTANT * modes / (mass * size**3)


def run(plan: Plan) -> Iterator[Result]:
    """Heat capacities of all crystals, relaxed with each model; molecules have no mesh."""
    for source, name, atoms in plan.by_size():
        if not atoms.pbc.all():
            continue
        relaxed = plan.relaxed(name, source)
        result: Result = {"mass": float(atoms.get_masses().sum()), "mesh": {}}
        for size in SIZES:
            found = plan.one(
                f"finite-size/{size}",
                partial(measure, size=size, device=plan.device),
                name,
                relaxed,
                source,
            )
            result |= {key: found[key] for key in ("structure", "model", "atoms")}
            result["mesh"][size] = found
        yield result


def measure(atoms: Atoms, source: str, size: int, device: str = "cpu") -> Result:
    """The heat capacity on a mesh, with the count of modes as it is.

    Args:
        atoms: The crystal, relaxed.
        source: The model, see `load_model`.
        size: Of the mesh along each reciprocal lattice vector.
        device: For the model.

    Returns:
        "heat_capacity" in J/(g K), "wave_vectors" after symmetry, "left_out" modes of the whole
        mesh, rigid and imaginary ones, and "largest_force" in eV/Å.
    """
    found = mf.phonons_of(load(source, device), atoms, method="replicas")
    mesh = mf.Mesh.of(atoms, 3 * [size])
    modes = mf.mesh_modes(found, mesh, eigenvectors=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imaginary modes")
        heat = mf.mesh_thermo(modes, TEMPERATURE).specific_heat_capacity
    empty = (modes.eigenvalues <= 0).sum(1).cpu() * mesh.weights
    return {
        "heat_capacity": float(heat),
        "wave_vectors": len(mesh.q),
        "left_out": round(float(empty.sum()) * size**3),
        "largest_force": found.diagnostics.largest_force,
    }


def growth(result: Result, size: int) -> float:
    """Heat capacity on the mesh less that at Gamma, J/(g K)."""
    mesh = result["mesh"]
    return mesh[size]["heat_capacity"] - mesh[1]["heat_capacity"]


def bookkeeping(result: Result, size: int) -> float:
    """What of the growth is the count of modes, 3R (1 - 1/n³) / M if none is imaginary, J/(g K)."""
    at_gamma, on_mesh = (
        dropped_share(result["mass"], n, result["mesh"][n]["left_out"]) for n in (1, size)
    )
    return at_gamma - on_mesh


def physics(result: Result, size: int) -> float:
    """What is left of the growth when both sums have all 3N modes per cell, J/(g K)."""
    return growth(result, size) - bookkeeping(result, size)


def tables(results: Sequence[Result]) -> list[str]:
    """Meshes beside each other, and how much of their differences is bookkeeping.

    Args:
        results: From `run`.
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
        theirs = "-" if np.isnan(cell) else f"{supercell - cell:.4f}"
        row += [*_split(r, 2), theirs, f"{translations(r):.4f}", *_split(r, 3)]
        imaginary = (r["mesh"][n]["left_out"] - RIGID for n in SIZES)
        rows.append([*row, ", ".join(map(str, imaginary))])
    return [table(f"Cv at {TEMPERATURE:g} K, J/(g K)", header, rows), summary(results)]


def _split(result: Result, size: int) -> list[str]:
    parts = (growth(result, size), bookkeeping(result, size), physics(result, size))
    return [f"{part:.4f}" for part in parts]


def translations(result: Result) -> float:
    """3R (7/8) / M: the bookkeeping of a 2x2x2 mesh or supercell without imaginary modes."""
    return dropped_share(result["mass"]) - dropped_share(result["mass"], 2)


def summary(results: Sequence[Result]) -> str:
    """Means over the structures in words, beside the published ones.

    Args:
        results: From `run`.
    """
    parts = [(growth(r, 2), bookkeeping(r, 2), physics(r, 2), translations(r)) for r in results]
    grown, counted, rest, formula = np.transpose(parts)
    words = (
        f"From Γ to 2x2x2 the heat capacity grows by {grown.mean():.4f} J/(g K) (mean of "
        f"{len(results)}), of which {counted.mean():.4f} is bookkeeping and {rest.mean():+.4f} the "
        f"rest, {abs(rest).mean():.4f} without its sign"
    )
    if len(results) > 2:
        words += f"; the growth correlates {np.corrcoef(grown, formula)[0, 1]:.3f} with 3R(7/8)/M"
    return (
        f"{words}. Published: a mean growth of {published.SUPERCELL_MEAN}, which correlates "
        f"{published.SUPERCELL_CORRELATION} with 3R(7/8)/M over {published.SUPERCELL_COUNT} "
        "structures."
    )


def figure(results: Sequence[Result]) -> Figure:
    """The growth over its bookkeeping, and what is left of it.

    Args:
        results: From `run`.
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
        counted = [bookkeeping(r, size) for r in results]
        left.plot(counted, [growth(r, size) for r in results], mark, **style)
        rest = [100 * physics(r, size) / r["mesh"][size]["heat_capacity"] for r in results]
        right.plot(range(len(results)), rest, mark, **style)
    known = [r for r in results if r["structure"] in published.SUPERCELL]
    if known:
        counted = [translations(r) for r in known]
        theirs = [-np.subtract(*published.SUPERCELL[r["structure"]]) for r in known]
        left.plot(counted, theirs, "x", color="0.4", ms=5, label="2x2x2, published")
    end = 1.1 * max(bookkeeping(r, 3) for r in results)
    left.plot([0, end], [0, end], color="0.8", lw=0.8, zorder=0)
    left.set(xlim=(0, end), ylim=(0, None))
    left.set_xlabel("bookkeeping (J g$^{-1}$ K$^{-1}$)")
    left.set_ylabel("growth of $C_V$ from Γ (J g$^{-1}$ K$^{-1}$)")
    right.axhline(0, color="0.8", lw=0.8, zorder=0)
    right.set_xticks(range(len(names)), names, rotation=45, ha="right")
    right.set_ylabel("the rest, % of $C_V$")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7)
    return drawing
