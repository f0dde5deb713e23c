"""Screening with potentials that are no MACE models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from ase import Atoms
from pair_potential import smooth_pairs

import mace_functional as mf

DIMERS = {f"d{k}": Atoms("Ar2", [[0, 0, 0], [0, 0, d]]) for k, d in enumerate((2.2, 2.9))}


def attractive(near: mf.Neighbourhood, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """A Morse potential that fades at 8 Å."""
    x = torch.exp(-(near.distances - params["length"]))
    return near.sum(0.5 * (x * x - 2 * x) * (1 - (near.distances / 8.0) ** 2) ** 4)


def morse() -> mf.FunctionPotential:
    return mf.FunctionPotential(attractive, cutoff=8.0, params={"length": 2.5})


SETTINGS = mf.ScreenSettings("morse", fmax=1e-6)


def screened(tmp_path, potential=None, settings=SETTINGS, **options):
    return mf.screen(
        DIMERS,
        tmp_path / "out",
        settings,
        potential=potential or morse(),
        executor=ThreadPoolExecutor(2),
        **options,
    )


def test_stretch_of_a_dimer_is_that_of_its_pair(tmp_path):
    found = screened(tmp_path)
    expected = mf.gamma_modes(morse(), mf.relax(morse(), DIMERS["d0"], fmax=1e-8).atoms)
    for row in found.rows():
        assert row.record.failure is None
        (stretch,) = row.spectrum.frequencies[0][row.spectrum.frequencies[0] != 0].tolist()
        assert stretch == pytest.approx(float(expected.frequencies[0]), rel=1e-6)
    assert "morse" in found.report().read_text()


def test_another_parameter_is_another_result_and_the_same_is_kept(tmp_path):
    first = screened(tmp_path)
    again = screened(tmp_path)
    assert [r.key for r in again.records] == [r.key for r in first.records]
    longer = mf.FunctionPotential(attractive, cutoff=8.0, params={"length": 2.6})
    other = screened(tmp_path, longer)
    assert not {r.key for r in other.records} & {r.key for r in first.records}


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="belong to the model that settings name"):
        screened(tmp_path, settings=mf.ScreenSettings("morse", dispersion="pbe"))
    with pytest.raises(ValueError, match=r"in torch.float32 and the settings say float64"):
        screened(tmp_path, morse().to(dtype=torch.float32))
    with pytest.raises(ValueError, match="cannot be sent to processes"):
        mf.screen(DIMERS, tmp_path / "out", SETTINGS, potential=smooth_pairs())
