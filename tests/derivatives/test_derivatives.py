"""Forces, Hessians, stress and the Hessian operator.

Oracles are closed formulas of analytic energies, mace-torch's `get_hessian`, and central
differences of mace-torch's forces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from helpers import assert_close, random
from mace.calculators import MACECalculator
from models import build
from scipy.sparse.linalg import LinearOperator, cg, eigsh
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import mace_functional as mf
from mace_functional.autodiff import columns
from mace_functional.autodiff.memory import MemoryMeter, free_memory

CELL = torch.tensor([[6.0, 0.3, 0.0], [0.0, 5.0, 0.2], [0.5, 0.0, 7.0]], dtype=torch.float64)
EPSILON, SIGMA = 0.8, 1.1
LENNARD_JONES = {
    "epsilon": torch.tensor(EPSILON, dtype=torch.float64),
    "sigma": torch.tensor(SIGMA, dtype=torch.float64),
}


def peak_memory(function: Callable[[], Any]) -> tuple[Any, int]:
    """Call a function; its result, and the most bytes of tensors that it held at one time."""
    with MemoryMeter() as meter:
        result = function()
    return result, meter.peak


def stiffness(atoms: int) -> Tensor:
    """A symmetric, positive definite matrix (3N, 3N)."""
    root = random(3 * atoms, 3 * atoms, seed=1)
    return root @ root.T + torch.eye(3 * atoms)


def harmonic(positions: Tensor, cell: Tensor, matrix: Tensor) -> Tensor:
    x = positions.reshape(-1)
    return 0.5 * x @ matrix @ x


def lennard_jones(positions: Tensor, cell: Tensor, params: dict[str, Tensor]) -> Tensor:
    """A cluster in vacuum."""
    i, j = torch.triu_indices(len(positions), len(positions), 1)
    s6 = (params["sigma"] ** 2 / (positions[i] - positions[j]).square().sum(-1)) ** 3
    return (4 * params["epsilon"] * (s6 * s6 - s6)).sum()


def cluster() -> Tensor:
    corners = torch.tensor([[0, 0, 0], [1.2, 0, 0], [0, 1.3, 0], [0, 0.2, 1.1], [1.1, 1.2, 1.3]])
    return corners.double() + 0.05 * random(5, 3)


def pair_slopes(r: Tensor) -> tuple[Tensor, Tensor]:
    """`V'(r)` and `V''(r)` of the Lennard-Jones potential."""
    s6 = (SIGMA / r) ** 6
    first = 4 * EPSILON * (-12 * s6 * s6 + 6 * s6) / r
    second = 4 * EPSILON * (156 * s6 * s6 - 42 * s6) / r**2
    return first, second


def lennard_jones_derivatives(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, Hessian and virial `sum_pairs V' r r^T / r`, pair by pair."""
    n = len(positions)
    gradient, virial = torch.zeros(n, 3).double(), torch.zeros(3, 3).double()
    second = torch.zeros(n, 3, n, 3).double()
    for i in range(n):
        for j in range(i):
            vector = positions[i] - positions[j]
            r = vector.norm()
            unit = vector / r
            slope, curvature = pair_slopes(r)
            along = torch.outer(unit, unit)
            block = curvature * along + slope / r * (torch.eye(3) - along)
            gradient[i] += slope * unit
            gradient[j] -= slope * unit
            virial += slope * r * along
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                second[a, :, b] += sign * block
    return gradient, second, virial


@functools.cache
def random_mace(cells: int = 1) -> tuple[Callable[..., Tensor], Tensor, Tensor, dict[str, Tensor]]:
    """Energy, positions, cell and parameters of a random MACE on a rattled crystal."""
    model = mf.load_model(build(seed=4, avg_num_neighbors=3.0))
    s = mf.from_ase(silica().repeat((cells, 1, 1)), model)
    return mf.energy_fn(model, s.graph), s.positions, s.cell, model.params


def silica() -> Atoms:
    atoms = bulk("Si", "diamond", a=4.4) + Atoms("O", [[1.1, 1.0, 0.7]])
    atoms.rattle(0.05, seed=1)
    return atoms


def methanol() -> Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    return atoms


