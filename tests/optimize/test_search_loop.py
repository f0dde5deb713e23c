"""The loop of a search: its line of progress."""

from __future__ import annotations

import io

import numpy as np
from ase.build import molecule
from rich.console import Console

import mace_functional as mf
from mace_functional.optimize import search_loop
from mace_functional.optimize.relaxation import Relaxation


def test_line_of_progress_has_the_counts_of_the_moment(model):
    search = Relaxation(model, molecule("H2O"), False, 0.0, None)
    console = Console(file=io.StringIO(), width=200)
    status = console.status(search_loop.ProgressLine(search))

    def line():
        with console.capture() as capture:
            console.print(status.renderable)
        return capture.get()

    assert "relaxing: 0 gradients, 0 Hessian-vector products" in line()
    search.begin()
    last = search.history[-1]
    assert "relaxing: 1 gradients, 0 Hessian-vector products, energy" in line()
    assert f"energy {last.energy:.6f} eV, largest force {last.largest_force:.5f} eV/Å" in line()
    search.surface.products(search.point.z)(np.eye(len(search.point.z))[:, :3])
    assert "relaxing: 1 gradients, 3 Hessian-vector products, energy" in line()


def test_loop_shows_the_line_of_progress(model, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=200)
    monkeypatch.setattr(search_loop, "Console", lambda **_: terminal)
    result = mf.relax(model, molecule("H2O"), progress=True)
    assert result.n_hvps > 0
    counts = f"{result.n_gradients} gradients, {result.n_hvps} Hessian-vector products"
    assert f"relaxing: {counts}, energy {result.energy:.6f} eV" in screen.getvalue()
