"""Potentials made of functions: a Lennard-Jones crystal against closed forms."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from conftest import ROOT
from scipy.optimize import minimize
from torch.func import grad, jacfwd, jacrev, vmap

import mace_functional as mf

SIGMA, EPSILON = 3.4, 0.0104
NEAREST = 2 ** (1 / 6) * SIGMA
"""Distance of the minimum of a pair, Å."""
REACH = 12.0
"""Cutoff of the potential that is smooth there, Å."""
STIFFNESS = 36 * 2 ** (2 / 3) * EPSILON / SIGMA**2
"""Second derivative of the energy of a pair there, eV/Å²."""


def pairs(near: mf.Neighbourhood, params: dict[str, torch.Tensor]) -> torch.Tensor:
    s6 = (params["sigma"] / near.distances) ** 6
    return near.sum(2 * params["epsilon"] * (s6**2 - s6))


def argon(cutoff: float = 4.6, **options: object) -> mf.FunctionPotential:
    """Lennard-Jones argon; with this cutoff each atom of the crystal has its twelve nearest."""
    params = {"sigma": SIGMA, "epsilon": EPSILON}
    return mf.FunctionPotential(
        pairs, cutoff=cutoff, params=params, mirror_symmetric=True, **options
    )


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    return bulk("Ar", "fcc", a=math.sqrt(2) * NEAREST)


def test_crystal_relaxes_to_the_distance_of_a_pair():
    found = mf.relax(argon(), bulk("Ar", "fcc", a=5.2), fmax=1e-8)
    assert found.converged
    spacing = (4 * found.atoms.get_volume()) ** (1 / 3) / math.sqrt(2)
    assert spacing == pytest.approx(NEAREST, abs=1e-6)


def closed_form(q: np.ndarray, cell: np.ndarray, mass: float) -> np.ndarray:
    """`sum_n k n n^T (1 - cos(q.R)) / m` over the twelve nearest neighbours R = r n."""
    lattice = np.indices((3, 3, 3)).reshape(3, -1).T - 1
    vectors = lattice @ cell
    nearest = np.isclose(np.linalg.norm(vectors, axis=1), NEAREST)
    assert nearest.sum() == 12
    n = vectors[nearest] / NEAREST
    waves = 1 - np.cos(2 * np.pi * lattice[nearest] @ q)
    return STIFFNESS / mass * np.einsum("ra,rb,r->ab", n, n, waves)


@pytest.mark.parametrize("method", ["force-constants", "replicas"])
def test_phonons_are_those_of_the_nearest_neighbour_crystal(crystal, method):
    lattice = mf.phonons_of(argon(), crystal, method=method)
    mass = float(crystal.get_masses()[0])
    for q in ([0.5, 0.5, 0.0], [0.13, -0.29, 0.41], [0.0, 0.0, 0.0]):
        found = lattice.dynamical_matrix(q).numpy()
        expected = closed_form(np.array(q), crystal.cell.array, mass)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_frequencies_along_the_cube_edge_are_sines(crystal):
    lattice = mf.phonons_of(argon(), crystal)
    mass = float(crystal.get_masses()[0])
    for xi in (0.2, 0.5, 1.0):
        q = np.array([xi, 0, 0]) @ crystal.cell.array.T / (math.sqrt(2) * NEAREST)
        squares = torch.linalg.eigvalsh(lattice.dynamical_matrix(q)).numpy()
        sine = math.sin(math.pi * xi / 2) ** 2 * STIFFNESS / mass
        np.testing.assert_allclose(squares, [4 * sine, 4 * sine, 8 * sine], rtol=1e-10)


def test_force_constants_end_with_the_pairs(crystal):
    constants = mf.force_constants(argon(), crystal)
    assert constants.range == pytest.approx(NEAREST)
    assert constants.acoustic_sum_residual < 1e-14


def test_force_constants_of_a_sum_are_the_sum_of_those_of_its_parts(crystal):
    near, far = argon(), argon(6.0)
    parts = [mf.phonons_of(p, crystal).dynamical_matrix for p in (near, far)]
    both = mf.phonons_of(mf.SumPotential(near, far), crystal)
    assert both.force_constants is not None
    q = [0.21, 0.07, -0.4]
    torch.testing.assert_close(both.dynamical_matrix(q), parts[0](q) + parts[1](q))


def test_elastic_constants_are_those_of_central_forces(crystal):
    potential = argon()
    s = potential.structure(crystal)
    energy = mf.strained(mf.energy_fn(potential, s.topology))
    strain = torch.zeros(3, 3, dtype=torch.float64)
    curvature = jacfwd(jacrev(energy))(strain, s.positions, s.cell, potential.params)
    c = curvature / crystal.get_volume()
    root = math.sqrt(2) * STIFFNESS / NEAREST
    assert float(c[0, 0, 0, 0]) == pytest.approx(root, rel=1e-10)
    assert float(c[0, 0, 1, 1]) == pytest.approx(root / 2, rel=1e-10)
    assert float(c[0, 1, 0, 1]) == pytest.approx(root / 2, rel=1e-10)


def test_derivative_of_the_energy_by_a_parameter_is_the_energy_over_it(crystal):
    potential = argon()
    s = potential.structure(crystal)
    energy = mf.energy_fn(potential, s.topology)
    slope = grad(energy, argnums=2)(s.positions, s.cell, potential.params)
    assert float(energy(s.positions, s.cell, potential.params)) == pytest.approx(-6 * EPSILON)
    assert float(slope["epsilon"]) == pytest.approx(-6)
    assert float(slope["sigma"]) == pytest.approx(0, abs=1e-12)


def smooth(near: mf.Neighbourhood, params: dict[str, torch.Tensor]) -> torch.Tensor:
    s6 = (params["sigma"] / near.distances) ** 6
    fading = (1 - (near.distances / REACH) ** 2) ** 4
    return near.sum(2 * params["epsilon"] * (s6**2 - s6) * fading)


def of_pair(r: np.ndarray) -> np.ndarray:
    s6 = (SIGMA / r) ** 6
    return 4 * EPSILON * (s6**2 - s6) * (1 - (r / REACH) ** 2) ** 4


def test_saddle_between_two_bipyramids_is_the_square_pyramid():
    potential = mf.FunctionPotential(
        smooth, cutoff=REACH, params={"sigma": SIGMA, "epsilon": EPSILON}, mirror_symmetric=True
    )

    def pyramid(x: np.ndarray) -> float:
        side, height = x
        slope, diagonal = math.hypot(side / math.sqrt(2), height), math.sqrt(2) * side
        return float(4 * of_pair(side) + 4 * of_pair(slope) + 2 * of_pair(diagonal))

    expected = minimize(pyramid, [3.8, 2.7], method="Nelder-Mead", options={"xatol": 1e-8})
    corners = [[0, 0, 0], [3.8, 0, 0], [3.8, 3.8, 0], [0, 3.8, 0.1]]
    found = mf.find_saddle(potential, Atoms("Ar5", [*corners, [1.9, 1.9, 2.7]]))
    assert found.converged
    energy = mf.PotentialCalculator(potential).get_potential_energy(found.atoms)
    assert energy == pytest.approx(expected.fun, abs=1e-6)


def test_calculator_of_a_function_gives_forces_that_are_differences():
    atoms = Atoms("Ar3", [[0, 0, 0], [3.7, 0.2, 0], [1.5, 3.4, 0.3]])
    atoms.calc = mf.PotentialCalculator(argon(9.0))
    forces, step = atoms.get_forces(), 1e-4
    for i in range(3):
        for a in range(3):
            ends = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, a] += sign * step
                moved.calc = atoms.calc
                ends.append(moved.get_potential_energy())
            assert forces[i, a] == pytest.approx((ends[1] - ends[0]) / (2 * step), abs=1e-8)


def embedded_atom(near: mf.Neighbourhood, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Atoms feel what their neighbours feel: two layers."""
    fading = (1 - (near.distances / 4.6) ** 2) ** 4
    density = near.sum(torch.exp(-near.distances / params["length"]) * fading)
    of_others = near.sum(near.of_neighbours(density) * fading)
    return -density.sqrt() + 0.1 * of_others**2


