"""D3 dispersion beside s-dftd3, and its derivatives beside central differences."""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from ase.io import read
from ase.lattice.hexagonal import Graphite
from ase.units import Bohr, Hartree
from conftest import shared_file
from nestings import forward, reverse
from torch import Tensor
from torch.func import grad, vmap

import mace_functional as mf
from mace_functional.dispersion.bloch_sums import d3_force_constants_at
from mace_functional.structure.remaining_skin import remaining_skin

pytest.importorskip("tad_dftd3")


def benzene_dimer() -> Atoms:
    atoms = mf.example_structure("benzene")
    other = atoms.copy()
    other.translate([0.3, 1.6, 3.5])
    return atoms + other


def graphite() -> Atoms:
    return Graphite("C", latticeconstant={"a": 2.46, "c": 6.7})


def compressed_hydrogen() -> Atoms:
    """Coordination numbers so far from all references that their weights underflow."""
    cluster = bulk("H", "fcc", a=0.75, cubic=True).repeat(2)
    cluster.pbc = False
    return cluster


def relaxed_framework() -> Atoms:
    return read(shared_file("heatcapacity", "relaxed", "RSM0010.xyz"))


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "ethanol": lambda: mf.example_structure("ethanol"),
    "benzene-dimer": benzene_dimer,
    "mof-5": lambda: mf.example_structure("mof-5"),
    "framework": relaxed_framework,
    "graphite": graphite,
    "graphene": lambda: graphene(vacuum=10.0),
    "chain": lambda: Atoms("CO", [[0, 4, 4], [1.2, 4.1, 4]], cell=[3, 9, 9], pbc=(1, 0, 0)),
    "rock-salt": lambda: bulk("NaCl", "rocksalt", a=5.64),
    "nickel": lambda: bulk("Ni", "fcc", a=3.52),
    "compressed-hydrogen": compressed_hydrogen,
}


def rattled(name: str) -> Atoms:
    atoms = STRUCTURES[name]()
    atoms.rattle(0.02, seed=3)
    return atoms


