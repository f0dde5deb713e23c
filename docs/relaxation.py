"""Draw the figure of relaxations in the documentation: `python docs/relaxation.py`.

The left panel shows relaxations of MOF-5 from a distorted geometry, by `relax` and by ASE's BFGS.
The right panel shows two saddle points, found from a minimum along its lowest mode, and elastic
bands between the minima.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.filters import FrechetCellFilter
from ase.mep import NEB
from ase.optimize import BFGS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline

import mace_functional as mf
from mace_functional.figures.axes import BLUE, RED

FMAX = 1e-6
"""Largest force of a relaxed structure, eV/Å."""

MAX_GRADIENTS = 300
"""Largest number of gradients of BFGS in the figure."""

IMAGES = 9
"""Number of images of an elastic band."""


def main() -> None:
    """Draw both panels, and write the figure."""
    model = mf.load_model("embedded")
    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_relaxations(left, model)
    draw_barrier(right, model, "C2H6", "ethane, rotation", BLUE)
    draw_barrier(right, model, "NH3", "ammonia, inversion", RED)
    right.set_xlabel("path from minimum to minimum")
    right.set_ylabel("energy (meV)")
    right.set_xlim(0, 1)
    right.set_ylim(0, 170)
    right.legend(frameon=False, fontsize=7.5, loc="upper left", borderaxespad=0)
    for axes in left, right:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=200)


def draw_relaxations(axes: Axes, model: mf.MaceModel) -> None:
    """Draw the largest force of MOF-5 over the number of gradients."""
    start = mf.example_structure("mof-5")
    start.rattle(0.05, seed=1)
    strain = 0.02 * np.array([[1, 0.5, 0], [0.5, -0.7, 0.3], [0, 0.3, 0.4]])
    start.set_cell(start.cell.array @ (np.eye(3) + strain), scale_atoms=True)

    relaxed = mf.relax(model, start, fmax=FMAX)
    ours = [(n, step.residual) for n, step in enumerate(relaxed.history, 1) if step.accepted]
    axes.semilogy(*zip(*ours, strict=True), ".-", color=BLUE, ms=4, lw=1.2, label="relax")

    start.calc = mf.MaceCalculator(model)
    atoms_and_cell = FrechetCellFilter(start)
    theirs: list[float] = []
    optimiser = BFGS(atoms_and_cell, logfile=None)
    optimiser.attach(
        lambda: theirs.append(np.linalg.norm(atoms_and_cell.get_forces(), axis=1).max())
    )
    optimiser.run(fmax=FMAX, steps=MAX_GRADIENTS - 1)
    axes.semilogy(range(1, len(theirs) + 1), theirs, color=RED, lw=1.2, label="BFGS (ASE)")

    axes.axhline(FMAX, color="0.8", linewidth=1, zorder=0)
    axes.set_xlim(0, MAX_GRADIENTS)
    axes.set_xlabel("gradients")
    axes.set_ylabel("largest force (eV/Å)")
    axes.legend(frameon=False, fontsize=7.5, title="MOF-5, atoms and cell", title_fontsize=8)


def draw_barrier(axes: Axes, model: mf.MaceModel, name: str, label: str, color: str) -> None:
    """Draw a saddle point and the elastic band between the two minima that it connects."""
    saddle = mf.find_saddle(model, mf.relax(model, molecule(name), fmax=1e-5).atoms, mode=0)
    if saddle.minima is None or saddle.barriers is None:
        raise RuntimeError(saddle.reason)
    path, energies = band(model, *saddle.minima)
    fine = np.linspace(0, 1, 300)
    curve = CubicSpline(path, 1e3 * energies, bc_type="clamped")(fine)
    axes.plot(fine, curve, color=color, linewidth=1.2, label=label)
    height = 1e3 * saddle.barriers[0]
    axes.plot(0.5, height, "*", color=color, ms=9, zorder=5, clip_on=False)
    axes.annotate(
        f"{height:.1f}",
        (0.5, height),
        (0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=color,
    )


def band(model: mf.MaceModel, first: Atoms, last: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Relax an elastic band; return the relative lengths along it, 0 to 1, and energies in eV."""
    images = [first.copy() for _ in range(IMAGES - 1)] + [last.copy()]
    for image in images:
        image.calc = mf.MaceCalculator(model)
    neb = NEB(images, climb=True, method="improvedtangent", remove_rotation_and_translation=True)
    neb.interpolate("idpp")
    if not BFGS(neb, logfile=None).run(fmax=0.01, steps=300):
        raise RuntimeError(f"the elastic band of {first.get_chemical_formula()} has not converged")
    energies = np.array([image.get_potential_energy() for image in images])
    steps = [np.linalg.norm(b.positions - a.positions) for a, b in pairwise(images)]
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    return lengths / lengths[-1], energies - energies[0]


if __name__ == "__main__":
    main()
