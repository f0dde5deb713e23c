"""The optimiser for ASE: the minima of BFGS, for atoms with constraints, filters, calculators."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.cluster import Octahedron
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCom,
    FixedPlane,
    FixInternals,
    FixSymmetry,
    Hookean,
)
from ase.filters import (
    Filter,
    FrechetCellFilter,
    StrainFilter,
    UnitCellFilter,
)
from ase.io import read
from ase.mep import NEB
from ase.optimize import BFGS
from helpers import mostly_slow

import mace_functional as mf
from mace_functional.interop.ase_coordinates import Chart
from mace_functional.interop.ase_optimiser import SecondOrder

STRAIN = np.array([[0.01, 0.005, 0.0], [0.0, -0.01, 0.0], [0.0, 0.005, 0.01]])


def rattled(name, size=0.05):
    atoms = mf.example_structure(name)
    atoms.rattle(size, seed=1)
    return atoms


def strained(atoms):
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + STRAIN), scale_atoms=True)
    return atoms


def constrained(atoms, *constraints):
    atoms.set_constraint(constraints)
    return atoms


def expanded_quartz():
    atoms = mf.example_structure("quartz")
    atoms.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
    return constrained(atoms, FixSymmetry(atoms, verbose=False))


def with_dihedral():
    atoms = rattled("ethanol")
    angle = atoms.get_dihedral(3, 2, 1, 0)
    return constrained(atoms, FixInternals(dihedrals_deg=[[angle, [3, 2, 1, 0]]], epsilon=1e-10))


def slab():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6)
    add_adsorbate(atoms, "O", 1.4, "bridge")
    atoms.set_constraint(FixAtoms([atom.index for atom in atoms if atom.tag == 3]))
    atoms.rattle(0.05, seed=1)
    return atoms


def cluster(symbol, layers):
    atoms = Octahedron(symbol, layers, 1)
    atoms.rattle(0.05, seed=1)
    return atoms


def alloy():
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    atoms.rattle(0.05, seed=1)
    return strained(atoms)


def itself(atoms):
    return atoms


def under_pressure(atoms):
    return FrechetCellFilter(atoms, mask=[1, 1, 1, 0, 0, 0], scalar_pressure=0.03)


def hydrostatic(atoms):
    return UnitCellFilter(atoms, hydrostatic_strain=True)


def hydroxyl(atoms):
    return Filter(atoms, indices=[2, 3])


def minimum(optimiser, optimised, calculator, fmax=1e-3, **options):
    """Minimise with this calculator; the optimiser, and the energy."""
    (optimised.atoms if isinstance(optimised, Filter) else optimised).calc = calculator
    run = optimiser(optimised, logfile=None, **options)
    assert run.run(fmax=fmax, steps=300)
    return run, float(run.atoms.get_potential_energy())


def largest(forces):
    return np.linalg.norm(forces, axis=1).max()


WITH_MACE = {
    "ethanol": (lambda: rattled("ethanol"), itself),
    "FixAtoms": (
        lambda: constrained(rattled("ethanol"), FixAtoms([0, 1]), FixedPlane([3], (1, 1, 0))),
        itself,
    ),
    "FixBondLengths": (
        lambda: constrained(rattled("ethanol"), FixBondLengths([[0, 1], [2, 3]])),
        itself,
    ),
    "FixInternals": (with_dihedral, itself),
    "Filter": (lambda: rattled("ethanol"), hydroxyl),
    "FrechetCellFilter": (lambda: strained(rattled("quartz", 0.02)), FrechetCellFilter),
    "UnitCellFilter": (lambda: strained(rattled("quartz", 0.02)), UnitCellFilter),
    "StrainFilter": (lambda: strained(mf.example_structure("quartz")), StrainFilter),
    "hydrostatic": (lambda: strained(rattled("quartz", 0.02)), hydrostatic),
    "pressure": (lambda: strained(rattled("quartz", 0.02)), under_pressure),
    "FixSymmetry": (expanded_quartz, FrechetCellFilter),
    "FixAtoms in a cell": (
        lambda: constrained(strained(rattled("quartz", 0.02)), FixAtoms([0, 3])),
        FrechetCellFilter,
    ),
}

WITHOUT = {
    "cluster": (lambda: cluster("Cu", 3), itself, EMT),
    "FixCom": (lambda: constrained(cluster("Cu", 3), FixCom()), itself, EMT),
    "Hookean": (lambda: constrained(cluster("Cu", 3), Hookean(0, 1, k=5.0, rt=2.0)), itself, EMT),
    "slab": (slab, itself, EMT),
    "alloy": (alloy, FrechetCellFilter, EMT),
    "strain": (lambda: strained(bulk("Cu", cubic=True)), StrainFilter, EMT),
    "Lennard-Jones": (
        lambda: cluster("Ar", 3),
        itself,
        lambda: LennardJones(sigma=2.5, epsilon=0.1),
    ),
}


def check_against_bfgs(build, view, calculator, fmax):
    """Both optimisers from the same start; the atoms before and after."""
    before, after = build(), build()
    ours, energy = minimum(SecondOrder, view(after), calculator, fmax)
    theirs, expected = minimum(BFGS, view(build()), calculator, fmax)
    # Where the surface is flat, BFGS stops a little higher.
    assert expected - 3e-6 < energy < expected + 1e-6
    assert ours.force_calls <= theirs.nsteps
    assert largest(ours.atoms.get_forces()) < fmax
    return before, after


# Those that the tests of `Chart` stand for are slow.
@pytest.mark.parametrize("name", mostly_slow(WITH_MACE, {"FixBondLengths", "Filter"}))
def test_minima_are_those_of_bfgs_in_fewer_steps(model, name):
    build, view = WITH_MACE[name]
    before, after = check_against_bfgs(build, view, mf.MaceCalculator(model), 5e-4)
    if name == "FixAtoms":
        np.testing.assert_array_equal(after.positions[:2], before.positions[:2])
    elif name == "FixBondLengths":
        for bond in ((0, 1), (2, 3)):
            assert after.get_distance(*bond) == pytest.approx(before.get_distance(*bond))


@pytest.mark.parametrize("name", mostly_slow(WITHOUT, {"FixCom", "Hookean", "slab"}))
def test_other_calculators_begin_with_a_model_hessian(name):
    build, view, calculator = WITHOUT[name]
    before, after = check_against_bfgs(build, view, calculator(), 5e-4)
    if name == "FixCom":
        np.testing.assert_allclose(after.get_center_of_mass(), before.get_center_of_mass())


def test_symmetry_is_kept(model):
    atoms = expanded_quartz()
    minimum(SecondOrder, FrechetCellFilter(atoms), mf.MaceCalculator(model), 1e-4)
    lengths, angles = atoms.cell.lengths(), atoms.cell.angles()
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-9)
    np.testing.assert_allclose(angles, [90, 90, 120], atol=1e-8)


@pytest.mark.parametrize("view", [itself, FrechetCellFilter, UnitCellFilter, StrainFilter])
@pytest.mark.parametrize("constraint", [None, FixAtoms([0, 3])])
def test_coordinates_are_displacements_and_strain(model, view, constraint):
    atoms = strained(rattled("quartz"))
    atoms.set_constraint(constraint)
    optimised = view(atoms)
    if isinstance(optimised, UnitCellFilter):
        optimised.orig_cell = atoms.cell @ (np.eye(3) + 0.5 * STRAIN)
    atoms.calc = mf.MaceCalculator(model)
    chart = Chart.of(optimised)
    c, size = chart.coordinates, 1e-5
    np.testing.assert_allclose(c.basis.T @ c.basis, np.eye(c.count), atol=1e-12)
    rng = np.random.default_rng(0)
    z = size * rng.normal(size=c.count)
    placed = c.place(c.joint(z))
    optimised.set_positions((chart.origin + chart.columns @ z).reshape(-1, 3))
    np.testing.assert_allclose(chart.z(np.ravel(optimised.get_positions())), z, atol=1e-11)
    # Filters may turn the cell; distances and angles are the same to first order.
    expected, found = placed[1].numpy(), atoms.cell.array
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-7)
    scaled = np.linalg.solve(expected.T, placed[0].numpy().T).T
    np.testing.assert_allclose(np.linalg.solve(found.T, atoms.positions.T).T, scaled, atol=1e-8)


@pytest.mark.parametrize(
    "view", mostly_slow([itself, FrechetCellFilter, UnitCellFilter], [FrechetCellFilter])
)
def test_the_exact_hessian_is_that_of_the_coordinates_at_rest(model, view):
    optimised = view(strained(rattled("quartz", 0.02)))
    run, _ = minimum(SecondOrder, optimised, mf.MaceCalculator(model), 1e-5)
    run._start_at_current_geometry(exact=True)
    surface, hessian, step = run._surface, run._run.state.hessian, 1e-3
    chart = surface.chart
    direction = np.random.default_rng(3).normal(size=chart.coordinates.count)
    direction /= np.linalg.norm(direction)
    direction -= direction.mean()
    gradients = []
    for sign in (1, -1):
        z = sign * step * direction
        surface.move(chart.origin + chart.columns @ z)
        gradients.append(surface.current().gradient)
    change = (gradients[0] - gradients[1]) / (2 * step)
    shift = np.kron(np.full((9, 9), 1 / 9), np.eye(3))
    basis = chart.coordinates.basis
    held = 10.0 * basis[:-6].T @ shift @ basis[:-6]
    np.testing.assert_allclose(hessian.product(direction) - held @ direction, change, atol=2e-3)


@pytest.mark.parametrize(
    "view", mostly_slow([itself, FrechetCellFilter, UnitCellFilter], [FrechetCellFilter])
)
def test_a_restart_goes_on_as_if_it_had_never_stopped(model, view, tmp_path):
    def build():
        atoms = strained(rattled("quartz"))
        atoms.calc = mf.MaceCalculator(model)
        return atoms

    whole, first = build(), build()
    SecondOrder(view(whole), logfile=None).run(fmax=1e-6, steps=8)
    restart, path = tmp_path / "restart.json", tmp_path / "path.traj"
    SecondOrder(view(first), restart=restart, logfile=None, trajectory=path).run(steps=5, fmax=1e-6)
    second = read(path)
    second.calc = mf.MaceCalculator(model)
    run = SecondOrder(view(second), restart=restart, logfile=None)
    run.run(fmax=1e-6, steps=3)
    np.testing.assert_allclose(second.positions, whole.positions, atol=1e-7)
    np.testing.assert_allclose(second.cell, whole.cell, atol=1e-7)
    assert run.force_calls <= 5


def test_a_restart_with_another_calculator(tmp_path):
    restart, energies = tmp_path / "restart.json", []
    atoms = cluster("Cu", 3)
    atoms.calc = EMT()
    for _ in range(2):
        SecondOrder(atoms, restart=restart, logfile=None).run(fmax=1e-3, steps=4)
        energies.append(atoms.get_potential_energy())
    assert energies[1] < energies[0]


def test_a_restart_file_of_another_structure_is_refused(tmp_path):
    restart = tmp_path / "restart.json"
    atoms = cluster("Cu", 3)
    atoms.calc = EMT()
    SecondOrder(atoms, restart=restart, logfile=None).run(steps=1)
    smaller = atoms[:5]
    smaller.calc = EMT()
    with pytest.raises(ValueError, match="another structure"):
        SecondOrder(smaller, restart=restart, logfile=None)


class Recording(mf.MaceCalculator):
    """Keeps the energies of all geometries that it sees."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.__dict__.setdefault("seen", []).append(self.results["energy"])