def arguments(atoms: Atoms, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.tensor(atoms.positions, dtype=dtype), torch.tensor(atoms.cell.array, dtype=dtype)


def crystal(**options: Any) -> tuple[Any, Tensor, Tensor]:
    """Quartz without symmetry, and cutoffs that no pair is near."""
    atoms = mf.example_structure("quartz")
    atoms.rattle(0.1, seed=5)
    options = {"cutoff": 6.0, "cn_cutoff": 4.5, **options}
    return mf.dispersion_fn(atoms, **options), *arguments(atoms)


def assert_equal_to_s_dftd3(atoms: Atoms, options: dict[str, Any], theirs: dict[str, Any]) -> None:
    calculator = pytest.importorskip("dftd3.ase").DFTD3
    reference = atoms.copy()
    reference.calc = calculator(damping="d3bj", **theirs)
    D3 = mf.dispersion_fn(atoms, **options)
    positions, cell = arguments(atoms)
    assert abs(D3(positions, cell).item() - reference.get_potential_energy()) < 1e-8
    forces = mf.forces(D3)(positions, cell).numpy()
    np.testing.assert_allclose(forces, reference.get_forces(), rtol=0, atol=1e-7)
    if atoms.pbc.all():
        stress = mf.stress(D3)(positions, cell).numpy()
        np.testing.assert_allclose(stress, reference.get_stress(voigt=False), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", STRUCTURES)
def test_energy_forces_and_stress_are_those_of_s_dftd3(name):
    assert_equal_to_s_dftd3(rattled(name), {}, {"method": "pbe"})


@pytest.mark.parametrize("functional", ["revPBE", "r2SCAN", "B3-LYP", "B97-3c", "B2PLYP"])
def test_functionals_are_those_of_s_dftd3(functional):
    atoms = rattled("benzene-dimer")
    assert_equal_to_s_dftd3(atoms, {"functional": functional}, {"method": functional})


def test_cutoffs_are_those_of_s_dftd3():
    theirs = {"method": "pbe", "realspace_cutoff": {"disp2": 9.3, "cn": 5.1}}
    assert_equal_to_s_dftd3(rattled("rock-salt"), {"cutoff": 9.3, "cn_cutoff": 5.1}, theirs)


def test_energies_of_the_atoms_are_halves_of_their_pairs():
    interface = pytest.importorskip("dftd3.interface")
    atoms = rattled("graphite")
    model = interface.DispersionModel(
        atoms.numbers, atoms.positions / Bohr, atoms.cell.array / Bohr, atoms.pbc
    )
    pairs = model.get_pairwise_dispersion(interface.RationalDampingParam(method="pbe"))
    energies = mf.dispersion_fn(atoms, per_atom=True)(*arguments(atoms))
    expected = pairs["additive pairwise energy"].sum(0) * Hartree
    np.testing.assert_allclose(energies, expected, rtol=0, atol=1e-8)
    total = mf.dispersion_fn(atoms)(*arguments(atoms))
    torch.testing.assert_close(energies.sum(), total)


def test_the_energy_of_a_supercell_is_a_multiple():
    atoms = rattled("graphite")
    energy = mf.dispersion_fn(atoms, per_atom=True)(*arguments(atoms))
    twice = atoms.repeat((2, 1, 1))
    torch.testing.assert_close(
        mf.dispersion_fn(twice, per_atom=True)(*arguments(twice)), energy.repeat(2)
    )


def test_a_lone_atom_has_no_dispersion():
    atoms = Atoms("C", [[1.0, 2.0, 3.0]])
    D3 = mf.dispersion_fn(atoms)
    assert D3(*arguments(atoms)) == 0
    assert torch.equal(mf.hessian(D3)(*arguments(atoms)), torch.zeros(1, 3, 1, 3).double())


def test_second_derivatives_by_positions_are_those_of_the_gradient():
    D3, positions, cell = crystal()
    H = mf.hessian(D3)(positions, cell).reshape(positions.numel(), -1)
    step = 1e-4
    for k in range(0, positions.numel(), 5):
        shift = torch.zeros_like(positions).view(-1).index_fill(0, torch.tensor(k), step)
        ends = [grad(D3)(positions + s * shift.view_as(positions), cell) for s in (1, -1)]
        expected = (ends[0] - ends[1]).reshape(-1) / (2 * step)
        torch.testing.assert_close(H[k], expected, rtol=0, atol=1e-8)


def test_second_derivatives_by_strain_are_those_of_the_gradient():
    D3, positions, cell = crystal()

    def both(strain: Tensor) -> Tensor:
        by_strain, by_positions = grad(mf.strained(D3), argnums=(0, 1))(strain, positions, cell)
        return torch.cat([by_strain, by_positions])

    found = torch.func.jacfwd(both)(torch.zeros_like(cell))
    step = 1e-5
    for i, j in itertools.product(range(3), repeat=2):
        strain = torch.zeros_like(cell)
        strain[i, j] = step
        expected = (both(strain) - both(-strain)) / (2 * step)
        torch.testing.assert_close(found[..., i, j], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("arguments_of", list(itertools.product((0, 1), repeat=2)))
def test_nestings_of_second_derivatives_agree(arguments_of):
    D3, positions, cell = crystal()
    i, j = arguments_of
    values = [
        outer(j)(inner(i)(D3))(positions, cell)
        for inner, outer in itertools.product((forward, reverse), repeat=2)
    ]
    assert abs(values[0]) > 1e-6
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-10, atol=1e-12)


def test_third_derivatives_agree_with_differences_and_when_repeated():
    D3, positions, cell = crystal()
    step = 1e-4

    def second(x: Tensor) -> Tensor:
        return forward(1)(reverse(0)(D3))(x, cell)

    direction = torch.sin(torch.arange(positions.numel(), dtype=torch.float64)).view_as(positions)
    expected = (second(positions + step * direction) - second(positions - step * direction)) / (
        2 * step
    )
    for _ in range(2):
        along = torch.func.jvp(second, (positions,), (direction,))[1]
        against = (grad(second)(positions) * direction).sum()
        torch.testing.assert_close(along, expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(against, along, rtol=1e-10, atol=1e-12)


def test_vmap_is_a_loop():
    D3, positions, cell = crystal()
    many = positions + 0.01 * torch.sin(torch.arange(4.0).double())[:, None, None]
    many[1, 0, 0] += 0.05
    cells = cell * torch.linspace(0.99, 1.01, 4).double()[:, None, None]
    for function in (D3, grad(D3), grad(D3, argnums=1), mf.hessian(D3, chunk_size=None)):
        expected = torch.stack([function(x, c) for x, c in zip(many, cells, strict=True)])
        torch.testing.assert_close(vmap(function)(many, cells), expected)


def test_it_adds_to_the_energy_of_a_potential():
    atoms = rattled("benzene-dimer")
    model = mf.load_model("embedded")
    s = mf.from_ase(atoms, model)
    E, D3 = mf.energy_fn(model, s.graph), mf.dispersion_fn(atoms)

    def total(positions: Tensor, cell: Tensor, params: dict[str, Tensor]) -> Tensor:
        return E(positions, cell, params) + D3(positions, cell)

    H = mf.hessian(total)(s.positions, s.cell, model.params)
    of_d3 = mf.hessian(D3)(s.positions, s.cell)
    assert of_d3.abs().max() > 1e-3
    torch.testing.assert_close(H, mf.hessian(E)(s.positions, s.cell, model.params) + of_d3)
    torch.testing.assert_close(of_d3.sum(2), torch.zeros_like(of_d3.sum(2)), rtol=0, atol=1e-12)


def test_moved_atoms_need_a_skin_and_no_new_search():
    atoms = mf.example_structure("quartz")
    known = mf.dispersion_fn(atoms, cutoff=7.0, cn_cutoff=5.0, skin=1.0)
    atoms.rattle(0.1, seed=2)
    atoms.set_cell(atoms.cell * 0.98, scale_atoms=True)
    renewed = mf.dispersion_fn(atoms, cutoff=7.0, cn_cutoff=5.0)
    torch.testing.assert_close(known(*arguments(atoms)), renewed(*arguments(atoms)))
    forces = mf.forces(known)(*arguments(atoms))
    torch.testing.assert_close(forces, mf.forces(renewed)(*arguments(atoms)))


@pytest.mark.parametrize("name", ["benzene-dimer", "rock-salt", "compressed-hydrogen"])
def test_single_precision_is_close_and_finite(name):
    atoms = rattled(name)
    D3, single = mf.dispersion_fn(atoms), mf.dispersion_fn(atoms, dtype=torch.float32)
    expected = arguments(atoms)
    rounded = arguments(atoms, torch.float32)
    for of in (lambda f: f, mf.forces, mf.hessian):
        found, wanted = of(single)(*rounded), of(D3)(*expected)
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()
        tolerance = 1e-4 * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)


def test_nothing_is_left_on_another_device():
    atoms = rattled("rock-salt")
    D3 = mf.dispersion_fn(atoms, device="meta")
    positions, cell = (t.to("meta") for t in arguments(atoms))
    assert mf.hessian(D3, chunk_size=None)(positions, cell).device.type == "meta"
    assert mf.stress(D3)(positions, cell).shape == (3, 3)


@pytest.mark.parametrize("functional", ["unheard-of", "slaterdirac"])
def test_unknown_functionals_are_refused_by_name(functional):
    with pytest.raises(ValueError, match=functional):
        mf.dispersion_fn(graphite(), functional=functional)


def test_unknown_elements_are_refused_by_name():
    with pytest.raises(ValueError, match="Og"):
        mf.dispersion_fn(Atoms(["C", "Og"], [[0, 0, 0], [0, 0, 2]]))


@pytest.mark.parametrize("wrong", [{"cutoff": 0.0}, {"cn_cutoff": -1.0}, {"skin": -0.1}])
def test_cutoffs_have_to_be_in_their_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be a number from 0"):
        mf.dispersion_fn(graphite(), **wrong)


def test_shapes_and_dtypes_have_to_fit():
    D3, positions, cell = crystal()
    with pytest.raises(ValueError, match="positions"):
        D3(positions[:-1], cell)
    with pytest.raises(ValueError, match="float32"):
        D3(positions.float(), cell)


def test_without_its_data_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tad_dftd3", None)
    with pytest.raises(ImportError, match=r"mace_functional\[dispersion\]"):
        mf.dispersion_fn(graphite())


# As part of a model


SHORT = {"cutoff": 9.0, "cn_cutoff": 6.0}


def with_dispersion(**settings: Any) -> mf.Potential:
    return mf.load_model("embedded", dispersion=mf.D3Settings("pbe", **settings))


def test_a_model_with_dispersion_is_the_model_plus_dispersion():
    atoms = rattled("graphite")
    atoms.calc = mf.MaceCalculator(mf.load_model("embedded", dispersion="PBE"))
    plain = atoms.copy()
    plain.calc = mf.MaceCalculator(mf.load_model("embedded"))
    D3, args = mf.dispersion_fn(atoms), arguments(atoms)
    assert D3(*args).item() < -0.1
    energy = plain.get_potential_energy() + D3(*args).item()
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=0, abs=1e-10)
    forces = plain.get_forces() + mf.forces(D3)(*args).numpy()
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-10)
    stress = plain.get_stress(voigt=False) + mf.stress(D3)(*args).numpy()
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=0, atol=1e-10)
    energies = (
        plain.get_potential_energies() + mf.dispersion_fn(atoms, per_atom=True)(*args).numpy()
    )
    np.testing.assert_allclose(atoms.get_potential_energies(), energies, rtol=0, atol=1e-10)


