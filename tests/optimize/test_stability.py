"""Whether a structure is a minimum, by its lowest mode."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from hessian_operators import (
    relaxed,
)

import mace_functional as mf
from mace_functional.optimize.stability import check_stability


@pytest.fixture(scope="module")
def embedded() -> mf.MaceModel:
    return mf.load_model("embedded")


def test_ethanol_is_a_minimum_and_its_eclipsed_methyl_group_a_saddle(embedded):
    atoms = relaxed(embedded, mf.example_structure("ethanol"))
    minimum = check_stability(embedded, atoms)
    lowest = mf.gamma_modes(embedded, atoms).frequencies[0].item()
    assert minimum.stable
    assert minimum.certain
    assert minimum.largest_force < 0.002
    assert minimum.frequency == pytest.approx(lowest, rel=0.01)
    assert minimum.n_hvps < 3 * len(atoms) - 6

    ethane = relaxed(embedded, molecule("C2H6"))
    eclipsed = ethane.copy()
    turned = eclipsed[[k for k in range(8) if eclipsed.positions[k, 2] > 0]]
    turned.rotate(60, "z")
    rest = eclipsed[[k for k in range(8) if eclipsed.positions[k, 2] <= 0]]
    saddle = check_stability(embedded, turned + rest, unit="THz")
    assert check_stability(embedded, ethane).stable
    assert not saddle.stable
    assert saddle.outcome is mf.Outcome.NEGATIVE_EIGENVALUE
    assert saddle.certain
    assert saddle.frequency < 0
    assert saddle.mode.norm().item() == pytest.approx(1)
    # The displacement of the exact mode, and a direction along which the saddle point is left.
    exact = mf.gamma_modes(embedded, turned + rest).displacements[0]
    assert abs((saddle.mode * exact).sum().item()) > 0.99 * exact.norm().item()
    down = mf.follow_mode(embedded, turned + rest, saddle.mode, fmax=1e-2)
    staggered, top = (
        mf.MaceCalculator(embedded).get_potential_energy(a) for a in (ethane, turned + rest)
    )
    assert top - staggered == pytest.approx(0.018, abs=0.002)
    assert down.energy == pytest.approx(staggered, abs=0.002)


def test_quartz_is_stable_and_three_products_leave_doubt(embedded):
    atoms = relaxed(embedded, mf.example_structure("quartz"), 0.01)
    assert check_stability(embedded, atoms).stable
    limited = check_stability(embedded, atoms, max_hvps=3)
    assert limited.stable
    assert not limited.certain
    assert limited.outcome is mf.Outcome.MAX_STEPS
    assert "after 3 products" in limited.reason


@pytest.mark.parametrize(
    ("search", "shown"),
    [
        (mf.check_stability, "searching the lowest mode"),
        (
            lambda m, a, **options: mf.follow_mode(m, a, sideways(a), fmax=0.5, **options),
            "relaxing",
        ),
    ],
    ids=["check_stability", "follow_mode"],
)
def test_progress_is_shown_where_it_is_asked_for(embedded, search, shown, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    bent = molecule("H2O")
    bent.positions[1] += [0.0, 0.15, 0.0]
    search(embedded, bent)
    assert capsys.readouterr().err == ""
    search(embedded, bent, progress=True)
    found = capsys.readouterr()
    assert shown in found.err
    assert found.out == ""


def sideways(atoms):
    """Back to where the bond was."""
    mode = np.zeros((len(atoms), 3))
    mode[1, 1] = -1.0
    return mode
