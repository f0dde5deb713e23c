"""Relaxation: against ASE's optimisers, and what it does where they would fail."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedLine, FixedPlane
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa
from conftest import shared_file
from helpers import mostly_slow

import mace_functional as mf


def by_bfgs(atoms, model, fmax, **cell_filter):
    """The same by ASE."""
    atoms = atoms.copy()
    atoms.calc = mf.MaceCalculator(model)
    target = FrechetCellFilter(atoms, **cell_filter) if atoms.pbc.any() else atoms
    assert BFGS(target, logfile=None).run(fmax=fmax, steps=1000)
    return atoms


def falls(result):
    """Whether energies of accepted steps never rise, but for rounding."""
    energies = np.array([step.energy for step in result.history if step.accepted])
    return (np.diff(energies) < 1e-13 * abs(energies[0])).all()


def forces_of(atoms, model):
    atoms = atoms.copy()
    atoms.set_constraint()
    atoms.calc = mf.MaceCalculator(model)
    return atoms.get_forces()


@pytest.mark.parametrize("name", mostly_slow(["ethanol", "benzene", "quartz"], {"quartz"}))
def test_ends_in_the_minimum_that_bfgs_finds(name, model):
    start = mf.example_structure(name)
    result = mf.relax(model, start, fmax=1e-6)
    expected = by_bfgs(start, model, 1e-5)
    assert result.converged, result.reason
    assert falls(result)
    assert abs(result.energy - expected.get_potential_energy()) < 1e-7
    np.testing.assert_allclose(
        result.atoms.get_volume() if start.pbc.any() else 0,
        expected.get_volume() if start.pbc.any() else 0,
        rtol=1e-5,
    )
    assert np.linalg.norm(forces_of(result.atoms, model), axis=1).max() <= 1e-6
    assert result.n_gradients == len(result.history) < 20


def test_results_on_the_atoms_are_those_of_the_calculator(model):
    start = mf.example_structure("quartz")
    relaxed = mf.relax(model, start, fmax=1e-3).atoms
    here = relaxed.copy()
    here.calc = mf.MaceCalculator(model)
    assert abs(relaxed.get_potential_energy() - here.get_potential_energy()) < 1e-10
    np.testing.assert_allclose(relaxed.get_forces(), here.get_forces(), atol=1e-10)
    np.testing.assert_allclose(relaxed.get_stress(), here.get_stress(), atol=1e-10)
    assert np.array_equal(start.positions, mf.example_structure("quartz").positions)


@pytest.mark.parametrize(
    ("options", "cell_filter"),
    [
        pytest.param({"pressure": 5.0}, {"scalar_pressure": 5.0 * GPa}, marks=pytest.mark.slow),
        ({"relax_cell": [0, 0, 1, 0, 0, 0]}, {"mask": [0, 0, 1, 0, 0, 0]}),
        pytest.param(
            {"relax_cell": "isotropic"}, {"hydrostatic_strain": True}, marks=pytest.mark.slow
        ),
        pytest.param({"relax_cell": False}, {"mask": [0] * 6}, marks=pytest.mark.slow),
    ],
)
def test_cell_as_it_is_asked_for(options, cell_filter, model):
    start = mf.example_structure("quartz")
    start.rattle(0.02, seed=0)
    result = mf.relax(model, start, fmax=1e-5, **options)
    expected = by_bfgs(start, model, 1e-5, **cell_filter)
    assert result.converged, result.reason
    assert falls(result)
    assert abs(result.atoms.get_potential_energy() - expected.get_potential_energy()) < 1e-6
    np.testing.assert_allclose(result.atoms.cell.lengths(), expected.cell.lengths(), rtol=1e-4)


def test_fixed_axes_keep_their_length_to_the_last_digit(model):
    start = mf.example_structure("quartz")
    result = mf.relax(model, start, relax_cell=[0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(result.atoms.cell.array[:2], start.cell.array[:2])
    assert abs(result.atoms.cell.array[2, 2] - start.cell.array[2, 2]) > 1e-3


def test_pressure_is_balanced_by_stress(model):
    result = mf.relax(model, mf.example_structure("quartz"), pressure=3.0, fmax=1e-6)
    np.testing.assert_allclose(
        result.atoms.get_stress(), [-3.0 * GPa] * 3 + [0] * 3, atol=1e-5 * GPa * 100
    )
    volume, energy = result.atoms.get_volume(), result.atoms.get_potential_energy()
    assert abs(result.energy - (energy + 3.0 * GPa * volume)) < 1e-9


def test_slab_keeps_its_vacuum_and_relaxes_in_its_plane(model):
    slab = bulk("NaCl", "rocksalt", a=5.4, cubic=True)
    slab.center(vacuum=6.0, axis=2)
    slab.pbc = [True, True, False]
    result = mf.relax(model, slab, fmax=1e-4)
    assert result.converged, result.reason
    assert result.atoms.cell[2, 2] == slab.cell[2, 2]
    assert result.atoms.cell[0, 0] != slab.cell[0, 0]
    by_stress = result.atoms.copy()
    by_stress.pbc, by_stress.calc = True, mf.MaceCalculator(model)
    assert abs(by_stress.get_stress()[[0, 1, 5]]).max() * slab.get_volume() / len(slab) < 1e-4


def test_space_group_is_kept_to_rounding(model):
    spglib = pytest.importorskip("spglib")
    start = mf.example_structure("quartz")
    start.set_cell(start.cell * [[1.03], [1.03], [0.98]], scale_atoms=True)
    result = mf.relax(model, start, symmetry=True, fmax=1e-6)
    assert result.converged, result.reason

    def group(atoms, symprec):
        cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        return spglib.get_symmetry_dataset(cell, symprec=symprec).number

    assert group(result.atoms, 1e-7) == group(start, 1e-3) > 1
    free = mf.relax(model, start, fmax=1e-6)
    assert abs(free.energy - result.energy) < 1e-8


def test_symmetry_holds_a_molecule_at_a_saddle_point_that_it_would_leave(model):
    planar = molecule("NH3")
    planar.positions[:, 2] = 0.0
    free = mf.relax(model, planar, fmax=1e-5)
    held = mf.relax(model, planar, fmax=1e-5, symmetry=True)
    assert free.converged
    assert held.converged
    assert np.ptp(held.atoms.positions[:, 2]) < 1e-6
    assert free.energy < held.energy - 0.05
    assert mf.gamma_modes(model, free.atoms).n_imaginary == 0
    assert mf.gamma_modes(model, held.atoms).n_imaginary == 1


@pytest.mark.parametrize(
    "constraint",
    [
        pytest.param(FixAtoms([0, 4]), marks=pytest.mark.slow),
        FixCartesian([1, 2], mask=(True, False, True)),
        pytest.param(FixedLine([0, 3], [1, 1, 0]), marks=pytest.mark.slow),
        FixedPlane([0, 3], [0, 1, 2]),
    ],
    ids=lambda c: type(c).__name__,
)
def test_constraints_hold(constraint, model):
    start = mf.example_structure("ethanol")
    start.rattle(0.05, seed=2)
    start.set_constraint(constraint)
    result = mf.relax(model, start, fmax=1e-5)
    assert result.converged, result.reason
    expected = start.copy()
    expected.set_positions(result.atoms.positions)  # ASE takes out what the constraint forbids
    np.testing.assert_allclose(result.atoms.positions, expected.positions, atol=1e-12)
    assert np.linalg.norm(result.atoms.get_forces(), axis=1).max() <= 1.0001e-5
    assert isinstance(result.atoms.constraints[0], type(constraint))


def test_atoms_that_are_held_stay_to_the_last_digit_and_follow_the_cell(model):
    start = mf.example_structure("quartz")
    start.rattle(0.05, seed=0)
    start.set_constraint(FixAtoms([2, 5]))
    still = mf.relax(model, start, relax_cell=False)
    np.testing.assert_array_equal(still.atoms.positions[[2, 5]], start.positions[[2, 5]])
    strained = mf.relax(model, start)
    assert abs(strained.atoms.cell.array - start.cell.array).max() > 1e-3
    np.testing.assert_allclose(
        strained.atoms.get_scaled_positions()[[2, 5]],
        start.get_scaled_positions()[[2, 5]],
        atol=1e-12,
    )


def test_where_nothing_is_free_the_structure_is_at_rest(model, tmp_path):
    start = molecule("H2O")
    start.set_constraint(FixAtoms([0, 1, 2]))
    for atoms in (start, molecule("H")):
        result = mf.relax(model, atoms, checkpoint=tmp_path / f"{len(atoms)}.npz")
        assert result.converged
        assert result.outcome is mf.Outcome.NOTHING_FREE


@pytest.mark.parametrize(("shift", "seed"), mostly_slow([(0.25, 0), (0.5, 1)], [(0.25, 0)]))
def test_atoms_that_overlap_come_apart(shift, seed, model):
    start = molecule("H2O")
    start.positions[1] = start.positions[0] + [0, 0, shift]
    start.rattle(0.02, seed=seed)
    result = mf.relax(model, start)
    assert falls(result)
    assert result.converged, result.reason
    assert result.atoms.get_all_distances()[np.triu_indices(3, 1)].min() > 0.6


def test_rattled_framework_comes_back(model):
    start = mf.example_structure("quartz")
    home = mf.relax(model, start)
    start.rattle(0.3, seed=1)
    result = mf.relax(model, start)
    assert falls(result)
    assert abs(result.energy - home.energy) < 1e-5


def test_flat_directions_are_no_obstacle(model):
    far = Atoms("H2", [[0, 0, 0], [0, 0, 12.0]])
    result = mf.relax(model, far)
    assert result.converged
    assert result.outcome is mf.Outcome.FLAT
    pair = molecule("H2O") + molecule("H2O")
    pair.positions[3:] += [0, 0, 9.0]
    result = mf.relax(model, pair, fmax=1e-5)
    assert result.converged, result.reason


def test_limit_of_steps_keeps_the_best_structure(model):
    start = mf.example_structure("ethanol")
    start.rattle(0.1, seed=1)
    result = mf.relax(model, start, max_steps=4)
    assert not result.converged
    assert result.outcome is mf.Outcome.MAX_STEPS
    assert "4 gradients" in result.reason
    assert result.n_gradients == 4
    here = result.atoms.copy()
    here.calc = mf.MaceCalculator(model)
    assert abs(here.get_potential_energy() - result.energy) < 1e-10
    assert result.energy == min(step.energy for step in result.history)


def test_single_precision_says_where_it_ends():
    model = mf.load_model("embedded", dtype=torch.float32)
    start = mf.example_structure("ethanol")
    assert mf.relax(model, start, fmax=1e-3).converged
    result = mf.relax(model, start, fmax=1e-9)
    assert not result.converged
    assert result.outcome is mf.Outcome.NOISE_LIMIT
    assert result.last.largest_force < 1e-3


def test_bad_input_is_refused(model):
    water = molecule("H2O")
    twice = water.copy()
    twice.positions[1] = twice.positions[0]
    with pytest.raises(ValueError, match="apart: remove the duplicate"):
        mf.relax(model, twice)
    broken = water.copy()
    broken.positions[1, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        mf.relax(model, broken)
    with pytest.raises(ValueError, match="fmax must be a finite number above zero"):
        mf.relax(model, water, fmax=0)
    with pytest.raises(ValueError, match="a pressure needs a crystal"):
        mf.relax(model, water, pressure=1.0)
    quartz = mf.example_structure("quartz")
    for cell in ("cubic", [True, False], [2, 0, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match=r"xx, yy|six booleans"):
            mf.relax(model, quartz, relax_cell=cell)
    water.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="does not support the constraint FixBondLength"):
        mf.relax(model, water)


def test_trial_without_an_energy_is_refused(model, monkeypatch):
    """A NaN on the way costs a step, not the structure."""
    from mace_functional.optimize import surface

    whole, calls = surface.Surface.at, []

    def broken(self, z):
        calls.append(z)
        point = whole(self, z)
        if len(calls) in (2, 3, 5):
            return surface.Point(z, np.nan, point.gradient * np.nan, {}, np.inf, np.inf, np.inf)
        return point

    monkeypatch.setattr(surface.Surface, "at", broken)
    start = mf.example_structure("ethanol")
    start.rattle(0.05, seed=0)
    result = mf.relax(model, start)
    assert result.converged, result.reason
    assert [step.accepted for step in result.history][:5] == [True, False, False, True, False]


def test_trajectory_callback_and_progress(model, tmp_path, capsys):
    seen = []
    path = tmp_path / "path.traj"
    result = mf.relax(
        model,
        mf.example_structure("ethanol"),
        trajectory=path,
        callback=lambda atoms, step: seen.append((atoms.get_potential_energy(), step.energy)),
        progress=True,
    )
    frames = ase.io.read(path, ":")
    accepted = [step.energy for step in result.history if step.accepted]
    np.testing.assert_allclose([f.get_potential_energy() for f in frames], accepted)
    np.testing.assert_allclose(seen, np.column_stack([accepted, accepted]))
    np.testing.assert_array_equal(frames[-1].positions, result.atoms.positions)
    assert capsys.readouterr().out == ""


def test_goes_on_where_it_was(model, tmp_path):
    start = mf.example_structure("quartz")
    start.rattle(0.1, seed=4)
    path, frames = tmp_path / "state.npz", tmp_path / "path.traj"
    whole = mf.relax(model, start, fmax=1e-5)
    first = mf.relax(model, start, fmax=1e-5, max_steps=6, checkpoint=path, trajectory=frames)
    assert not first.converged
    second = mf.relax(model, start, fmax=1e-5, checkpoint=path, trajectory=frames)
    assert second.converged
    assert second.n_hvps == whole.n_hvps  # the Hessian was not computed again
    assert abs(second.energy - whole.energy) < 1e-10
    energies = [frame.get_potential_energy() for frame in ase.io.read(frames, ":")]
    assert (np.diff(energies) < 0).all()
    tighter = mf.relax(model, start, fmax=1e-7, checkpoint=path)
    assert tighter.converged
    assert tighter.last.residual <= 1e-7


def test_checkpoint_of_another_relaxation_is_refused(model, tmp_path):
    quartz, path = mf.example_structure("quartz"), tmp_path / "state.npz"
    mf.relax(model, quartz, fmax=0.1, checkpoint=path)
    other = quartz.copy()
    other.rattle(0.01, seed=0)
    with pytest.raises(ValueError, match="differs in positions"):
        mf.relax(model, other, checkpoint=path)
    with pytest.raises(ValueError, match="differs in settings"):
        mf.relax(model, quartz, pressure=1.0, checkpoint=path)
    held = quartz.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="differs in constraints"):
        mf.relax(model, held, checkpoint=path)
    with pytest.raises(ValueError, match="differs in elements"):
        mf.relax(model, molecule("H2O"), checkpoint=path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no checkpoint"):
        mf.relax(model, quartz, checkpoint=path)


def _relax_slowly(path):
    torch.set_num_threads(1)
    start = mf.example_structure("quartz")
    start.rattle(0.2, seed=5)
    mf.relax(
        mf.load_model("embedded"),
        start,
        fmax=1e-6,
        checkpoint=path,
        callback=lambda *_: time.sleep(0.05),
    )


@pytest.mark.slow
def test_killed_at_any_point_it_loses_nothing(model, tmp_path):
    path = tmp_path / "state.npz"
    process = multiprocessing.get_context("spawn").Process(target=_relax_slowly, args=(path,))
    process.start()
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    start = mf.example_structure("quartz")
    start.rattle(0.2, seed=5)
    result = mf.relax(model, start, fmax=1e-6, checkpoint=path)
    assert result.converged
    assert falls(result)
    assert result.history[0].energy > result.energy + 1  # the history is that of both runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "energy", "volume", "steps"),
    [
        ("RSM0004", -94.395747, 162.65, 118),
        ("RSM0010", -156.581562, 307.43, 289),
        ("RSM0011", -158.355217, 291.73, 164),
        ("RSM0020", -207.427584, 581.90, 145),
    ],
)
def test_frameworks_end_where_bfgs_ends_in_a_third_of_the_steps(name, energy, volume, steps):
    """Energies (eV), volumes (Å³) and steps of ASE's BFGS with FrechetCellFilter to 0.005 eV/Å."""
    model = mf.load_model(shared_file("weights", "MACE-MP-0_small.model"))
    start = ase.io.read(shared_file("heatcapacity", "structures", f"{name}.cif"))
    result = mf.relax(model, start, fmax=0.005)
    assert result.converged
    assert falls(result)
    assert result.energy < energy + 1e-5 * len(start)
    assert abs(result.atoms.get_volume() / volume - 1) < 1e-3
    assert result.n_gradients <= steps / 3
    on = mf.relax(model, start, fmax=1e-6)
    assert on.converged
    assert mf.gamma_modes(model, on.atoms).n_imaginary == 0


def test_pairs_that_leave_the_cutoff_of_dispersion_do_not_hold_up_a_relaxation():
    pytest.importorskip("tad_dftd3")
    settings = mf.D3Settings("pbe", cutoff=8.0, cn_cutoff=6.0)
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.02, seed=0)
    found = mf.relax(mf.load_model("embedded", dispersion=settings), atoms, fmax=1e-6)
    assert found.converged
    assert found.n_gradients < 40
