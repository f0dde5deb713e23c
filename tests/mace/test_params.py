"""Parameters that a caller gives: names, shapes and kinds are those of the model, or it says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ase.build import bulk
from models import build, crystal
from torch import Tensor
from torch.func import grad, jvp, vmap

import mace_functional as mf
from mace_functional.mace.evaluation import check_params, parameter_shapes

READOUT = "readouts.0.linear.weight"


@pytest.fixture(scope="module")
def model() -> mf.MaceModel:
    return mf.load_model(build())


def energy(model: mf.MaceModel) -> Callable[[dict[str, Tensor]], Tensor]:
    s = mf.from_ase(crystal(), model)
    function = mf.energy_fn(model, s.graph)
    return lambda params: function(s.positions, s.cell, params)


def dynamical_matrix(model: mf.MaceModel) -> Callable[[dict[str, Tensor]], Tensor]:
    atoms = bulk("SiC", "zincblende", a=4.1)
    s = mf.from_ase(atoms, model)
    function = mf.dynamical_matrix_fn(model, s.graph)
    return lambda params: function([0.1, 0.2, 0.3], s.positions, s.cell, params, s.masses)


def constants(model: mf.MaceModel) -> Callable[[dict[str, Tensor]], Any]:
    atoms = bulk("SiC", "zincblende", a=4.1)
    return lambda params: mf.force_constants(replace(model, params=params), atoms)


def without(params: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: p for key, p in params.items() if key != name}


every_function = pytest.mark.parametrize("function_of", [energy, dynamical_matrix, constants])


@every_function
def test_a_missing_parameter_is_named(function_of, model):
    with pytest.raises(KeyError, match=f"params lack '{READOUT}'"):
        function_of(model)(without(model.params, READOUT))


@every_function
def test_a_misspelt_parameter_is_named_with_what_was_meant(function_of, model):
    params = without(model.params, READOUT) | {"readouts.0.linear.wieght": model.params[READOUT]}
    with pytest.raises(KeyError, match=f"no parameters named '.*wieght' .perhaps '{READOUT}' is"):
        function_of(model)(params)


@every_function
def test_an_unknown_parameter_is_named(function_of, model):
    with pytest.raises(KeyError, match="no parameters named 'temperature'"):
        function_of(model)(model.params | {"temperature": torch.ones(1).double()})


@every_function
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:-1], r"'readouts.0.linear.weight' must have the shape \(6,\), not \(5,\)"),
        (lambda p: p.float(), "'readouts.0.linear.weight' has dtype torch.float32"),
        (lambda p: p.to("meta"), "'readouts.0.linear.weight' has dtype torch.float64 on meta"),
    ],
    ids=["shape", "dtype", "device"],
)
def test_a_parameter_of_another_kind_is_named(function_of, change, message, model):
    with pytest.raises(ValueError, match=message):
        function_of(model)(model.params | {READOUT: change(model.params[READOUT])})


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "plain autograd"])
def test_a_misspelt_parameter_is_named_under_every_transform(transform, model):
    function = energy(model)
    weight = model.params[READOUT]

    def misspelt(p: Tensor) -> Tensor:
        return function(without(model.params, READOUT) | {"readouts.0.linear.wieght": p})

    calls: dict[str, Callable[[], Any]] = {
        "grad": lambda: grad(misspelt)(weight),
        "jvp": lambda: jvp(misspelt, (weight,), (weight,)),
        "vmap": lambda: vmap(misspelt)(torch.stack([weight, weight])),
        "plain autograd": lambda: misspelt(weight.clone().requires_grad_()),
    }
    with pytest.raises(KeyError, match="wieght"):
        calls[transform]()


def test_vmap_over_parameters_gives_the_energy_of_each_set(model):
    function = energy(model)
    sets = {name: torch.stack([p, 1.01 * p]) for name, p in model.params.items()}
    sets |= {name: torch.stack([p, p]) for name, p in model.params.items() if "r_max" in name}
    found = vmap(function)(sets)
    for k in range(2):
        alone = function({name: p[k] for name, p in sets.items()})
        torch.testing.assert_close(found[k], alone, rtol=0, atol=1e-12)
    assert abs(found[0] - found[1]) > 1e-3


@pytest.mark.slow
def test_compiled_energy_takes_the_parameters_it_is_given(model):
    function = energy(model)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager")
    changed = model.params | {READOUT: 2 * model.params[READOUT]}
    torch.testing.assert_close(compiled(changed), function(changed), rtol=0, atol=1e-12)
    assert abs(function(changed) - function(model.params)) > 1e-3
    with pytest.raises(Exception, match="lack 'readouts"):
        compiled(without(model.params, READOUT))


def test_the_check_of_parameters_breaks_no_compiled_graph(model):
    shapes = parameter_shapes(model)

    def checked(params: dict[str, Tensor]) -> Tensor:
        check_params(params, shapes, like=params[READOUT])
        return 2 * params[READOUT]

    torch._dynamo.reset()
    compiled = torch.compile(checked, backend="eager", fullgraph=True)
    assert torch.equal(compiled(model.params), 2 * model.params[READOUT])


@pytest.mark.parametrize(
    ("positions", "cell"), [(torch.float32, torch.float64), (torch.float64, torch.float32)]
)
def test_positions_and_cell_of_two_dtypes_are_refused(positions, cell, model):
    s = mf.from_ase(crystal(), model)
    with pytest.raises(ValueError, match=r"positions .* and cell .* must have one dtype"):
        mf.energy_fn(model, s.graph)(s.positions.to(positions), s.cell.to(cell), model.params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: without(p, READOUT), f"lack '{READOUT}'"),
        (lambda p: p | {READOUT: p[READOUT].float()}, "torch.float32"),
        (lambda p: p | {READOUT: p[READOUT][:-1]}, r"\(6,\), not \(5,\)"),
        (lambda p: p | {READOUT: p[READOUT] / 0}, "not finite"),
    ],
    ids=["missing", "dtype", "shape", "not finite"],
)
def test_parameters_that_are_not_those_of_the_model_are_not_saved(change, message, model, tmp_path):
    changed = replace(model, params=change(model.params))
    with pytest.raises(ValueError, match=message):
        mf.save_model(changed, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
