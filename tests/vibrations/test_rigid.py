"""Rigid motions by what is connected, and straight molecules, against closed forms and models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from conftest import shared_file
from helpers import mostly_slow
from torch import Tensor

import mace_functional as mf
from mace_functional.phonons.modes import modes_at_q
from mace_functional.structure.connectivity import Parts, parts_of
from mace_functional.vibrations.harmonic_modes import normal_modes
from mace_functional.vibrations.rigid import rigid_motions

MOLECULE = (False, False, False)


@pytest.fixture(scope="module")
def water(model):
    """A relaxed molecule."""
    return mf.relax(model, molecule("H2O"), fmax=1e-6).atoms


def in_box(atoms: Atoms, *, size: float = 15.0, turn: float = 0.0, shift: float = 7.0) -> Atoms:
    """The same in a cubic periodic box, atoms moved into the cell."""
    boxed = atoms.copy()
    boxed.rotate(turn, (1, 2, 3), center="COM")
    boxed.set_cell([size] * 3)
    boxed.pbc = True
    boxed.positions += shift
    boxed.wrap()
    return boxed


def polyethylene(size: float = 14.0) -> Atoms:
    """One chain along x, with space around it."""
    return Atoms(
        "C2H4",
        [
            *([0.0, 0.42, 0.0], [1.27, -0.42, 0.0]),
            *([0.0, 1.06, 0.88], [0.0, 1.06, -0.88], [1.27, -1.06, 0.88], [1.27, -1.06, -0.88]),
        ],
        cell=[2.54, size, size],
        pbc=True,
    )


def parts(model: mf.MaceModel, atoms: Atoms) -> Parts:
    s = mf.from_ase(atoms, model)
    return parts_of(s.graph, s.positions, s.cell)


# Connectivity


def random_tree(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    second = np.arange(1, count)
    return rng.integers(0, second), second


def test_a_tree_across_cells_is_put_together_and_connected_to_no_image():
    count = 10_000
    first, second = random_tree(count)
    cells = np.random.default_rng(1).integers(-3, 4, (count, 3))
    # x_i - x_j + S cell is short where both lie in the same cell once moved by `cells`.
    found = Parts.of_edges(count, first, second, cells[first] - cells[second])
    assert found.count == 1
    assert (np.ptp(found.cells - cells, axis=0) == 0).all()
    assert found.translations[0].shape == (0, 3)


@pytest.mark.parametrize(
    "along", [[[2, 0, 0]], [[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 2, 0], [1, 2, -3]]]
)
def test_loops_give_the_lattice_vectors_that_connect_a_part_to_itself(along):
    first, second = random_tree(50)
    loops = np.array(along)
    shifts = np.concatenate([np.zeros((49, 3), dtype=int), loops])
    first, second = np.append(first, [7] * len(loops)), np.append(second, [7] * len(loops))
    other = Parts.of_edges(100, first + 50, second + 50, shifts)
    assert other.count == 51
    assert np.linalg.matrix_rank(other.translations[other.number[57]]) == len(loops)
    assert set(map(tuple, np.abs(other.translations[other.number[57]]))) == {
        tuple(abs(v)) for v in loops
    }
    assert sum(len(t) for t in other.translations) == len(loops)


def test_waves_are_in_phase_where_all_connections_are():
    pairs = np.array([0, 0]), np.array([0, 0]), np.array([[2, 0, 0], [0, 1, 0]])
    found = Parts.of_edges(1, *pairs)
    assert found.in_phase(np.array([0.5, 0.0, 0.3])).all()
    assert not found.in_phase(np.array([0.25, 0.0, 0.0])).any()
    assert not found.in_phase(np.array([0.5, 0.5, 0.0])).any()


def test_a_skin_connects_nothing(model):
    apart = Atoms("H2", [[0, 0, 0], [0, 0, model.cutoff + 0.2]])
    s = mf.from_ase(apart, model, skin=1.0)
    assert parts_of(s.graph, s.positions, s.cell).count == 2
    assert parts_of(s.graph, 0.9 * s.positions, s.cell).count == 1


def test_dispersion_connects_what_it_reaches(water):
    pytest.importorskip("tad_dftd3")
    model = mf.load_model("embedded", dispersion=mf.D3Settings("pbe", cutoff=9.0, cn_cutoff=5.0))
    assert mf.gamma_modes(model, in_box(water, size=15.0)).n_rotations == 3
    assert mf.gamma_modes(model, in_box(water, size=8.0)).n_rotations == 0


# Counting


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (in_box(Atoms("C")), (3, 0, 1)),
        (in_box(molecule("CO2"), size=12), (5, 2, 1)),
        (in_box(molecule("NH3"), size=12, shift=11.9), (6, 3, 1)),
        (molecule("NH3"), (6, 3, 1)),
        (Atoms("CO", [[0, 0, 0], [0, 0, 9.0]]), (6, 0, 2)),
        (polyethylene(), (4, 1, 1)),
        (polyethylene(size=4.5), (3, 0, 1)),
        (bulk("NaCl", "rocksalt", a=5.6), (3, 0, 1)),
    ],
    ids=[
        "atom",
        "CO2",
        "NH3 straddling",
        "NH3",
        "two atoms",
        "chain",
        "chains in touch",
        "crystal",
    ],
)
def test_each_connected_part_has_the_rigid_motions_of_its_own_connection(model, atoms, expected):
    modes = mf.gamma_modes(model, atoms)
    assert (modes.n_rigid, modes.n_rotations, modes.n_parts) == expected
    assert len(modes.frequencies) == 3 * len(atoms) - modes.n_rigid


@pytest.mark.parametrize(("turn", "shift"), [(0.0, 7.0), (33.0, 0.0), (211.0, 14.9)])
def test_water_in_a_box_has_the_heat_capacity_of_the_molecule(model, water, turn, shift):
    modes = mf.gamma_modes(model, in_box(water, turn=turn, shift=shift))
    alone = mf.gamma_modes(model, water)
    torch.testing.assert_close(modes.frequencies, alone.frequencies, rtol=1e-7, atol=0)
    heat, expected = (mf.harmonic_thermo(m, 300.0).molar_heat_capacity for m in (modes, alone))
    assert heat.item() == pytest.approx(0.265, abs=0.01)
    assert heat.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (modes.n_rotations, modes.rigid_residual < 1.0) == (3, True)


def test_two_molecules_in_a_box_have_twelve_rigid_motions_in_every_wave(model, water):
    pair = in_box(water, shift=14.9) + in_box(water, turn=50.0, shift=7.0)
    phonons = mf.phonons_of(model, pair)
    assert mf.gamma_modes(model, pair).n_rigid == phonons.gamma_modes().n_rigid == 12
    q = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    rigid = torch.as_tensor(phonons.rigid.at(q.numpy()))
    matrix = phonons.dynamical_matrix(q)
    assert (matrix @ rigid).abs().max() < 1e-4 * matrix.abs().max()
    values, vectors = modes_at_q(phonons, q)
    assert (values == 0).sum() == 12
    torch.testing.assert_close(
        vectors.flatten(1).conj() @ vectors.flatten(1).mT, torch.eye(18, dtype=vectors.dtype)
    )
    modes = mf.mesh_modes(phonons, mf.Mesh.of(pair, (2, 1, 1)))
    assert modes.n_rigid.tolist() == [12, 12]
    on_mesh = mf.mesh_thermo(modes, 300.0).thermo
    alone = mf.harmonic_thermo(mf.gamma_modes(model, water), 300.0)
    torch.testing.assert_close(on_mesh.entropy, 2 * alone.entropy, rtol=1e-5, atol=0)
    assert mf.group_velocities(phonons, q).abs().max() < 1e-6


def test_a_chain_turns_in_all_waves_across_it_and_has_acoustic_waves_along_it(model):
    phonons = mf.phonons_of(model, polyethylene())
    counts = [phonons.rigid.count_at(np.array(q)) for q in ([0, 0, 0], [0, 0.3, 0.2], [0.1, 0, 0])]
    assert counts == [4, 4, 0]
    with pytest.warns(UserWarning, match="largest force"):
        across = mf.group_velocities(phonons, [0, 0.3, 0.2], direction=(0, 1, 1))
    frequencies = mf.frequencies(phonons.dynamical_matrix([0, 0.3, 0.2]))
    assert across[frequencies.abs().argsort()[:4]].abs().max() < 1e-6


def test_interpenetrating_nets_have_translations_of_their_own():
    # Two simple cubic nets of one crystal, each bound to itself alone.
    first = np.repeat([0, 1], 3)
    found = Parts.of_edges(2, first, first, np.tile(np.eye(3, dtype=int), (2, 1)))
    positions = torch.tensor([[0.0, 0, 0], [1.5, 1.5, 1.5]], dtype=torch.float64)
    basis = rigid_motions(positions, [1.0, 3.0], cell=3 * torch.eye(3), parts=found)
    torch.testing.assert_close(basis, torch.eye(6, dtype=torch.float64))


# Straight molecules


def triatomic(stretch: float, bend: float, angle: float) -> tuple[callable, Tensor]:
    """Energy of Y-X-Y by springs with the angle at rest as given, in degrees; its shape at rest."""

    def energy(positions: Tensor) -> Tensor:
        left, right = positions[0] - positions[1], positions[2] - positions[1]
        lengths = torch.stack([left.norm(), right.norm()])
        half = ((left / lengths[0] + right / lengths[1]) ** 2).sum() / 4  # cos^2 of half the angle
        rest = np.cos(np.radians(angle) / 2) ** 2
        # Even in the distance from straight; with two minima where the angle is not 180 degrees.
        size = bend * half if angle == 180 else bend * (half - rest) ** 2 / (4 * max(rest, 1e-9))
        return stretch / 2 * ((lengths - 1.2) ** 2).sum() + size

    turn = np.radians(180 - angle) / 2
    side = 1.2 * np.array([np.cos(turn), np.sin(turn), 0])
    return energy, torch.tensor(np.array([side * [-1, 1, 1], [0, 0, 0], side]))


def count(energy: callable, positions: Tensor) -> tuple[int, int]:
    hessian = torch.func.hessian(energy)(positions)
    masses = torch.tensor([16.0, 12.0, 16.0], dtype=torch.float64)
    modes = normal_modes(hessian, masses, positions, pbc=MOLECULE)
    assert rigid_motions(positions, masses, hessian=hessian).shape[1] == modes.n_rigid
    return modes.n_rigid, modes.n_imaginary


def rattled(positions: Tensor, amplitude: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(positions.shape, dtype=positions.dtype, generator=generator)
    return positions + amplitude * noise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("amplitude", [0.0, 1e-9, 1e-6, 1e-3, 1e-2, 3e-2])
@pytest.mark.parametrize("bend", [0.3, 5.0])
def test_a_straight_molecule_has_five_however_it_is_bent(bend, amplitude, seed):
    # Where bonds are strained by much, their tension bends and stretches the molecule too.
    energy, rest = triatomic(80.0, bend, 180)
    noise = rattled(torch.zeros(3, 3).double(), amplitude, seed)
    noise[:, 0] *= 0.03
    assert count(energy, rest + noise)[0] == 5


@pytest.mark.parametrize("angle", [104.5, 150, 170, 178])
@pytest.mark.parametrize("share", [0.0, -0.3, 0.3])
def test_a_bent_molecule_has_six_however_nearly_straight(angle, share):
    energy, rest = triatomic(80.0, 5.0, angle)
    # Not quite at rest.
    bent = triatomic(80.0, 5.0, 180 - (1 + share) * (180 - angle))[1]
    assert count(energy, rest) == (6, 0)
    assert count(energy, bent)[0] == 6


@pytest.mark.parametrize("amplitude", [0.0, 1e-6, 1e-4])
def test_a_bent_molecule_held_straight_is_a_saddle_point_of_second_order(amplitude):
    energy, _ = triatomic(80.0, 5.0, 165)
    straight = triatomic(80.0, 5.0, 180)[1]
    assert count(energy, rattled(straight, amplitude)) == (5, 2)


DIACETYLENE = Atoms("HC4H", [[0, 0, z] for z in (0.0, 1.06, 2.27, 3.64, 4.85, 5.91)])


VIBRATIONS = {"CO2": 4, "HCN": 4, "C2H2": 7, "C4H2": 13, "H2O": 3, "H2O2": 6, "H2CO": 6}


@pytest.mark.parametrize(
    ("name", "fmax"),
    mostly_slow(
        itertools.product(VIBRATIONS, (1e-1, 1e-3, 1e-6)),
        [
            *((name, 1e-1) for name in ("CO2", "HCN", "C2H2", "C4H2", "H2O2")),
            *((name, 1e-6) for name in ("CO2", "H2O", "H2CO")),
        ],
    ),
)
def test_molecules_keep_their_number_of_vibrations_at_any_fmax(model, name, fmax):
    start = DIACETYLENE.copy() if name == "C4H2" else molecule(name)
    start.rattle(0.03, seed=3)
    modes = mf.gamma_modes(model, mf.relax(model, start, fmax=fmax).atoms)
    assert len(modes.frequencies) == VIBRATIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize("fmax", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6])
def test_carbon_suboxide_of_mace_mp_0_is_straight_at_any_fmax(fmax):
    import ase.io

    model = mf.load_model(shared_file("weights", "MACE-MP-0_small.model"))
    start = ase.io.read(shared_file("awkward", "carbon_suboxide_bent.xyz"))
    modes = mf.gamma_modes(model, mf.relax(model, start, fmax=fmax).atoms)
    assert (len(modes.frequencies), modes.n_imaginary) == (10, 0)


# Held atoms


@pytest.mark.parametrize(
    ("held", "turns"),
    mostly_slow([([0], 3), ([0, 1], 1), ([0, 1, 2], 0)], [([0], 3), ([0, 1], 1)]),
)
def test_a_molecule_held_by_few_atoms_turns_about_them(model, held, turns):
    start = molecule("NH3")
    start.set_constraint(FixAtoms(held))
    atoms = mf.relax(model, start, fmax=1e-6).atoms
    modes = mf.gamma_modes(model, atoms)
    assert (modes.n_rigid, modes.n_rotations) == (turns, turns)
    assert len(modes.frequencies) == 3 * (4 - len(held)) - turns
    if turns:
        assert modes.rigid_residual < 5
    assert modes.frequencies[0] > 100
    boxed = in_box(atoms)
    boxed.set_constraint(FixAtoms(held))
    torch.testing.assert_close(
        mf.gamma_modes(model, boxed).frequencies, modes.frequencies, rtol=1e-6, atol=0
    )
    assert mf.check_stability(model, atoms).stable
    lowest = mf.check_stability(model, atoms).frequency
    assert lowest == pytest.approx(modes.frequencies[0].item(), rel=0.01)


def test_relaxation_and_saddle_search_leave_out_the_rigid_motions_of_each_part(model, water):
    pair = in_box(water) + in_box(water, turn=50.0, shift=0.0)
    relaxed = mf.relax(model, pair, relax_cell=False, fmax=1e-4)
    assert relaxed.converged
    assert relaxed.outcome is mf.Outcome.FLAT
    assert "2 parts do not interact" in relaxed.reason
    stability = mf.check_stability(model, relaxed.atoms)
    assert (stability.stable, stability.certain) == (True, True)
    assert stability.frequency == pytest.approx(
        mf.gamma_modes(model, water).frequencies[0].item(), rel=0.01
    )