def test_force_constants_of_two_layers_are_those_of_a_supercell(crystal):
    potential = mf.FunctionPotential(
        embedded_atom, cutoff=4.6, params={"length": 1.1}, layers=2, mirror_symmetric=True
    )
    lattice = mf.phonons_of(potential, crystal)
    by_replicas = mf.phonons_of(potential, crystal, method="replicas")
    large = crystal.repeat((4, 1, 1))
    s = potential.structure(large)
    energy = mf.energy_fn(potential, s.topology)
    blocks = mf.hessian(energy)(s.positions, s.cell, potential.params)[0].numpy()
    for k in range(4):
        phases = np.exp(2j * np.pi * k * np.arange(4) / 4)
        folded = np.einsum("ajb,j->ab", blocks, phases) / crystal.get_masses()[0]
        for of in (lattice, by_replicas):
            found = of.dynamical_matrix([k / 4, 0, 0]).numpy()
            np.testing.assert_allclose(found, folded, rtol=0, atol=1e-13)


def test_energies_of_atoms_and_of_many_positions_at_once(crystal):
    potential = argon(9.0)
    s = potential.structure(crystal.repeat((2, 1, 1)))
    whole = mf.energy_fn(potential, s.topology)
    each = mf.energy_fn(potential, s.topology, per_atom=True)
    x = torch.stack([s.positions, s.positions + 0.01 * torch.randn(2, 3, dtype=torch.float64)])
    together = vmap(whole, (0, None, None))(x, s.cell, potential.params)
    for k in range(2):
        atoms = each(x[k], s.cell, potential.params)
        assert atoms.shape == (2,)
        torch.testing.assert_close(together[k], atoms.sum())


