"""Damaged model files and checkpoints: each loads and has finite energies, or is refused in words.

Files are changed at random: entries of the settings, shapes and values of tensors, bytes,
attributes of modules. Some that were accepted in silence, hung or ended in a traceback are named.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import build, molecule
from torch import Tensor, nn

import mace_functional as mf

REFUSALS = ValueError, TypeError, ImportError


def outcome(source: Any) -> str:
    """What comes of loading: "finite", or the sentence with which it is refused."""
    try:
        model = mf.load_model(source)
    except REFUSALS as error:
        text = str(error)
        assert 10 < len(text) < 1000
        assert "Traceback" not in text
        return text
    s = mf.from_ase(molecule(), model)
    energies = mf.energy_fn(model, s.graph, per_atom=True)(s.positions, s.cell, model.params)
    assert energies.isfinite().all()
    return "finite"


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return build()


class ModelFile:
    """The parts of a file of `save_model`, to be changed and written again."""

    def __init__(self, module: nn.Module, folder: Path) -> None:
        self.path = folder / "m.safetensors"
        self.model = mf.load_model(module)
        mf.save_model(self.model, self.path)
        self.content = self.path.read_bytes()
        self.tensors = safetensors.torch.load_file(self.path)
        with safetensors.safe_open(self.path, framework="pt") as file:
            self.header: dict[str, str] = file.metadata()

    def write(self, given: dict[str, Tensor], **header: Any) -> Path:
        shapes = {name: list(t.shape) for name, t in given.items()}
        header = {k: v if isinstance(v, str) else json.dumps(v) for k, v in header.items()}
        entries = self.header | {"tensors": json.dumps(shapes)} | header
        contiguous = {name: t.contiguous() for name, t in given.items()}
        safetensors.torch.save_file(contiguous, self.path, entries)
        return self.path

    def settings(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self.model.settings)))


@pytest.fixture(scope="module")
def file(module, tmp_path_factory) -> ModelFile:
    return ModelFile(module, tmp_path_factory.mktemp("files"))


# ---- Settings


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where all entries of nested lists and dicts are."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in items:
        if isinstance(entry, dict | list):
            yield from places(entry, (*path, key))
        else:
            yield (*path, key)


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    7,
    10**9,
    10**30,
    -2.5,
    0.0,
    1e-300,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "x",
    "Default",
    "1000000000x0e",
    "1x1000000o",
    "6x0e+",
    "4x0e+4x1o+4x2e",
    "x" * 10000,
    [],
    [1],
    [1, 1],
    ["a", "a"],
    [0, 119],
    {},
    {"name": "silu"},
]


def with_setting(file: ModelFile, place: tuple[Any, ...], new: Any) -> Path:
    return file.write(file.tensors, settings=replaced(file.settings(), place, new))


NAMED_SETTINGS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "endless cutoff": (("cutoff",), 1e300, "the cutoff must lie between 0 and 20 Å"),
    "infinite cutoff": (("cutoff",), float("inf"), "the cutoff must lie between"),
    "cutoff NaN": (("cutoff",), float("nan"), "the cutoff must lie between"),
    "negative cutoff": (("cutoff",), -4.0, "the cutoff must lie between"),
    "another cutoff": (
        ("cutoff",),
        5.0,
        "r_max of .* is 4 Å, but the cutoff in its settings is 5 Å",
    ),
    "no heads": (("heads",), [], "heads must have names"),
    "heads in one text": (("heads",), "abc", "'abc' is not a list"),
    "equal heads": (("heads",), ["a", "a"], "names of heads must not be repeated"),
    "no elements": (("atomic_numbers",), [], "a model must have elements"),
    "an element twice": (("atomic_numbers",), [1, 1, 8, 14], "elements must not be repeated"),
    "no such element": (("atomic_numbers",), [1, 6, 8, 500], "between 1 and 118, not 500"),
    "fewer elements": (("atomic_numbers",), [1, 6, 8], "has the shape"),
    "endless basis": (("radial", "size"), 10**9, "radial basis must lie between"),
    "negative basis": (("radial", "size"), -5, "radial basis must lie between"),
    "endless order": (("products", 0, "correlations", 0), 10**9, "order of a product must lie"),
    "endless channels": (("interactions", 0, "node_irreps"), "1000000000x0e", "must lie between"),
    "endless degree": (("interactions", 1, "edge_irreps"), "6x0e+6x999999o", "must lie between"),
    "no irreps": (("interactions", 0, "target_irreps"), "water", "irreps .* cannot be read"),
    "no neighbours": (("interactions", 0, "avg_num_neighbors"), 0.0, "mean number of neighbours"),
    "negative layer": (("readouts", 0, "layer"), -1, "the layer of a readout must lie between"),
    "no layers": (("interactions",), [], "the number of layers must lie between"),
    "a layer less": (("products",), [], "every layer must have a product"),
    "activation NaN": (
        ("readouts", 1, "activation", "scale"),
        float("nan"),
        "scales of activations must be finite",
    ),
}


@pytest.mark.parametrize("name", NAMED_SETTINGS)
def test_settings_out_of_range_are_named(name, file):
    place, new, message = NAMED_SETTINGS[name]
    with pytest.raises(ValueError, match=message):
        mf.load_model(with_setting(file, place, new))


def test_nested_headers_are_refused(file):
    deep = "[" * 100_000 + "]" * 100_000
    for header in {"settings": deep}, {"tensors": deep}:
        with pytest.raises(ValueError, match=r"the header of .* is damaged"):
            mf.load_model(file.write(file.tensors, **header))


@pytest.mark.parametrize("version", ["0", "-1", "1e3", "", "9" * 5000])
def test_versions_that_never_were_are_refused(version, file):
    with pytest.raises(ValueError, match=r"damaged|version"):
        mf.load_model(file.write(file.tensors, version=version))


def any_setting(file: ModelFile, data: Any) -> None:
    place = data.draw(st.sampled_from(list(places(file.settings()))))
    outcome(with_setting(file, place, data.draw(st.sampled_from(HOSTILE))))


# ---- Tensors

CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda t: first_set(t, float("nan")),
    "infinite": lambda t: first_set(t, float("-inf")),
    "huge": lambda t: first_set(t, 1e300),
    "large": lambda t: 1e8 * t,
    "nothing": lambda t: 0 * t,
    "longer": lambda t: torch.cat([t, t]) if t.ndim else torch.stack([t, t]),
    "flat": lambda t: t.reshape(-1),
    "one dimension more": lambda t: t[None],
    "transposed": lambda t: t.mT if t.ndim > 1 else t.flip(0) if t.ndim else t,
    "empty": lambda t: t.new_zeros(0),
    "whole numbers": lambda t: t.to(torch.int64),
    "flags": lambda t: t.to(torch.bool),
    "half": lambda t: t.to(torch.float16),
    "single": lambda t: t.to(torch.float32),
}


def first_set(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    if changed.numel() and changed.is_floating_point():
        changed.view(-1)[0] = value
    return changed


NAMED_TENSORS = [
    ("readouts.0.linear.weight", "NaN", "entries that are not finite"),
    ("atomic_energies_fn.atomic_energies", "NaN", "entries that are not finite"),
    ("atomic_energies_fn.atomic_energies", "huge", "entries up to 1.0e\\+300"),
    ("interactions.0.linear.output_mask", "longer", "has the shape"),
    ("interactions.0.linear.output_mask", "NaN", "entries that are not finite"),
    ("interactions.1.linear.weight", "longer", "has the shape"),
    ("interactions.1.linear.weight", "flags", "holds torch.bool, not"),
    ("interactions.0.conv_tp_weights.layer0.weight", "transposed", "has the shape"),
    ("products.0.symmetric_contractions.contractions.0.weights_max", "flat", "has the shape"),
    ("products.0.symmetric_contractions.contractions.0.U_matrix_2", "transposed", "has the shape"),
    ("radial_embedding.cutoff_fn.r_max", "large", "the cutoff in its settings is 4 Å"),
    ("r_max", "nothing", "is 0 Å, but the cutoff in its settings|the cutoff must lie"),
    ("scale_shift.scale", "one dimension more", "finite"),
]


@pytest.mark.parametrize(("name", "change", "message"), NAMED_TENSORS)
@pytest.mark.parametrize("kind", ["file", "module"])
def test_tensors_that_do_not_fit_are_named(name, change, message, kind, file, module):
    if name not in file.tensors:
        pytest.skip(f"the model has no {name}")
    whole = nullcontext(damaged(file, name, change))
    with whole if kind == "file" else damaged_module(module, name, change) as source:
        found = outcome(source)
    assert re.search(message, found)


def damaged(file: ModelFile, name: str, change: str) -> Path:
    return file.write(file.tensors | {name: CHANGES[change](file.tensors[name])})


@contextmanager
def damaged_module(module: nn.Module, name: str, change: str) -> Iterator[nn.Module]:
    """The module with another tensor, until the end of the block."""
    *path, leaf = name.split(".")
    place: Any = module.get_submodule(".".join(path))
    before = place._parameters.pop(leaf, None), place._buffers.get(leaf)
    whole = next(tensor for tensor in before if tensor is not None)
    place._buffers[leaf] = CHANGES[change](whole.detach().clone())
    try:
        yield module
    finally:
        del place._buffers[leaf]
        for table, tensor in zip((place._parameters, place._buffers), before, strict=True):
            if tensor is not None:
                table[leaf] = tensor


def any_tensor(file: ModelFile, data: Any) -> None:
    change = data.draw(st.sampled_from(list(CHANGES)))
    outcome(damaged(file, data.draw(st.sampled_from(list(file.tensors))), change))


def any_tensor_of_a_module(module: nn.Module, data: Any) -> None:
    change = data.draw(st.sampled_from(list(CHANGES)))
    name = data.draw(st.sampled_from(list(module.state_dict())))
    with damaged_module(module, name, change) as source:
        outcome(source)


def test_tensors_that_are_too_few_or_too_many_are_named(file):
    name = "readouts.0.linear.weight"
    fewer = {k: t for k, t in file.tensors.items() if k != name}
    with pytest.raises(ValueError, match=f"lacks the tensor {name}, which its settings require"):
        mf.load_model(file.write(fewer))


def test_shapes_of_a_thousand_million_are_refused(file):
    shapes = {name: list(t.shape) for name, t in file.tensors.items()}
    with pytest.raises(ValueError, match="has the shape"):
        mf.load_model(file.write(file.tensors, tensors=shapes | {"r_max": [10**9, 10**9]}))


# ---- Modules and bytes


def any_attribute(module: nn.Module, data: Any) -> None:
    """A mace-torch module from which an attribute is missing, or in which it is something else."""
    parts = [part for _, part in module.named_modules()]
    part = data.draw(st.sampled_from(parts))
    names = [
        name
        for name in (*vars(part), *part._modules, *part._buffers, *part._parameters)
        if name not in ("_modules", "_buffers", "_parameters")
    ]
    name = data.draw(st.sampled_from(names))
    tables = [vars(part), part._modules, part._buffers, part._parameters]
    before = [dict(table) for table in tables]
    next(table for table in tables if name in table).pop(name)
    if data.draw(st.booleans()):
        vars(part)[name] = data.draw(st.sampled_from(HOSTILE))
    try:
        outcome(module)
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)


def any_byte(content: bytes, path: Path, data: Any) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flipped", "cut", "inserted", "removed"]))
    new = {
        "flipped": content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :],
        "cut": content[:place],
        "inserted": content[:place] + b"\x00\xff{[" + content[place:],
        "removed": content[:place] + content[place + 4 :],
    }[kind]
    path.write_bytes(new)
    outcome(path)


@pytest.fixture(scope="module")
def checkpoint(module, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "m.model"
    torch.save(module, path)
    return path


def generated(examples: int) -> Any:
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=health,
    )


KINDS: dict[str, Callable[..., None]] = {
    "settings": lambda file, checkpoint, module, data: any_setting(file, data),
    "tensors": lambda file, checkpoint, module, data: any_tensor(file, data),
    "tensors of a module": lambda file, checkpoint, module, data: any_tensor_of_a_module(
        module, data
    ),
    "attributes of a module": lambda file, checkpoint, module, data: any_attribute(module, data),
    "header": lambda file, checkpoint, module, data: any_byte(file.content[:5000], file.path, data),
    "bytes": lambda file, checkpoint, module, data: any_byte(file.content, file.path, data),
    "bytes of a checkpoint": lambda file, checkpoint, module, data: any_byte(
        checkpoint.read_bytes(), checkpoint.with_name("damaged.model"), data
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@generated(5)
@given(data=st.data())
def test_damaged_models_are_refused_or_compute(kind, file, checkpoint, module, data):
    KINDS[kind](file, checkpoint, module, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@generated(100)
@given(data=st.data())
def test_many_damaged_models_are_refused_or_compute(kind, file, checkpoint, module, data):
    KINDS[kind](file, checkpoint, module, data)


def test_what_is_whole_loads(file, checkpoint, module):
    for source in file.write(file.tensors), checkpoint, module:
        assert outcome(source) == "finite"
