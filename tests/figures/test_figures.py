"""Figures of spectra, heat capacities and bands."""

from __future__ import annotations

import dataclasses

import keating
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from matplotlib.colors import to_rgba
from pair_crystals import relaxed as relaxed_crystal
from pair_crystals import xenon
from scipy.integrate import trapezoid

import mace_functional as mf
from mace_functional import figures
from mace_functional.certificate.certificate import Certificate, Check
from mace_functional.certificate.comparison import Verdict
from mace_functional.figures import band_figure, thermo_figure, young_figure
from mace_functional.figures.axes import BLUE, ELEMENTS, RED
from mace_functional.phonons import BandStructure, DensityOfStates

REAL = torch.tensor([40.0, 250.0, 250.0, 1100.0, 3700.0], dtype=torch.float64)
MIXED = torch.cat([torch.tensor([-80.0, -5.0], dtype=torch.float64), REAL])
TEMPERATURES = [100.0, 300.0, 500.0]
MASS = 60.08


def curves(axes, colour):
    return [line.get_xydata().T for line in axes.lines if line.get_color() == colour]


def test_density_of_states_integrates_to_the_number_of_modes():
    spectrum = thermo_figure(MIXED, TEMPERATURES, MASS).axes[0]
    for colour, modes in (BLUE, 5), (RED, 2):
        ((wavenumbers, density),) = curves(spectrum, colour)
        assert trapezoid(density, wavenumbers) == pytest.approx(modes, rel=1e-4)


def test_density_of_states_peaks_at_the_frequencies():
    ((wavenumbers, density),) = curves(thermo_figure(REAL, [300.0], MASS).axes[0], BLUE)
    top = wavenumbers[1:-1][(np.diff(density)[:-1] > 0) & (np.diff(density)[1:] <= 0)]
    np.testing.assert_allclose(top, REAL.unique(), atol=1)


def test_each_mode_has_a_line_and_imaginary_ones_are_red_and_counted():
    spectrum = thermo_figure(MIXED, TEMPERATURES, MASS).axes[0]
    marks = {
        tuple(lines.get_color()[0]): sorted(line[0, 0] for line in lines.get_segments())
        for lines in spectrum.collections
        if hasattr(lines, "get_segments")
    }
    assert marks == {to_rgba("0.3"): REAL.tolist(), to_rgba(RED): [-80.0, -5.0]}
    assert [text.get_text() for text in spectrum.get_legend().get_texts()] == ["2 imaginary"]
    assert spectrum.get_xlim()[0] < -80


def test_spectrum_without_imaginary_modes_starts_at_zero_and_shows_no_red():
    spectrum = thermo_figure(REAL, TEMPERATURES, MASS).axes[0]
    assert spectrum.get_xlim()[0] == 0
    assert spectrum.get_legend() is None
    assert curves(spectrum, RED) == []


@pytest.mark.parametrize("frequencies", [REAL, MIXED], ids=["real", "mixed"])
@pytest.mark.filterwarnings("error")
def test_heat_capacity_is_that_of_the_real_modes_from_zero_to_the_highest_temperature(frequencies):
    heat = thermo_figure(frequencies, TEMPERATURES, MASS).axes[1]
    curve, points = curves(heat, BLUE)
    assert (curve[0, 0], curve[0, -1]) == (0, 500)
    assert points[0].tolist() == TEMPERATURES
    for temperatures, capacity in curve, points:
        thermo = mf.harmonic_thermo(REAL, temperatures, unit="cm-1")
        np.testing.assert_allclose(capacity, thermo.specific_heat_capacity([MASS]), rtol=1e-12)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_figure_is_written_in_every_format(suffix, tmp_path):
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    thermo_figure(MIXED, TEMPERATURES, MASS).savefig(tmp_path / f"f.{suffix}")
    assert (tmp_path / f"f.{suffix}").read_bytes().startswith(start)


def test_modes_and_temperatures_may_be_missing_or_zero(tmp_path):
    for frequencies in REAL[:0], MIXED[:2], REAL:
        thermo_figure(frequencies, [0.0], MASS).savefig(tmp_path / "f.png")


