"""Settings and tensors of mace-torch's modules.

Derivatives never pass through code of mace-torch or e3nn, in particular not through TorchScript: a
ScriptModule gives wrong numbers under nested function transforms, without a warning.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mace.modules.lora import merge_lora_weights
from torch import Tensor, nn

from mace_functional.mace.settings import (
    Activation,
    FeatureSettings,
    InteractionSettings,
    MaceSettings,
    ProductSettings,
    RadialSettings,
    ReadoutSettings,
)
from mace_functional.support.unsupported import UnsupportedModelError

REFUSED = {
    "AtomicDipolesMACE": "it predicts dipoles and has no energy",
    "AtomicDielectricMACE": "it predicts dipoles and polarisabilities and has no energy",
    "EnergyDipolesMACE": "its readouts mix energies with dipoles",
    "PolarMACE": "it is a polar model: its energy comes from a self-consistent charge density",
    "MACELES": "it is an electrostatic model with a long-range term in reciprocal space",
    "MagneticMACE": "it is a magnetic model: its energy depends on magnetic moments",
}
"""Model classes that are refused, and why.

Their energy is not a function of positions, cell and parameters alone.
"""


def read_module(original: Any) -> tuple[MaceSettings, dict[str, Tensor]]:
    """Read settings and tensors of a mace-torch module.

    Args:
        original: A MACE or ScaleShiftMACE. Accelerated and LoRA-adapted models are converted to
            plain weights. The module itself is not changed.

    Returns:
        The settings, and the floating-point tensors of the state dict by name.

    Raises:
        TypeError: If the object is of another class, or was compiled to TorchScript.
        ValueError: If it is a dict, or if a part is missing or of the wrong type.
    """
    try:
        plain = plain_module(original)
        settings, state = _read_settings(plain), plain.state_dict()
    except (AttributeError, AssertionError, LookupError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"the mace-torch module is damaged: {type(error).__name__}: {error!s:.200}"
        ) from error
    for name, tensor in state.items():  # scalars such as counters may be integers
        if tensor.ndim and not tensor.is_floating_point() and name != "atomic_numbers":
            raise ValueError(
                f"the mace-torch module is damaged: {name}, of shape {tuple(tensor.shape)}, holds "
                f"{tensor.dtype}, not floating-point numbers"
            )
    return settings, {k: v for k, v in state.items() if v.is_floating_point()}


def plain_module(original: Any) -> nn.Module:
    """Check the class of a model, and convert accelerated or adapted weights to plain ones.

    Args:
        original: An object, such as the content of a checkpoint.

    Returns:
        The object itself if it is a plain MACE or ScaleShiftMACE, else a converted copy.

    Raises:
        TypeError: If it is of another class, or cannot be converted.
        ValueError: If it is a dict.
    """
    if isinstance(original, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "the model was compiled to TorchScript, which gives wrong second derivatives under "
            "function transforms: load the checkpoint from before the compilation"
        )
    if isinstance(original, Mapping):
        raise ValueError(
            "the file holds a dict (a training checkpoint or state dict): give the '.model' file "
            "that mace-torch writes beside it"
        )
    name = type(original).__name__
    if name not in ("MACE", "ScaleShiftMACE"):
        reason = REFUSED.get(name, "only MACE and ScaleShiftMACE are")
        raise UnsupportedModelError(f"models of class {name} are not supported: {reason}")
    packages = {type(m).__module__.partition(".")[0] for m in original.modules()}
    for package, converter in (
        ("cuequivariance_torch", "convert_cueq_e3nn"),
        ("openequivariance", "convert_oeq_e3nn"),
    ):
        if package in packages:
            original = _convert(original, converter)
    if any(type(m).__name__.startswith("LoRA") for m in original.modules()):
        original = merge_lora_weights(original, inplace=False)
    return original


def _convert(original: nn.Module, converter: str) -> nn.Module:
    """Convert an accelerated model to plain weights with mace-torch's own converter."""
    dtype = torch.get_default_dtype()
    try:
        return importlib.import_module(f"mace.cli.{converter}").run(original)
    except Exception as error:
        raise UnsupportedModelError(
            f"the accelerated model could not be converted to plain weights ({error}): convert it "
            "with mace-torch where it was made, and load the result"
        ) from error
    finally:
        torch.set_default_dtype(dtype)


def _read_settings(m: Any) -> MaceSettings:
    """Read the settings of a mace-torch module."""
    harmonics = m.spherical_harmonics
    if not harmonics.normalize or harmonics.normalization != "component":
        raise UnsupportedModelError("only component-normalised spherical harmonics are supported")
    repulsion = getattr(m, "pair_repulsion_fn", None)
    single = len(m.readouts) == 1
    return MaceSettings(
        atomic_numbers=tuple(int(z) for z in m.atomic_numbers),
        cutoff=float(m.r_max),
        heads=tuple(getattr(m, "heads", None) or ["Default"]),
        harmonics_irreps=str(harmonics.irreps_out),
        radial=_read_radial(m.radial_embedding),
        interactions=tuple(_read_interaction(i) for i in m.interactions),
        products=tuple(_read_product(p) for p in m.products),
        readouts=tuple(
            _read_readout(r, len(m.products) - 1 if single else k) for k, r in enumerate(m.readouts)
        ),
        features=tuple(_read_features(m)),
        embedding_readout=hasattr(m, "embedding_readout"),
        repulsion_power=None if repulsion is None else int(repulsion.p),
        scale_shift=hasattr(m, "scale_shift"),
    )


