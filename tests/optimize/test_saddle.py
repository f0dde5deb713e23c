"""Saddle points: the steps on a model surface, real barriers beside NEB, and how searches end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.mep import NEB
from ase.optimize import BFGS

import mace_functional as mf
from mace_functional.optimize import saddle
from mace_functional.optimize.climb_mode import ClimbMode, InternalMotions
from mace_functional.optimize.dense_hessian import DenseHessian, HessianModel
from mace_functional.optimize.follow_mode import follow_mode
from mace_functional.optimize.relax import relax
from mace_functional.optimize.saddle import Connection, SaddleResult, find_saddle
from mace_functional.optimize.saddle_search import SaddleSearch, SaddleStep
from mace_functional.optimize.trust_region_state import TrustRegionState

MUELLER_BROWN_MINIMUM = np.array((0.623, 0.028))
MUELLER_BROWN_SADDLES = ((-0.822, 0.624), (0.212, 0.293))


def at_rest(model: mf.MaceModel, atoms: Atoms) -> Atoms:
    found = relax(model, atoms, relax_cell=False)
    assert found.converged, found.reason
    return found.atoms


@pytest.fixture(scope="module")
def minima(model: mf.MaceModel) -> dict[str, Atoms]:
    return {
        "ethane": at_rest(model, molecule("C2H6")),
        "ammonia": at_rest(model, molecule("NH3")),
    }


def methyl(atoms: Atoms, carbon: int) -> list[int]:
    """The hydrogens of a carbon."""
    near = atoms.get_distances(carbon, range(len(atoms))) < 1.3
    return [k for k in np.flatnonzero(near) if atoms.symbols[k] == "H"]


def turned(atoms: Atoms, carbon: int, neighbour: int, angle: float) -> Atoms:
    """The structure with a methyl group turned about its bond, by degrees."""
    atoms, group = atoms.copy(), methyl(atoms, carbon)
    part = atoms[group]
    part.rotate(angle, atoms.get_distance(neighbour, carbon, vector=True), atoms.positions[carbon])
    atoms.positions[group] = part.positions
    return atoms


def start(minimum: Atoms, name: str, seed: int) -> Atoms:
    """A bad guess: ethane turned by 40 to 50 degrees, ammonia half flat, rattled by 0.05 to 0.1.

    It is drawn again while atoms are closer than the embedded model knows them: three quarters of
    their distance.
    """
    rng = np.random.default_rng(seed)
    if name == "ethane":
        atoms = turned(minimum, 0, 1, rng.uniform(40, 50))
    else:
        atoms = minimum.copy()
        atoms.positions[0] += 0.5 * (atoms.positions[1:].mean(0) - atoms.positions[0])
    while True:
        rattled = atoms.copy()
        rattled.positions += rng.normal(0, 0.05 + 0.05 * (seed % 2), atoms.positions.shape)
        if (rattled.get_all_distances() >= 0.75 * minimum.get_all_distances()).all():
            return rattled


def energy_of(model: mf.MaceModel, atoms: Atoms) -> float:
    return mf.MaceCalculator(model).get_potential_energy(atoms)


def barrier_by_symmetry(model: mf.MaceModel, minimum: Atoms, name: str) -> float:
    """Energy of eclipsed ethane or of planar ammonia, whose symmetry BFGS keeps."""
    if name == "ethane":
        top = turned(minimum, 0, 1, 60)
    else:
        top = molecule("NH3")
        top.positions[:, 2] = 0.0
    top.calc = mf.MaceCalculator(model)
    BFGS(top, logfile=None).run(fmax=1e-3, steps=100)
    return top.get_potential_energy() - energy_of(model, minimum)


def assert_saddle(model: mf.MaceModel, found: SaddleResult) -> None:
    """One imaginary mode, that of the result, and no forces: by normal modes computed apart."""
    assert found.converged, found.reason
    modes = mf.gamma_modes(model, found.atoms)
    assert modes.n_imaginary == 1
    assert modes.largest_force < 1e-4
    assert found.frequency == pytest.approx(float(modes.frequencies[0]), abs=1e-3)
    moved = found.mode[modes.indices.numpy()]
    expected = modes.displacements[0].numpy()
    assert abs(np.vdot(moved, expected)) / np.linalg.norm(expected) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(found.mode) == pytest.approx(1)
    assert found.energy == pytest.approx(energy_of(model, found.atoms), abs=1e-9)


def barrier_by_neb(model: mf.MaceModel, path: list[Atoms]) -> float:
    """Height of the highest image over the first end, eV."""
    for image in path:
        image.calc = mf.MaceCalculator(model)
    band = NEB(path, k=0.1, climb=True, method="improvedtangent")
    assert BFGS(band, logfile=None).run(fmax=0.005, steps=300)
    energies = [image.get_potential_energy() for image in path]
    return max(energies) - energies[0]


def mueller_brown(x: torch.Tensor) -> torch.Tensor:
    """The model surface of two dimensions, over 100."""
    height = torch.tensor([-200.0, -100.0, -170.0, 15.0], dtype=x.dtype) / 100
    a = torch.tensor([-1.0, -1.0, -6.5, 0.7], dtype=x.dtype)
    b = torch.tensor([0.0, 0.0, 11.0, 0.6], dtype=x.dtype)
    c = torch.tensor([-10.0, -10.0, -6.5, 0.7], dtype=x.dtype)
    u = x[0] - torch.tensor([1.0, 0.0, -0.5, -1.0], dtype=x.dtype)
    v = x[1] - torch.tensor([0.0, 0.5, 1.5, 1.0], dtype=x.dtype)
    return (height * torch.exp(a * u**2 + b * u * v + c * v**2)).sum()


def matrix_of(hessian: HessianModel) -> np.ndarray:
    assert isinstance(hessian, DenseHessian)
    return hessian.matrix


def climb(
    surface: Callable[[torch.Tensor], torch.Tensor],
    begin: Any,
    masses: Any = (1.0, 1.0),
    followed: Any = None,
    steps: int = 60,
) -> tuple[TrustRegionState, list[bool]]:
    """A search with the exact Hessian at every step, without springs."""

    def at(z: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.as_tensor(z)
        return float(surface(x)), torch.func.grad(surface)(x).numpy()

    def exact(z: np.ndarray) -> np.ndarray:
        return torch.func.hessian(surface)(torch.as_tensor(z)).numpy()

    z = np.asarray(begin, dtype=float)
    size = len(z)
    state = TrustRegionState(z, *at(z), DenseHessian(exact(z)), 0.05, 0.2, 3e-15)
    strategy = ClimbMode(InternalMotions(np.eye(size), np.eye(size), np.diag(masses)), followed)
    accepted = []
    for _ in range(steps):
        strategy = strategy.track(state.hessian)
        trial = strategy.propose(state, lambda step: (0.0, np.zeros(size), np.zeros((size, size))))
        assert np.linalg.norm(trial.step) < 1.02 * state.radius
        state, taken = state.tell(trial, *at(state.z + trial.step), strategy)
        accepted.append(taken)
        if taken:
            state = replace(state, hessian=DenseHessian(exact(state.z)))
        if np.linalg.norm(state.gradient) < 1e-10:
            break
    return state, accepted


@pytest.mark.parametrize("begin", [(-0.8, 0.8), (-0.6, 0.9), (0.45, 0.15), (0.1, 0.4)])
@pytest.mark.parametrize("masses", [(1.0, 1.0), (1.0, 16.0)])
def test_the_model_surface_is_climbed_to_a_saddle_point(begin, masses):
    end, _ = climb(mueller_brown, begin, masses)
    assert np.linalg.norm(end.gradient) < 1e-8
    curvatures = np.linalg.eigvalsh(matrix_of(end.hessian))
    assert curvatures[0] < 0 < curvatures[1]
    assert min(np.linalg.norm(end.z - s) for s in MUELLER_BROWN_SADDLES) < 2e-3


def test_a_direction_leads_from_a_minimum_to_its_saddle_point():
    way = np.array((-0.8, 0.6))
    end, _ = climb(mueller_brown, MUELLER_BROWN_MINIMUM + 0.05 * way, followed=way)
    assert np.linalg.norm(end.gradient) < 1e-8
    assert np.linalg.norm(end.z - MUELLER_BROWN_SADDLES[1]) < 2e-3


def test_the_stiffer_of_two_modes_is_followed_where_it_is_asked_for():
    def corrugated(x: torch.Tensor) -> torch.Tensor:
        return -torch.cos(x[0]) - 3 * torch.cos(x[1])

    end, _ = climb(corrugated, (0.1, 0.3), followed=np.array([0.1, 1.0]))
    np.testing.assert_allclose(end.z, (0, np.pi), atol=1e-8)
    end, _ = climb(corrugated, (0.3, 0.1))
    np.testing.assert_allclose(end.z, (np.pi, 0), atol=1e-8)


def test_a_saddle_point_of_second_order_is_left_downhill():
    def two_hills(x: torch.Tensor) -> torch.Tensor:
        return torch.cos(x[0]) + 3 * torch.cos(x[1])

    end, _ = climb(two_hills, (0.0, 0.0))
    assert abs(end.z[0]) == pytest.approx(np.pi, abs=1e-8)
    assert end.z[1] == pytest.approx(0, abs=1e-8)


def test_steps_that_the_model_did_not_foresee_are_refused():
    def cliff(x: torch.Tensor) -> torch.Tensor:
        return x[1] ** 2 - x[0] ** 2 + torch.exp(1000 * (0.03 - x[0]))

    state, accepted = climb(cliff, (0.05, 0.02), steps=1)
    assert accepted == [False]
    assert state.radius < 0.02
    strategy = ClimbMode(InternalMotions(*[np.eye(2)] * 3)).track(state.hessian)
    trial = strategy.propose(state, lambda s: (0.0, 0 * s, np.zeros((2, 2))))
    after, taken = state.tell(trial, np.inf, np.full(2, np.nan), strategy)
    assert not taken
    np.testing.assert_array_equal(after.z, state.z)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("ammonia", 0),
        pytest.param("ethane", 1, marks=pytest.mark.slow),
        pytest.param("ammonia", 1, marks=pytest.mark.slow),
        pytest.param("ethane", 0, marks=pytest.mark.slow),
    ],
)
def test_rattled_guesses_find_the_saddle_point(model, minima, name, seed):
    found = find_saddle(model, start(minima[name], name, seed), connect=seed == 0)
    assert_saddle(model, found)
    assert len(found.history) < 20
    height = found.energy - energy_of(model, minima[name])
    assert height == pytest.approx(barrier_by_symmetry(model, minima[name], name), abs=1e-4)
    if found.minima is None:
        assert seed == 1
        return
    assert found.connection is Connection.TWO_MINIMA
    assert found.barriers == pytest.approx((height, height), abs=1e-5)
    for atoms in found.minima:
        assert mf.gamma_modes(model, atoms).n_imaginary == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ethane", "ammonia"])
def test_ten_of_ten_guesses_find_the_saddle_point(model, minima, name):
    heights = []
    for seed in range(10):
        found = find_saddle(model, start(minima[name], name, seed), connect=False)
        assert_saddle(model, found)
        heights.append(found.energy - energy_of(model, minima[name]))
    assert np.ptp(heights) < 1e-6


@pytest.mark.slow
def test_the_barrier_of_ethane_is_that_of_neb(model, minima):
    path = [turned(minima["ethane"], 0, 1, angle) for angle in np.linspace(0, 120, 9)]
    found = find_saddle(model, start(minima["ethane"], "ethane", 2))
    assert found.barriers is not None
    assert found.barriers == pytest.approx([barrier_by_neb(model, path)] * 2, abs=1e-3)


@pytest.mark.slow
def test_the_barrier_of_ammonia_is_that_of_neb(model, minima):
    first, last = minima["ammonia"].copy(), minima["ammonia"].copy()
    hydrogens = last.positions[1:]
    normal = np.cross(hydrogens[1] - hydrogens[0], hydrogens[2] - hydrogens[0])
    normal /= np.linalg.norm(normal)
    last.positions -= 2 * np.outer((last.positions - hydrogens[0]) @ normal, normal)
    path = [first, *(first.copy() for _ in range(9)), last]
    NEB(path, method="improvedtangent").interpolate()
    found = find_saddle(model, start(first, "ammonia", 2))
    assert found.barriers is not None
    assert found.barriers == pytest.approx([barrier_by_neb(model, path)] * 2, abs=1e-3)


def test_a_mode_leads_from_a_minimum_to_the_saddle_point(model, minima, tmp_path):
    steps: list[SaddleStep] = []
    found = find_saddle(
        model,
        minima["ammonia"],
        mode=0,
        connect=False,
        trajectory=tmp_path / "climb.traj",
        callback=lambda atoms, step: steps.append(step),
        progress=True,
    )
    assert_saddle(model, found)
    height = found.energy - energy_of(model, minima["ammonia"])
    expected = barrier_by_symmetry(model, minima["ammonia"], "ammonia")
    assert height == pytest.approx(expected, abs=1e-4)
    frames: Any = ase.io.read(tmp_path / "climb.traj", index=":")
    assert len(frames) == len(steps) == sum(s.accepted for s in found.history[1:])
    np.testing.assert_allclose(frames[-1].positions, found.atoms.positions, atol=1e-12)


@pytest.mark.slow
def test_signs_of_a_direction_lead_to_different_saddle_points(model, minima):
    modes = mf.gamma_modes(model, minima["ethane"])
    ends = []
    for sign in (1, -1):
        found = find_saddle(
            model, minima["ethane"], mode=sign * modes.displacements[0], connect=False
        )
        assert_saddle(model, found)
        ends.append(found)
    height = energy_of(model, minima["ethane"]) + 0.0181
    assert [end.energy for end in ends] == pytest.approx([height] * 2, abs=1e-4)
    displaced = [found.atoms.positions - minima["ethane"].positions for found in ends]
    direction = modes.displacements[0].numpy()
    assert np.vdot(displaced[0], direction) > 0 > np.vdot(displaced[1], direction)


@pytest.fixture(scope="module")
def vacancy(model: mf.MaceModel) -> tuple[Atoms, np.ndarray]:
    """Rock salt without a sodium, and the way of a neighbour into its place."""
    atoms = bulk("NaCl", "rocksalt", a=5.64) * 2
    distances = atoms.get_distances(0, range(len(atoms)), mic=True)
    hopper = next(
        k for k in range(1, len(atoms)) if atoms.symbols[k] == "Na" and distances[k] < 4.1
    )
    way = np.zeros((len(atoms), 3))
    way[hopper] = atoms.get_distance(hopper, 0, mic=True, vector=True)
    del atoms[0]
    return at_rest(model, atoms), way[1:]


@pytest.mark.slow
def test_sodium_hops_into_a_vacancy(model, vacancy):
    atoms, way = vacancy
    found = find_saddle(model, atoms, mode=way)
    assert_saddle(model, found)
    assert found.minima is not None
    assert found.barriers is not None
    # The place that it leaves is like the one that it comes to.
    assert found.barriers[0] == pytest.approx(found.barriers[1], abs=1e-4)
    assert found.barriers[0] == pytest.approx(0.662, abs=1e-3)
    hopper = int(np.linalg.norm(way, axis=1).argmax())
    gone = [np.linalg.norm((m.positions - atoms.positions)[hopper]) for m in found.minima]
    assert min(gone) < 0.1
    assert max(gone) == pytest.approx(np.linalg.norm(way), rel=0.1)
    assert found.atoms.pbc.all()
    np.testing.assert_array_equal(found.atoms.cell.array, atoms.cell.array)


@pytest.mark.slow
def test_held_atoms_stay_and_no_motion_is_projected(model, minima):
    atoms = start(minima["ethane"], "ethane", 0)
    held = [1, *methyl(minima["ethane"], 1)]
    atoms.set_constraint(FixAtoms(held))
    found = find_saddle(model, atoms)
    assert_saddle(model, found)
    for end in (found.atoms, *(found.minima or ())):
        np.testing.assert_allclose(end.positions[held], atoms.positions[held], atol=1e-12)
        assert len(end.constraints) == 1


def test_other_constraints_hold_too(model, minima):
    atoms = minima["ammonia"].copy()
    atoms.positions[0] += 0.7 * (atoms.positions[1:].mean(0) - atoms.positions[0])
    atoms.set_constraint(FixCartesian([1, 2, 3], (False, False, True)))
    found = find_saddle(model, atoms, connect=False)
    assert found.converged, found.reason
    np.testing.assert_allclose(found.atoms.positions[1:, 2], atoms.positions[1:, 2], atol=1e-12)
    np.testing.assert_allclose(found.mode[1:, 2], 0, atol=1e-12)
    assert found.frequency < 0


@pytest.mark.slow
def test_an_exact_second_order_saddle_point_is_not_taken_for_one_of_first_order(model):
    propane = at_rest(model, molecule("C3H8"))
    carbons = [int(k) for k in propane.symbols.indices()["C"]]
    middle = next(k for k in carbons if len(methyl(propane, k)) == 2)
    for carbon in set(carbons) - {middle}:
        propane = turned(propane, carbon, middle, 60)
    assert mf.gamma_modes(model, propane).n_imaginary == 2
    found = find_saddle(model, propane, connect=False)
    assert_saddle(model, found)


@pytest.mark.parametrize("mode", [pytest.param(None, marks=pytest.mark.slow), 0])
def test_a_search_goes_on_where_it_was(
    model: mf.Model, minima: dict[str, Atoms], tmp_path: Path, mode: int | None
) -> None:
    """Interrupted and resumed, it takes the steps that it would have taken."""
    name = "ammonia" if mode is None else "ethane"
    atoms = start(minima[name], name, 3) if mode is None else minima[name]
    path, frames = tmp_path / "state.npz", tmp_path / "climb.traj"
    whole = find_saddle(model, atoms, mode=mode, connect=False)
    for steps in (3, 4):
        first = find_saddle(
            model,
            atoms,
            mode=mode,
            connect=False,
            max_steps=steps,
            checkpoint=path,
            trajectory=frames,
        )
        assert first.outcome is mf.Outcome.MAX_STEPS
    second = find_saddle(model, atoms, mode=mode, connect=False, checkpoint=path, trajectory=frames)
    assert_saddle(model, second)
    accepted = [
        [step.energy for step in found.history if step.accepted] for found in (whole, second)
    ]
    np.testing.assert_allclose(accepted[1], accepted[0], atol=1e-7)
    np.testing.assert_allclose(second.atoms.positions, whole.atoms.positions, atol=1e-6)
    written: Any = ase.io.read(frames, index=":")
    np.testing.assert_allclose(
        [frame.get_potential_energy() for frame in written],
        accepted[0][0 if mode is None else 1 :],
        atol=1e-7,
    )


def test_a_checkpoint_of_another_search_is_refused(model, minima, tmp_path):
    path = tmp_path / "state.npz"
    find_saddle(model, minima["ammonia"], mode=0, fmax=1.0, connect=False, checkpoint=path)
    with pytest.raises(ValueError, match="differs in settings"):
        find_saddle(model, minima["ammonia"], mode=1, checkpoint=path)
    with pytest.raises(ValueError, match="differs in settings"):
        relax(model, minima["ammonia"], relax_cell=False, checkpoint=path)


def test_few_steps_end_with_the_best_structure(model, minima):
    atoms = start(minima["ethane"], "ethane", 1)
    found = find_saddle(model, atoms, max_steps=4)
    assert not found.converged
    assert found.outcome is mf.Outcome.MAX_STEPS
    assert "raise max_steps" in found.reason
    assert np.isnan(found.frequency)
    assert found.minima is None
    assert found.barriers is None
    assert found.n_gradients == len(found.history) == 4
    force = np.linalg.norm(mf.MaceCalculator(model).get_forces(found.atoms), axis=1).max()
    assert force <= found.history[0].largest_force
    assert "not converged" in repr(found)
    further = find_saddle(model, found.atoms, connect=False)
    assert_saddle(model, further)


@pytest.mark.slow
def test_molecules_that_do_not_feel_each_other_have_the_saddle_points_of_each(model, minima):
    far = minima["ammonia"].copy()
    far.positions += 20.0
    pair = find_saddle(model, minima["ammonia"] + far, connect=False)
    alone = find_saddle(model, minima["ammonia"], connect=False)
    assert pair.converged
    assert pair.frequency == pytest.approx(alone.frequency, rel=1e-3)


def test_fragments_that_came_apart_on_the_way_are_said_to_be_apart(model, minima):
    far = minima["ammonia"].copy()
    far.positions += 20.0
    search = SaddleSearch(model, minima["ammonia"] + far, None)
    search.begin()
    assert search._fragments == 2
    search._fragments = 1  # as if they had been together at first
    ending = search.ending(1e-2, 10)
    assert ending is not None
    assert ending.outcome is mf.Outcome.FRAGMENTED
    assert "2 parts" in ending.detail


def test_single_precision_finds_the_saddle_point(model, minima):
    rough = model.to(dtype=torch.float32)
    guess = start(minima["ammonia"], "ammonia", 0)
    found = find_saddle(rough, guess, fmax=5e-3, connect=False)
    assert found.converged, found.reason
    exact = find_saddle(model, guess, connect=False)
    assert found.frequency == pytest.approx(exact.frequency, abs=10)


def test_bad_starts_are_refused(model, minima):
    atoms = minima["ethane"].copy()
    atoms.positions[3] = atoms.positions[2] + 0.01
    with pytest.raises(ValueError, match=r"atoms 2 .* and 3 .* apart, 0\.\d* of the sum"):
        find_saddle(model, atoms)
    atoms.positions[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        find_saddle(model, atoms)
    with pytest.raises(ValueError, match="nothing is free"):
        find_saddle(model, Atoms("H"))
    with pytest.raises(ValueError, match="fmax must be a finite number above zero"):
        find_saddle(model, minima["ethane"], fmax=0)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (18, "there is no mode 18"),
        (-19, "there is no mode -19"),
        (np.ones((8, 3)), "a translation"),
        (np.zeros((8, 3)), "zero"),
        (np.ones((7, 3)), r"\(8, 3\)"),
        (np.full((8, 3), np.nan), "finite"),
    ],
)
def test_bad_modes_are_refused(model, minima, mode, message):
    with pytest.raises(ValueError, match=message):
        find_saddle(model, minima["ethane"], mode=mode)


def test_turning_the_molecule_is_no_mode_to_climb(model, minima):
    atoms = minima["ethane"]
    turning = np.cross([0.0, 0.0, 1.0], atoms.positions - atoms.positions.mean(0))
    with pytest.raises(ValueError, match="as a whole"):
        find_saddle(model, atoms, mode=turning)


@pytest.fixture(scope="module")
def flat_ammonia(model: mf.MaceModel, minima: dict[str, Atoms]) -> SaddleResult:
    return find_saddle(model, minima["ammonia"], mode=0, connect=False)


def test_a_mode_is_followed_down_either_way(model, minima, flat_ammonia):
    modes = mf.gamma_modes(model, flat_ammonia.atoms)
    ends = [
        follow_mode(model, flat_ammonia.atoms, modes.displacements[0], sign=sign)
        for sign in (1, -1)
    ]
    lowest = energy_of(model, minima["ammonia"])
    heights = []
    for end in ends:
        assert end.converged
        assert end.energy == pytest.approx(lowest, abs=1e-6)
        nitrogen, *hydrogens = end.atoms.positions
        arms = np.array(hydrogens) - nitrogen
        heights.append(np.linalg.det(arms))
    assert heights[0] == pytest.approx(-heights[1], rel=1e-3)


def test_a_minimum_cannot_be_left_downhill(model, minima):
    modes = mf.gamma_modes(model, minima["ammonia"])
    with pytest.raises(ValueError, match="does not fall along this mode"):
        follow_mode(model, minima["ammonia"], modes.displacements[0])
    with pytest.raises(ValueError, match="sign must be"):
        follow_mode(model, minima["ammonia"], modes.displacements[0], sign=2)


def test_ways_that_end_on_one_side_are_told(model, minima, flat_ammonia, monkeypatch):
    end = relax(model, minima["ammonia"], relax_cell=False)
    monkeypatch.setattr(saddle, "follow_mode", lambda *_, **__: end)
    found = find_saddle(model, flat_ammonia.atoms)
    assert found.converged
    assert found.connection is Connection.ONE_MINIMUM

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("the energy does not fall")

    monkeypatch.setattr(saddle, "follow_mode", refuse)
    found = find_saddle(model, flat_ammonia.atoms)
    assert found.converged
    assert found.minima is None
    assert found.connection is Connection.NOT_LEFT
    assert "the energy does not fall" in found.reason
