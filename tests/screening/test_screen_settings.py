"""Settings of a screening, and what results are kept under."""

from __future__ import annotations

from mace_functional.screening.screen_settings import ScreenSettings


def test_results_are_kept_under_the_keys_of_the_first_version():
    assert ScreenSettings("embedded").identity() == {
        "head": None,
        "dtype": "float64",
        "dispersion": None,
        "relax": True,
        "cell": True,
        "fmax": 1e-3,
        "max_steps": 1000,
        "mesh": None,
    }
    on_mesh = ScreenSettings("embedded", relax_cell=False, mesh="auto").identity()
    assert on_mesh["cell"] is False
    assert {"mesh", "mesh_tolerance", "mesh_temperature", "symprec"} < set(on_mesh)
    assert "relax_cell" not in on_mesh