def test_the_hessian_of_a_model_with_dispersion_is_that_of_its_forces():
    atoms = rattled("benzene-dimer")
    atoms.calc = mf.MaceCalculator(mf.load_model("embedded", dispersion="pbe"))
    H, start, step = atoms.calc.get_hessian(atoms), atoms.positions.copy(), 1e-4
    for k in range(0, start.size, 19):
        ends = []
        for sign in (1, -1):
            atoms.positions = start
            atoms.positions.flat[k] += sign * step
            ends.append(atoms.get_forces().ravel())
        np.testing.assert_allclose(H[k], (ends[1] - ends[0]) / (2 * step), rtol=0, atol=1e-5)


def test_a_model_keeps_its_dispersion_in_another_precision_and_shows_it():
    model = with_dispersion()
    in_single = model.to(dtype=torch.float32)
    assert in_single.dtype == torch.float32
    assert in_single.potentials[1].settings == model.potentials[1].settings
    assert "D3(pbe)" in repr(model)
    assert "D3" not in repr(mf.load_model("embedded"))


def test_graphs_hold_the_pairs_of_dispersion_until_an_unknown_one_comes_within_a_cutoff():
    atoms = mf.example_structure("quartz")
    model = with_dispersion(**SHORT)
    s = mf.from_ase(atoms, model, skin=0.3)
    moved = atoms.copy()
    moved.set_cell(moved.cell * 0.97, scale_atoms=True)
    moved.rattle(0.02, seed=1)
    assert s.graph.is_current(*arguments(moved))
    fresh = mf.from_ase(moved, model)

    def value(graph: mf.Graph) -> Tensor:
        return mf.energy_fn(model, graph)(*arguments(moved), model.params)

    torch.testing.assert_close(value(s.graph), value(fresh.graph), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        value(s.rebuild(*arguments(moved)).graph), value(fresh.graph), rtol=0, atol=1e-11
    )
    moved.set_cell(atoms.cell * 0.9, scale_atoms=True)
    assert not s.graph.is_current(*arguments(moved))


