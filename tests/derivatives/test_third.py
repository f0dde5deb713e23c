"""Third derivatives along two directions: differences of exact Hessians, and all mappings."""

from __future__ import annotations

import itertools

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from energies import central_difference, make_case, random_like
from helpers import assert_close, mostly_slow
from models import build
from torch import Tensor
from torch.func import grad, vjp, vmap

import mace_functional as mf
from mace_functional.autodiff.forward_mode import jvp
from mace_functional.mace.layer_messages import LayerMessages


def rattled(name: str) -> Atoms:
    if name == "quartz":
        atoms = mf.example_structure("quartz")
    elif name == "one atom":
        atoms = bulk("Si", "fcc", a=3.7)
    else:
        atoms = bulk("SiC", "zincblende", a=4.2)
    atoms.rattle(0.05, seed=1)
    return atoms


DEPTHS = {
    "one layer": {"num_interactions": 1},
    "two layers, L = 0": {"hidden_irreps": "4x0e"},
    "two layers, L = 1": {"hidden_irreps": "3x0e + 3x1o"},
    "three layers, L = 1": {"num_interactions": 3, "hidden_irreps": "2x0e + 2x1o"},
}


def energy_of(depth: str, atoms: Atoms):
    model = mf.load_model(build(seed=3, avg_num_neighbors=3.0, **DEPTHS[depth]))
    s = model.structure(atoms)
    return model.energy_fn(s.topology), (s.positions, s.cell, model.params)


CRYSTALS = [*itertools.product(DEPTHS, ["one atom", "carbide"]), ("two layers, L = 1", "quartz")]


@pytest.mark.parametrize(
    ("depth", "structure"), mostly_slow(CRYSTALS, [("two layers, L = 1", "carbide")])
)
def test_third_derivatives_equal_central_differences_of_the_hessian(depth, structure):
    energy, (x, *rest) = energy_of(depth, rattled(structure))
    u, v = random_like(x, 1), random_like(x, 2)
    product = mf.hvp(energy)
    expected = central_difference(lambda h: product(x + h * v, *rest, u))
    found = mf.third(energy)(x, *rest, u, v)
    assert_close(found, expected, 1e-6)
    assert_close(mf.third(energy)(x, *rest, u, v), found, 1e-12)
    assert_close(mf.third(energy)(x, *rest, v, u), found, 1e-12)
    translation = torch.ones_like(x)
    assert_close(mf.third(energy)(x, *rest, u, translation), torch.zeros_like(x), 1e-9)
    assert_close(found.sum(0), torch.zeros(3, dtype=x.dtype), 1e-9)


@pytest.mark.parametrize(
    "name", ["density-agnesi-zbl", pytest.param("correlation-3", marks=pytest.mark.slow)]
)
def test_vectors_may_be_mapped_on_both_sides(name):
    energy, x, *rest = make_case(name, rattled("carbide"))
    third = mf.third(energy)
    us, vs = (random_like(x.expand(2, *x.shape), k) for k in (1, 2))
    every = torch.stack([torch.stack([third(x, *rest, u, v) for v in vs]) for u in us])
    one = (None,) * (1 + len(rest))
    over_v, over_u = vmap(third, (*one, None, 0)), vmap(third, (*one, 0, None))
    assert_close(over_v(x, *rest, us[0], vs), every[0], 1e-12)
    assert_close(over_u(x, *rest, us, vs[0]), every[:, 0], 1e-12)
    pairs = vmap(third, (*one, 0, 0))(x, *rest, us, vs)
    assert_close(pairs, torch.stack([every[0, 0], every[1, 1]]), 1e-12)
    assert_close(vmap(over_v, (*one, 0, None))(x, *rest, us, vs), every, 1e-12)
    assert_close(vmap(over_u, (*one, None, 0))(x, *rest, us, vs), every.transpose(0, 1), 1e-12)


def test_columns_in_forward_and_in_reverse_mode_are_those_of_single_pairs():
    energy, x, *rest = make_case("default", rattled("quartz"))
    u, columns = random_like(x, 1), torch.eye(x.numel(), dtype=x.dtype)[:5].view(-1, *x.shape)
    gradient = grad(energy)

    def rows(y: Tensor) -> Tensor:
        pull_back = vjp(lambda z: gradient(z, *rest), y)[1]
        return vmap(lambda v: pull_back(v)[0])(columns)

    forward = jvp(rows, (x,), (u,))[1]
    along_u = vjp(lambda y: mf.hvp(energy)(y, *rest, u), x)[1]
    reverse = vmap(lambda v: along_u(v)[0])(columns)
    singly = torch.stack([mf.third(energy)(x, *rest, u, v) for v in columns])
    assert_close(forward, singly, 1e-11)
    assert_close(reverse, singly, 1e-11)


def test_third_derivatives_by_parameters_and_cell():
    energy, x, cell, params = make_case("default", rattled("carbide"))
    u, v, w = (random_like(x, k) for k in (1, 2, 3))

    def number(cell: Tensor, params: dict[str, Tensor]) -> Tensor:
        return (mf.third(energy)(x, cell, params, u, v) * w).sum()

    d_cell, d_params = grad(number, argnums=(0, 1))(cell, params)
    strain = random_like(cell, 4)
    expected = central_difference(lambda h: number(cell + h * strain, params))
    assert_close((d_cell * strain).sum(), expected, 1e-6)
    name = "interactions.1.linear_up.weight"
    move = random_like(params[name], 5)
    expected = central_difference(
        lambda h: number(cell, params | {name: params[name] + h * move}), 1e-2
    )
    assert_close((d_params[name] * move).sum(), expected, 1e-6)


def test_columns_never_differentiate_the_formulas_of_messages(monkeypatch):
    """All of the rules of third order are formulas: plain differentiation is never needed."""
    energy, x, *rest = make_case("default", rattled("carbide"))
    u = random_like(x, 1)
    slow = []

    def spied(name: str):
        original = getattr(LayerMessages, name)

        def method(self, *args):
            slow.append(args[-1] == "differentiable")
            return original(self, *args)

        return method

    for name in "product", "product_along", "pull_back_along":
        monkeypatch.setattr(LayerMessages, name, spied(name))
    vmap(mf.third(energy), (None,) * 4 + (0,))(x, *rest, u, torch.stack([u, 2 * u]))
    assert slow
    assert not any(slow)


def test_vectors_of_other_shapes_are_refused():
    energy, x, *rest = make_case("default", rattled("carbide"))
    u = random_like(x, 1)
    for pair in (u, u[0]), (u[0], u):
        with pytest.raises(ValueError, match="positions' shape"):
            mf.third(energy)(x, *rest, *pair)


def test_single_precision_third_derivatives():
    atoms, found = rattled("carbide"), []
    for dtype in torch.float64, torch.float32:
        energy, x, *rest = make_case("default", atoms, dtype)
        u, v = random_like(x, 1), random_like(x, 2)
        found.append(mf.third(energy)(x, *rest, u, v))
        assert found[-1].dtype == dtype
    assert_close(found[1].double(), found[0], 1e-4)
