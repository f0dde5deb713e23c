"""The package on another device, that of `fake_device`: its results, and where its host waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from fake_device import MixedDevicesError, fake_cuda, on_cpu
from models import TOTAL_CHARGE, build, crystal
from torch.func import grad, jvp, vmap

import mace_functional as mf
from mace_functional.derivatives.hessian_products import HessianProducts
from mace_functional.phonons import (
    acoustic_branches,
    mean_square_displacements,
    participation_ratios,
)
from mace_functional.screening.evaluate import Task, evaluate

Q = [0.1, 0.2, 0.3]

WAITS_PER_GRADIENT = 12
"""Most waits for a gradient of a search: two copies to the device and four results back, periodic
directions, and five tensors for the check of the neighbour list."""
WAITS_PER_PRODUCT = 8
"""Most waits for a Hessian-vector product of a search: a vector there and one back, and its share
of what is read for a linearised gradient."""
WAITS_PER_COPY = 200
"""Most waits for a copy of the model in single precision, of which each search makes one."""
WAITS_PER_WAVE_VECTOR = 4
"""Most waits for the modes at a wave vector: a check, the rigid motions, and `eigh`."""


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.02, seed=1)
    return atoms


def water() -> Atoms:
    return molecule("H2O")


def ammonia() -> Atoms:
    """Ammonia on its way to the planar saddle point."""
    atoms = molecule("NH3")
    atoms.positions[0, 2] -= 0.25
    return atoms


@cache
def load(device: str, **options: Any) -> Any:
    """The embedded model; on `cuda` it is loaded, and used, within `fake_cuda`."""
    return mf.load_model("embedded", device=device, **options)


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(on_cpu(found), on_cpu(expected), rtol=1e-8, atol=1e-8)


class Prepared:
    """A model with D3, a structure and its energy on a device."""

    def __init__(self, device: str, model: Any = None, atoms: Atoms | None = None) -> None:
        self.model = load(device, dispersion="pbe") if model is None else model
        self.atoms = salt() if atoms is None else atoms
        self.s = mf.from_ase(self.atoms, self.model)
        self.E = mf.energy_fn(self.model, self.s.topology)
        self.args = self.s.positions, self.s.cell, self.model.params
        self.v = torch.linspace(-1, 1, self.s.positions.numel()).to(self.s.positions)
        self.v = self.v.view(-1, 3)


Call = Callable[[], Any]


# The engine: functions that never wait once the structure is prepared.


def energy_and_forces(p: Prepared) -> Call:
    return lambda: (p.E(*p.args), mf.forces(p.E)(*p.args))


def hessian_vector_product(p: Prepared) -> Call:
    return lambda: mf.hvp(p.E)(*p.args, p.v)


def hessian_in_chunks(p: Prepared) -> Call:
    return lambda: mf.hessian(p.E, chunk_size=2)(*p.args)


def hessian_in_chunks_that_fit(p: Prepared) -> Call:
    return lambda: mf.hessian(p.E)(*p.args)


def hessian_forward_over_reverse(p: Prepared) -> Call:
    return lambda: mf.hessian(p.E, mode="fwd-rev", chunk_size=3)(*p.args)


def hessian_of_some_atoms(p: Prepared) -> Call:
    return lambda: mf.hessian(p.E, indices=[1])(*p.args)


def products_of_an_operator(p: Prepared) -> Call:
    op = mf.HessianOperator(p.E, *p.args, masses=p.s.masses)
    return lambda: (op @ p.v, op @ p.v, op @ torch.stack([p.v.flatten()] * 2, 1))


def dynamical_matrix_by_replicas(p: Prepared) -> Call:
    D = mf.dynamical_matrix_fn(p.model, p.s.topology)
    return lambda: [D(q, *p.args, p.s.masses) for q in (Q, [0.5, 0, 0.5])]


def dynamical_matrix_by_force_constants(p: Prepared) -> Call:
    constants = mf.force_constants(p.model.potentials[0], salt())
    constants.dynamical_matrix([0, 0, 0])
    return lambda: constants.dynamical_matrix(Q)


def slope_of_the_dynamical_matrix(p: Prepared) -> Call:
    D, q = mf.dynamical_matrix_fn(p.model, p.s.topology), p.s.cell.new_tensor(Q)
    return lambda: jvp(lambda q: D(q, *p.args, p.s.masses), (q,), (torch.ones_like(q),))[1]


def gradient_by_parameters(p: Prepared) -> Call:
    return lambda: grad(p.E, argnums=2)(*p.args)


def third_derivative(p: Prepared) -> Call:
    return lambda: grad(lambda x: mf.hvp(p.E)(x, *p.args[1:], p.v).square().sum())(p.args[0])


def forces_of_many_geometries(p: Prepared) -> Call:
    x = torch.stack([p.args[0], 1.01 * p.args[0]])
    return lambda: vmap(lambda x: mf.forces(p.E)(x, *p.args[1:]))(x)


def batch_of_structures(p: Prepared) -> Call:
    model = p.model.potentials[0]
    b = mf.batch([mf.from_ase(atoms, model) for atoms in (water(), salt())])

    def energy(topology: Any, x: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return mf.energy_fn(model, topology)(x, cell, model.params)

    return lambda: vmap(energy)(b.topology, b.positions, b.cell)


ENGINE = [
    energy_and_forces,
    hessian_vector_product,
    hessian_in_chunks,
    hessian_in_chunks_that_fit,
    hessian_forward_over_reverse,
    hessian_of_some_atoms,
    products_of_an_operator,
    dynamical_matrix_by_replicas,
    dynamical_matrix_by_force_constants,
    slope_of_the_dynamical_matrix,
    gradient_by_parameters,
    third_derivative,
    forces_of_many_geometries,
    batch_of_structures,
]


@pytest.mark.parametrize("prepare", ENGINE, ids=lambda prepare: prepare.__name__)
def test_engine_on_another_device_gives_the_same_and_never_waits(prepare: Any) -> None:
    expected = prepare(Prepared("cpu"))()
    with fake_cuda() as waits:
        call = prepare(Prepared("cuda"))
        waits.clear()
        found = call()
        assert not waits, waits
    assert_same(found, expected)


SETTINGS = {
    "density and repulsion": {
        "interaction_cls": "RealAgnosticDensityResidual",
        "interaction_cls_first": "RealAgnosticDensity",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
    },
    "non-linear, with a charge": {
        "interaction_cls": "RealAgnosticResidualNonLinear",
        "interaction_cls_first": "RealAgnosticResidualNonLinear",
        "edge_irreps": "6x0e + 6x1o",
        "embedding_specs": TOTAL_CHARGE,
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_other_architectures_on_another_device_never_wait(settings: dict[str, Any]) -> None:
    module = build(**settings)
    expected = hessian_vector_product(Prepared("cpu", mf.load_model(module), crystal()))()
    with fake_cuda() as waits:
        model = mf.load_model(module, device="cuda")
        call = hessian_vector_product(Prepared("cuda", model, crystal()))
        waits.clear()
        found = call()
        assert not waits, waits
    assert_same(found, expected)


def test_function_potential_on_another_device_never_waits() -> None:
    def energies(near: mf.Neighbourhood, k: torch.Tensor) -> torch.Tensor:
        charges = near.of_neighbours(near.numbers.to(near.distances))
        return near.sum(k * charges * (4 - near.distances) ** 4)

    def prepared(device: str) -> Call:
        options = {"cutoff": 4.0, "params": torch.tensor(0.01), "device": device}
        potential = mf.FunctionPotential(energies, **options)
        return hessian_vector_product(Prepared(device, potential))

    expected = prepared("cpu")()
    with fake_cuda() as waits:
        call = prepared("cuda")
        waits.clear()
        found = call()
        assert not waits, waits
    assert_same(found, expected)


# Results that read values: the same on both devices.


def stress(device: str, folder: Path) -> Any:
    p = Prepared(device)
    return mf.stress(p.E)(*p.args)


def single_precision(device: str, folder: Path) -> Any:
    return energy_and_forces(Prepared(device, load("cpu").to(device=device, dtype="float32")))()


def dispersion(device: str, folder: Path) -> Any:
    D3 = mf.dispersion_fn(salt(), device=device)
    x, cell = (torch.tensor(t, device=device) for t in (salt().positions, salt().cell.array))
    return D3(x, cell), grad(D3)(x, cell)


def elasticity(device: str, folder: Path) -> Any:
    model, atoms = load(device), bulk("NaCl", "rocksalt", a=5.6)
    dense, cg = (mf.elastic_constants(model, atoms, solver=name) for name in ("dense", "cg"))
    assert repr(dense)
    found = dense.young_modulus([1, 2, 3]), dense.sound_velocities([1, 2, 3]), dense.compliance
    return *found, dense.stiffness, cg.stiffness, torch.tensor(dense.debye_temperature)


def vibrations(device: str, folder: Path) -> Any:
    modes = mf.gamma_modes(load(device), water())
    thermo = mf.harmonic_thermo(modes, [100.0, 300.0])
    assert repr(modes)
    assert repr(thermo)
    some = mf.gamma_modes(load(device), water(), indices=[1, 2])
    return modes.frequencies, thermo.heat_capacity, thermo.entropy, some.frequencies


def vibrations_as_a_function(device: str, folder: Path) -> Any:
    p = Prepared(device, atoms=water())
    hessian = mf.hessian(p.E)(*p.args)
    return mf.vibrational_frequencies(hessian, p.s.masses, p.s.positions)


def lattice_vibrations(device: str, folder: Path) -> Any:
    model, atoms = load(device), bulk("NaCl", "rocksalt", a=5.64)
    phonons = mf.phonons_of(model, atoms, method="force-constants")
    modes = mf.mesh_modes(phonons, mf.Mesh.of(atoms, (1, 1, 2)))
    states = [mf.density_of_states(modes, method=m) for m in ("tetrahedron", "gaussian")]
    bands = mf.band_structure(phonons, "GX", points=2)
    at_gamma = phonons.gamma_modes()
    assert all(map(repr, (phonons, modes, bands, at_gamma, *states)))
    return [
        modes.frequencies,
        mf.mesh_thermo(modes, [300.0]).thermo.heat_capacity,
        [x for s in states for x in (s.total, s.per_atom)],
        bands.frequencies,
        mf.group_velocities(phonons, Q),
        mean_square_displacements(modes, [300.0]),
        participation_ratios(modes.eigenvectors),
        torch.tensor(acoustic_branches(model, atoms, at_gamma).edges),
    ]


def lattice_vibrations_by_replicas(device: str, folder: Path) -> Any:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    phonons = mf.phonons_of(load(device, dispersion="pbe"), atoms, method="replicas")
    modes = mf.mesh_modes(phonons, mf.Mesh.of(atoms, (1, 1, 2)))
    return modes.frequencies, phonons.gamma_modes().frequencies


def stability(device: str, folder: Path) -> Any:
    return torch.tensor(mf.check_stability(load(device), water()).frequency)


def saved_model(device: str, folder: Path) -> Any:
    mf.save_model(load(device), folder / "model.safetensors")
    return mf.load_model(folder / "model.safetensors", device=device).params


def calculator(device: str, folder: Path) -> Any:
    atoms = salt()
    atoms.calc = mf.MaceCalculator(load(device))
    first = atoms.get_potential_energy(), atoms.get_stress(), atoms.calc.get_hessian(atoms)
    atoms.positions[0, 0] += 0.01
    return [torch.as_tensor(x) for x in (*first, atoms.get_forces())]


def operator_for_scipy(device: str, folder: Path) -> Any:
    op = mf.HessianOperator.from_potential(load(device), water()).to_scipy()
    return torch.as_tensor(op.matmat(np.eye(9)))


def screening(device: str, folder: Path) -> Any:
    settings = mf.ScreenSettings("embedded", fmax=0.3, mesh=(1, 1, 2), eigenvectors=True)
    task = Task("key", "salt", "salt.cif", salt(), folder / device, settings, device=device)
    record = evaluate(task)
    assert record.failure is None, record.failure
    return torch.tensor([record.energy, record.lowest_frequency])


def worker_of_a_caller_on_the_cpu(device: str, folder: Path) -> Any:
    """What a process for a GPU computes with the potential of a caller on the CPU."""
    model, vectors = mf.load_model("embedded"), torch.eye(6, dtype=torch.float64).view(6, 2, 3)
    products = HessianProducts(model, salt()).begun(device)(vectors).cpu()
    found = []
    for method in "replicas", "force-constants":
        phonons = mf.phonons_of(model, salt(), method=method)
        matrix = phonons.on(device, None).dynamical_matrix(Q)
        assert matrix.device.type == device
        found.append(matrix.cpu().real)
    return [products, *found]


RESULTS = [
    stress,
    single_precision,
    dispersion,
    elasticity,
    vibrations,
    vibrations_as_a_function,
    lattice_vibrations,
    lattice_vibrations_by_replicas,
    stability,
    saved_model,
    calculator,
    operator_for_scipy,
    screening,
    worker_of_a_caller_on_the_cpu,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.__name__)
def test_results_on_another_device_are_the_same(result: Any, tmp_path: Path) -> None:
    expected = result("cpu", tmp_path)
    with fake_cuda():
        found = result("cuda", tmp_path)
    assert_same(found, expected)


# Searches: a bounded number of waits for each gradient and product.


@pytest.mark.parametrize(
    ("atoms", "options"),
    [(water(), {}), (salt(), {"symmetry": True, "symprec": 0.1})],
    ids=["molecule", "crystal with its symmetry"],
)
def test_relaxation_on_another_device_seldom_waits(atoms: Atoms, options: Any) -> None:
    expected = mf.relax(load("cpu"), atoms, fmax=1e-3, **options)
    with fake_cuda() as waits:
        at_steps: list[int] = []
        options |= {"callback": lambda *_: at_steps.append(waits.total())}
        found = mf.relax(load("cuda"), atoms, fmax=1e-3, **options)
    assert found.n_gradients == expected.n_gradients
    assert found.energy == pytest.approx(expected.energy, abs=1e-8)
    assert min(np.diff(at_steps)) <= WAITS_PER_GRADIENT
    assert at_steps[-1] - at_steps[0] <= (
        WAITS_PER_GRADIENT * (found.n_gradients - 1)
        + WAITS_PER_PRODUCT * found.n_hvps
        + WAITS_PER_COPY
    )


def test_search_for_a_saddle_point_on_another_device_seldom_waits() -> None:
    expected = mf.find_saddle(load("cpu"), ammonia(), connect=False, fmax=0.05)
    with fake_cuda() as waits:
        model = load("cuda")
        waits.clear()
        found = mf.find_saddle(model, ammonia(), connect=False, fmax=0.05)
        assert waits.total() <= (
            WAITS_PER_GRADIENT * found.n_gradients
            + WAITS_PER_PRODUCT * found.n_hvps
            + WAITS_PER_COPY
        )
    assert found.energy == pytest.approx(expected.energy, abs=1e-8)


def test_lowest_modes_on_another_device_seldom_wait() -> None:
    expected = mf.lowest_modes(mf.HessianOperator.from_potential(load("cpu"), salt()), 2)
    with fake_cuda() as waits:
        op = mf.HessianOperator.from_potential(load("cuda"), salt())
        waits.clear()
        found = mf.lowest_modes(op, 2)
        assert waits.total() <= 20 + WAITS_PER_PRODUCT * found.n_hvps, waits
    assert_same(found.eigenvalues, expected.eigenvalues)


def test_modes_on_a_mesh_on_another_device_seldom_wait() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    mesh = mf.Mesh.of(atoms, (1, 1, 4))
    with fake_cuda() as waits:
        phonons = mf.phonons_of(load("cuda"), atoms, method="force-constants")
        waits.clear()
        mf.mesh_modes(phonons, mesh)
        assert waits.total() <= WAITS_PER_WAVE_VECTOR * len(mesh.q), waits


# The pretence itself.


def test_torch_is_the_same_afterwards() -> None:
    """`torch.tensor` failed for scalar tensors in all later tests of the process."""
    with fake_cuda():
        assert torch.arange(3, device="cuda")[[2, 0]].tolist() == [2, 0]
    assert torch.tensor([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1, 2]


def test_tensors_of_two_devices_do_not_mix() -> None:
    with fake_cuda():
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        with pytest.raises(MixedDevicesError, match="cuda:0"):
            here + there
        with pytest.raises(MixedDevicesError, match="indices"):
            here[torch.tensor([0], device="cuda")]
        with pytest.raises(MixedDevicesError):
            torch.stack([there[0], here[0]])
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        assert (there + here[0]).device == there.device == torch.device("cuda:0")


READS: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "upload": lambda x: x.new_tensor([1.0]),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "list": lambda x: x[[0, 1]],
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "eigh": lambda x: torch.linalg.eigh(x[:, None] * x),
    "inverse": lambda x: torch.linalg.inv(torch.diag(x)),
    "repeats": lambda x: x.repeat_interleave(torch.ones_like(x, dtype=torch.int64)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_of_values_is_counted(read: Callable[[torch.Tensor], Any]) -> None:
    with fake_cuda() as waits:
        x = torch.tensor([1.0, 2.0, 3.0]).to("cuda")
        waits.clear()
        read(x)
    assert waits.total() == 1, waits


def test_arithmetic_is_not_counted() -> None:
    with fake_cuda() as waits:
        x = torch.ones(3, device="cuda")
        torch.arange(3).to("cuda", non_blocking=True)
        x[1:] = x[:-1].exp() * 2
        x[0] = 1
        torch.where(x > 0, x, torch.zeros_like(x)).index_select(0, torch.arange(3, device="cuda"))
    assert not waits, waits