def test_refused_steps_leave_the_best_geometry(model):
    atoms = rattled("ethanol", 0.3)
    atoms.calc = Recording(model)
    run, logged = SecondOrder(atoms, logfile=None), []
    run.attach(lambda: logged.append(atoms.get_potential_energy()))
    for steps in (1, 1, 1, 5, 10):
        run.run(fmax=1e-6, steps=steps)
        assert atoms.get_potential_energy() == pytest.approx(min(atoms.calc.seen), abs=1e-9)
    assert run.force_calls > run.nsteps
    assert (np.diff(logged) < 0).all()


class Wrong(EMT):
    """Forces that point up the hill."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = -self.results["forces"]


def test_where_no_step_helps_it_says_so_and_nothing_has_moved():
    atoms = cluster("Cu", 3)
    atoms.calc = Wrong()
    start = atoms.positions.copy()
    with pytest.raises(RuntimeError, match="no step lowers the energy"):
        SecondOrder(atoms, logfile=None).run(fmax=1e-3)
    np.testing.assert_allclose(atoms.positions, start, atol=1e-12)


class Noisy(EMT):
    """Energies that are wrong in the fourth digit."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        noise = 1e-4 * np.sin(1e7 * self.atoms.positions.sum())
        self.results["energy"] += noise
        self.results["free_energy"] += noise


