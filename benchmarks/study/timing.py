"""Times of exact Hessians and of the 6N force calls of central differences.

The structures are supercells of one crystal. Every method runs in its own process, as in
`benchmarks/hessian.py`. Central differences are not run: their time is 6N times the median of one
force call. Force calls of mace-torch's calculator include the neighbour search and the stress; our
gradients do not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from benchmarks.hessian import (
    FORCES,
    GRADIENT,
    GROWTH,
    HESSIAN,
    Job,
    Runner,
    digits,
    machine,
    table,
)
from benchmarks.study import published
from benchmarks.study.drawing import BLUE, ORANGE, RED, panels
from benchmarks.study.plan import Plan, Result, identity_of, model_label
from mace_functional.mace.model_file import SUFFIX

PUBLISHED_FOR = "RSM0011"
"""Structure of the supercells in the published times."""

OURS = (GRADIENT, HESSIAN)
"""Methods of this package."""

SUPERCELLS = tuple(GROWTH[:4])
"""Repetitions along the lattice vectors."""

LARGE = 176
"""Smallest number of atoms from which the published times follow a power of N."""

REPEATS = 5
"""Number of timed calls of a method; at most three for Hessians."""


def run(plan: Plan, supercells: Sequence[Sequence[int]] = SUPERCELLS) -> Iterator[Result]:
    """Time the methods for supercells of `PUBLISHED_FOR`, or else of the first crystal.

    mace-torch is timed only if the model is a checkpoint that its calculator can load.

    Args:
        plan: Plan of the study, of which the first model is used.
        supercells: Repetitions along the lattice vectors.

    Raises:
        ValueError: If there is no crystal.
        RuntimeError: If a measurement fails.
    """
    name, atoms = _crystal(plan.structures)
    source = plan.models[0]
    methods = (FORCES, *OURS) if _is_checkpoint(source) else OURS
    options = argparse.Namespace(device=plan.device, dtype="float64", keep_memory=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "structure.xyz"
        ase.io.write(file, atoms)
        runner = Runner(Path(folder), {})
        runner.console.quiet = True
        for supercell in supercells:
            cells = "x".join(map(str, supercell))
            result: Result = {"structure": name, "model": model_label(source), "cells": cells}
            for method in methods:
                job = Job(
                    str(file), source, plan.device, "float64", REPEATS, method, list(supercell)
                )

                def measure(job: Job = job, cells: str = cells) -> Result:
                    measurement = runner.measure(f"{name} {cells}", job)
                    if measurement is None:
                        raise RuntimeError(f"{job.method} of {name} {cells} could not be timed")
                    return {**asdict(measurement), "machine": machine(options)}

                identity = {**identity_of(atoms, source), "device": plan.device}
                path = f"time/{name}-{model_label(source)}-{cells}-{method.replace(' ', '-')}"
                result[method] = plan.kept(path, identity, measure)
            yield result | {"atoms": result[HESSIAN]["atoms"]}


def _crystal(structures: Mapping[str, Atoms]) -> tuple[str, Atoms]:
    """Return the name and structure of `PUBLISHED_FOR`, or else of the first crystal."""
    crystals = {name: atoms for name, atoms in structures.items() if atoms.pbc.all()}
    if not crystals:
        raise ValueError("times are measured on supercells: give a crystal")
    name = PUBLISHED_FOR if PUBLISHED_FOR in crystals else next(iter(crystals))
    return name, crystals[name]


def _is_checkpoint(source: str) -> bool:
    """Return True if mace-torch's calculator can load the model."""
    path = Path(source)
    return path.is_file() and path.suffix != SUFFIX


def _seconds(result: Result) -> tuple[float, float, float]:
    """Return the times of the Hessian, our 6N gradients and mace-torch's 6N forces (or NaN), s."""
    ours, theirs = (
        6 * result["atoms"] * result[method]["seconds"] if method in result else np.nan
        for method in (GRADIENT, FORCES)
    )
    return result[HESSIAN]["seconds"], ours, theirs


def tables(results: Sequence[Result]) -> list[str]:
    """Return a table of times, beside published ones on an A100, with powers of N.

    Args:
        results: Results of `run`.
    """
    columns = ["exact, s", "6N gradients, s", "6N mace-torch, s", "6N mace-torch / exact"]
    header = ["cells", "atoms", *columns, "A100 exact, s", "A100 6N, s", "A100 6N / exact"]
    rows = []
    for r in results:
        exact, ours, theirs = _seconds(r)
        row = [r["cells"], str(r["atoms"]), *map(_shown, (exact, ours, theirs, theirs / exact))]
        a100, differences = _published(r)
        rows.append([*row, *map(_shown, (a100, differences, differences / a100))])
    if len(results) > 1:
        sizes = [r["atoms"] for r in results]
        powers = [slope(sizes, times) for times in np.transpose([_seconds(r) for r in results])]
        a100_powers = [slope(sizes, t) for t in np.transpose([_published(r) for r in results])]
        rows.append(["power of N", "", *map(_shown, powers), "", *map(_shown, a100_powers), ""])
        large = {n: times for n, times in published.TIMES.items() if n >= LARGE}
        a100_powers = [slope(list(large), t) for t in np.transpose(list(large.values()))]
        label = f"power of N, from {LARGE} atoms"
        rows.append([label, *[""] * 5, *map(_shown, a100_powers), ""])
    first = results[0]
    title = f"{first['structure']}, {first['model']}: {first[HESSIAN]['machine']}"
    return [table(title, header, rows)]


def _published(result: Result) -> tuple[float, float]:
    """Return the published times of the Hessian and of 6N forces, s; NaN if there are none."""
    if result["structure"] != PUBLISHED_FOR:
        return np.nan, np.nan
    return published.TIMES.get(result["atoms"], (np.nan, np.nan))


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else digits(value)


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the least-squares slope of log time over log N; NaN if a time is missing."""
    if np.isnan(seconds).any():
        return np.nan
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def figure(results: Sequence[Result]) -> Figure:
    """Plot our times and the published ones over the number of atoms.

    Args:
        results: Results of `run`.
    """
    drawing, (left, right) = panels(2)
    sizes = [r["atoms"] for r in results]
    exact, ours, theirs = np.transpose([_seconds(r) for r in results])
    for times, colour, mark, label in (
        (theirs, RED, "s", "6N forces, mace-torch"),
        (ours, ORANGE, "^", "6N gradients, ours"),
        (exact, BLUE, "o", "exact, ours"),
    ):
        if np.isfinite(times).all():
            left.loglog(sizes, times, f"{mark}-", color=colour, ms=4, lw=1, label=label)
            if times is not exact:
                label = f"{label} / exact"
                right.semilogx(
                    sizes, times / exact, f"{mark}-", color=colour, ms=4, lw=1, label=label
                )
    if results[0]["structure"] == PUBLISHED_FOR:
        atoms = list(published.TIMES)
        a100, differences = np.transpose(list(published.TIMES.values()))
        left.loglog(atoms, differences, "--", color="0.6", lw=0.9, label="6N forces, A100")
        left.loglog(atoms, a100, "-", color="0.6", lw=0.9, label="exact, A100")
        right.semilogx(atoms, differences / a100, "-", color="0.6", lw=0.9, label="A100")
    left.set_ylabel("seconds")
    right.set_ylabel("ratio of times")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("atoms")
        axis.legend(frameon=False, fontsize=7)
    return drawing