ENERGIES = {
    "harmonic": lambda: (harmonic, random(4, 3), CELL, stiffness(4)),
    "Lennard-Jones": lambda: (lennard_jones, cluster(), CELL, LENNARD_JONES),
    "MACE": random_mace,
}
slow_mace = pytest.param("MACE", marks=pytest.mark.slow)
every_energy = pytest.mark.parametrize("name", ENERGIES)
quick_energies = pytest.mark.parametrize("name", ["harmonic", "Lennard-Jones", slow_mace])


# ---- Analytic energies


def test_harmonic_energy_has_its_matrix_as_hessian():
    energy, x, cell, matrix = ENERGIES["harmonic"]()
    expected = matrix.view(4, 3, 4, 3)
    for mode in ("auto", "fwd-rev", "rev-rev"):
        assert_close(mf.hessian(energy, mode=mode)(x, cell, matrix), expected, 1e-14)
    v = random(4, 3, seed=2)
    assert_close(mf.hvp(energy)(x, cell, matrix, v).reshape(-1), matrix @ v.reshape(-1), 1e-14)
    assert_close(mf.forces(energy)(x, cell, matrix).reshape(-1), -matrix @ x.reshape(-1), 1e-14)


def test_lennard_jones_cluster_has_the_derivatives_of_its_pair_potential():
    energy, x, cell, params = ENERGIES["Lennard-Jones"]()
    gradient, second, virial = lennard_jones_derivatives(x)
    assert_close(mf.forces(energy)(x, cell, params), -gradient, 1e-12)
    for mode in ("fwd-rev", "rev-rev"):
        assert_close(mf.hessian(energy, mode=mode)(x, cell, params), second, 1e-12)
    v = random(5, 3, seed=3)
    product = torch.einsum("iajb,jb->ia", second, v)
    assert_close(mf.hvp(energy)(x, cell, params, v), product, 1e-12)
    assert_close(mf.HessianOperator(energy, x, cell, params) @ v, product, 1e-12)
    volume = torch.linalg.det(cell)
    assert_close(mf.stress(energy)(x, cell, params), virial / volume, 1e-12)


def test_stress_is_positive_under_tension_and_does_not_depend_on_the_handedness_of_the_cell():
    def spring(positions: Tensor, cell: Tensor, stiffness: float) -> Tensor:
        return 0.5 * stiffness * (cell.norm(dim=1) - 5.0).square().sum()

    cell = 6.0 * torch.eye(3, dtype=torch.float64)
    found = mf.stress(spring)(random(2, 3), cell, 2.0)
    assert_close(found, torch.eye(3).double() * 2.0 * (6.0 - 5.0) * 6.0 / 6.0**3, 1e-14)
    assert_close(mf.stress(spring)(random(2, 3), cell.flip(0), 2.0), found, 1e-14)


@every_energy
def test_forces_are_central_differences_of_the_energy(name):
    energy, x, cell, params = ENERGIES[name]()
    step, found = 1e-5, mf.forces(energy)(x, cell, params)
    for i, a in ((0, 0), (1, 2), (2, 1)):
        h = torch.zeros_like(x)
        h[i, a] = step
        slope = (energy(x + h, cell, params) - energy(x - h, cell, params)) / (2 * step)
        assert found[i, a].item() == pytest.approx(-slope.item(), rel=1e-5, abs=1e-9)


@every_energy
def test_stress_is_the_derivative_of_the_energy_by_strain_over_the_volume(name):
    energy, x, cell, params = ENERGIES[name]()
    found = mf.stress(energy)(x, cell, params)
    assert torch.equal(found, found.T)
    volume, step = np.abs(np.linalg.det(cell)), 1e-5
    for a in range(3):
        for b in range(a + 1):
            strain = torch.zeros(3, 3, dtype=x.dtype)
            strain[a, b] = strain[b, a] = step if a == b else step / 2

            def strained_by(e: Tensor) -> Tensor:
                return energy(x @ (torch.eye(3) + e), cell @ (torch.eye(3) + e), params)

            slope = (strained_by(strain) - strained_by(-strain)) / (2 * step * volume)
            assert found[a, b].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9)


@every_energy
def test_strained_energy_takes_the_symmetric_part_of_the_strain(name):
    energy, x, cell, params = ENERGIES[name]()
    of_strain = mf.strained(energy)
    assert of_strain(torch.zeros(3, 3).double(), x, cell, params) == energy(x, cell, params)
    strain = 0.02 * random(3, 3, seed=5)
    deformation = torch.eye(3) + 0.5 * (strain + strain.T)
    expected = energy(x @ deformation, cell @ deformation, params)
    assert_close(of_strain(strain, x, cell, params), expected, 1e-13)
    assert_close(of_strain(strain.T, x, cell, params), expected, 1e-13)


