"""Figures of errors and their bounds: convergence of meshes, and checks of a potential."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from mace_functional.figures.axes import BLUE, RED, new_figure, tidy

if TYPE_CHECKING:
    from mace_functional.certificate.certificate import Certificate
    from mace_functional.phonons.mesh_sums import ConvergedThermo

LINE = 0.19
"""Height of one check in the figure of a certificate, inches."""


def mesh_convergence_figure(converged: ConvergedThermo) -> Figure:
    """Draw the relative error of the heat capacity against the number of inequivalent wave vectors.

    The error of a mesh is the larger of two numbers: the change from the previous mesh, and the
    missing contribution of the acoustic modes at Gamma. The first mesh is not drawn.

    Args:
        converged: Result of `phonons.converged_mesh_thermo`.
    """
    figure, (axes,) = new_figure()
    steps = converged.steps[1:]
    axes.plot([step.n_q for step in steps], [step.error for step in steps], "o-", color=BLUE, ms=4)
    for step in steps:
        name = "x".join(map(str, step.size))
        axes.annotate(name, (step.n_q, step.error), (4, 4), textcoords="offset points", size=7)
    axes.axhline(converged.tolerance, color=RED, lw=0.8, ls="--", label="tolerance")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([step.n_q for step in steps], [str(step.n_q) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("inequivalent wave vectors")
    axes.set_ylabel("relative error of $C_V$")
    axes.margins(0.15)
    axes.legend(frameon=False, fontsize=8)
    tidy([axes])
    return figure


def certificate_figure(certificate: Certificate) -> Figure:
    """Draw the error and the bound of each check on a logarithmic axis.

    Errors and bounds are divided by the size of the compared quantity. A check fails if its point
    is to the right of its bar. Checks that do not apply are left out.

    Args:
        certificate: Result of `check_potential`.
    """
    shown = [
        (check.name, check.error / check.size, check.bound / check.size)
        for check in certificate
        if check.error is not None and check.bound and check.size
    ]
    rows = np.arange(len(shown))
    errors = np.array([error for _, error, _ in shown])
    bounds = np.array([bound for _, _, bound in shown])
    figure = Figure(figsize=(5.0, 0.9 + LINE * len(shown)), layout="constrained")
    axes = figure.subplots()
    floor = 0.1 * min([*errors[errors > 0], *bounds], default=1.0)
    axes.barh(rows, bounds - floor, left=floor, color=BLUE, alpha=0.25, label="bound")
    for holds, colour, name in (True, BLUE, "error"), (False, RED, "error, too large"):
        chosen = (errors <= bounds) == holds
        if chosen.any():
            axes.plot(
                np.maximum(errors[chosen], floor), rows[chosen], "o", color=colour, ms=4, label=name
            )
    axes.set_xscale("log")
    axes.set_xlim(left=floor / 3)
    axes.set_yticks(rows, [name for name, _, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("relative to the size of the quantity")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    tidy([axes])
    return figure