@pytest.mark.parametrize("cutoffs", [(3.0, 2.5), (3.0, 9.0), (9.0, 2.5)])
def test_remaining_skin_is_that_of_the_cutoff_that_is_reached_first(cutoffs):
    atoms = mf.example_structure("quartz")
    skin = 0.2
    pairs = mf.D3(mf.D3Settings("pbe", *cutoffs)).structure(atoms, skin=skin).topology
    positions, cell = arguments(atoms)
    skins = [skin * max(1, c / 6.0) for c in cutoffs]
    assert remaining_skin(pairs, positions, cell, pairs.reaches) == pytest.approx(min(skins))
    # Shortened by 2 %, all reaches fall by 2 % of their own length.
    least = min(0.98 * (c + s) - c for c, s in zip(cutoffs, skins, strict=True))
    shorter = 0.98 * positions, 0.98 * cell
    assert remaining_skin(pairs, *shorter, pairs.reaches) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("name", ["rock-salt", "graphite", "chain"])
def test_force_constants_in_a_wave_are_those_of_a_folded_supercell(name):
    atoms = rattled(name)
    settings = {"cutoff": 8.0, "cn_cutoff": 5.0}
    pairs = mf.D3(mf.D3Settings("pbe", **settings)).structure(atoms).topology
    found = d3_force_constants_at(pairs)
    cells = np.where(atoms.pbc, (3, 2, 2), 1)
    supercell = atoms.repeat(cells)
    H = mf.hessian(mf.dispersion_fn(supercell, **settings))(*arguments(supercell)).numpy()
    size, n = len(atoms), int(np.prod(cells))
    blocks = H[:size].reshape(size, 3, n, size, 3)
    lattice = np.indices(cells).reshape(3, -1).T
    for q in lattice / cells:
        folded = np.einsum("jarkb,r->jakb", blocks, np.exp(2j * np.pi * lattice @ q))
        matrix = found(torch.tensor(q), *arguments(atoms)).numpy()
        np.testing.assert_allclose(
            matrix, folded.reshape(3 * size, 3 * size), rtol=0, atol=1e-12 * abs(folded).max()
        )
        np.testing.assert_allclose(matrix, matrix.conj().T, rtol=0, atol=1e-13)