def _named(module: Any, names: Mapping[str, Any]) -> Any:
    """Look up the name of a module's class in a table."""
    name = type(module).__name__
    if name not in names:
        raise UnsupportedModelError(
            f"blocks of class {name} are not supported; known are {', '.join(names)}"
        )
    return names[name]


def _read_radial(r: Any) -> RadialSettings:
    bases = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
    transforms = {"NoneType": None, "AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}
    return RadialSettings(
        basis=_named(r.bessel_fn, bases),
        size=int(r.out_dim),
        cutoff_power=int(r.cutoff_fn.p),
        distance_transform=_named(getattr(r, "distance_transform", None), transforms),
        apply_cutoff=bool(getattr(r, "apply_cutoff", True)),
        gaussian_coefficient=float(getattr(r.bessel_fn, "coeff", 0.0)),
    )


def _read_interaction(i: Any) -> InteractionSettings:
    kinds = {
        f"{kind}InteractionBlock": kind
        for kind in (
            "RealAgnostic",
            "RealAgnosticResidual",
            "RealAgnosticDensity",
            "RealAgnosticDensityResidual",
            "RealAgnosticAttResidual",
            "RealAgnosticResidualNonLinear",
        )
    }
    skip = i.skip_linear if hasattr(i, "skip_linear") else i.skip_tp
    gate = getattr(i, "equivariant_nonlin", None)
    first = getattr(i.conv_tp_weights, "layer0", None)
    return InteractionSettings(
        kind=_named(i, kinds),
        node_irreps=str(i.linear_up.irreps_in),
        edge_irreps=str(i.linear_up.irreps_out),
        target_irreps=str(i.target_irreps),
        skip_irreps=str(skip.irreps_out),
        radial_widths=tuple(int(width) for width in i.conv_tp_weights.hs),
        radial_activation=_read_activation(getattr(first, "act", None)),
        avg_num_neighbors=float(i.avg_num_neighbors),
        scalar_activation=_read_gate(gate, "scalar"),
        gate_activation=_read_gate(gate, "gate"),
    )


def _read_product(p: Any) -> ProductSettings:
    contraction = p.symmetric_contractions
    return ProductSettings(
        irreps_out=str(contraction.irreps_out),
        correlations=tuple(len(c.weights) + 1 for c in contraction.contractions),
        agnostic=bool(getattr(p, "use_agnostic_product", False)),
        use_skip=bool(p.use_sc),
    )


def _read_readout(r: Any, layer: int) -> ReadoutSettings:
    kinds = {
        "LinearReadoutBlock": "Linear",
        "NonLinearReadoutBlock": "NonLinear",
        "NonLinearBiasReadoutBlock": "NonLinearBias",
    }
    kind = _named(r, kinds)
    if kind == "Linear":
        return ReadoutSettings(kind=kind, layer=layer, irreps_in=str(r.linear.irreps_in))
    return ReadoutSettings(
        kind=kind,
        layer=layer,
        irreps_in=str(r.linear_1.irreps_in),
        hidden_irreps=str(r.linear_1.irreps_out),
        activation=_read_activation(r.non_linearity.acts[0]),
    )


def _read_features(m: Any) -> Iterator[FeatureSettings]:
    for name, spec in (getattr(m, "embedding_specs", None) or {}).items():
        yield FeatureSettings(
            name=name,
            type=spec["type"],
            per=spec["per"],
            offset=int(spec.get("offset", 0)),
            num_classes=int(spec.get("num_classes", 0)),
        )


def _read_activation(act: Any) -> Activation:
    """Read the settings of an activation that e3nn normalised to unit second moment."""
    if act is None:
        return Activation()
    return _activation(act.f, 1.0 if act._is_id else act.cst)


def _read_gate(gate: Any, part: str) -> Activation:
    """Read the settings of an activation in an equivariant gate of mace-torch or e3nn."""
    if gate is None:
        return Activation()
    if hasattr(gate, "_scalar_cst"):
        return _activation(getattr(gate, f"_act_{part}"), getattr(gate, f"_{part}_cst"))
    return _read_activation(getattr(gate, f"act_{part}s").acts[0])


def _activation(function: Any, scale: float) -> Activation:
    names: dict[Any, Any] = {
        torch.nn.functional.silu: "silu",
        torch.tanh: "tanh",
        torch.sigmoid: "sigmoid",
        torch.nn.functional.sigmoid: "sigmoid",
        torch.abs: "abs",
    }
    if function not in names:
        raise UnsupportedModelError(f"the activation function {function} is not supported")
    return Activation(names[function], float(scale))
