"""Loading of MACE models: the one file that knows mace-torch.

A checkpoint is read once: its tensors are copied under their own names, its settings into
`MaceSettings`, and the energy is then computed by `mace_functional.engine`. Nothing of mace-torch
or e3nn, and in particular no TorchScript, is left on the path of a derivative: a ScriptModule under
nested function transforms gives wrong numbers without a warning.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Before e3nn, which mace-torch lets load its own constants; both speak up on import.
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mace.calculators import foundations_models, mace_anicc, mace_mp, mace_off, mace_omol
    from mace.modules.lora import merge_lora_weights
    from mace.tools.utils import get_cache_dir

from mace_functional.engine import Mace, MaceSettings
from mace_functional.engine.settings import (
    Activation,
    FeatureSettings,
    InteractionSettings,
    ProductSettings,
    RadialSettings,
    ReadoutSettings,
)

REFUSED = {
    "AtomicDipolesMACE": "it predicts dipoles and has no energy",
    "AtomicDielectricMACE": "it predicts dipoles and polarisabilities and has no energy",
    "EnergyDipolesMACE": "its readouts mix energies with dipoles",
    "PolarMACE": "it is a polar model: its energy comes from a self-consistent charge density",
    "MACELES": "it is an electrostatic model with a long-range term in reciprocal space",
    "MagneticMACE": "it is a magnetic model: its energy depends on magnetic moments",
}
"""Model classes whose energy is not a function of positions, cell and parameters alone."""


@dataclass(frozen=True)
class Model:
    """A MACE model: its tensors, its settings, and the module that computes with them.

    Attributes:
        params: The floating-point tensors of the mace-torch state dict, under its names.
        settings: Everything that is not a tensor.
        module: The energy as a module, to be called through `energy_fn`.
        head: Name of the head whose energy is computed.
    """

    params: dict[str, Tensor]
    settings: MaceSettings
    module: Mace
    head: str

    def __repr__(self) -> str:
        s = self.settings
        return (
            f"Model({len(s.interactions)} interactions, {s.products[0].irreps_out}, cutoff "
            f"{s.cutoff:g} Å, {len(s.atomic_numbers)} elements, head {self.head!r}, {self.dtype}, "
            f"{self.device})"
        )

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements the model knows."""
        return self.settings.atomic_numbers

    @property
    def cutoff(self) -> float:
        """Cutoff radius, Å."""
        return self.settings.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.params["r_max"].dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.params["r_max"].device


def load_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    head: str | None = None,
) -> Model:
    """Load a MACE model.

    Args:
        source: Name of a foundation model: the MACE-MP names of mace-torch ("small", "medium",
            "medium-mpa-0", "mh-1", ...), "off-small", "off-medium", "off-large",
            "omol-extra_large" or "anicc", loaded and cached by mace-torch; or the path of a
            mace-torch checkpoint (unpickling runs code: load files that you trust); or a
            mace-torch module.
        dtype: `torch.float64`, or `torch.float32` where memory or speed matter more.
        device: Where the tensors go.
        head: Head of a multi-head model; may be left out if there is one, or one named "default".

    Returns:
        The model. The module or file it came from is left as it was.

    Raises:
        ValueError: If the name, the head or the dtype is unknown, or the file is not a checkpoint.
        TypeError: If the model is of a class whose energy is not a function of positions, cell and
            parameters alone, or was compiled to TorchScript.
        ConnectionError: If a foundation model could not be downloaded.
        ImportError: If the checkpoint needs a package that is not installed.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, not {dtype}")
    if isinstance(source, nn.Module):
        original: Any = source
    elif os.path.exists(source):
        original = _read_checkpoint(Path(source))
    else:
        original = _foundation_model(os.fspath(source))
        head = "omol" if head is None and str(source).startswith("omol-") else head
    original = _plain(original)
    settings = _read_settings(original)
    name = _choose_head(settings.heads, head)
    params = {
        key: tensor.detach().to(device=device, dtype=dtype, copy=True)
        for key, tensor in original.state_dict().items()
        if tensor.is_floating_point()
    }
    module = Mace(settings, settings.heads.index(name))
    _attach(module, params)
    module.read_constants()
    _assert_no_torchscript(module)
    return Model(params=params, settings=settings, module=module, head=name)


def _read_checkpoint(path: Path) -> Any:
    """Unpickle a checkpoint file."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript archives are refused later, by name
            return torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("mace", "e3nn"):
            raise ImportError(
                f"{path} holds classes of {error.name}, which the installed {package} does not "
                "have: it was saved with another version"
            ) from error
        raise ImportError(
            f"{path} was saved with the package {package!r}, which is not installed: install it "
            "and the model is converted to plain weights on loading, or convert the file where it "
            "is installed with mace_cueq_to_e3nn (cuEquivariance) or `python -m "
            "mace.cli.convert_oeq_e3nn` (OpenEquivariance)"
        ) from error
    except Exception as error:  # whatever an unpickler makes of bytes that are no pickle
        raise ValueError(f"{path} is not a mace-torch checkpoint: {error}") from error