def test_energies_may_take_any_other_arguments():
    def energy(positions: Tensor, k: float, shift: Tensor) -> Tensor:
        return 0.5 * k * (positions - shift).square().sum()

    x, shift = random(2, 3), random(3, seed=1)
    assert_close(mf.forces(energy)(x, 3.0, shift), -3.0 * (x - shift), 1e-14)
    assert_close(mf.hessian(energy)(x, 3.0, shift).reshape(6, 6), 3.0 * torch.eye(6).double())
    assert_close(mf.hvp(energy)(x, 3.0, shift, x), 3.0 * x)


# ---- Options of the Hessian


@quick_energies
@pytest.mark.parametrize("mode", ["auto", "fwd-rev", "rev-rev"])
def test_hessian_does_not_depend_on_mode_and_chunk_size(name, mode):
    energy, *arguments = ENERGIES[name]()
    expected = torch.func.hessian(energy)(*arguments)
    for chunk_size in (1, 2, 7, 1000, None, "auto"):
        found = mf.hessian(energy, mode=mode, chunk_size=chunk_size)(*arguments)
        assert_close(found, expected, 1e-12)


@quick_energies
@pytest.mark.parametrize("mode", ["fwd-rev", "rev-rev"])
def test_partial_hessian_is_a_block_of_the_full_one(name, mode):
    energy, *arguments = ENERGIES[name]()
    full = mf.hessian(energy, mode=mode)(*arguments)
    count = len(full)
    for indices in (
        [0],
        [2, 0],
        (1, -1),
        range(2),
        np.array([2, 1]),
        torch.tensor([-1, -count]),
        [1, 1],
    ):
        found = mf.hessian(energy, mode=mode, indices=indices)(*arguments)
        where = [int(i) for i in indices]
        assert_close(found, full[where][:, :, where], 1e-12)


