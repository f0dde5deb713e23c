"""How exact is a Hessian by central differences of forces, beside the exact one?

    H_ij = [g_i(x + h e_j) - g_i(x - h e_j)] / 2h

Truncation falls with h², rounding grows with 1/h. The gradients are computed in the precision in
question and subtracted in double; positions are displaced in double and rounded with the rest, as
it happens when an ASE calculator works in single precision.
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
"""Å."""

SKIN = 0.05
"""Neighbours are known that a step brings within the cutoff; farther than any step, Å."""

DTYPES = {"float64": torch.float64, "float32": torch.float32}

Forces = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Positions (N, 3) in Å to forces (N, 3) in eV/Å."""


def run(plan: Plan) -> Iterator[Result]:
    """Errors for every model and structure, at the geometries that are given."""
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
    """Errors of Hessians of one structure against the exact one in double precision.

    Args:
        atoms: The structure.
        source: The model, see `load_model`.
        forces: Whose: "mace_functional" or "mace-torch".
        device: For the model.
        steps: Of the differences, Å.

    Returns:
        For "float64" and "float32" a list of step, mean absolute and largest error, eV/Å², and
        under "exact float32" the two errors of the exact Hessian in single precision.
    """
    exact, single = (_exact_hessian(atoms, source, dtype, device) for dtype in DTYPES.values())
    found: Result = {"forces": forces, "exact float32": _errors(single, exact)}
    for name, dtype in DTYPES.items():
        gradient = FORCES[forces](atoms, source, dtype, device)
        found[name] = [
            [h, *_errors(central_differences(gradient, atoms.positions, h), exact)] for h in steps
        ]
    return found


def central_differences(
    forces: Forces, positions: NDArray[np.float64], h: float
) -> NDArray[np.float64]:
    """The Hessian by central differences of forces, from 6N of them.

    Args:
        forces: Of positions (N, 3).
        positions: Å, (N, 3).
        h: The step, Å.

    Returns:
        (3N, 3N), eV/Å²; column j is the change of all forces with coordinate j.
    """
    steps = h * np.eye(positions.size).reshape(-1, *positions.shape)
    columns = [(forces(positions - step) - forces(positions + step)) / (2 * h) for step in steps]
    return np.stack(columns, axis=-1).reshape(positions.size, -1)


def _exact_hessian(
    atoms: Atoms, source: str, dtype: torch.dtype, device: str
) -> NDArray[np.float64]:
    model = load(source, device, dtype)
    s = mf.from_ase(atoms, model)
    matrix = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    size = 3 * len(atoms)
    return matrix.double().cpu().numpy().reshape(size, size)


def _our_forces(atoms: Atoms, source: str, dtype: torch.dtype, device: str) -> Forces:
    model = load(source, device, dtype)
    s = mf.from_ase(atoms, model, skin=SKIN)
    forces = mf.forces(mf.energy_fn(model, s.graph))

    def at(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = torch.as_tensor(positions).to(s.positions)
        return forces(moved, s.cell, model.params).double().cpu().numpy()

    return at


def _mace_torch_forces(atoms: Atoms, source: str, dtype: torch.dtype, device: str) -> Forces:
    from mace.calculators import MACECalculator

    name = next(name for name, known in DTYPES.items() if known == dtype)
    default = torch.get_default_dtype()
    calculator = MACECalculator(model_paths=source, device=device, default_dtype=name)
    for module in calculator.models:  # as load_model does: the same weights on both sides
        flush_subnormal(module)
    moved = atoms.copy()
    moved.calc = calculator

    def at(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        torch.set_default_dtype(dtype)  # mace-torch makes some tensors in it
        try:
            moved.positions = positions
            return moved.get_forces().astype(np.float64)
        finally:
            torch.set_default_dtype(default)

    torch.set_default_dtype(default)
    return at


FORCES = {"mace_functional": _our_forces, "mace-torch": _mace_torch_forces}


def _errors(matrix: NDArray[np.float64], exact: NDArray[np.float64]) -> list[float]:
    difference = abs(matrix - exact)
    return [float(difference.mean()), float(difference.max())]


def tables(results: Sequence[Result]) -> list[str]:
    """Means over the structures beside the published ones, and every structure.

    Args:
        results: From `run`.
    """
    header = ["mean / largest, eV/Å²", "float64", "published", "float32", "published"]
    found = []
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
        found.append(table(title, header, rows))
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
    return [*found, table("Smallest mean errors of any step", header, rows)]


def _mean(pairs: Sequence[Sequence[float]]) -> list[float]:
    return np.mean(pairs, axis=0).tolist()


def _both(errors: Sequence[float]) -> str:
    return f"{errors[0]:.1e} / {errors[1]:.1e}"


def _best(rows: Sequence[Sequence[float]]) -> str:
    h, *errors = min(rows, key=lambda row: row[1])
    return f"{_both(errors)} at {h:.0e} Å"


def figure(results: Sequence[Result]) -> Figure:
    """Errors over the step: structures as lines, published means as points.

    Args:
        results: From `run`.
    """
    drawing, axes = panels(2, sharex=True)
    for axis, column, title in zip(axes, (1, 2), ("mean absolute", "largest"), strict=True):
        for dtype, colour in zip(DTYPES, (BLUE, RED), strict=True):
            for number, r in enumerate(results):
                rows = np.array(r[dtype])
                label = f"differences, {dtype}" if number == 0 else None
                axis.loglog(rows[:, 0], rows[:, column], color=colour, lw=0.8, label=label)
            theirs = published.DIFFERENCES[dtype]
            errors = [error[column - 1] for error in theirs.values()]
            axis.loglog(list(theirs), errors, "o", color=colour, ms=4, label=f"published, {dtype}")
        for number, r in enumerate(results):
            label = "exact, float32" if number == 0 else None
            axis.axhline(r["exact float32"][column - 1], color="0.5", lw=0.7, ls=":", label=label)
        axis.set_xlabel("step (Å)")
        axis.set_ylabel(f"{title} error (eV Å$^{{-2}}$)")
    axes[0].legend(frameon=False, fontsize=7)
    return drawing
