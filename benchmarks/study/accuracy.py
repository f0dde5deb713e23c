"""Errors of Hessians by central differences of forces, against exact Hessians.

    H_ij = [g_i(x + h e_j) - g_i(x - h e_j)] / 2h

The truncation error is proportional to h², the rounding error to 1/h. Gradients are computed in
double or single precision, and subtracted in double precision. Positions are displaced in double
precision and then rounded, as in an ASE calculator in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from ase import Atoms
from matplotlib.figure import Figure
from numpy.typing import NDArray

import mace_functional as mf
from benchmarks.hessian import table
from benchmarks.study import published
from benchmarks.study.drawing import BLUE, RED, panels
from benchmarks.study.plan import Plan, Result, load
from mace_functional.mace.subnormal import flush_subnormal

STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Steps h of the differences, Å."""

SKIN = 0.05
"""Skin of the neighbour list, Å.

It is larger than all steps, so the list has all neighbours at displaced positions.
"""

DTYPES = {"float64": torch.float64, "float32": torch.float32}

Forces = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Function of the positions (N, 3), Å, that returns the forces (N, 3), eV/Å."""


def run(plan: Plan) -> Iterator[Result]:
    """Measure the errors for every model and structure, at the given geometries."""
    for source, name, atoms in plan.by_size():
        yield plan.one(
            "accuracy",
            partial(measure, forces=plan.forces, device=plan.device),
            name,
            atoms,
            source,
            forces=plan.forces,
            steps=STEPS,
        )


def measure(
    atoms: Atoms,
    source: str,
    forces: str = "mace_functional",
    device: str = "cpu",
    steps: Sequence[float] = STEPS,
) -> Result:
    """Compare Hessians of one structure with the exact one in double precision.

    Args:
        atoms: The structure.
        source: Name or file of the model, see `load_model`.
        forces: Source of the forces: "mace_functional" or "mace-torch".
        device: Device of the model.
        steps: Steps of the differences, Å.

    Returns:
        "float64" and "float32": lists of step, mean absolute and largest error in eV/Å². "exact
        float32": the two errors of the exact Hessian in single precision.
    """
    exact, single = (_exact_hessian(atoms, source, dtype, device) for dtype in DTYPES.values())
    result: Result = {"forces": forces, "exact float32": _errors(single, exact)}
    for name, dtype in DTYPES.items():
        gradient = FORCES[forces](atoms, source, dtype, device)
        result[name] = [
            [h, *_errors(central_differences(gradient, atoms.positions, h), exact)] for h in steps
        ]
    return result


def central_differences(
    forces: Forces, positions: NDArray[np.float64], h: float
) -> NDArray[np.float64]:
    """Compute a Hessian by central differences, from 6N evaluations of the forces.

    Args:
        forces: Function of the positions that returns the forces.
        positions: Positions, Å, (N, 3).
        h: Step, Å.

    Returns:
        The Hessian, eV/Å², (3N, 3N). Column j is the change of the gradient with coordinate j.
    """
    steps = h * np.eye(positions.size).reshape(-1, *positions.shape)
    columns = [(forces(positions - step) - forces(positions + step)) / (2 * h) for step in steps]
    return np.stack(columns, axis=-1).reshape(positions.size, -1)


def _exact_hessian(
    atoms: Atoms, source: str, dtype: torch.dtype, device: str
) -> NDArray[np.float64]:
    """Compute the exact Hessian in a given precision, eV/Å², (3N, 3N)."""
    model = load(source, device, dtype)
    s = mf.from_ase(atoms, model)
    matrix = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    size = 3 * len(atoms)
    return matrix.double().cpu().numpy().reshape(size, size)


def _our_forces(atoms: Atoms, source: str, dtype: torch.dtype, device: str) -> Forces:
    """Return the forces by mace_functional as a function of the positions."""
    model = load(source, device, dtype)
    s = mf.from_ase(atoms, model, skin=SKIN)
    forces = mf.forces(mf.energy_fn(model, s.graph))

    def at(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = torch.as_tensor(positions).to(s.positions)
        return forces(moved, s.cell, model.params).double().cpu().numpy()

    return at


def _mace_torch_forces(atoms: Atoms, source: str, dtype: torch.dtype, device: str) -> Forces:
    """Return the forces by mace-torch as a function of the positions."""
    from mace.calculators import MACECalculator

    name = next(name for name, known in DTYPES.items() if known == dtype)
    default = torch.get_default_dtype()
    calculator = MACECalculator(model_paths=source, device=device, default_dtype=name)
    for module in calculator.models:  # as in load_model, so that both use the same weights
        flush_subnormal(module)
    moved = atoms.copy()
    moved.calc = calculator

    def at(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        torch.set_default_dtype(dtype)  # mace-torch makes some tensors in this dtype
        try:
            moved.positions = positions
            return moved.get_forces().astype(np.float64)
        finally:
            torch.set_default_dtype(default)

    torch.set_default_dtype(default)
    return at


FORCES = {"mace_functional": _our_forces, "mace-torch": _mace_torch_forces}


def _errors(matrix: NDArray[np.float64], exact: NDArray[np.float64]) -> list[float]:
    """Return the mean absolute and the largest difference."""
    difference = abs(matrix - exact)
    return [float(difference.mean()), float(difference.max())]


def tables(results: Sequence[Result]) -> list[str]:
    """Return a table of means, beside the published ones, and a table of all structures.

    Args:
        results: Results of `run`.
    """
    header = ["mean / largest, eV/Å²", "float64", "published", "float32", "published"]
    model_tables = []
    for model in dict.fromkeys(r["model"] for r in results):
        ours = [r for r in results if r["model"] == model]
        rows = []
        for number, h in enumerate(STEPS):
            row = [f"differences, {h:.0e} Å"]
            for dtype in DTYPES:
                row += [_both(_mean([r[dtype][number][1:] for r in ours]))]
                row += [_both(published.DIFFERENCES[dtype][h])]
            rows.append(row)
        single = _mean([r["exact float32"] for r in ours])
        rows.append(["exact", "0", "0", _both(single), _both(published.SINGLE)])
        title = f"{model}, {ours[0]['forces']} forces: means over {len(ours)} structures"
        model_tables.append(table(title, header, rows))
    header = ["structure, model", "atoms", "best float64", "best float32", "exact float32"]
    rows = [
        [
            f"{r['structure']}, {r['model']}",
            str(r["atoms"]),
            *(_best(r[dtype]) for dtype in DTYPES),
            _both(r["exact float32"]),
        ]
        for r in results
    ]
    return [*model_tables, table("Smallest mean errors of any step", header, rows)]


def _mean(pairs: Sequence[Sequence[float]]) -> list[float]:
    return np.mean(pairs, axis=0).tolist()


def _both(errors: Sequence[float]) -> str:
    return f"{errors[0]:.1e} / {errors[1]:.1e}"


def _best(rows: Sequence[Sequence[float]]) -> str:
    h, *errors = min(rows, key=lambda row: row[1])
    return f"{_both(errors)} at {h:.0e} Å"


def figure(results: Sequence[Result]) -> Figure:
    """Plot errors over the step; structures are lines, published means are points.

    Args:
        results: Results of `run`.
    """
    drawing, axes = panels(2, sharex=True)
    for axis, column, title in zip(axes, (1, 2), ("mean absolute", "largest"), strict=True):
        for dtype, colour in zip(DTYPES, (BLUE, RED), strict=True):
            for number, r in enumerate(results):
                rows = np.array(r[dtype])
                label = f"differences, {dtype}" if number == 0 else None
                axis.loglog(rows[:, 0], rows[:, column], color=colour, lw=0.8, label=label)
            means = published.DIFFERENCES[dtype]
            errors = [error[column - 1] for error in means.values()]
            axis.loglog(list(means), errors, "o", color=colour, ms=4, label=f"published, {dtype}")
        for number, r in enumerate(results):
            label = "exact, float32" if number == 0 else None
            axis.axhline(r["exact float32"][column - 1], color="0.5", lw=0.7, ls=":", label=label)
        axis.set_xlabel("step (Å)")
        axis.set_ylabel(f"{title} error (eV Å$^{{-2}}$)")
    axes[0].legend(frameon=False, fontsize=7)
    return drawing