@pytest.mark.parametrize("indices", [[], torch.tensor([], dtype=torch.int64)])
@pytest.mark.parametrize("chunk_size", ["auto", None, 2])
def test_hessian_of_no_atoms_is_empty(indices, chunk_size):
    energy, *arguments = ENERGIES["harmonic"]()
    found = mf.hessian(energy, indices=indices, chunk_size=chunk_size)(*arguments)
    assert found.shape == (0, 3, 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "forward"}, "mode must be"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"chunk_size": -3}, "chunk_size must be"),
        ({"chunk_size": 2.0}, "chunk_size must be"),
        ({"chunk_size": True}, "chunk_size must be"),
        ({"chunk_size": "all"}, "chunk_size must be"),
        ({"indices": [4]}, "between 0 and 3"),
        ({"indices": [-5]}, "between 0 and 3"),
        ({"indices": [[0]]}, "sequence of atom numbers"),
        ({"indices": 1}, "sequence of atom numbers"),
        ({"indices": [0.5]}, "sequence of atom numbers"),
        ({"indices": [True, False, False, True]}, "sequence of atom numbers"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    energy, *arguments = ENERGIES["harmonic"]()
    with pytest.raises(ValueError, match=message):
        mf.hessian(energy, **options)(*arguments)


@pytest.mark.parametrize("mode", ["fwd-rev", "rev-rev"])
def test_budget_too_small_for_one_column_says_what_to_do(mode):
    energy, *arguments = random_mace()
    with pytest.raises(MemoryError, match=r"one column needs .* MiB.*memory_budget.*hvp"):
        mf.hessian(energy, mode=mode, memory_budget=1000)(*arguments)
    operator = mf.HessianOperator(energy, *arguments, memory_budget=1000)
    with pytest.raises(MemoryError, match="one column needs"):
        operator.dense()
    assert (operator @ arguments[0]).shape == arguments[0].shape


def test_budget_sets_the_number_of_columns_at_once():
    energy, *arguments = random_mace(cells=20)  # too large for matrices between all atoms

    def hessian(**options: Any) -> Tensor:
        return mf.hessian(energy, indices=range(6), **options)(*arguments)

    _, one = peak_memory(lambda: hessian(chunk_size=1))
    expected, many = peak_memory(lambda: hessian(chunk_size=16))
    found, small = peak_memory(lambda: hessian(memory_budget=one))
    _, large = peak_memory(hessian)
    assert one < many
    assert small < 0.5 * (one + many)
    assert large > small
    assert_close(found, expected, 1e-12)


def test_progress_bar_counts_the_columns(capsys):
    energy, *arguments = ENERGIES["harmonic"]()
    quiet = mf.hessian(energy)(*arguments)
    assert "".join(capsys.readouterr()) == ""
    for chunk_size in (5, "auto"):
        shown = mf.hessian(energy, progress=True, chunk_size=chunk_size)(*arguments)
        output = "".join(capsys.readouterr())
        assert "Hessian" in output
        assert "12/12" in output
        assert_close(shown, quiet, 1e-14)
    mf.HessianOperator(energy, *arguments).dense(progress=True)
    assert "12/12" in "".join(capsys.readouterr())


def test_hessian_of_one_atom():
    energy, x, cell = harmonic, random(1, 3), CELL
    matrix = stiffness(1)
    for chunk_size in ("auto", None, 1):
        found = mf.hessian(energy, chunk_size=chunk_size)(x, cell, matrix)
        assert_close(found, matrix.view(1, 3, 1, 3), 1e-14)


# ---- The Hessian under further transforms


@quick_energies
@pytest.mark.parametrize("mode", ["fwd-rev", "rev-rev"])
def test_automatic_chunks_work_under_vmap(name, mode):
    energy, x, cell, params = ENERGIES[name]()
    several = x + 0.02 * random(3, *x.shape, seed=6)
    hessian = mf.hessian(energy, mode=mode)
    found = vmap(lambda y: hessian(y, cell, params))(several)
    expected = torch.stack([hessian(y, cell, params) for y in several])
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", ["Lennard-Jones", slow_mace])
@pytest.mark.parametrize("mode", ["fwd-rev", "rev-rev"])
def test_automatic_chunks_work_under_forward_and_reverse_mode(name, mode):
    energy, x, cell, params = ENERGIES[name]()
    direction, step = random(*x.shape, seed=7), 1e-4
    hessian = mf.hessian(energy, mode=mode)

    def of_positions(y: Tensor) -> Tensor:
        return hessian(y, cell, params)

    change = (of_positions(x + step * direction) - of_positions(x - step * direction)) / (2 * step)
    assert_close(jvp(of_positions, (x,), (direction,))[1], change, 1e-5)
    slope = grad(lambda y: of_positions(y).square().sum())(x)
    expected = 2 * (of_positions(x) * change).sum()
    assert_close((slope * direction).sum(), expected, 1e-5)
    by_vmap = vmap(lambda d: jvp(of_positions, (x,), (d,))[1])(direction[None])
    assert_close(by_vmap[0], jvp(of_positions, (x,), (direction,))[1], 1e-12)


def test_partial_hessian_and_stress_compose():
    energy, x, cell, params = random_mace()
    several = x + 0.02 * random(2, *x.shape, seed=8)
    block = mf.hessian(energy, indices=[1, -1])
    found = vmap(lambda y: block(y, cell, params))(several)
    assert_close(found[1], block(several[1], cell, params), 1e-12)
    by_cell = jacfwd(mf.stress(energy), argnums=1)(x, cell, params)
    step = 1e-5
    h = torch.zeros(3, 3, dtype=x.dtype)
    h[1, 2] = step
    stress = mf.stress(energy)
    change = (stress(x, cell + h, params) - stress(x, cell - h, params)) / (2 * step)
    assert_close(by_cell[:, :, 1, 2], change, 1e-6)


# ---- The Hessian as an operator


@every_energy
@pytest.mark.parametrize("weighted", [False, True])
def test_operator_multiplies_as_its_matrix_does(name, weighted):
    energy, *arguments = ENERGIES[name]()
    count = len(arguments[0])
    masses = torch.linspace(1.0, 16.0, count, dtype=torch.float64) if weighted else None
    matrix = mf.hessian(energy)(*arguments).reshape(3 * count, 3 * count)
    if masses is not None:
        roots = masses.sqrt().repeat_interleave(3)
        matrix = matrix / roots[:, None] / roots
    operator = mf.HessianOperator(energy, *arguments, masses)
    assert operator.shape == matrix.shape
    assert operator.dtype == matrix.dtype
    assert operator.device == matrix.device
    assert_close(operator.dense(), matrix)
    v, many = random(3 * count, seed=1), random(3 * count, 5, seed=2)
    assert_close(operator @ v, matrix @ v)
    assert_close(operator @ v.view(count, 3), (matrix @ v).view(count, 3))
    assert_close(operator @ many, matrix @ many)
    assert_close(operator @ many[:, :1], matrix @ many[:, :1])
    assert_close(operator @ many.T.contiguous().T, matrix @ many)
    assert_close(operator @ v, matrix @ v)
    for chunk_size in (1, 4, None):
        chunked = mf.HessianOperator(energy, *arguments, masses, chunk_size=chunk_size)
        assert_close(chunked.dense(), matrix)
        assert_close(chunked @ many, matrix @ many)


def test_operator_of_one_atom_takes_a_matrix_for_three_columns_where_shapes_allow_both():
    matrix = stiffness(1)
    operator = mf.HessianOperator(harmonic, random(1, 3), CELL, matrix)
    v = random(1, 3, seed=1)
    assert_close(operator @ v, v @ matrix)
    assert_close(operator @ random(3, 3, seed=2), matrix @ random(3, 3, seed=2))


@pytest.mark.parametrize("shape", [(11,), (13,), (3, 4), (4, 4), (4, 3, 1), (), (1, 12)])
def test_operator_refuses_vectors_of_another_shape(shape):
    operator = mf.HessianOperator(*ENERGIES["harmonic"]())
    with pytest.raises(ValueError, match=r"expected shape \(12,\), \(4, 3\) or \(12, k\)"):
        operator @ torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (12,), ()])
