"""Effect of single precision on the heat capacity.

The geometry is relaxed in double precision, and Hessians are computed in both precisions. The one
in single precision is diagonalised twice: in double precision, which shows the rounding of the
Hessian alone, and with all later steps in single precision, as a user of such a model does it.
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
from benchmarks.study.drawing import BLUE, RED, panels
from benchmarks.study.plan import TEMPERATURE, Plan, Result, heat_capacity, load
from mace_functional.vibrations.harmonic_modes import NormalModes


def run(plan: Plan) -> Iterator[Result]:
    """Measure the changes for every structure, relaxed with each model."""
    for source, name, _ in plan.by_size():
        yield plan.one(
            "rounding",
            partial(measure, device=plan.device),
            name,
            plan.relaxed(name, source),
            source,
        )


def measure(atoms: Atoms, source: str, device: str = "cpu") -> Result:
    """Compare heat capacities at Gamma in both precisions.

    Args:
        atoms: The relaxed structure.
        source: Name or file of the model, see `load_model`.
        device: Device of the model.

    Returns:
        "heat_capacity" in J/(g K), in double precision; its relative changes "hessian", with the
        Hessian in single precision, and "all", with all steps in single precision; "frequency", the
        largest change of a frequency by the Hessian in cm-1; "imaginary", the numbers of imaginary
        modes in double and single precision.
    """
    exact = _modes(atoms, load(source, device), torch.float64)
    single = load(source, device, torch.float32)
    modes = {name: _modes(atoms, single, dtype) for name, dtype in PRECISIONS.items()}
    heat = heat_capacity(exact)
    changes = {name: abs(heat_capacity(m) / heat - 1) for name, m in modes.items()}
    return {
        "heat_capacity": heat,
        **changes,
        "frequency": float((modes["hessian"].frequencies - exact.frequencies).abs().max()),
        "imaginary": [exact.n_imaginary, modes["hessian"].n_imaginary],
    }


PRECISIONS = {"hessian": torch.float64, "all": torch.float32}
"""Precisions in which a Hessian in single precision is diagonalised."""


def _modes(atoms: Atoms, model: mf.MaceModel, dtype: torch.dtype) -> NormalModes:
    """Compute the modes in a precision, from a Hessian in the precision of the model."""
    s = mf.from_ase(atoms, model)
    matrix = mf.hessian(mf.energy_fn(model, s.graph))(s.positions, s.cell, model.params)
    return mf.normal_modes(
        matrix.to(dtype),
        atoms.get_masses().tolist(),
        s.positions,
        pbc=atoms.pbc.tolist(),
        cell=s.cell,
    )


def tables(results: Sequence[Result]) -> list[str]:
    """Return a table of relative changes, with their medians and the published median.

    Args:
        results: Results of `run`.
    """
    header = [
        "structure, model",
        "atoms",
        "Cv, J/(g K)",
        "Hessian in float32",
        "all in float32",
        "frequency, cm-1",
        "imaginary modes",
    ]
    rows = [
        [
            f"{r['structure']}, {r['model']}",
            str(r["atoms"]),
            f"{r['heat_capacity']:.6f}",
            f"{r['hessian']:.1e}",
            f"{r['all']:.1e}",
            f"{r['frequency']:.1e}",
            ", ".join(map(str, r["imaginary"])),
        ]
        for r in results
    ]
    medians = [f"{np.median([r[name] for r in results]):.1e}" for name in PRECISIONS]
    rows.append(["median", "", "", *medians, "", ""])
    rows.append(["published median", "", "", f"{published.SINGLE_HEAT:.0e}", "", "", ""])
    return [table(f"Relative changes of Cv at {TEMPERATURE:g} K, at Γ", header, rows)]


def figure(results: Sequence[Result]) -> Figure:
    """Plot the changes over the number of atoms.

    Args:
        results: Results of `run`.
    """
    drawing, (left, right) = panels(2)
    atoms = [r["atoms"] for r in results]
    labels = {"hessian": ("Hessian in float32", BLUE, "o"), "all": ("all in float32", RED, "s")}
    for name, (label, colour, mark) in labels.items():
        left.semilogy(atoms, [r[name] for r in results], mark, color=colour, ms=4, label=label)
    left.axhline(published.SINGLE_HEAT, color="0.6", lw=0.8, label="published median")
    left.set_ylabel("relative change of $C_V$")
    left.legend(frameon=False, fontsize=7)
    right.semilogy(atoms, [r["frequency"] for r in results], "o", color=BLUE, ms=4)
    right.set_ylabel("largest change of a frequency (cm$^{-1}$)")
    for axis in (left, right):
        axis.set_xlabel("atoms")
    return drawing