def test_numbers_of_neighbours_are_those_of_the_elements():
    def by_elements(near: mf.Neighbourhood, params: object) -> torch.Tensor:
        both = near.numbers[:, None] * 1000 + near.neighbour_numbers
        return near.sum((both * near.mask).to(near.distances))

    atoms = Atoms("HOH", [[0, 0, 0], [1, 0, 0], [5, 0, 0]])
    potential = mf.FunctionPotential(by_elements, cutoff=2.0)
    s = potential.structure(atoms)
    found = mf.energy_fn(potential, s.topology, per_atom=True)(s.positions, s.cell, {})
    assert found.tolist() == [1008, 8001, 0]


def test_single_precision_gives_the_energy_to_its_digits(crystal):
    exact, rough = argon(9.0), argon(9.0).to(dtype=torch.float32)
    s, t = exact.structure(crystal), rough.structure(crystal)
    found = mf.energy_fn(rough, t.topology)(t.positions, t.cell, rough.params)
    assert found.dtype == torch.float32
    expected = mf.energy_fn(exact, s.topology)(s.positions, s.cell, exact.params)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_bad_functions_and_options_are_explained(crystal):
    whole = mf.FunctionPotential(lambda near, params: near.distances.sum(), cutoff=4.6)
    s = whole.structure(crystal)
    with pytest.raises(ValueError, match="an energy for each node"):
        mf.energy_fn(whole, s.topology)(s.positions, s.cell, {})
    with pytest.raises(ValueError, match="cutoff must be"):
        argon(-1.0)
    with pytest.raises(ValueError, match="layers must be"):
        argon(layers=0)
    with pytest.raises(ValueError, match="no element 'Xx'"):
        argon(elements=["Xx"])
    with pytest.raises(ValueError, match="not made for the elements Ar"):
        argon(elements=["Ne", 2]).structure(crystal)
    with pytest.raises(ValueError, match="no atoms"):
        argon().structure(Atoms())


def test_potentials_without_edges_have_no_phonons_and_say_so(crystal):
    class Bare:
        params = argon().params
        dtype, device = torch.float64, torch.device("cpu")

        def to(self, **_: object) -> Bare:
            return self

        def structure(self, atoms: Atoms, *, skin: float = 0.0) -> mf.Structure:
            return argon().structure(atoms, skin=skin)

        def energy_fn(self, topology: mf.Graph, *, per_atom: bool = False) -> object:
            return argon().energy_fn(topology, per_atom=per_atom)

    with pytest.raises(TypeError, match="has no dynamical matrix"):
        mf.phonons_of(Bare(), crystal)
    assert mf.gamma_modes(Bare(), crystal).frequencies.shape == (0,)


def test_certificate_of_a_function_is_passed(crystal):
    potential = mf.FunctionPotential(
        smooth, cutoff=REACH, params={"sigma": SIGMA, "epsilon": EPSILON}
    )
    certificate = mf.check_potential(potential, crystal)
    assert certificate.passed, certificate


def test_code_of_the_page_runs():
    text = (ROOT / "docs" / "howto" / "potentials.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/howto/potentials.md", "exec"), names)
    cubic = names["crystal"].get_volume() * 4
    assert 5.0 < cubic ** (1 / 3) < 5.6
    assert names["saddle"].converged
    assert 0.01 < float(names["C11"]) < 0.05
