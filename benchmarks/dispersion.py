"""Measure the cost of D3 dispersion on top of a potential, and the effect of its cutoffs.

    python benchmarks/dispersion.py                                  one framework, on CPU
    python benchmarks/dispersion.py --structure FILE --model MODEL

Times are medians. Weights and structures are read from `../shared`, or from
`$MACE_FUNCTIONAL_SHARED`. If dftd3 is installed, the Hessian of D3 alone is compared with central
differences of the forces of s-dftd3.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.units import Bohr

import mace_functional as mf
from mace_functional.dispersion.bloch_sums import d3_force_constants_at

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MACE_FUNCTIONAL_SHARED", ROOT.parent / "shared"))
STRUCTURE = SHARED / "heatcapacity" / "relaxed" / "RSM0011.xyz"
WEIGHTS = SHARED / "weights" / "MACE-MP-0_small.model"
CUTOFFS = ((60, 40), (40, 40), (30, 20), (20, 15))
"""Cutoffs of pairs and of coordination numbers, Bohr."""
Q = (0.31, 0.17, 0.43)
"""Wave vector of the dynamical matrix, in units of the reciprocal lattice vectors."""
TEMPERATURE = 300.0
"""Temperature of the heat capacity, K."""
STEP = 1e-4
"""Displacement of the finite differences, Å, as in the published study."""


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median time of several calls, s, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
    return median(seconds), result


def row(atoms: Atoms, source: str, cutoffs: tuple[int, int] | None, repeats: int) -> list[str]:
    """Measure times, energy and heat capacity with one pair of cutoffs, or without dispersion."""
    settings = None if cutoffs is None else mf.D3Settings("pbe", *(c * Bohr for c in cutoffs))
    model = mf.load_model(source, dispersion=settings)
    build_s, s = timed(lambda: mf.from_ase(atoms, model), repeats)
    E, args = mf.energy_fn(model, s.topology), (s.positions, s.cell, model.params)
    mf.forces(E)(*args)  # warm-up: the first call is slower
    gradient_s, _ = timed(lambda: mf.forces(E)(*args), repeats)
    hessian_s, H = timed(lambda: mf.hessian(E)(*args), repeats)
    D = mf.dynamical_matrix_fn(model, s.topology)
    q = torch.tensor(Q, dtype=model.dtype) * s.topology.pbc
    matrix_s, _ = timed(lambda: D(q, *args, s.masses), repeats)
    modes = mf.normal_modes(H, s.masses, s.positions, pbc=s.topology.pbc.tolist(), cell=s.cell)
    heat = mf.harmonic_thermo(modes, TEMPERATURE).specific_heat_capacity(s.masses)
    pairs = 0 if cutoffs is None else int(s.topology.parts[1].pairs.mask.sum())
    times = (f"{x:.3f}" for x in (build_s, gradient_s, hessian_s, matrix_s))
    label = "none" if cutoffs is None else f"{cutoffs[0]}, {cutoffs[1]}"
    return [label, f"{pairs}", *times, f"{float(E(*args)):.6f}", f"{float(heat):.6f}"]


def alone(atoms: Atoms, repeats: int) -> None:
    """Print times of the Hessian of D3 alone, and differences to that of s-dftd3."""
    try:
        from dftd3.ase import DFTD3
    except ImportError:
        print("\ndftd3 is not installed: the Hessian of D3 is not compared")
        return
    positions, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    force_constants = d3_force_constants_at(mf.D3("pbe").structure(atoms).topology)
    q = torch.tensor(Q).to(positions) * torch.tensor(atoms.pbc)
    matrix_s, _ = timed(lambda: force_constants(q, positions, cell), repeats)
    build_s, D3 = timed(lambda: mf.dispersion_fn(atoms), repeats)
    seconds, H = timed(lambda: mf.hessian(D3)(positions, cell), repeats)
    displaced = atoms.copy()
    displaced.calc = DFTD3(method="pbe", damping="d3bj")

    def forces(x: np.ndarray) -> np.ndarray:
        displaced.positions = x.reshape(-1, 3)
        return displaced.get_forces().ravel()

    def differences() -> np.ndarray:
        x, steps = atoms.positions.ravel(), STEP * np.eye(positions.numel())
        return np.array([(forces(x - step) - forces(x + step)) / (2 * STEP) for step in steps])

    reference_s, reference = timed(differences, 1)
    error = abs(H.reshape(reference.shape).numpy() - reference)
    ratio = reference_s / (seconds + build_s)
    print(
        f"\nD3 alone: D(q) {matrix_s:.3f} s, Hessian {seconds:.3f} s, its pairs {build_s:.3f} s; "
        f"central differences with s-dftd3 {reference_s:.2f} s, {ratio:.0f} times as long; "
        f"mean and largest difference {error.mean():.1e} and {error.max():.1e} eV/Å²"
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--structure", type=Path, default=STRUCTURE, help="%(default)s")
    add("--model", default=str(WEIGHTS), help="%(default)s")
    add("--repeats", type=int, default=5, help="%(default)s")
    options = parser.parse_args()
    for path in (options.structure, Path(options.model)):
        if path.suffix and not path.is_file():
            sys.exit(f"there is no file {path}: set MACE_FUNCTIONAL_SHARED, or give your own")
    atoms: Any = ase.io.read(options.structure)
    print(
        "| cutoffs, Bohr | images of pairs | pairs, s | gradient, s | Hessian, s | D(q), s | "
        f"energy, eV | Cv({TEMPERATURE:g} K) at Γ, J/(g K) |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for cutoffs in (None, *CUTOFFS):
        cells = row(atoms, options.model, cutoffs, options.repeats)
        print(f"| {' | '.join(cells)} |", flush=True)
    alone(atoms, options.repeats)


if __name__ == "__main__":
    main()
