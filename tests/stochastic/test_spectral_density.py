"""Densities of states by kernel polynomials against all frequencies, broadened by Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from pair_crystals import ions, relaxed

import mace_functional as mf


@pytest.fixture(scope="module")
def salt() -> Atoms:
    return relaxed("salt") * (2, 2, 1)


def spanned(atoms: Atoms, **options) -> mf.StochasticDensityOfStates:
    """The density from vectors that span everything, without a statistical error."""
    return mf.stochastic_dos(ions(), atoms, n_passes=2, n_colours=len(atoms), **options)


def gaussians(frequencies: np.ndarray, found: mf.StochasticDensityOfStates) -> np.ndarray:
    """Normal distributions as wide as the kernel at each frequency."""
    grid = found.frequencies.numpy()
    widths = np.interp(frequencies, grid, found.resolution.numpy())
    shapes = np.exp(-0.5 * ((grid[:, None] - frequencies) / widths) ** 2) / widths
    return shapes.sum(1) / np.sqrt(2 * np.pi)


def test_the_density_is_the_spectrum_broadened_by_the_resolution(salt):
    frequencies = mf.gamma_modes(ions(), salt).frequencies.numpy()
    found = spanned(salt, resolution=8.0, grid=np.arange(-20.0, 320.0, 1.0))
    expected = gaussians(frequencies, found)
    assert float(found.error.max()) < 1e-10
    assert np.abs(found.total.numpy() - expected).max() < 0.12 * expected.max()
    assert found.resolution.max() <= 8.0
    assert found.resolution[found.frequencies < frequencies[-1]].min() > 0
    # the mean of each frequency over the density, which the kernel hardly moves
    step = float(found.frequencies[1] - found.frequencies[0])
    assert float((found.total * found.frequencies).sum() * step) == pytest.approx(
        frequencies.sum(), rel=2e-3
    )


@pytest.mark.parametrize(("unit", "resolution"), [("cm-1", 20.0), ("THz", 0.6), ("meV", 5.0)])
def test_all_modes_are_counted(salt, unit, resolution):
    found = mf.stochastic_dos(ions(), salt, resolution=resolution, unit=unit, n_passes=2)
    step = float(found.frequencies[1] - found.frequencies[0])
    assert float(found.total.sum()) * step == pytest.approx(3 * len(salt) - 3, rel=1e-9)
    assert found.unit == unit
    assert f"{unit}; {found.n_products} Hessian-vector products" in repr(found)


def test_errors_cover_the_exact_density(salt):
    grid = np.arange(60.0, 300.0, 12.0)
    exact = spanned(salt, resolution=25.0, grid=grid)
    found = mf.stochastic_dos(ions(), salt, resolution=25.0, grid=grid, n_passes=5)
    deviation = (found.total - exact.total).abs()
    assert found.n_products < exact.n_products
    assert (deviation <= 3 * found.error).double().mean() > 0.9
    assert (found.error > 0).any()


def test_imaginary_modes_are_at_negative_frequencies(salt):
    rattled = salt.copy()
    rattled.rattle(0.5, seed=1)
    frequencies = mf.gamma_modes(ions(), rattled).frequencies
    width = float(frequencies.abs().max()) / 25
    found = spanned(rattled, resolution=width)
    step = float(found.frequencies[1] - found.frequencies[0])
    below = float(found.total[found.frequencies < 0].sum()) * step
    assert frequencies[0] < -2 * width
    assert below == pytest.approx(int((frequencies < 0).sum()), abs=3)
    assert float(found.total.sum()) * step == pytest.approx(3 * len(salt) - 3, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0.0}, "resolution must be"),
        ({"resolution": 1e-6}, "choose a larger resolution"),
        ({"n_passes": 1}, "n_passes must be"),
        ({"n_colours": 0}, "n_colours must be"),
        ({"grid": [1.0, 2.0, 4.0]}, "evenly spaced"),
        ({"grid": [1.0]}, "at least two frequencies"),
        ({"unit": "Hz"}, "unknown unit"),
    ],
)
def test_bad_options_are_refused(salt, options, message):
    with pytest.raises(ValueError, match=message):
        mf.stochastic_dos(ions(), salt, **options)


def test_a_single_atom_has_no_density():
    with pytest.raises(ValueError, match="a single atom has no vibrations"):
        mf.stochastic_dos(ions(), Atoms("Na"))