def test_noise_of_the_energy_does_not_keep_it_from_the_minimum():
    atoms = cluster("Cu", 3)
    minimum(SecondOrder, atoms, Noisy(), 1e-4, noise=1e-3)


class Smeared(EMT):
    """An energy that forces do not belong to, as with a smeared occupation."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energy"] = -self.results["energy"]


def test_energies_are_those_that_belong_to_the_forces():
    minimum(SecondOrder, cluster("Cu", 3), Smeared())


def test_a_hessian_from_elsewhere(model):
    asked = []

    def hessian(atoms):
        asked.append(len(atoms))
        return mf.MaceCalculator(model).get_hessian(atoms)

    run, energy = minimum(
        SecondOrder, rattled("ethanol"), mf.MaceCalculator(model), hessian=hessian
    )
    exact, expected = minimum(
        SecondOrder, rattled("ethanol"), mf.MaceCalculator(model), hessian="exact"
    )
    assert asked == [9]
    assert energy == pytest.approx(expected, abs=1e-6)
    assert abs(run.nsteps - exact.nsteps) <= 2


def test_the_exact_hessian_by_choice(model):
    for word in ("exact", None):
        run, _ = minimum(
            SecondOrder,
            FrechetCellFilter(strained(rattled("quartz", 0.02))),
            mf.MaceCalculator(model),
            hessian=word,
        )
        assert run.force_calls < 25
    with pytest.raises(ValueError, match="not 'model'"):
        SecondOrder(rattled("ethanol"), hessian="model")
    copper = cluster("Cu", 3)
    copper.calc = EMT()
    with pytest.raises(ValueError, match="needs PotentialCalculator"):
        SecondOrder(copper, hessian="exact", logfile=None).run()


def pairs(near, params):
    s6 = (params["sigma"] / near.distances) ** 6
    smooth = (1 - (near.distances / 8.0) ** 2) ** 4
    return near.sum(2 * params["epsilon"] * (s6**2 - s6) * smooth)


def test_the_exact_hessian_of_any_potential():
    """Of pairs: both first Hessians lead to one minimum."""
    potential = mf.FunctionPotential(pairs, cutoff=8.0, params={"sigma": 2.3, "epsilon": 0.4})
    runs = [
        minimum(SecondOrder, cluster("Cu", 3), mf.PotentialCalculator(potential), hessian=word)
        for word in ("exact", None)
    ]
    assert runs[0][1] == pytest.approx(runs[1][1], abs=1e-5)
    assert max(run.force_calls for run, _ in runs) < 30


def test_logfile_trajectory_and_observers(model, tmp_path):
    atoms = rattled("ethanol")
    atoms.calc = mf.MaceCalculator(model)
    log, path, seen = tmp_path / "log", tmp_path / "path.traj", []
    with SecondOrder(atoms, logfile=str(log), trajectory=str(path)) as run:
        run.attach(lambda: seen.append(run.nsteps), interval=2)
        run.run(fmax=1e-2)
    images = read(path, ":")
    assert len(images) == run.nsteps + 1
    assert log.read_text().count("SecondOrder:") == len(images)
    assert seen == list(range(0, run.nsteps + 1, 2))
    assert largest(images[-1].get_forces()) < 1e-2


def test_it_takes_turns_with_another_optimiser(model):
    atoms = strained(rattled("quartz", 0.02))
    atoms.calc = mf.MaceCalculator(model)
    inner, energies = SecondOrder(atoms, logfile=None), []
    for _ in SecondOrder(StrainFilter(atoms), logfile=None).irun(fmax=1e-3, steps=4):
        energies.append(atoms.get_potential_energy())
        assert inner.run(fmax=1e-2)
        energies.append(atoms.get_potential_energy())
    assert len(energies) == 10
    assert (np.diff(energies) <= 0).all()


def test_what_is_held_wholly_is_at_rest(model):
    atoms = constrained(rattled("ethanol"), FixAtoms(range(9)))
    run, _ = minimum(SecondOrder, atoms, mf.MaceCalculator(model))
    assert run.nsteps == 0


def test_a_band_of_images_is_refused():
    with pytest.raises(TypeError, match="not NEB"):
        SecondOrder(NEB([cluster("Cu", 3), cluster("Cu", 3)], method="improvedtangent"))