def _foundation_loaders() -> dict[str, Callable[[], nn.Module]]:
    """Loaders of the foundation models, by name."""
    raw: dict[str, Any] = {"device": "cpu", "return_raw_model": True}
    loaders: dict[str, Callable[[], nn.Module]] = {}
    for name in foundations_models.mace_mp_urls:
        loaders[name] = partial(mace_mp, model=name, **raw)
    for name in foundations_models.mace_off_urls:
        loaders[f"off-{name}"] = partial(mace_off, model=name, **raw)
    loaders["omol-extra_large"] = partial(mace_omol, model="extra_large", **raw)
    loaders["anicc"] = partial(mace_anicc, **raw)
    return loaders


def _foundation_model(name: str) -> nn.Module:
    """A foundation model by name, through mace-torch's loader and cache."""
    loaders = _foundation_loaders()
    if name in foundations_models.polar_model_names:
        raise TypeError(f"{name!r} is not supported: {REFUSED['PolarMACE']}")
    if name not in loaders:
        if os.sep in name or Path(name).suffix:
            raise ValueError(f"there is no checkpoint file {name!r}")
        near = difflib.get_close_matches(name.lower(), loaders, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"{name!r} is neither a file nor the name of a foundation model{hint} "
            f"Known names: {', '.join(loaders)}"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return loaders[name]()
    except Exception as error:
        reason = error.__cause__ or error
        raise ConnectionError(
            f"the foundation model {name!r} could not be loaded ({reason}). It is downloaded once "
            f"to {get_cache_dir()}: check the network, or copy the file there from a machine that "
            "has it, or give load_model the path of a checkpoint"
        ) from error


def _plain(original: Any) -> nn.Module:
    """Check the class, and convert what wraps or accelerates plain weights."""
    if isinstance(original, torch.jit.ScriptModule):
        raise TypeError(
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
        raise TypeError(f"models of class {name} are not supported: {reason}")
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
        raise TypeError(
            f"the accelerated model could not be converted to plain weights ({error}): convert it "
            "with mace-torch where it was made, and load the result"
        ) from error
    finally:
        torch.set_default_dtype(dtype)


def _choose_head(heads: tuple[str, ...], head: str | None) -> str:
    """The head asked for, the only one, or the one named "default"."""
    if head is not None:
        if head not in heads:
            raise ValueError(f"the model has no head {head!r}; its heads are {', '.join(heads)}")
        return head
    default = [h for h in heads if len(heads) == 1 or h.lower() == "default"]
    if not default:
        raise ValueError(f"choose a head with head=...; the model's heads are {', '.join(heads)}")
    return default[0]


def _read_settings(m: Any) -> MaceSettings:
    """The settings of a mace-torch module."""
    harmonics = m.spherical_harmonics
    if not harmonics.normalize or harmonics.normalization != "component":
        raise TypeError("only component-normalised spherical harmonics are supported")
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
    """The entry of a table for the module's class."""
    name = type(module).__name__
    if name not in names:
        raise TypeError(f"blocks of class {name} are not supported; known are {', '.join(names)}")
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
    """Settings of an activation that e3nn normalised to unit second moment."""
    if act is None:
        return Activation()
    return _activation(act.f, 1.0 if act._is_id else act.cst)


def _read_gate(gate: Any, part: str) -> Activation:
    """Settings of one of the activations of an equivariant gate, mace-torch's or e3nn's."""
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
        raise TypeError(f"the activation function {function} is not supported")
    return Activation(names[function], float(scale))


def _attach(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Register tensors under their dotted names, making the modules on the way where needed."""
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        place = module
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_buffer(leaf, tensor)


def _assert_no_torchscript(module: nn.Module) -> None:
    """Fail if TorchScript can be reached from the module (it breaks nested transforms)."""
    scripted = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    for name, part in module.named_modules():
        if isinstance(part, scripted) or any(isinstance(v, scripted) for v in vars(part).values()):
            raise AssertionError(f"TorchScript is reachable from {name or 'the model'}")
