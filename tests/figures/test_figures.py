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
from mace_functional.expansion import Gruneisen
from mace_functional.figures import band_figure, thermo_figure, young_figure
from mace_functional.figures.axes import BLUE, ELEMENTS, RED
from mace_functional.phonons import BandStructure, DensityOfStates
from mace_functional.units import frequency_factor

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


@pytest.fixture(scope="module")
def expanding():
    """First orders of xenon in its hexagonal and its cubic crystal, temperatures in disorder."""
    return {
        name: mf.thermal_expansion(
            xenon(), relaxed_crystal(name), [60.0, 5.0, 20.0], mesh=(1, 1, 2), chunk_size=None
        )
        for name in ("hcp", "fcc")
    }


def drawn(axes, **style):
    """Curves of a panel with points, by label; or of another style."""
    style = style or {"get_marker": "o"}
    return {
        line.get_label(): line.get_xydata().T
        for line in axes.lines
        if all(getattr(line, name)() == value for name, value in style.items())
    }


def test_expansion_has_one_curve_and_one_panel_for_each_different_lattice_vector(expanding):
    result, order = expanding["hcp"], [1, 2, 0]
    expansion, a, c, volume = figures.expansion_figure(result).axes
    assert [text.get_text() for text in expansion.get_legend().get_texts()] == ["a, b", "c"]
    assert [axes.get_ylabel() for axes in (a, c)] == ["$a = b$ (Å)", "$c$ (Å)"]
    cells = relaxed_crystal("hcp").cell.array @ (np.eye(3) + result.strain[order].numpy())
    for name, axes, k in ("a, b", a, 0), ("c", c, 2):
        t, alpha = drawn(expansion)[name]
        assert t.tolist() == [5, 20, 60]
        np.testing.assert_allclose(alpha, 1e6 * result.expansion[order, k, k], rtol=1e-9)
        ((_, lengths),) = drawn(axes).values()
        np.testing.assert_allclose(lengths, np.linalg.norm(cells[:, k], axis=1), rtol=1e-9)
    ((_, volumes),) = drawn(volume).values()
    np.testing.assert_allclose(volumes, np.linalg.det(cells), rtol=1e-9)


def test_a_primitive_cell_has_the_lengths_of_the_conventional_one(expanding):
    result = expanding["fcc"]
    expansion, a, volume = figures.expansion_figure(result).axes
    primitive = np.abs(np.linalg.det(result.cells[[1, 2, 0]]))
    np.testing.assert_allclose(drawn(a)["a, b, c"][1], (4 * primitive) ** (1 / 3), rtol=1e-9)
    ((_, volumes),) = drawn(volume).values()
    np.testing.assert_allclose(volumes, 4 * primitive, rtol=1e-9)
    np.testing.assert_allclose(
        drawn(expansion)["a, b, c"][1], 1e6 / 3 * result.volumetric_expansion[[1, 2, 0]], rtol=1e-9
    )
    assert expansion.get_legend() is None


def test_the_first_order_is_dashed_beside_the_other_result(expanding):
    result = expanding["hcp"]
    first = dataclasses.replace(
        result, expansion=0.5 * result.expansion, strain=0.1 * result.strain
    )
    expansion, a, c, volume = figures.expansion_figure(result, first).axes
    for axes, k in (a, 0), (c, 2):
        (dashed,) = drawn(axes, is_dashed=True).values()
        lengths = first.cells[[1, 2, 0], k].norm(dim=-1)
        np.testing.assert_allclose(dashed, [[5, 20, 60], lengths], rtol=1e-9)
    assert len(drawn(volume, is_dashed=True)) == 1
    dashed = [line.get_ydata() for line in expansion.lines if line.is_dashed()]
    np.testing.assert_allclose(dashed[0], 0.5 * drawn(expansion)["a, b"][1], rtol=1e-9)
    assert expansion.get_legend().get_texts()[-1].get_text() == "first order"
    with pytest.raises(ValueError, match="lattice parameters are a, b, c, not a, b and c"):
        figures.expansion_figure(result, expanding["fcc"])


def test_heat_capacities_at_constant_pressure_and_volume_and_their_difference(expanding):
    result = expanding["hcp"]
    capacities, difference = figures.cp_figure(result).axes
    cp, cv = result.specific_cp[[1, 2, 0]], result.specific_cv[[1, 2, 0]]
    np.testing.assert_array_equal(drawn(capacities)["$C_p$"], [[5, 20, 60], cp])
    np.testing.assert_array_equal(drawn(capacities)["$C_V$"], [[5, 20, 60], cv])
    ((_, percent),) = drawn(difference).values()
    np.testing.assert_allclose(percent, 100 * (cp / cv - 1), rtol=1e-9)
    both = figures.cp_figure(result, dataclasses.replace(result)).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in both] == ["$C_p$", "$C_V$", "first order"]