def test_the_dynamical_matrix_with_dispersion_is_that_of_a_supercell():
    atoms = rattled("graphite")
    model = mf.load_model("embedded", dispersion="pbe")
    s = mf.from_ase(atoms, model)
    D = mf.dynamical_matrix_fn(model, s.graph)
    supercell = atoms.repeat((2, 1, 1))
    big = mf.from_ase(supercell, model)
    H = mf.hessian(mf.energy_fn(model, big.graph))(big.positions, big.cell, model.params)
    blocks = H.reshape(2, 12, 2, 12)[0] / s.masses[0]
    for q, sign in ((0.0, 1), (0.5, -1)):
        folded = blocks[:, 0] + sign * blocks[:, 1]
        matrix = D(torch.tensor([q, 0, 0]).double(), s.positions, s.cell, model.params, s.masses)
        torch.testing.assert_close(matrix.real, folded, rtol=0, atol=1e-11)
        assert matrix.imag.abs().max() < 1e-12


def test_derivatives_of_force_constants_in_a_wave_are_those_of_differences():
    atoms = rattled("rock-salt")
    settings = mf.D3Settings("pbe", cutoff=7.0, cn_cutoff=4.6)
    found = d3_force_constants_at(mf.D3(settings).structure(atoms).topology)
    point = (torch.tensor([0.21, 0.13, -0.34]).double(), *arguments(atoms))

    def value(*x: Tensor) -> Tensor:
        return torch.view_as_real(found(*x))

    for number, x in enumerate(point):
        direction = torch.cos(torch.arange(x.numel()).double()).view_as(x)

        def along(t: Tensor, number: int = number, direction: Tensor = direction) -> Tensor:
            return value(*(y + t * direction if k == number else y for k, y in enumerate(point)))

        zero, step = torch.zeros(()).double(), 1e-5
        slope = torch.func.jacfwd(along)(zero)
        expected = (along(zero + step) - along(zero - step)) / (2 * step)
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)
        weights = torch.sin(torch.arange(slope.numel()).double()).view_as(slope)
        pulled = grad(lambda t, f=along, w=weights: (f(t) * w).sum())(zero)
        torch.testing.assert_close(pulled, (slope * weights).sum(), rtol=1e-9, atol=1e-12)


