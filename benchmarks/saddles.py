"""Measure the cost of saddle point searches from rattled guesses, and compare barriers with NEB.

    python benchmarks/saddles.py                                    the embedded model, on CPU
    python benchmarks/saddles.py --model small --seeds 20
    python benchmarks/saddles.py --no-neb

The guess for ethane is rotated by 40 to 50 of the 60 degrees, that for ammonia is half flat, and
both are rattled by 0.05 or 0.1 Å. Searches end at a largest force of 1e-4 eV/Å. Gradients and
products are means over the seeds; they include the exact Hessian that verifies the saddle point.
NEB has eleven images and a climbing image, and ends at 0.005 eV/Å.
"""

from __future__ import annotations

import argparse
import time
from statistics import mean

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.mep import NEB
from ase.optimize import BFGS

import mace_functional as mf
from mace_functional.optimize.relax import relax
from mace_functional.optimize.saddle import find_saddle

IMAGES = 11
"""Number of images of the NEB."""


def rotated(ethane: Atoms, angle: float) -> Atoms:
    """Return ethane with its first methyl group rotated by an angle in degrees."""
    atoms = ethane.copy()
    indices = np.flatnonzero(atoms.get_distances(0, range(8)) < 1.3)
    methyl = atoms[indices]
    methyl.rotate(angle, atoms.get_distance(1, 0, vector=True), atoms.positions[0])
    atoms.positions[indices] = methyl.positions
    return atoms


def guess(name: str, minimum: Atoms, seed: int) -> Atoms:
    """Return a rattled guess of the saddle point."""
    rng = np.random.default_rng(seed)
    if name == "ethane":
        atoms = rotated(minimum, rng.uniform(40, 50))
    else:
        atoms = minimum.copy()
        atoms.positions[0] += 0.5 * (atoms.positions[1:].mean(0) - atoms.positions[0])
    atoms.positions += rng.normal(0, 0.05 + 0.05 * (seed % 2), atoms.positions.shape)
    return atoms


def barrier_by_neb(name: str, minimum: Atoms, model: mf.MaceModel) -> tuple[float, int]:
    """Return the barrier by NEB in meV, and the number of gradients."""
    if name == "ethane":
        path = [rotated(minimum, angle) for angle in np.linspace(0, 120, IMAGES)]
    else:
        last, hydrogens = minimum.copy(), minimum.positions[1:]
        normal = np.cross(hydrogens[1] - hydrogens[0], hydrogens[2] - hydrogens[0])
        normal /= np.linalg.norm(normal)
        last.positions -= 2 * np.outer((last.positions - hydrogens[0]) @ normal, normal)
        path = [minimum.copy() for _ in range(IMAGES - 1)] + [last]
        NEB(path, method="improvedtangent").interpolate()
    for image in path:
        image.calc = mf.MaceCalculator(model)
    optimiser = BFGS(NEB(path, k=0.1, climb=True, method="improvedtangent"), logfile=None)
    optimiser.run(fmax=0.005, steps=500)
    energies = [image.get_potential_energy() for image in path]
    return 1e3 * (max(energies) - energies[0]), (IMAGES - 2) * optimiser.nsteps


def study(name: str, formula: str, model: mf.MaceModel, seeds: int, neb: bool) -> None:
    """Print one row of the table."""
    minimum = relax(model, molecule(formula), relax_cell=False)
    started = time.perf_counter()
    results = [
        find_saddle(model, guess(name, minimum.atoms, seed), connect=False) for seed in range(seeds)
    ]
    seconds = (time.perf_counter() - started) / seeds
    converged = [result for result in results if result.converged]
    if not converged:
        print(f"| {name} | 0 of {seeds} |  |  |  |  |  |  |  |", flush=True)
        return
    lowest = min(converged, key=lambda result: result.energy)
    same = [result for result in converged if result.energy < lowest.energy + 1e-4]
    neb_barrier, n_gradients = barrier_by_neb(name, minimum.atoms, model) if neb else (np.nan, 0)
    print(
        f"| {name} | {len(same)} of {seeds} | {mean(r.n_gradients for r in results):.1f} "
        f"| {mean(r.n_hvps for r in results):.1f} | {seconds:.2f} | {lowest.frequency:.1f} "
        f"| {1e3 * (lowest.energy - minimum.energy):.3f} | {neb_barrier:.3f} | {n_gradients} |",
        flush=True,
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--model", default="embedded", help="a name or a checkpoint (%(default)s)")
    add("--seeds", type=int, default=10, help="number of guesses (%(default)s)")
    add("--neb", action=argparse.BooleanOptionalAction, default=True, help="compare with NEB")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    options = parser.parse_args()
    model = mf.load_model(options.model, device=options.device)
    print("| | found | gradients | products | s | cm-1 | barrier, meV | NEB, meV | its gradients |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, formula in (("ethane", "C2H6"), ("ammonia", "NH3")):
        study(name, formula, model, options.seeds, options.neb)


if __name__ == "__main__":
    main()