def gruneisen_of(bands, parameters):
    """Parameters of bands in THz."""
    eigenvalues = bands.frequencies.sign() * (bands.frequencies / frequency_factor("THz")) ** 2
    gamma = torch.tensor(parameters, dtype=torch.float64)
    return Gruneisen(
        q=bands.q,
        eigenvalues=eigenvalues,
        tensors=gamma[..., None, None] * torch.eye(3, dtype=torch.float64),
        strains="all",
        mesh=None,
        projector=torch.eye(3, dtype=torch.float64),
    )


def coloured(figure):
    """Ends (x, y) and parameters of the lines of a figure of bands, in the order of x."""
    (lines,) = (c for c in figure.axes[0].collections if c.get_array() is not None)
    ends = [
        (*segment.flatten().round(9).tolist(), float(value))
        for segment, value in zip(lines.get_segments(), lines.get_array(), strict=True)
    ]
    return lines, sorted(ends)


GAMMAS = [[np.nan, 2.0], [-1.0, 2.5], [-1.5, 3.0], [1.0, 2.0], [0.5, 1.5], [0.0, 1.0]]


def test_bands_have_the_colours_of_their_gruneisen_parameters_from_half_step_to_half_step():
    figure = figures.gruneisen_band_figure(STABLE, gruneisen_of(STABLE, GAMMAS))
    lines, ends = coloured(figure)
    lower = [row for row in ends if row[1] < 4 and row[3] <= 3]
    # The acoustic mode at Gamma has the colour of the next point; no line bridges the jump.
    assert lower == [
        (0.0, 0.0, 0.25, 0.5, -1.0),
        (0.25, 0.5, 0.5, 1.0, -1.0),
        (0.5, 1.0, 0.75, 1.5, -1.0),
        (0.75, 1.5, 1.0, 2.0, -1.5),
        (1.0, 3.0, 1.25, 2.5, 1.0),
        (1.25, 2.5, 1.5, 2.0, 0.5),
        (1.5, 2.0, 1.75, 1.5, 0.5),
        (1.75, 1.5, 2.0, 1.0, 0.0),
    ]
    assert len(ends) == 16
    low, high = lines.get_clim()
    assert low == -high
    assert 2.5 < high < 3
    assert figures.gruneisen_band_figure(STABLE, gruneisen_of(STABLE, GAMMAS), limit=4.0).axes[
        0
    ].collections[0].get_clim() == (-4, 4)
    assert figure.axes[0].get_ylabel() == "frequency (THz)"
    assert figure.axes[1].get_ylabel() == "Grüneisen parameter"
    red, grey, blue = lines.cmap([0.25, 0.5, 0.75])
    np.testing.assert_allclose([red, blue], [to_rgba(RED), to_rgba(BLUE)], atol=0.01)
    assert np.ptp(grey[:3]) < 0.1


def test_degenerate_bands_have_the_mean_of_their_parameters():
    both = bands([[3, 3]] * 6)
    _, ends = coloured(figures.gruneisen_band_figure(both, gruneisen_of(both, [[-1.0, 2.0]] * 6)))
    assert {row[-1] for row in ends} == {0.5}


def test_imaginary_parts_have_no_colour_and_are_drawn_as_in_a_band_structure():
    gamma = np.where(UNSTABLE.frequencies < 0, np.nan, 1.0)
    figure = figures.gruneisen_band_figure(UNSTABLE, gruneisen_of(UNSTABLE, gamma))
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    expected = [line.get_xydata() for line in band_figure(UNSTABLE).axes[0].lines]
    red = [line for line in axes.lines if line.get_color() == RED]
    assert len(red) == 4
    for line in red:
        assert any(np.allclose(line.get_xydata(), data) for data in expected)
        np.testing.assert_allclose(shown(line), [low, 0], atol=1e-9)
    lines, _ = coloured(figure)
    np.testing.assert_allclose(shown(lines), [0, high], atol=1e-9)


def test_parameters_of_other_wave_vectors_are_refused():
    other = dataclasses.replace(gruneisen_of(STABLE, GAMMAS), q=torch.ones(6, 3))
    with pytest.raises(ValueError, match="not at the wave vectors of the bands"):
        figures.gruneisen_band_figure(STABLE, other)


def test_gruneisen_parameters_without_rigid_motions():
    found = mf.gruneisen(
        xenon(), relaxed_crystal("fcc"), [(0, 0, 0), (0.5, 0, 0)], strains="symmetric"
    )
    (axes,) = figures.gruneisen_figure(found, unit="THz").axes
    points = np.ma.masked_invalid(axes.collections[0].get_offsets())
    drawn = np.asarray(points[~np.ma.getmaskarray(points).any(1)])
    np.testing.assert_allclose(drawn[:, 0], found.frequencies_in("THz")[1])
    np.testing.assert_allclose(drawn[:, 1], found.parameters[1])