def test_operator_refuses_masses_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"masses must be \(4,\)"):
        mf.HessianOperator(*ENERGIES["harmonic"](), torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_operator_refuses_masses_that_are_not_positive(bad):
    masses = torch.tensor([1.0, bad, 1.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="masses"):
        mf.HessianOperator(*ENERGIES["harmonic"](), masses)


@every_energy
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_finds_the_lowest_eigenvalues_and_solves_with_the_operator(name, weighted):
    energy, *arguments = ENERGIES[name]()
    count = len(arguments[0])
    masses = torch.linspace(1.0, 16.0, count, dtype=torch.float64) if weighted else None
    operator = mf.HessianOperator(energy, *arguments, masses)
    linear: LinearOperator = operator.to_scipy()
    assert linear.shape == tuple(operator.shape)
    assert linear.dtype == np.float64
    matrix = operator.dense().numpy()
    values = np.linalg.eigvalsh(matrix)
    found = np.sort(eigsh(linear, k=3, which="SA", return_eigenvectors=False))
    np.testing.assert_allclose(found, values[:3], atol=1e-10 * np.abs(values).max())
    v, many = random(3 * count, seed=1).numpy(), random(3 * count, 4, seed=2).numpy()
    for ours, dense in (
        (linear @ v, matrix @ v),
        (linear @ v[:, None], matrix @ v[:, None]),
        (linear @ many, matrix @ many),
        (linear.T @ many, matrix @ many),
        (linear.H @ v, matrix @ v),
        (linear.rmatvec(v), matrix @ v),
        (linear @ v.astype(np.float32), matrix @ v.astype(np.float32)),
    ):
        assert isinstance(ours, np.ndarray)
        assert_close(ours, dense, 1e-12)
    if name == "harmonic":
        solution, info = cg(linear, v, rtol=1e-12)
        assert info == 0
        np.testing.assert_allclose(matrix @ solution, v, atol=1e-9)


def test_operator_in_single_precision():
    energy, x, cell, matrix = ENERGIES["harmonic"]()
    operator = mf.HessianOperator(energy, x.float(), cell.float(), matrix.float())
    assert operator.dtype == torch.float32
    linear = operator.to_scipy()
    assert linear.dtype == np.float32
    assert (linear @ np.ones(12)).dtype == np.float32
    assert_close(operator.dense().double(), matrix, 1e-6)


# ---- Memory


FLOATS = 1000
BYTES = 8 * FLOATS


def test_peak_memory_counts_what_is_alive_at_one_time():
    x = torch.ones(FLOATS, dtype=torch.float64)

    def chain() -> Tensor:
        y = x + 1  # 1
        y = y + 1  # 2, then the first is freed
        y = y + 1
        return y[:10]  # a view takes nothing

    result, peak = peak_memory(chain)
    assert result.shape == (10,)
    assert peak == 2 * BYTES

    def hold() -> list[Tensor]:
        kept = [x * k for k in range(5)]
        kept[0].add_(1)  # in place takes nothing
        return kept

    assert peak_memory(hold)[1] == 5 * BYTES
    assert peak_memory(lambda: None) == (None, 0)


def test_peak_memory_does_not_count_what_was_there_before():
    x = torch.ones(FLOATS, dtype=torch.float64)
    assert peak_memory(lambda: x.view(10, -1).T)[1] == 0
    assert peak_memory(lambda: x.mul_(2.0))[1] == 0
    assert peak_memory(lambda: (x.view(10, -1) @ x.view(10, -1).T)[0])[1] == 800


def test_peak_memory_counts_what_is_saved_for_the_backward():
    x = torch.ones(FLOATS, dtype=torch.float64)

    def chain(y: Tensor) -> Tensor:
        return y.exp().exp().exp().sum()

    plain, differentiated = peak_memory(lambda: chain(x))[1], peak_memory(lambda: grad(chain)(x))[1]
    assert plain <= 2 * BYTES + 8
    assert 4 * BYTES <= differentiated <= 6 * BYTES + 16


def test_peak_memory_under_transforms_counts_the_whole_batch():
    x = torch.ones(7, FLOATS, dtype=torch.float64)
    seen = []

    def measured(y: Tensor) -> Tensor:
        result, peak = peak_memory(lambda: y * 2)
        seen.append(peak)
        return result

    assert torch.equal(vmap(measured)(x), 2 * x)
    assert seen == [7 * BYTES]


def test_free_memory_is_a_sensible_number():
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 100, None, "auto"])
def test_chunked_vmap_keeps_the_order(count, chunk_size):
    matrix, vectors = random(4, 4), random(count, 4, seed=1)
    found = columns.chunked_vmap(lambda v: matrix @ v, vectors, chunk_size=chunk_size)
    assert_close(found, vectors @ matrix.T, 1e-14)


