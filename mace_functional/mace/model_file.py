"""Model files in the safetensors format, which hold no code.

A file holds the tensors of `MaceModel.params` under their names. Its header holds, as text:

    format      "mace_functional"
    version     version of the format, 1
    head        name of the head
    settings    `MaceSettings` as JSON
    tensors     names and shapes of the tensors as JSON, in the order of `MaceModel.params`
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mace_functional.mace.evaluation import check_model_params
from mace_functional.mace.settings import MaceSettings
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.validation import floating_type, in_order

if TYPE_CHECKING:
    from mace_functional.mace.model import MaceModel

SUFFIX = ".safetensors"
"""File name extension of model files."""

FORMAT = "mace_functional"
"""Value of `format` in the header of a model file."""

VERSION = 1
"""Version of the format that is written; older versions are read too."""

FIXED_BY_SYMMETRY = "U_matrix_", "_w3j_"
"""Parts of tensor names that mark coupling coefficients; `save_model` keeps their dtype."""


def save_model(
    model: MaceModel, path: str | os.PathLike[str], *, dtype: str | torch.dtype | None = None
) -> None:
    """Write a model to a file that `load_model` reads without running code from it.

    To save changed parameters, pass `dataclasses.replace(model, params=changed)`. The file does not
    hold a dispersion correction: pass `dispersion` to `load_model` again.

    Args:
        model: A model from `load_model`.
        path: Path of the file, `*.safetensors`. An existing file is replaced only once the new one
            is complete.
        dtype: Floating-point type of the weights in the file, or its name; the model's own if None.
            Coupling coefficients keep their type, because their accuracy limits the invariance of
            the energy under rotations.

    Raises:
        TypeError: If the model is of another class.
        ValueError: If the path has another suffix, the dtype is not `torch.float64` or
            `torch.float32`, or the names, shapes, dtypes or devices of `model.params` are not the
            model's, or a parameter is not finite.
        OSError: If the file cannot be written.
    """
    in_order("save_model(model, path)", (model, "MaceModel"))
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"name the file *{SUFFIX}, not {path.name}: load_model knows it by that")
    dtype = None if dtype is None else floating_type(dtype)
    check_model_params(model)
    tensors = {}
    for name, tensor in model.params.items():
        is_coupling = any(part in name for part in FIXED_BY_SYMMETRY)
        stored = tensor.detach().to(device="cpu", dtype=None if is_coupling else dtype, copy=True)
        tensors[name] = stored.contiguous()
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "head": model.head,
        "settings": json.dumps(asdict(model.settings)),
        "tensors": json.dumps(_shapes(tensors)),
    }
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(save(tensors, header))
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror}): choose an existing "
            "folder in which you may write"
        ) from error


def read_model_file(path: Path) -> tuple[MaceSettings, dict[str, Tensor], str]:
    """Read a file that `save_model` wrote.

    Args:
        path: Path of the file.

    Returns:
        The settings, the tensors in the file's dtypes, and the name of the head.

    Raises:
        ValueError: If the file is not a safetensors file, does not hold a model, was written by a
            newer version, or is damaged.
        OSError: If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is a safetensors file, but not of a model: give one that save_model "
                    "wrote, or the mace-torch checkpoint that its tensors are from"
                )
            settings, shapes, head = _read_header(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            _check_shapes(_shapes(tensors), shapes, str(path))
            return settings, {name: tensors[name] for name in shapes}, head
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or not all of it: {error}") from error


def _read_header(
    path: Path, header: Mapping[str, str]
) -> tuple[MaceSettings, dict[str, tuple[int, ...]], str]:
    """Read settings, shapes of the tensors, and the head from the header."""
    try:
        version = int(header["version"])
        if version < 1:
            raise ValueError(f"version {version}")
        if version <= VERSION:
            settings = _from_json(MaceSettings, json.loads(header["settings"]))
            shapes = json.loads(header["tensors"]).items()
            return settings, {name: tuple(shape) for name, shape in shapes}, header["head"]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"the header of {path} is damaged: {error!r:.200}") from error
    raise ValueError(
        f"{path} has version {header['version']} of the format, and this mace_functional reads up "
        f"to {VERSION}: install a newer one"
    )


def _from_json(kind: Any, value: Any) -> Any:
    """Convert parsed JSON to a dataclass, tuple or plain value of the type `kind`."""
    if is_dataclass(kind):
        kinds, dataclass = get_type_hints(kind), cast(Callable[..., Any], kind)
        return dataclass(**{name: _from_json(kinds[name], entry) for name, entry in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{value!r:.60} is not a list")
        return tuple(_from_json(arguments[0], entry) for entry in value)
    if origin in (Union, UnionType):  # a type or None
        return None if value is None else _from_json(arguments[0], value)
    if not (value in arguments if origin is Literal else type(value) is kind):
        raise ValueError(f"{value!r:.60} is not of type {kind}")
    return value


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Check that the tensors have the expected names and shapes."""
    for problem, names in (
        ("lacks the tensors", expected.keys() - found),
        ("has unknown tensors", found.keys() - expected),
    ):
        if names:
            raise ValueError(f"{where} {problem} {', '.join(sorted(names))}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{name} of {where} has the shape {found[name]}, not {shape}")
