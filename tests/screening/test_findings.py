"""What is found in a structure, and advice that fits what was computed."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from helpers import mostly_slow
from screened import ROWS, SETTINGS, row, written

import mace_functional as mf
from mace_functional.screening.changes import changes
from mace_functional.screening.findings import FINDINGS
from mace_functional.screening.references import Reference
from mace_functional.screening.run import screen
from mace_functional.screening.screen_settings import ScreenSettings

EVERY = [
    ScreenSettings("embedded", relax=relax, relax_cell=cell, mesh=mesh, dtype=dtype)
    for relax, cell, mesh, dtype in itertools.product(
        [True, False], [True, False], [None, (2, 2, 2), "auto"], ["float64", "float32"]
    )
]


def found(row, settings=SETTINGS):
    return {title: words for title, _, of in FINDINGS if (words := of(row, settings))}


@pytest.fixture(scope="module")
def thread():
    with ThreadPoolExecutor(1) as executor:
        yield executor


# Advice.


@pytest.mark.parametrize(
    "settings", EVERY, ids=lambda s: f"{s.relax}-{s.relax_cell}-{s.mesh}-{s.dtype}"
)
def test_advice_is_nothing_that_is_done_already(settings):
    for title, advice, _ in FINDINGS:
        words = advice(settings)
        assert words.count("`") == words.count("`")
        if settings.relax:
            assert "--no-relax" not in words, title
            assert "add --relax" not in words, title
        else:
            for option in "--fmax", "--max-steps", "leave out `--fixed-cell":
                assert option not in words or title == "Not relaxed", title
        if settings.relax_cell:
            assert "leave out `--fixed-cell" not in words, title
        if settings.dtype == "float64":
            assert "float64" not in words, title
        if settings.mesh is not None:
            assert "--mesh auto" not in words, title
        else:
            assert "away from Gamma" not in words, title


def test_what_is_at_odds_with_rest_is_advised_by_how_it_was_computed():
    advice = {title: of for title, of, _ in FINDINGS}
    frozen, fixed = replace(SETTINGS, relax=False), replace(SETTINGS, relax_cell=False)
    for title in "Large forces", "Under stress", "Imaginary modes", "Very soft modes":
        assert "leave out `--no-relax`" in advice[title](frozen)
    assert "leave out `--fixed-cell`" in advice["Under stress"](fixed)
    assert "`--fmax`" in advice["Under stress"](SETTINGS)
    assert "--dtype float64" in advice["Not relaxed"](replace(SETTINGS, dtype="float32"))


# Findings.


@pytest.mark.parametrize(
    ("name", "mesh", "dtype"),
    mostly_slow(
        itertools.product(["quartz", "ethanol"], [None, (2, 2, 2)], ["float32", "float64"]),
        [("ethanol", None, "float32"), ("quartz", (2, 2, 2), "float64")],
    ),
)
def test_a_sound_structure_has_an_exact_hessian(name, mesh, dtype, thread, tmp_path):
    """Of a relaxed crystal, force constants made by symmetry differ by up to 1e-4 eV/Å²."""
    start = {name: mf.example_structure(name)}
    settings = ScreenSettings("embedded", mesh=mesh, dtype=dtype, fmax=0.02)
    for result in screen(start, tmp_path, settings, executor=thread).rows():
        assert result.record.stiffness == pytest.approx(48, abs=6)
        assert set(found(result, settings)) <= {"Gamma alone"}


@pytest.mark.parametrize(
    ("settings", "error", "is_found"),
    [
        (SETTINGS, 4.7e-5, True),
        (replace(SETTINGS, mesh=(2, 2, 2)), 4.7e-5, False),
        (replace(SETTINGS, mesh=(2, 2, 2)), 0.1, False),  # 3e-4 Å off the symmetry of 1e-3 Å
        (replace(SETTINGS, mesh=(2, 2, 2)), 1.0, True),
        (replace(SETTINGS, mesh=(2, 2, 2), symprec=1e-5), 0.1, True),
        (replace(SETTINGS, dtype="float32"), 4.7e-5, False),
        (replace(SETTINGS, dtype="float32"), 0.1, True),
        (SETTINGS, np.nan, True),
    ],
)
def test_errors_of_a_hessian_are_measured_by_its_size_precision_and_route(
    settings, error, is_found
):
    for name in "acoustic_sum_residual", "asymmetry":
        odd = row("odd", [50.0, 600.0], stiffness=40.0, **{name: error})
        assert ("Inexact Hessian" in found(odd, settings)) is is_found
    soft = row("soft", [50.0, 600.0], stiffness=1e-3, asymmetry=1e-6)
    assert "Inexact Hessian" in found(soft, SETTINGS)


@pytest.mark.parametrize(
    ("facts", "title", "words"),
    [
        ({"volume_read": 100.0, "volume": 205.0}, "Another cell", "100.0 to 205.0 Å³, +105 %"),
        ({"volume_read": 100.0, "volume": 75.0}, "Another cell", "-25 %"),
        ({"thinnest": 0.4}, "Another cell", "thinner by 60 %"),
        (
            {"n_bonds_broken": 3, "n_bonds_formed": 1},
            "Other bonds",
            "3 bonds broken, 1 bond formed",
        ),
        ({"shortest_contact": 0.5}, "Atoms too near", "0.50 of the sum"),
        ({"binding": 12.0}, "Absurd energy", "+12 eV an atom"),
        ({"binding": -400.0}, "Absurd energy", "-400 eV"),
        ({"largest_force": np.nan}, "Large forces", "nan"),
        ({"findings": ["a site is half occupied"]}, "As read", "half occupied"),
    ],
)
def test_what_relaxation_made_of_a_structure_is_told(facts, title, words):
    result = found(row("odd", [50.0, 600.0], **facts))
    assert list(result) == [title]
    assert words in result[title]


def test_small_changes_are_not_told():
    sound = {"volume_read": 100.0, "volume": 112.0, "thinnest": 0.93, "n_bonds_broken": 0}
    sound |= {"n_bonds_formed": 0, "shortest_contact": 0.77, "binding": -3.0, "largest_stress": 0.3}
    assert found(row("sound", [50.0, 600.0], **sound)) == {}


@pytest.mark.parametrize(
    ("settings", "converged", "is_found"),
    [
        (replace(SETTINGS, relax=False), None, True),
        (replace(SETTINGS, relax_cell=False), True, True),
        (replace(SETTINGS, relax_cell=False), False, True),
        (SETTINGS, False, False),  # that it has not converged says more
        (SETTINGS, True, True),
    ],
)
def test_stress_that_is_left_is_told(settings, converged, is_found):
    pressed = row("pressed", [50.0, 600.0], converged=converged, largest_stress=6.0)
    assert ("Under stress" in found(pressed, settings)) is is_found
    assert "Under stress" not in found(row("at rest", [50.0], largest_stress=0.5), settings)


def test_frequencies_and_numbers_of_modes_that_cannot_be_are_told():
    high = found(row("high", [50.0, 9000.0, -7000.0]))
    assert high["Frequencies too high"] == "2 modes, up to 9e+03 cm-1"
    many = found(row("many", np.linspace(50, 900, 10), n_atoms=3))
    assert many["Too many modes"] == "3.33 modes an atom"
    assert "Too many modes" not in found(row("all", np.linspace(50, 900, 9), n_atoms=3))


def test_atoms_that_do_not_feel_each_other_are_told():
    assert "none of its 3 atoms" in found(row("far", [0.0, 0.0, 0.0]))["No vibrations"]
    assert "No vibrations" not in found(row("atom", [], n_atoms=1))


@pytest.mark.usefixtures("blank_images")
def test_references_above_dulong_petit_are_named(tmp_path):
    """O2Si, 60 amu: 3 k_B an atom are 1.245 J/(g K)."""
    per_mole = Reference("PBE", 300.0, {"alpha": 44.0, "beta": 0.7})
    page = written(tmp_path, ROWS, references=[per_mole])
    assert "1 value of the reference above 3 k B an atom" in page.text
    assert "alpha. Are they in J/(g K)?" in page.text
    close = Reference("PBE", 300.0, {"alpha": 1.3})
    assert "above 3 k" not in written(tmp_path, ROWS, references=[close]).text


# Facts of real relaxations.


def test_salt_read_with_twice_its_volume_is_told(thread, tmp_path):
    start = {"swollen": bulk("NaCl", "rocksalt", a=7.4), "sound": bulk("NaCl", "rocksalt", a=5.64)}
    swollen, sound = screen(start, tmp_path, ScreenSettings("embedded"), executor=thread).rows()
    assert swollen.record.volume_read == pytest.approx(7.4**3 / 4)
    assert swollen.record.volume == pytest.approx(sound.record.volume, rel=1e-3)
    assert "-54 %" in found(swollen)["Another cell"]
    assert set(found(sound)) == {"Gamma alone"}
    assert sound.record.binding < 0


def test_bonds_are_counted_once_and_through_the_cell():
    for box in None, 2.9:  # in the box, the molecule lies across a face
        water = molecule("H2O", cell=None if box is None else [box, 9, 9], pbc=box is not None)
        assert changes(water, water)["n_bonds_broken"] == 0
        far = water.copy()
        far.positions[0] += [0, 0, 3]
        assert changes(water, far)["n_bonds_broken"] == 2
        assert changes(far, water)["n_bonds_formed"] == 2


def test_height_of_a_flatter_cell():
    cube = Atoms("Ar", cell=[4, 4, 4], pbc=True)
    flat = Atoms("Ar", cell=[[8, 0, 0], [0, 4, 0], [3, 0, 2]], pbc=True)
    result = changes(cube, flat)
    assert result["thinnest"] == pytest.approx(0.5)
    assert result["volume_read"] == pytest.approx(64)
    assert changes(molecule("H2"), molecule("H2"))["thinnest"] is None


@pytest.mark.parametrize("name", ["quartz", "sodalite"])
def test_published_structures_keep_their_bonds(name):
    atoms = mf.example_structure(name)
    strained = atoms.copy()
    strained.set_cell(1.04 * atoms.cell.array, scale_atoms=True)
    strained.rattle(0.05, seed=0)
    result = changes(atoms, strained)
    assert (result["n_bonds_broken"], result["n_bonds_formed"]) == (0, 0)