# ---- mace-torch


MODULES = {
    "plain": {"scale_shift": False},
    "density": {
        "interaction_cls": "RealAgnosticDensityResidual",
        "interaction_cls_first": "RealAgnosticDensity",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
    },
    "correlation 3": {"correlation": 3, "hidden_irreps": "4x0e + 4x1o + 4x2e"},
    "non-linear": {
        "interaction_cls": "RealAgnosticResidualNonLinear",
        "interaction_cls_first": "RealAgnosticResidualNonLinear",
        "apply_cutoff": False,
    },
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("structure", [silica, pytest.param(methanol, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("float64_default_dtype")
def test_hessian_of_random_models_equals_mace_torch(name, structure):
    module = build(seed=5, **MODULES[name])
    model, atoms = mf.load_model(module), structure()
    calculator = MACECalculator(models=[module], device="cpu", default_dtype="float64")
    s = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, s.graph)
    found = mf.hessian(energy)(s.positions, s.cell, model.params)
    expected = calculator.get_hessian(atoms).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    operator = mf.HessianOperator(energy, s.positions, s.cell, model.params)
    np.testing.assert_allclose(operator.dense().view(found.shape), expected, atol=1e-11)
    atoms.calc = calculator
    forces = mf.forces(energy)(s.positions, s.cell, model.params)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-11)
    if atoms.pbc.all():
        stress = mf.stress(energy)(s.positions, s.cell, model.params)
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=0, atol=1e-11)


@pytest.mark.parametrize("outer", [jacfwd, jacrev])
@pytest.mark.parametrize("inner", [jacfwd, jacrev])
def test_second_derivatives_of_the_stress_are_right_in_symmetric_cells(outer, inner):
    """Those of `torch.linalg.det` are not, and are NaN where singular values coincide."""
    cell = torch.tensor([[0.0, 2, 2], [2, 0, 2], [2, 2, 0]], dtype=torch.float64)
    positions = torch.zeros(1, 3, dtype=torch.float64)

    def pressure(scale):
        return mf.stress(lambda x, c: (c**2).sum() + (x**2).sum())(positions, scale * cell)[0, 0]

    # sigma = a(s^2) / V(s^3) = sigma(1) / s
    scale = torch.tensor(1.3, dtype=torch.float64)
    at_one = pressure(torch.ones_like(scale))
    torch.testing.assert_close(outer(inner(pressure))(scale), 2 * at_one / scale**3)


# Where positions and cell are, and what a stress is of.


def dynamical_matrix_of_salt() -> tuple[Callable[..., Tensor], mf.Structure, mf.MaceModel]:
    model = mf.load_model("embedded")
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    s = mf.from_ase(atoms, model)
    return mf.dynamical_matrix_fn(model, s.graph), s, model


def test_strain_takes_no_wave_vector_for_positions():
    D, s, model = dynamical_matrix_of_salt()
    zero, q = torch.zeros_like(s.cell), torch.tensor([0.1, 0.2, 0.3]).double()
    rest = (s.positions, s.cell, model.params, s.masses)
    with pytest.raises(ValueError, match=r"\(3,\), \(2, 3\), .*strained\(function, positions=1\)"):
        mf.strained(D)(zero, q, *rest)


def test_strain_derivative_of_a_dynamical_matrix_is_its_central_difference():
    D, s, model = dynamical_matrix_of_salt()
    q, e = torch.tensor([0.1, 0.2, 0.3]).double(), random(3, 3, seed=3)
    e = 0.5 * (e + e.T)

    def strained_by(h: float) -> Tensor:
        deformation = torch.eye(3).double() + h * e
        return D(q, s.positions @ deformation, s.cell @ deformation, model.params, s.masses)

    def of_strain(strain: Tensor) -> Tensor:
        return mf.strained(D, positions=1)(strain, q, s.positions, s.cell, model.params, s.masses)

    slope = jvp(of_strain, (torch.zeros_like(e),), (e,))[1]
    step = 1e-4
    difference = (strained_by(step) - strained_by(-step)) / (2 * step)
    assert slope.abs().max() > 1e-2
    assert_close(torch.view_as_real(slope), torch.view_as_real(difference), 1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x, cell: (cell, x),
        lambda x, cell: (x[:, :2], cell),
        lambda x, cell: (x,),
        lambda x, cell: (x.numpy(), cell),
    ],
    ids=["swapped", "two columns", "no cell", "an array"],
)
def test_strain_of_what_is_not_positions_and_cell_is_refused(arguments):
    energy, x, cell, _ = ENERGIES["Lennard-Jones"]()
    with pytest.raises(ValueError, match=r"positions \(N, 3\) and cell \(3, 3\) must be the"):
        mf.strained(energy)(torch.zeros(3, 3).double(), *arguments(x, cell))


