"""Evaluation of a model with the parameters that a caller passes; done in this module only.

`torch.func.functional_call` takes the module's own tensor for a name that is missing, and ignores a
name that it does not know: a misspelt parameter would change nothing and have a zero gradient. So
names and shapes are compared with those of the model first. The check reads names, shapes, dtypes
and devices and no values, so it works under every transform; `vmap` over parameters hides the batch
dimension from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from mace_functional.mace.model_check import check_finite
from mace_functional.mace.skeleton import skeleton

if TYPE_CHECKING:
    from mace_functional.mace.model import MaceModel

MAX_LISTED = 3
"""Largest number of parameters that an error message names; it counts the others."""

AtomEnergies = Callable[[Mapping[str, Tensor], Any, Tensor, Tensor], Tensor]
"""Energies of the atoms as a function of parameters, topology, positions and cell."""


def atom_energies(model: MaceModel) -> AtomEnergies:
    """Make the function that computes the energies of the atoms from a model's parameters.

    Args:
        model: A model from `load_model`.

    Returns:
        `(params, topology, positions, cell)` to energies in eV, (atoms,), for any `EdgeTopology`: a
        graph, replicas of a cell, or stars. The function calls `check_params`.
    """
    shapes = parameter_shapes(model)

    def energies(
        params: Mapping[str, Tensor], topology: Any, positions: Tensor, cell: Tensor
    ) -> Tensor:
        check_params(params, shapes, like=positions)
        return functional_call(
            skeleton(model.module), dict(params), (topology, positions, cell), tie_weights=False
        )

    return energies


def parameter_shapes(model: MaceModel) -> dict[str, torch.Size]:
    """Return names and shapes of the parameters of a model."""
    buffers = model.module.named_buffers(remove_duplicate=False)
    return {name: tensor.shape for name, tensor in buffers}


def check_params(
    params: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, like: Tensor
) -> None:
    """Check that parameters have the names and shapes of the model's, and one dtype and device.

    Args:
        params: Parameters that a caller passes.
        shapes: Shapes of the model's own parameters, from `parameter_shapes`.
        like: A tensor whose dtype and device all parameters must have.

    Raises:
        KeyError: If names are missing or unknown.
        ValueError: If a parameter has another shape, dtype or device.
    """
    if len(params) != len(shapes) or not all(name in params for name in shapes):
        raise KeyError(_names_that_differ(params, shapes))
    for name, shape in shapes.items():
        tensor = params[name]
        if tensor.shape != shape:
            raise ValueError(
                f"the parameter {name!r} must have the shape {tuple(shape)}, not "
                f"{tuple(tensor.shape)}; use vmap for more than one"
            )
        if tensor.dtype != like.dtype or tensor.device != like.device:
            raise ValueError(
                f"the parameter {name!r} has dtype {tensor.dtype} on {tensor.device}, and the "
                f"positions {like.dtype} on {like.device}: all must have one dtype and device"
            )


def check_model_params(model: MaceModel) -> None:
    """Check that a model's own parameters, which a caller may have replaced, can be written.

    Args:
        model: The model.

    Raises:
        ValueError: If names, shapes, dtypes or devices are not the model's, or a parameter is not
            finite.
    """
    like = next(iter(model.params.values()), torch.empty(0))
    try:
        check_params(model.params, parameter_shapes(model), like=like)
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    check_finite(model.params, "params")


def _names_that_differ(params: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> str:
    missing = [name for name in shapes if name not in params]
    unknown = [name for name in params if name not in shapes]
    parts = []
    if missing:
        parts.append(f"params lack {_listed(missing)}")
    if unknown:
        similar = difflib.get_close_matches(str(unknown[0]), missing or shapes, n=1)
        hint = f" (perhaps {similar[0]!r} is meant)" if similar else ""
        parts.append(f"the model has no parameters named {_listed(unknown)}{hint}")
    return " and ".join(parts) + ". Begin from model.params and replace entries of it"


def _listed(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:MAX_LISTED])
    return listed if len(names) <= MAX_LISTED else f"{listed} and {len(names) - MAX_LISTED} more"