def test_figures_of_the_user_are_left_alone(tmp_path):
    users = plt.figure()
    before = dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()
    thermo_figure(MIXED, TEMPERATURES, MASS).savefig(tmp_path / "f.png")
    assert (dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()) == before
    assert plt.gcf() is users
    plt.close(users)


def test_spectrum_of_a_mesh_is_the_weighted_mean():
    mesh = torch.stack([torch.cat([torch.zeros(2), MIXED[2:]]), MIXED]).double()
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    spectrum, heat = thermo_figure(mesh, TEMPERATURES, MASS, weights=weights).axes
    for colour, modes in (BLUE, 5), (RED, 1.5):
        ((wavenumbers, density),) = curves(spectrum, colour)
        assert trapezoid(density, wavenumbers) == pytest.approx(modes, rel=1e-4)
    ((_, capacity), _) = curves(heat, BLUE)
    expected = mf.harmonic_thermo(REAL, [TEMPERATURES[-1]], unit="cm-1").specific_heat_capacity(
        [MASS]
    )
    assert capacity[-1] == pytest.approx(float(expected), rel=1e-12)


def bands(frequencies, unit="THz"):
    """Of two bands on a path of two parts, G-X_1 and K0-G."""
    return BandStructure(
        q=torch.zeros(6, 3),
        distance=torch.tensor([0.0, 0.5, 1.0, 1.0, 1.5, 2.0]),
        labels=((0, "Γ"), (2, "X_1"), (3, "K0"), (5, "SIGMA")),
        starts=(0, 3),
        frequencies=torch.tensor(frequencies, dtype=torch.float64),
        eigenvectors=torch.zeros(0),
        unit=unit,
        connected=False,
    )


STABLE = bands([[0, 4], [1, 5], [2, 6], [3, 7], [2, 5], [1, 4]])
UNSTABLE = bands([[-1, 4], [1, 5], [2, 6], [3, 7], [2, 5], [-2, 4]])
STATES = DensityOfStates(
    frequencies=torch.linspace(-2, 7, 10),
    total=torch.arange(10.0),
    per_atom=torch.arange(10.0) * torch.tensor([[0.5], [0.2], [0.3]]),
    unit="THz",
)


def shown(line):
    """Range of frequencies in which a line is to be seen."""
    box = line.get_clip_box()
    return line.axes.transData.inverted().transform([box.p0, box.p1])[:, 1]


def test_bands_are_drawn_without_a_bridge_where_the_path_jumps():
    (axes,) = band_figure(STABLE).axes
    lines = [line for line in axes.lines if line.get_color() == BLUE]
    found = sorted(tuple(map(tuple, line.get_xydata())) for line in lines)
    x, y = STABLE.distance.numpy(), STABLE.frequencies.numpy()
    parts = slice(0, 3), slice(3, 6)
    expected = [tuple(zip(x[part], y[part, band])) for part in parts for band in (0, 1)]  # noqa: B905
    assert found == sorted(expected)
    assert curves(axes, RED) == []
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylabel() == "frequency (THz)"


def test_labels_of_a_jump_are_joined_and_printed_as_symbols():
    (axes,) = band_figure(STABLE).axes
    assert axes.get_xticks().tolist() == [0, 1, 2]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["Γ", "X$_{1}$|K$_{0}$", "Σ"]


def test_imaginary_parts_of_bands_are_red_and_below_zero():
    (axes,) = band_figure(UNSTABLE).axes
    low, high = axes.get_ylim()
    assert low < -2 < 7 < high
    for colour, part in (BLUE, [0, high]), (RED, [low, 0]):
        lines = [line for line in axes.lines if line.get_color() == colour]
        assert len(lines) == 4
        for line in lines:
            np.testing.assert_allclose(shown(line), part, atol=1e-9)


