"""A module of mace-torch with the settings of a model.

mace-torch derives most of a module from a few arguments. The arguments are read from the settings,
and the settings of the module that they give must be the same again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from mace import modules
from e3nn import o3
from mace.modules import blocks
from mace.tools.torch_tools import default_dtype
from torch import Tensor, nn

from mace_functional.mace.irreps import SCALAR, Irreps
from mace_functional.mace.mace_torch.module import read_module
from mace_functional.mace.settings import (
    ActivationName,
    FeatureSettings,
    MaceSettings,
    ReadoutKind,
)
from mace_functional.support.unsupported import UnsupportedModelError

ACTIVATIONS: dict[ActivationName, Any] = {
    "identity": None,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
}
"""Activation functions by their names in the settings."""

READOUTS: dict[ReadoutKind, Any] = {
    "Linear": blocks.NonLinearReadoutBlock,  # a single layer has no other
    "NonLinear": blocks.NonLinearReadoutBlock,
    "NonLinearBias": blocks.NonLinearBiasReadoutBlock,
}
"""Classes of the last readout by its kind in the settings."""


def build_module(settings: MaceSettings, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build a module of mace-torch with the settings of a model.

    Args:
        settings: Settings of the model.
        tensors: Tensors of the model, whose shapes decide what the settings do not.

    Returns:
        A MACE or ScaleShiftMACE in float64 on the CPU, with random weights.

    Raises:
        TypeError: If mace-torch has no arguments that give these settings.
    """
    for reduced in (True, False):
        module = _build(settings, tensors, reduced)
        if _same_couplings(module, tensors):
            break
    found, _ = read_module(module)
    if found != settings:
        raise UnsupportedModelError(
            "mace-torch builds another model from these settings, which differs in "
            f"{', '.join(differing(settings, found))}: pass as source the mace-torch checkpoint "
            "that the model came from"
        )
    return module


def differing(one: MaceSettings, other: MaceSettings) -> list[str]:
    """Return the names of the settings in which two models differ."""
    names = [f.name for f in fields(MaceSettings)]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _build(settings: MaceSettings, tensors: Mapping[str, Tensor], reduced: bool) -> nn.Module:
    """Build a module, with reduced or with full bases of the couplings of a contraction."""
    arguments = {
        **_radial_arguments(settings),
        **_layer_arguments(settings),
        **_readout_arguments(settings),
        **_feature_arguments(settings, tensors),
        "atomic_numbers": list(settings.atomic_numbers),
        "num_elements": len(settings.atomic_numbers),
        "atomic_energies": tensors["atomic_energies_fn.atomic_energies"].double().numpy(),
        "heads": list(settings.heads),
        "use_reduced_cg": reduced,
    }
    kind: Any = modules.ScaleShiftMACE if settings.scale_shift else modules.MACE
    if settings.scale_shift:
        for name in ("scale", "shift"):
            value = tensors[f"scale_shift.{name}"].double().numpy()
            arguments[f"atomic_inter_{name}"] = value
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of TorchScript, on annotations in e3nn
            default_dtype(torch.float64),
            torch.random.fork_rng(devices=[]),
        ):
            return kind(**arguments)
    except Exception as error:  # constructors of mace-torch and e3nn raise errors of any class
        first = str(error).strip().partition("\n")[0]
        raise UnsupportedModelError(
            f"mace-torch does not build a model of these settings ({type(error).__name__}: "
            f"{first}): pass as source the mace-torch checkpoint that the model came from"
        ) from error


def _radial_arguments(settings: MaceSettings) -> dict[str, Any]:
    radial, harmonics = settings.radial, o3.Irreps(settings.harmonics_irreps)
    return {
        "r_max": settings.cutoff,
        "num_bessel": radial.size,
        "radial_type": radial.basis,
        "num_polynomial_cutoff": radial.cutoff_power,
        "apply_cutoff": radial.apply_cutoff,
        "distance_transform": radial.distance_transform or "None",
        "radial_MLP": list(settings.interactions[0].radial_widths[1:-1]),
        "pair_repulsion": settings.repulsion_power is not None,
        "max_ell": harmonics.lmax,
        "use_so3": all(ir.p == 1 for _, ir in harmonics),
    }


def _layer_arguments(settings: MaceSettings) -> dict[str, Any]:
    layers, products = settings.interactions, settings.products
    hidden = products[0].irreps_out
    if len(layers) == 1:  # the only product has scalars only
        hidden = layers[0].skip_irreps if layers[0].skip != "elements of message" else hidden
    narrow = [layer.edge_irreps for layer in layers if layer.edge_irreps != layer.node_irreps]
    kinds = [modules.interaction_classes[f"{layer.kind}InteractionBlock"] for layer in layers]
    return {
        "num_interactions": len(layers),
        "interaction_cls_first": kinds[0],
        "interaction_cls": kinds[-1],
        "hidden_irreps": o3.Irreps(hidden),
        "edge_irreps": o3.Irreps(narrow[-1]) if narrow else None,
        "use_edge_irreps_first": layers[0].edge_irreps != layers[0].node_irreps,
        "avg_num_neighbors": layers[0].avg_num_neighbors,
        "correlation": [product.correlations[0] for product in products],
        "use_agnostic_product": products[0].agnostic,
        "keep_last_layer_irreps": len(layers) > 1 and products[-1].irreps_out == hidden,
    }


def _readout_arguments(settings: MaceSettings) -> dict[str, Any]:
    last, heads = settings.readouts[-1], len(settings.heads)
    scalars = Irreps(last.hidden_irreps).count(SCALAR) if last.hidden_irreps else heads
    return {
        "MLP_irreps": o3.Irreps(f"{scalars // heads}x0e"),
        "gate": ACTIVATIONS[last.activation.name],
        "use_last_readout_only": len(settings.readouts) < len(settings.products),
        "readout_cls": READOUTS[last.kind],
    }


def _feature_arguments(settings: MaceSettings, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if not settings.features:
        return {}
    return {
        "embedding_specs": {s.name: _feature_spec(s, tensors) for s in settings.features},
        "use_embedding_readout": settings.embedding_readout,
    }


def _feature_spec(s: FeatureSettings, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = f"joint_embedding.embedders.{s.name}"
    spec: dict[str, Any] = {"type": s.type, "per": s.per, "offset": s.offset}
    if s.type == "categorical":
        _, width = tensors[f"{prefix}.weight"].shape
        return spec | {"num_classes": s.num_classes, "emb_dim": width}
    width, inputs = tensors[f"{prefix}.0.weight"].shape
    return spec | {
        "in_dim": inputs,
        "emb_dim": width,
        "use_bias": f"{prefix}.0.bias" in tensors,
    }


def _same_couplings(module: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Return True if the couplings of all contractions have the shapes of those in a model."""
    state = module.state_dict()
    names = [name for name in tensors if "U_matrix_" in name]
    return all(name in state and state[name].shape == tensors[name].shape for name in names)