def test_phonons_of_a_model_with_dispersion_have_force_constants_of_the_model_alone():
    atoms = rattled("graphite")
    model = with_dispersion(**SHORT)
    phonons = mf.phonons_of(model, atoms, method="force-constants")
    assert phonons.force_constants is not None
    assert "D3(pbe) at each q" in repr(phonons)
    modes, expected = phonons.gamma_modes().frequencies, mf.gamma_modes(model, atoms).frequencies
    torch.testing.assert_close(modes, expected, rtol=0, atol=1e-6)
    by_waves = mf.phonons_of(model, atoms, method="replicas")
    alone = mf.phonons_of(model.potentials[0], atoms, method="force-constants")
    q = torch.tensor([0.13, -0.29, 0.41], dtype=torch.float64)
    found, expected = phonons.dynamical_matrix(q), by_waves.dynamical_matrix(q)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found - alone.dynamical_matrix(q)).abs().max() > 1e-3
    for other in (pickle.loads(pickle.dumps(phonons)), phonons.on("cpu", None)):
        assert torch.equal(other.dynamical_matrix(q), found)
        assert [str(p) for p in other.long_range] == ["D3(pbe)"]
    with pytest.raises(ValueError, match="dynamical_matrix_fn"):
        mf.force_constants(model, atoms)
    with pytest.raises(ValueError, match="method='replicas'"):
        mf.phonons_of(model.potentials[1], atoms, method="force-constants")


def test_graphite_binds_where_dispersion_is():
    atoms = graphite()
    for dispersion, bound in ((None, False), ("pbe", True)):
        calculator = mf.MaceCalculator(mf.load_model("embedded", dispersion=dispersion))
        energies = []
        for spacing in (6.7, 20.0):
            atoms.set_cell([*atoms.cell.cellpar()[:2], spacing, 90, 90, 120], scale_atoms=True)
            energies.append(calculator.get_potential_energy(atoms.copy()))
        assert (energies[0] < energies[1] - 0.1) == bound


def test_structures_with_dispersion_are_not_batched():
    model = with_dispersion(**SHORT)
    s = mf.from_ase(mf.example_structure("quartz"), model)
    with pytest.raises(ValueError, match="cannot be batched"):
        mf.batch([s, s])


def test_elements_that_dispersion_does_not_know_are_refused_with_the_structure():
    with pytest.raises(ValueError, match="no parameters"):
        mf.load_model("embedded", dispersion="unheard-of")


# What may be asked for.


@pytest.mark.parametrize("nothing", [None, False, "none", "None"])
def test_no_dispersion_is_asked_for_in_several_ways(nothing):
    assert isinstance(mf.load_model("embedded", dispersion=nothing), mf.MaceModel)
    assert mf.ScreenSettings("embedded", dispersion=nothing).dispersion is None


def test_functionals_are_known_in_capitals_too():
    assert mf.D3Settings("PBE") == mf.D3Settings("pbe")
    model = mf.load_model("embedded", dispersion="PBE")
    assert model.potentials[1].settings == mf.D3Settings("pbe")
    assert mf.ScreenSettings("embedded", dispersion="PBE").dispersion == "pbe"


@pytest.mark.parametrize(
    "ask",
    [
        lambda d: mf.load_model("embedded", dispersion=d),
        lambda d: mf.ScreenSettings("embedded", dispersion=d),
        mf.D3Settings,
    ],
    ids=["load_model", "ScreenSettings", "D3Settings"],
)
def test_what_names_no_functional_is_refused_in_a_sentence(ask):
    with pytest.raises(
        ValueError, match=r"True does not name a functional.* such as dispersion='pbe'"
    ):
        ask(True)
    for wrong in 3, 1.5, ["pbe"]:
        with pytest.raises(TypeError, match="must be the name of a functional, such as 'pbe'"):
            ask(wrong)