def test_density_of_states_is_beside_the_bands_with_that_of_each_element():
    bands_axes, axes = band_figure(UNSTABLE, STATES, ["O", "Si", "O"]).axes
    assert axes.get_shared_y_axes().joined(bands_axes, axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["total", "O", "Si"]
    for colour, share in (ELEMENTS[0], 0.8), (ELEMENTS[1], 0.2):
        ((density, frequencies),) = curves(axes, colour)
        np.testing.assert_allclose(density, share * STATES.total, rtol=1e-6)
        np.testing.assert_allclose(frequencies, STATES.frequencies)


def test_density_of_states_of_something_else_is_refused():
    with pytest.raises(ValueError, match="bands are in meV and the density of states in THz"):
        band_figure(bands([[0, 1]] * 6, unit="meV"), STATES)
    with pytest.raises(ValueError, match="2 symbols for the densities of 3 atoms"):
        band_figure(STABLE, STATES, ["O", "Si"])


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_bands_are_written_in_every_format(suffix, tmp_path):
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    band_figure(UNSTABLE, STATES).savefig(tmp_path / f"f.{suffix}")
    assert (tmp_path / f"f.{suffix}").read_bytes().startswith(start)


# One figure for each result, drawn from the result itself.


@pytest.fixture(scope="module")
def relaxed(model):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    return mf.relax(model, atoms)


def test_modes_know_what_their_figures_need(model, relaxed):
    modes = mf.gamma_modes(model, relaxed.atoms, unit="THz")
    spectrum = figures.spectrum_figure(modes).axes[0]
    ((wavenumbers, density),) = curves(spectrum, BLUE)
    assert trapezoid(density, wavenumbers) == pytest.approx(3 * 9 - 6, rel=1e-4)
    assert wavenumbers[np.argmax(density)] > 20  # cm-1, although the modes are in THz
    ((_, capacity), _) = curves(thermo_figure(modes, TEMPERATURES).axes[1], BLUE)
    expected = mf.harmonic_thermo(modes, [TEMPERATURES[-1]]).specific_heat_capacity(
        relaxed.atoms.get_masses()
    )
    assert capacity[-1] == pytest.approx(float(expected), rel=1e-12)


def test_frequencies_alone_need_a_mass():
    with pytest.raises(ValueError, match="give thermo_figure the mass"):
        thermo_figure(REAL, TEMPERATURES)


def test_a_relaxation_is_drawn_step_by_step(relaxed):
    left, right = figures.relaxation_figure(relaxed).axes
    accepted = [step for step in relaxed.history if step.accepted]
    ((_, energies),), ((_, forces),) = curves(left, BLUE), curves(right, BLUE)
    np.testing.assert_allclose(energies / 1000, [s.energy - relaxed.energy for s in accepted])
    np.testing.assert_allclose(forces, [step.largest_force for step in accepted])
    assert energies[-1] == 0
    n_rejected = len(relaxed.history) - len(accepted)
    assert sum(len(x) for x, _ in curves(left, RED)) == n_rejected


def test_a_saddle_point_is_drawn_with_its_minima(model):
    found = mf.find_saddle(model, molecule("NH3"), mode=0)
    left, right = figures.saddle_figure(found).axes
    ((_, forces),) = curves(left, BLUE)
    assert forces[-1] == found.history[-1].largest_force
    levels = sorted(float(line[0, 1]) for line in right.collections[0].get_segments())
    assert levels[0] == 0
    assert levels[-1] == pytest.approx(1000 * max(found.barriers))
    alone = dataclasses.replace(found, barriers=None)
    assert len(figures.saddle_figure(alone).axes[1].collections[0].get_segments()) == 1


def test_the_density_of_states_stands_alone():
    (axes,) = figures.dos_figure(STATES, ["O", "Si", "O"]).axes
    ((density, _),) = curves(axes, ELEMENTS[0])
    np.testing.assert_allclose(density, 0.8 * STATES.total, rtol=1e-6)
    assert axes.get_ylabel() == "frequency (THz)"


def test_the_convergence_of_a_mesh_is_drawn_down_to_its_tolerance(model):
    phonons = mf.phonons_of(model, bulk("NaCl", "rocksalt", a=5.6))
    converged = mf.phonons.converged_mesh_thermo(phonons, [300.0], tolerance=0.02)
    (axes,) = figures.mesh_convergence_figure(converged).axes
    ((counts, errors),) = curves(axes, BLUE)
    np.testing.assert_allclose(errors, [step.error for step in converged.steps[1:]])
    assert counts.tolist() == [step.n_q for step in converged.steps[1:]]
    ((_, limit),) = curves(axes, RED)
    assert set(limit) == {0.02}


def test_a_certificate_shows_what_holds_and_what_fails():
    rows = [("holds", 1e-9, 1e-6), ("fails", 1e-3, 1e-6), ("exact", 0.0, 1e-6)]
    checks = [
        Check(name, "", Verdict.FAILS if error > bound else Verdict.HOLDS, error, bound, 2.0)
        for name, error, bound in rows
    ]
    checks.append(Check("absent", "", Verdict.NOT_APPLICABLE))
    (axes,) = figures.certificate_figure(Certificate("E", "H2", tuple(checks), 1.0)).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["holds", "fails", "exact"]
    ((good, at),) = curves(axes, BLUE)
    assert (good[0], at.tolist()) == (5e-10, [0, 2])
    ((bad, at),) = curves(axes, RED)
    assert (bad.tolist(), at.tolist()) == ([5e-4], [1])


def spring_crystal() -> mf.ElasticConstants:
    return mf.elastic_constants(keating.Keating(), keating.diamond())


def test_surface_of_young_moduli_has_the_moduli_as_distances_from_the_centre():
    constants = spring_crystal()
    surface, sections, scale = young_figure(constants).axes
    (xy, *_) = sections.lines
    x, y = xy.get_data()
    n = np.stack([x, y, 0 * x], 1)
    np.testing.assert_allclose(np.hypot(x, y), constants.young_modulus(n), rtol=1e-12)
    assert [line.get_label() for line in sections.lines[:3]] == [
        "xy plane", "xz plane", "yz plane",
    ]  # fmt: skip
    assert "GPa" in scale.get_ylabel()
    assert surface.collections


def test_young_moduli_of_a_slab_are_one_section_and_a_rod_is_refused():
    crystal = spring_crystal()
    slab = dataclasses.replace(
        crystal,
        unit="N/m",
        axes=crystal.axes[:2],
        stress=crystal.stress[:2, :2],
        second_derivative=crystal.second_derivative[:2, :2, :2, :2],
    )
    (section,) = young_figure(slab).axes
    assert "N/m" in section.get_xlabel()
    rod = dataclasses.replace(slab, axes=crystal.axes[:1])
    with pytest.raises(ValueError, match="a rod has one direction"):
        young_figure(rod)


def test_expansion_has_one_curve_for_each_different_direction():
    atoms = relaxed_crystal("hcp")
    result = mf.thermal_expansion(xenon(), atoms, [60.0, 5.0, 20.0], mesh=(1, 1, 2))
    expansion, strain = figures.expansion_figure(result).axes
    assert [text.get_text() for text in expansion.get_legend().get_texts()] == ["x, y", "z"]
    along = {line.get_label(): line.get_xydata().T for line in strain.lines}
    np.testing.assert_array_equal(along["z"][0], [5, 20, 60])
    np.testing.assert_allclose(along["z"][1], 100 * result.strain[[1, 2, 0], 2, 2])


def test_gruneisen_parameters_without_rigid_motions():
    found = mf.gruneisen(
        xenon(), relaxed_crystal("fcc"), [(0, 0, 0), (0.5, 0, 0)], strains="symmetric"
    )
    (axes,) = figures.gruneisen_figure(found, unit="THz").axes
    points = np.ma.masked_invalid(axes.collections[0].get_offsets())
    drawn = np.asarray(points[~np.ma.getmaskarray(points).any(1)])
    np.testing.assert_allclose(drawn[:, 0], found.frequencies_in("THz")[1])
    np.testing.assert_allclose(drawn[:, 1], found.parameters[1])
