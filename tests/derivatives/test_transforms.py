"""The energy is a pure function: transforms of it compose in any order, to any order.

Oracles are the other nestings of the same derivative, central differences of the next-lower order,
loops instead of `vmap`, and the symmetries of space.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from energies import (
    MODELS,
    STRUCTURES,
    Case,
    Function,
    case,
    central_difference,
    compressed_methanol,
    crystal,
    load,
    make_case,
    random_like,
)
from helpers import assert_close, mostly_slow
from scipy.stats import special_ortho_group
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import mace_functional as mf
from mace_functional.autodiff.local import _Matrices
from mace_functional.mace.layer_messages import LayerMessages


def models(*quick: str, without: str = "") -> list[Any]:
    """The names of all models but one; those that are not named here are slow."""
    names = [name for name in MODELS if name != without]
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


SOME = "density-agnesi-zbl", "attention-tanh", "nonlinear-two-heads"
"""Convolutions with a density, with weights from node features, and with narrow edges."""
every_model = pytest.mark.parametrize("name", MODELS)
some_models = pytest.mark.parametrize("name", models(*SOME))
every_structure = pytest.mark.parametrize(
    "structure", ["crystal", pytest.param("molecule", marks=pytest.mark.slow)]
)
NO_INFLUENCE = r".*\.output_mask|r_max|radial_embedding\.bessel_fn\.(r_max|n)"
"""Tensors of a state dict that the energy of mace-torch does not depend on either."""


def random_params(params: dict[str, Tensor], seed: int, size: float = 0.1) -> dict[str, Tensor]:
    """A direction in the space of parameters, each tensor in proportion to its size."""
    return {
        name: size * t.abs().amax() * random_like(t, seed + k) if t.numel() else t
        for k, (name, t) in enumerate(params.items())
    }


def moved(params: dict[str, Tensor], direction: dict[str, Tensor], step: Any) -> dict[str, Tensor]:
    return {name: t + step * direction[name] for name, t in params.items()}


def forward(function: Function, k: int = 0) -> Function:
    """Derivative by the k-th of several numbers, in forward mode."""

    def derivative(*t: Tensor) -> Tensor:
        def of_one(s: Tensor) -> Tensor:
            return function(*t[:k], s, *t[k + 1 :])

        return jvp(of_one, (t[k],), (torch.ones_like(t[k]),))[1]

    return derivative


def reverse(function: Function, k: int = 0) -> Function:
    """Derivative by the k-th of several numbers, in reverse mode."""
    return grad(function, argnums=k)


MODES = {"f": forward, "r": reverse}


def nested(function: Function, modes: str, ks: tuple[int, ...] = (0, 0, 0, 0)) -> Function:
    """One derivative around another, the innermost first."""
    for mode, k in zip(modes, ks, strict=False):
        function = MODES[mode](function, k)
    return function


def nestings(order: int) -> list[str]:
    return ["".join(modes) for modes in itertools.product("fr", repeat=order)]


def in_a_plane(case: Case) -> Function:
    """Energy as a function of three numbers: along positions, cell as well, and parameters too."""
    x, cell, params = case.arguments
    dx = [random_like(x, seed) for seed in (1, 2, 3)]
    dc = [random_like(cell, seed) for seed in (4, 5)]
    dp = random_params(params, 100, size=0.03)

    def energy(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return case.energy(
            x + a * dx[0] + b * dx[1] + c * dx[2],
            cell + b * dc[0] + c * dc[1],
            moved(params, dp, c),
        )

    return energy


ZERO = torch.zeros((), dtype=torch.float64)


# ---- Forward and reverse mode in any order


@pytest.mark.parametrize("name", models("default"))
def test_mixed_third_derivatives_agree_in_all_eight_nestings_and_with_central_differences(name):
    energy = in_a_plane(case(name))
    zeros, ks = (ZERO, ZERO, ZERO), (0, 1, 2)
    for order in (1, 2, 3):
        lower = nested(energy, "rrr"[: order - 1], ks)
        expected = central_difference(
            lambda h, k=order - 1, lower=lower: lower(*zeros[:k], ZERO + h, *zeros[k + 1 :])
        )
        found = torch.stack([nested(energy, modes, ks)(*zeros) for modes in nestings(order)])
        assert_close(found, found[:1].expand_as(found), 1e-10)
        assert_close(found[0], expected, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["density-agnesi-zbl", "embeddings"])
def test_third_derivatives_along_one_direction_agree_in_a_molecule(name):
    energy, x, cell, params = case(name, "molecule")
    direction = random_like(x, 7)

    def along(t: Tensor) -> Tensor:
        return energy(x + t * direction, cell, params)

    for order in (1, 2, 3):
        lower = nested(along, "rrr"[: order - 1])
        expected = central_difference(lambda h, lower=lower: lower(ZERO + h))
        found = torch.stack([nested(along, modes)(ZERO) for modes in nestings(order)])
        assert_close(found, found[:1].expand_as(found), 1e-10)
        assert_close(found[0], expected, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "nonlinear-two-heads"])
def test_fourth_derivatives_agree_in_several_nestings_and_with_central_differences(name):
    energy, x, cell, params = case(name)
    direction = random_like(x, 8)

    def along(t: Tensor) -> Tensor:
        return energy(x + t * direction, cell, params)

    third = nested(along, "rrr")
    expected = central_difference(lambda h: third(ZERO + h))
    found = torch.stack([nested(along, modes)(ZERO) for modes in ("ffff", "rrrr", "frfr", "rrff")])
    assert_close(found, found[:1].expand_as(found), 1e-10)
    assert_close(found[0], expected, 1e-6)


JACOBIANS = {
    "fwd-fwd": lambda f: jacfwd(jacfwd(f)),
    "fwd-rev": lambda f: jacfwd(jacrev(f)),
    "rev-fwd": lambda f: jacrev(jacfwd(f)),
    "rev-rev": lambda f: jacrev(jacrev(f)),
}


@some_models
def test_hessian_over_positions_and_cell_agrees_in_all_modes_and_with_central_differences(name):
    energy, x, cell, params = case(name)
    both = torch.cat([x, cell])

    def of_both(y: Tensor) -> Tensor:
        return energy(y[: len(x)], y[len(x) :], params)

    found = {mode: jacobian(of_both)(both) for mode, jacobian in JACOBIANS.items()}
    for hessian_ in found.values():
        assert_close(hessian_, found["fwd-rev"], 1e-12)
    units = torch.eye(both.numel(), dtype=both.dtype).view(-1, *both.shape)
    gradients = vmap(grad(of_both))
    columns = central_difference(lambda h: gradients(both + h * units))
    assert_close(found["fwd-rev"].reshape(columns.shape), columns, 1e-7)
    mixed = found["fwd-rev"][: len(x), :, len(x) :]
    assert mixed.abs().max() > 1e-3
    assert_close(found["fwd-rev"][len(x) :, :, : len(x)], mixed.permute(2, 3, 0, 1), 1e-12)


def test_hessian_over_several_arguments_at_once_has_the_blocks_of_single_ones():
    energy, x, cell, params = case()
    (xx, xc), (cx, cc) = hessian(energy, argnums=(0, 1))(x, cell, params)
    assert_close(xx, mf.hessian(energy)(x, cell, params), 1e-12)
    assert_close(xc, jacrev(jacfwd(energy, argnums=0), argnums=1)(x, cell, params), 1e-12)
    assert_close(cx, xc.permute(2, 3, 0, 1), 1e-12)
    assert_close(cc, jacfwd(jacfwd(energy, argnums=1), argnums=1)(x, cell, params), 1e-12)


@pytest.mark.parametrize("name", models("density-agnesi-zbl"))
@every_structure
def test_all_modes_of_the_package_give_the_hessian_of_torch(name, structure):
    energy, *arguments = case(name, structure)
    expected = hessian(energy)(*arguments)
    assert_close(expected.permute(2, 3, 0, 1), expected, 1e-12)
    for mode, chunk_size in (
        ("auto", "auto"),
        ("fwd-rev", None),
        ("rev-rev", None),
        ("rev-rev", 4),
    ):
        found = mf.hessian(energy, mode=mode, chunk_size=chunk_size)(*arguments)
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", models("density-agnesi-zbl"))
def test_second_derivatives_by_strain_agree_with_central_differences(name):
    energy, x, cell, params = case(name)
    of_strain = mf.strained(energy)
    first = grad(of_strain)
    zero = torch.zeros_like(cell)
    units = torch.eye(9, dtype=cell.dtype).view(9, 3, 3)
    for argnum, jacobian in itertools.product((0, 1), (jacfwd, jacrev)):
        found = jacobian(first, argnums=argnum)(zero, x, cell, params)
        if argnum == 0:
            columns = vmap(lambda e: first(e, x, cell, params))
            expected = central_difference(lambda h, f=columns: f(h * units))
            expected = expected.reshape(3, 3, 3, 3).permute(2, 3, 0, 1)
            assert_close(found.permute(2, 3, 0, 1), found, 1e-12)
        else:
            steps = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
            columns = vmap(lambda y: first(zero, y, cell, params))
            expected = central_difference(lambda h, f=columns, v=steps: f(x + h * v))
            expected = expected.reshape(*x.shape, 3, 3).permute(2, 3, 0, 1)
        assert_close(found, expected, 1e-7)


# ---- Parameters


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        *((name, "crystal") for name in MODELS),
        *(
            pytest.param(name, "molecule", marks=pytest.mark.slow)
            for name in ("default", "density-agnesi-zbl", "embeddings")
        ),
    ],
)
def test_gradient_by_every_tensor_agrees_with_central_differences(name, structure):
    energy, x, cell, params = case(name, structure)
    gradient = grad(energy, argnums=2)(x, cell, params)
    assert gradient.keys() == params.keys()
    directions = random_params(params, 50, size=1.0)
    step = 1e-4
    steps = step * torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=x.dtype)
    for key, tensor in params.items():

        def changed(h: Tensor, key: str = key, tensor: Tensor = tensor) -> Tensor:
            return energy(x, cell, {**params, key: tensor + h * directions[key]})

        found = (gradient[key] * directions[key]).sum()
        near, back, far, behind = vmap(changed)(steps)
        expected = (8 * (near - back) - (far - behind)) / (12 * step)
        if re.fullmatch(NO_INFLUENCE, key) or tensor.numel() == 0:
            assert not gradient[key].any(), key
            assert expected == 0, key
        else:
            assert gradient[key].any(), key
            error = (found - expected).abs() / expected.abs().clamp(min=1e-3)
            assert error < 1e-7, (key, float(found), float(expected))


def test_elements_that_are_absent_have_no_gradient():
    energy, x, cell, params = case()
    gradient = grad(energy, argnums=2)(x, cell, params)
    for key in (
        "products.0.symmetric_contractions.contractions.0.weights_max",
        "products.1.symmetric_contractions.contractions.0.weights.0",
        "atomic_energies_fn.atomic_energies",
    ):
        rows = gradient[key].squeeze(0).reshape(4, -1)
        assert rows.any(1).tolist() == [False, True, False, True], "of H, C, O and Si"
        changed = {**params, key: params[key] + gradient[key].eq(0)}
        assert torch.equal(energy(x, cell, changed), energy(x, cell, params))


def test_heads_that_are_not_chosen_have_no_gradient():
    energy, x, cell, params = case("nonlinear-two-heads")
    gradient = grad(energy, argnums=2)(x, cell, params)
    assert gradient["scale_shift.scale"].ne(0).tolist() == [False, True]
    assert gradient["atomic_energies_fn.atomic_energies"][0].abs().max() == 0


def sum_of_squares(hessian_: Tensor) -> Tensor:
    return (hessian_ * hessian_).sum()


def largest_eigenvalue(hessian_: Tensor) -> Tensor:
    size = hessian_.shape[0] * 3
    return torch.linalg.eigvalsh(hessian_.reshape(size, size)).abs().amax()


@pytest.mark.parametrize(
    ("name", "mode", "observable"),
    [
        ("attention-tanh", "rev-rev", sum_of_squares),
        pytest.param("default", "fwd-rev", largest_eigenvalue, marks=pytest.mark.slow),
        *(
            pytest.param(name, mode, sum_of_squares, marks=pytest.mark.slow)
            for name, mode in itertools.product(MODELS, ("fwd-rev", "rev-rev"))
        ),
    ],
)
def test_gradient_by_parameters_of_a_function_of_the_hessian(name, mode, observable):
    energy, x, cell, params = case(name)

    def loss(p: dict[str, Tensor]) -> Tensor:
        return observable(mf.hessian(energy, mode=mode)(x, cell, p))

    gradient = grad(loss)(params)
    direction = random_params(params, 200, size=0.1)
    found = sum((gradient[key] * direction[key]).sum() for key in params)
    expected = central_difference(lambda h: loss(moved(params, direction, h)))
    assert_close(found, expected, 1e-6)


def test_hessian_vector_product_can_be_differentiated_by_parameters_in_forward_mode():
    energy, x, cell, params = case()
    v, direction = random_like(x, 1), random_params(params, 300)

    def product(p: dict[str, Tensor]) -> Tensor:
        return mf.hvp(energy)(x, cell, p, v)

    tangent = jvp(product, (params,), (direction,))[1]
    assert_close(tangent, central_difference(lambda h: product(moved(params, direction, h))), 1e-7)


# ---- vmap


QUANTITIES: dict[str, Callable[[Function], Function]] = {
    "energy": lambda energy: energy,
    "gradient": grad,
    "gradient by cell and parameters": lambda energy: grad(energy, argnums=(1, 2)),
    "hessian-vector product": lambda energy: (
        lambda x, *a: mf.hvp(energy)(x, *a, torch.ones_like(x))
    ),
    "hessian, forward": lambda energy: mf.hessian(energy, mode="fwd-rev"),
    "hessian, reverse": lambda energy: mf.hessian(energy, mode="rev-rev"),
    "stress": mf.stress,
}


def stack(trees: list[Any]) -> Any:
    return torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def assert_trees_close(found: Any, expected: Any, tolerance: float) -> None:
    leaves, spec = torch.utils._pytree.tree_flatten(found)
    references, expected_spec = torch.utils._pytree.tree_flatten(expected)
    assert spec == expected_spec
    for leaf, reference in zip(leaves, references, strict=True):
        if leaf.numel():
            assert_close(leaf, reference, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "attention-tanh", "nonlinear-two-heads"])
@pytest.mark.parametrize("batched", ["positions", "cell", "params"])
def test_vmap_over_one_argument_equals_the_loop(name, batched):
    energy, x, cell, params = case(name)
    several: dict[str, list[Any]] = {
        "positions": [x + 0.05 * random_like(x, seed) for seed in (1, 2)],
        "cell": [cell + 0.05 * random_like(cell, seed) for seed in (1, 2)],
        "params": [moved(params, random_params(params, 60 + s, 0.02), 1.0) for s in (0, 90)],
    }
    fixed = {"positions": x, "cell": cell, "params": params}
    in_dims = tuple(0 if key == batched else None for key in fixed)
    arguments = [stack(several[key]) if key == batched else fixed[key] for key in fixed]
    for quantity in QUANTITIES.values():
        function = quantity(energy)
        expected = stack([function(*(fixed | {batched: one}).values()) for one in several[batched]])
        assert_trees_close(vmap(function, in_dims=in_dims)(*arguments), expected, 1e-12)


def test_vmap_in_chunks():
    energy, x, cell, params = case()
    several = torch.stack([x + 0.05 * random_like(x, seed) for seed in range(3)])
    for function, sizes in ((grad(energy), (None, 1, 2)), (mf.hessian(energy), (None, 2))):
        whole, *chunked = (
            vmap(function, in_dims=(0, None, None), chunk_size=size)(several, cell, params)
            for size in sizes
        )
        for found in chunked:
            assert_close(found, whole, 1e-12)


def test_vmap_over_positions_inside_vmap_over_parameters():
    energy, x, cell, params = case()
    xs = torch.stack([x, x + 0.1 * random_like(x, 1), x + 0.1 * random_like(x, 2)])
    ps = [params, moved(params, random_params(params, 70, 0.02), 1.0)]
    for function in (grad(energy), mf.hessian(energy)):
        inner = vmap(function, in_dims=(0, None, None))
        found = vmap(inner, in_dims=(None, None, 0))(xs, cell, stack(ps))
        expected = torch.stack([torch.stack([function(y, cell, p) for y in xs]) for p in ps])
        assert_close(found, expected, 1e-12)


def test_derivatives_pass_through_vmap():
    """The derivative of a mean over configurations, itself by a vmap, in both modes."""
    energy, x, cell, params = case()
    noise = torch.stack([0.05 * random_like(x, seed) for seed in range(3)])

    def mean(y: Tensor) -> Tensor:
        return vmap(lambda dx: energy(y + dx, cell, params))(noise).mean()

    expected = torch.stack([mf.hessian(energy)(x + dx, cell, params) for dx in noise]).mean(0)
    for jacobian in JACOBIANS.values():
        assert_close(jacobian(mean)(x), expected, 1e-12)


def batch_of_structures() -> list[Atoms]:
    slab = bulk("Si", "diamond", a=5.2, cubic=True)[:5]
    slab.pbc = (True, True, False)
    wire = Atoms("CHOH", [[0, 0, 0], [0.3, 1, 0], [1.2, -0.1, 0.3], [2.0, 0.4, -0.3]])
    wire.cell, wire.pbc = [[2.9, 0, 0], [0, 0, 0], [0, 0, 0]], (True, False, False)
    several = [crystal(), compressed_methanol(), slab, wire, Atoms("O"), crystal() * (1, 2, 1)]
    for k, atoms in enumerate(several):
        atoms.rattle(0.05, seed=k)
        atoms.info |= {"charge": float(k - 2), "spin": float(k % 4)}
    return several


@pytest.mark.parametrize("name", models("density-agnesi-zbl"))
def test_vmap_over_a_batch_of_structures_equals_the_loop(name):
    model = load(name)
    several = [mf.from_ase(atoms, model) for atoms in batch_of_structures()]
    batch = mf.batch(several)
    vectors = random_like(batch.positions, 5)

    for key, quantity in QUANTITIES.items():
        if key.startswith(("hessian", "gradient by")):
            continue

        def of_structure(graph: Any, x: Tensor, cell: Tensor, quantity: Any = quantity) -> Tensor:
            return quantity(mf.energy_fn(model, graph))(x, cell, model.params)

        found = vmap(of_structure)(batch.graph, batch.positions, batch.cell)
        for one, s in zip(found, several, strict=True):
            if key == "stress" and not s.graph.pbc.all():
                continue
            expected = of_structure(s.graph, s.positions, s.cell)
            if key == "stress":
                assert_close(one, expected, 1e-12)
            elif one.ndim == 0:
                assert_close(one, expected, 1e-13)
            else:
                assert_close(one[: len(expected)], expected, 1e-12)
                assert not one[len(expected) :].any()

    def product(graph: Any, x: Tensor, cell: Tensor, v: Tensor) -> Tensor:
        return mf.hvp(mf.energy_fn(model, graph))(x, cell, model.params, v)

    found = vmap(product)(batch.graph, batch.positions, batch.cell, vectors)
    for one, s, v in zip(found, several, vectors, strict=True):
        expected = product(s.graph, s.positions, s.cell, v[: len(s.positions)])
        assert_close(one[: len(expected)], expected, 1e-12)
        assert not one[len(expected) :].any()


@pytest.mark.parametrize("name", models("attention-tanh"))
def test_hessians_and_third_derivatives_of_a_batch_equal_the_loop(name):
    model = load(name)
    several = [mf.from_ase(atoms, model) for atoms in batch_of_structures()[3:5]]
    batch = mf.batch(several)

    def hessian(graph: Any, x: Tensor, cell: Tensor, **options: Any) -> Tensor:
        return mf.hessian(mf.energy_fn(model, graph), **options)(x, cell, model.params)

    def along(graph: Any, x: Tensor, cell: Tensor) -> Tensor:
        product = mf.hvp(mf.energy_fn(model, graph))
        v = torch.sin(x + 1) * graph.atom_mask[:, None]
        return jvp(lambda y: product(y, cell, model.params, v), (x,), (v,))[1]

    found = vmap(hessian)(batch.graph, batch.positions, batch.cell)
    chunks = vmap(partial(hessian, chunk_size=5))(batch.graph, batch.positions, batch.cell)
    thirds = vmap(along)(batch.graph, batch.positions, batch.cell)
    for k, s in enumerate(several):
        n = len(s.positions)
        expected = hessian(s.graph, s.positions, s.cell)
        for one in (found[k], chunks[k]):
            assert_close(one[:n, :, :n], expected, 1e-12)
            assert not one[n:].any()
            assert not one[:, :, n:].any()
        assert_close(thirds[k][:n], along(s.graph, s.positions, s.cell), 1e-11)


@pytest.mark.parametrize("mode", ["forward", pytest.param("reverse", marks=pytest.mark.slow)])
def test_derivatives_of_a_batch_of_products_equal_those_of_the_sum(mode):
    """Derivatives by a shift of all positions, and by the cell that they share."""
    model = load("density-agnesi-zbl")
    s = mf.from_ase(crystal(), model)
    shifts = torch.stack([0.05 * random_like(s.positions, seed) for seed in range(2)])
    energy = mf.energy_fn(model, s.graph)
    v, w = (random_like(s.positions, seed) for seed in (7, 8))

    def one(x: Tensor, cell: Tensor) -> Tensor:
        pull_back = vjp(lambda y: grad(energy)(y, cell, model.params), x)[1]
        return (vmap(pull_back)(torch.stack([v, x]))[0] * w).sum()

    def mapped(x: Tensor, cell: Tensor) -> Tensor:
        return vmap(lambda dx: one(x + dx, cell))(shifts).sum()

    def summed(x: Tensor, cell: Tensor) -> Tensor:
        return one(x + shifts[0], cell) + one(x + shifts[1], cell)

    args = s.positions, s.cell
    if mode == "forward":
        found, expected = ([jvp(f, args, (v, args[1]))[1]] for f in (mapped, summed))
    else:
        found, expected = (grad(f, (0, 1))(*args) for f in (mapped, summed))
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain, 1e-11)


METHODS = "value", "gradient", "product"


def test_a_batch_of_structures_never_takes_the_slow_strategy(monkeypatch):
    """Gradients, products and Hessians of a batch are computed like those of one structure."""
    asked: list[tuple[str, str]] = []

    def recorded(method: Any) -> Any:
        def call(*args: Any) -> Any:
            asked.append((method.__qualname__, args[-1]))
            return method(*args)

        return call

    for kind, name in itertools.product((LayerMessages, _Matrices), METHODS):
        monkeypatch.setattr(kind, name, recorded(getattr(kind, name)))
    model = load("density-agnesi-zbl")
    several = [mf.from_ase(atoms, model) for atoms in [compressed_methanol()] * 3]
    batch = mf.batch(several)

    for quantity in (
        lambda energy, *args: grad(energy)(*args),
        lambda energy, *args: mf.hvp(energy)(*args, torch.sin(args[0])),
        lambda energy, *args: mf.hessian(energy, chunk_size=7)(*args),
    ):

        def of_structure(graph: Any, x: Tensor, cell: Tensor, quantity: Any = quantity) -> Tensor:
            return quantity(mf.energy_fn(model, graph), x, cell, model.params)

        vmap(of_structure)(batch.graph, batch.positions, batch.cell)
        mapped = asked.copy()
        asked.clear()
        of_structure(several[0].graph, several[0].positions, several[0].cell)
        assert mapped == asked
        asked.clear()
        assert "differentiable" not in {strategy for _, strategy in mapped}


def test_gradient_by_parameters_of_a_batch_is_the_sum_of_the_gradients():
    model = load("density-agnesi-zbl")
    several = [mf.from_ase(atoms, model) for atoms in batch_of_structures()]
    batch = mf.batch(several)

    def total(params: dict[str, Tensor]) -> Tensor:
        def one(graph: Any, x: Tensor, cell: Tensor) -> Tensor:
            return mf.energy_fn(model, graph)(x, cell, params)

        return vmap(one)(batch.graph, batch.positions, batch.cell).sum()

    found = grad(total)(model.params)
    singles = [
        grad(mf.energy_fn(model, s.graph), argnums=2)(s.positions, s.cell, model.params)
        for s in several
    ]
    assert_trees_close(found, {k: sum(g[k] for g in singles) for k in found}, 1e-12)


@pytest.fixture
def no_slow_vmap() -> Iterator[None]:
    """Fail where vmap falls back to a loop for want of a batching rule."""
    functorch = torch._C._functorch
    functorch._set_vmap_fallback_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*performance drop.*")
            yield
    finally:
        functorch._set_vmap_fallback_enabled(True)


def test_the_check_for_slow_vmap_works(no_slow_vmap):
    with pytest.raises(RuntimeError, match="fallback"):
        vmap(lambda x: torch.histc(x, 3))(torch.rand(2, 5))


@every_model
@every_structure
def test_every_operation_has_a_batching_rule(name, structure, no_slow_vmap):
    energy, x, cell, params = case(name, structure)

    def gradient(y: Tensor) -> Tensor:
        return grad(energy)(y, cell, params)

    vectors = torch.stack([random_like(x, seed) for seed in range(3)])
    pull_back = vjp(gradient, x)[1]
    pulled = vmap(pull_back)(vectors)[0]
    pushed = vmap(lambda v: jvp(gradient, (x,), (v,))[1])(vectors)
    assert_close(pushed, pulled, 1e-12)
    vmap(gradient)(x + 0.01 * vectors)
    vmap(lambda y: mf.hessian(energy)(y, cell, params))(x + 0.01 * vectors)
    vmap(grad(energy, argnums=(1, 2)), in_dims=(0, None, None))(x + 0.01 * vectors, cell, params)


# ---- A pure function


@pytest.mark.parametrize("name", models("nonlinear-two-heads"))
def test_arguments_graph_and_model_are_left_as_they_were(name):
    model = load(name)
    s = mf.from_ase(crystal(), model)
    tree = (s, model.params, dict(model.module.named_buffers()))
    leaves = torch.utils._pytree.tree_leaves(tree)
    before = [leaf.clone() for leaf in leaves]
    versions = [leaf._version for leaf in leaves]
    energy = mf.energy_fn(model, s.graph)
    energy(s.positions, s.cell, model.params)
    grad(energy, argnums=(0, 1, 2))(s.positions, s.cell, model.params)
    mf.hessian(energy)(s.positions, s.cell, model.params)
    assert [leaf._version for leaf in leaves] == versions
    assert all(torch.equal(a, b) for a, b in zip(leaves, before, strict=True))
    assert not any(leaf.requires_grad for leaf in leaves)
    assert not any(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_transforms_work_in_any_gradient_context(context):
    energy, *arguments = case()
    expected = grad(energy)(*arguments), mf.hessian(energy)(*arguments)
    with context():
        if grad(torch.square)(torch.ones(())) != 2:
            pytest.skip("this version of torch gives zero gradients in inference mode")
        assert_close(grad(energy)(*arguments), expected[0], 1e-13)
        for mode in ("fwd-rev", "rev-rev"):
            assert_close(mf.hessian(energy, mode=mode)(*arguments), expected[1], 1e-12)


def test_plain_autograd_gives_the_same_derivatives():
    energy, x, cell, params = case("attention-tanh")
    y, v = x.clone().requires_grad_(), random_like(x, 1)
    weight = params["interactions.0.linear.weight"].clone().requires_grad_()
    changed = {**params, "interactions.0.linear.weight": weight}
    (gradient,) = torch.autograd.grad(energy(y, cell, changed), y, create_graph=True)
    product, by_weight = torch.autograd.grad((gradient * v).sum(), (y, weight))
    assert_close(gradient, grad(energy)(x, cell, params), 1e-13)
    assert_close(product, mf.hvp(energy)(x, cell, params, v), 1e-12)
    slope = grad(lambda p: (grad(energy)(x, cell, p) * v).sum())(params)
    assert_close(by_weight, slope["interactions.0.linear.weight"], 1e-12)


@pytest.mark.parametrize("name", models("nonlinear-two-heads"))
def test_parameters_do_not_leak_from_one_call_to_the_next(name):
    crystal_, molecule_ = case(name), case(name, "molecule")
    other = moved(crystal_.params, random_params(crystal_.params, 80, 0.02), 1.0)

    def calls() -> list[Tensor]:
        return [
            c.energy(c.positions, c.cell, params)
            for params in (crystal_.params, other, crystal_.params)
            for c in (crystal_, molecule_, crystal_)
        ]

    first, *_ = energies = calls()
    assert energies[0] == energies[2] == energies[6] == energies[8]
    assert energies[1] == energies[7]
    assert energies[3] == energies[5] != first
    expected = mf.hvp(crystal_.energy)(*crystal_.arguments, crystal_.positions)
    mf.hvp(crystal_.energy)(crystal_.positions, crystal_.cell, other, crystal_.positions)
    mf.hvp(molecule_.energy)(*molecule_.arguments, molecule_.positions)
    again = mf.hvp(crystal_.energy)(*crystal_.arguments, crystal_.positions)
    assert torch.equal(again, expected)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget what earlier tests compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


compiles = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("name", MODELS)
def test_compiled_energy(name):
    energy, *arguments = case(name)
    compiled = torch.compile(energy, backend="eager", fullgraph=True)
    assert_close(compiled(*arguments), energy(*arguments), 1e-13)


@pytest.mark.slow
@compiles
def test_compiled_energy_lowered_to_aten():
    energy, *arguments = case()
    compiled = torch.compile(energy, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*arguments), energy(*arguments), 1e-13)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("transform", [grad, mf.stress])
def test_compiled_first_derivatives(transform):
    energy, *arguments = case()
    compiled = torch.compile(transform(energy), backend="eager")
    assert_close(compiled(*arguments), transform(energy)(*arguments), 1e-12)


@pytest.mark.slow
@compiles
def test_compiled_hessian_vector_product():
    energy, *arguments = case()
    v = random_like(arguments[0], 1)
    compiled = torch.compile(mf.hvp(energy), backend="eager")
    assert_close(compiled(*arguments, v), mf.hvp(energy)(*arguments, v), 1e-12)


@compiles
def test_compiled_function_takes_structures_as_arguments():
    model = load("default")

    def gradient(s: mf.Structure, params: dict[str, Tensor]) -> Tensor:
        return grad(mf.energy_fn(model, s.graph))(s.positions, s.cell, params)

    compiled = torch.compile(gradient, backend="eager")
    for atoms in (crystal(), crystal()[[1, 0]]):
        s = mf.from_ase(atoms, model)
        assert_close(compiled(s, model.params), gradient(s, model.params), 1e-12)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "nonlinear-two-heads"])
def test_compiled_gradient_lowered_to_aten(name):
    energy, *arguments = case(name)
    compiled = torch.compile(grad(energy), backend="aot_eager")
    assert_close(compiled(*arguments), grad(energy)(*arguments), 1e-12)


# ---- Precision and symmetries


@pytest.mark.parametrize("name", models("nonlinear-two-heads"))
def test_single_precision_second_derivatives(name):
    energy, *arguments = make_case(name, crystal(), torch.float32)
    for mode in ("fwd-rev", "rev-rev"):
        found = mf.hessian(energy, mode=mode)(*arguments)
        assert found.dtype == torch.float32
        reference, *double = case(name)
        assert_close(found.double(), mf.hessian(reference)(*double), 1e-4)


@pytest.mark.parametrize(
    ("name", "structure", "handedness"),
    mostly_slow(
        [(name, *turn) for name in MODELS for turn in (("crystal", 1), ("molecule", -1))],
        [
            ("density-agnesi-zbl", "molecule", -1),
            ("attention-tanh", "crystal", 1),
            ("nonlinear-two-heads", "crystal", 1),
        ],
    ),
)
def test_rotations_and_reflections_turn_forces_and_hessian(name, structure, handedness):
    energy, x, cell, params = case(name, structure)
    turn = torch.as_tensor(special_ortho_group.rvs(3, random_state=0)) * handedness
    y, turned_cell = x @ turn, cell @ turn
    assert_close(energy(y, turned_cell, params), energy(x, cell, params), 1e-13)
    gradient = grad(energy)(x, cell, params) @ turn
    assert_close(grad(energy)(y, turned_cell, params), gradient, 1e-11)
    expected = torch.einsum("iajb,ac,bd->icjd", mf.hessian(energy)(x, cell, params), turn, turn)
    assert_close(mf.hessian(energy)(y, turned_cell, params), expected, 1e-11)


@pytest.mark.parametrize("name", models("nonlinear-two-heads"))
@every_structure
def test_translations_change_nothing(name, structure):
    energy, x, cell, params = case(name, structure)
    far = x + torch.tensor([3.0, -7.0, 5.0], dtype=x.dtype)
    assert_close(energy(far, cell, params), energy(x, cell, params), 1e-13)
    gradient = grad(energy)(x, cell, params)
    assert_close(grad(energy)(far, cell, params), gradient, 1e-11)
    assert gradient.sum(0).abs().max() < 1e-13 * max(1, gradient.abs().max() / 1e-2)
    second = mf.hessian(energy)(x, cell, params)
    assert_close(mf.hessian(energy)(far, cell, params), second, 1e-11)
    assert second.sum(2).abs().max() < 1e-13 * second.abs().max() * second.numel()


@pytest.mark.parametrize("name", models("attention-tanh"))
def test_lattice_vectors_added_to_atoms_change_nothing(name):
    expected = case(name)
    atoms = crystal()
    atoms.positions[1] += atoms.cell[0] - 2 * atoms.cell[2]
    shifted = make_case(name, atoms)
    for transform in (lambda energy: energy, grad, mf.hessian):
        found = transform(shifted.energy)(*shifted.arguments)
        assert_close(found, transform(expected.energy)(*expected.arguments), 1e-11)


@pytest.mark.parametrize("name", models("attention-tanh"))
def test_order_of_atoms_does_not_matter(name):
    atoms = compressed_methanol()
    order = np.random.default_rng(0).permutation(len(atoms))
    expected, permuted = case(name, "molecule"), make_case(name, atoms[order])
    assert_close(permuted.energy(*permuted.arguments), expected.energy(*expected.arguments), 1e-13)
    gradient = grad(expected.energy)(*expected.arguments)
    assert_close(grad(permuted.energy)(*permuted.arguments), gradient[order], 1e-11)
    second = mf.hessian(expected.energy)(*expected.arguments)[order][:, :, order]
    assert_close(mf.hessian(permuted.energy)(*permuted.arguments), second, 1e-11)


@pytest.mark.parametrize("name", models("density-agnesi-zbl", without="embeddings"))
def test_supercell_has_the_same_energy_forces_and_folded_hessian_per_cell(name):
    energy, x, cell, params = case(name)
    atoms = make_supercell(crystal(), [[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    super_energy, y, super_cell, _ = make_case(name, atoms)
    assert len(y) == 2 * len(x)
    assert_close(super_energy(y, super_cell, params), 2 * energy(x, cell, params), 1e-13)
    gradient = grad(super_energy)(y, super_cell, params)
    assert_close(gradient, grad(energy)(x, cell, params).repeat(2, 1), 1e-11)
    second = mf.hessian(super_energy)(y, super_cell, params)
    folded = second.reshape(2, len(x), 3, 2, len(x), 3)[0].sum(2)
    assert_close(folded, mf.hessian(energy)(x, cell, params), 1e-11)


def second_order(case: Case) -> list[Tensor]:
    """Energy, gradients by positions, cell and the cutoff, and the Hessian."""
    gradients = grad(case.energy, argnums=(0, 1, 2))(*case.arguments)
    return [
        case.energy(*case.arguments),
        *gradients[:2],
        gradients[2]["radial_embedding.cutoff_fn.r_max"],
        mf.hessian(case.energy)(*case.arguments),
        jacfwd(grad(case.energy, argnums=1), argnums=1)(*case.arguments),
    ]


@pytest.mark.parametrize("name", models("density-agnesi-zbl"))
@every_structure
def test_skin_changes_nothing(name, structure):
    wide = make_case(name, STRUCTURES[structure](), skin=1.3)
    for found, expected in zip(
        second_order(wide), second_order(case(name, structure)), strict=True
    ):
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", models("density-agnesi-zbl"))
def test_graph_with_skin_stays_exact_while_atoms_and_cell_move(name):
    model, atoms = load(name), crystal()
    s = mf.from_ase(atoms, model, skin=1.3)
    x = s.positions + 0.15 * random_like(s.positions, 1)
    cell = s.cell * 1.04
    x = x * 1.04
    assert s.graph.is_current(x, cell)
    atoms.positions, atoms.cell = x.numpy(), cell.numpy()
    fresh = mf.from_ase(atoms, model)
    start = mf.from_ase(crystal(), model)
    assert int(fresh.graph.edge_mask.sum()) != int(start.graph.edge_mask.sum())
    kept = Case(mf.energy_fn(model, s.graph), x, cell, model.params)
    new = Case(mf.energy_fn(model, fresh.graph), x, cell, model.params)
    for found, expected in zip(second_order(kept), second_order(new), strict=True):
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", models(*SOME, without="attention-tanh"))
def test_second_derivatives_are_continuous_where_a_neighbour_crosses_the_cutoff(name):
    """A pair that comes in brings no energy, no force and no stiffness.

    Not so with attention: its radial network reads node features, which do not vanish at the
    cutoff, and the energy of mace-torch itself jumps.
    """
    model = load(name)
    atoms = Atoms("SiCO", [[0, 0, 0], [1.7, 0, 0], [model.cutoff, 0.5, 0]])
    atoms.positions[2, 0] = np.sqrt(model.cutoff**2 - 0.25)
    energy, x, cell, params = make_case(name, atoms, skin=1.0)
    step = torch.zeros_like(x)
    step[2] = x[2] / x[2].norm()
    inside, outside = (x + h * step for h in (-1e-5, 1e-5))
    for transform, tolerance in ((lambda f: f, 1e-5), (grad, 1e-3), (mf.hessian, 1e-3)):
        function = transform(energy)
        assert_close(function(inside, cell, params), function(outside, cell, params), tolerance)
    assert torch.isfinite(mf.hessian(energy)(x, cell, params)).all()