def test_stress_of_a_molecule_in_a_cell_is_refused():
    model = mf.load_model("embedded")
    atoms = molecule("H2O", cell=[1.0, 1.0, 1.0])
    s = mf.from_ase(atoms, model)
    with pytest.raises(ValueError, match="periodic in no direction"):
        mf.stress(mf.energy_fn(model, s.graph))


def test_stress_without_a_volume_is_refused():
    energy, x, _, params = ENERGIES["Lennard-Jones"]()
    with pytest.raises(ValueError, match="the cell has no volume"):
        mf.stress(energy)(x, torch.zeros(3, 3).double(), params)


@pytest.mark.parametrize("turned", [False, True])
def test_stress_of_a_slab_times_volume_is_the_slope_by_strain_in_its_plane(turned):
    model = mf.load_model("embedded")
    found = []
    for vacuum in 9.0, 27.0:
        atoms = Atoms("CSi", [[0, 0, 0], [1.2, 1.1, 1.0]], cell=[2.6, 2.9, vacuum], pbc=[1, 1, 0])
        if turned:
            atoms.rotate(40, (1, 2, 3), rotate_cell=True)
        s = mf.from_ase(atoms, model)
        energy = mf.energy_fn(model, s.graph)
        sigma = mf.stress(energy)(s.positions, s.cell, model.params)
        found.append(sigma * atoms.get_volume())
        a, b = s.cell[0] / s.cell[0].norm(), s.cell[1] / s.cell[1].norm()
        normal, step = torch.linalg.cross(a, b), 1e-5
        assert (sigma @ normal).abs().max() < 1e-15
        for u, v in (a, a), (b, b), (a, b):
            e = step * 0.5 * (torch.outer(u, v) + torch.outer(v, u))
            energies = [
                energy(
                    s.positions + sign * s.positions @ e, s.cell + sign * s.cell @ e, model.params
                )
                for sign in (1, -1)
            ]
            slope = float(energies[0] - energies[1]) / (2 * step)
            assert float(u @ found[-1] @ v) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert_close(found[0], found[1], 1e-12)
