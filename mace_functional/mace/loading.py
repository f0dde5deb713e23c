"""Loading of MACE models from names, files and mace-torch modules.

All sources give the same two things: tensors under mace-torch's names, and `MaceSettings`. The
energy is then computed by the modules of this folder, whatever the source was.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn

from mace_functional.dispersion.d3_potential import D3
from mace_functional.dispersion.pairs import D3Settings
from mace_functional.mace.model import MaceModel, assemble
from mace_functional.mace.model_check import check_energies, check_settings, check_tensors
from mace_functional.mace.model_file import SUFFIX, read_model_file
from mace_functional.mace.settings import MaceSettings
from mace_functional.potential.sum import SumPotential
from mace_functional.support.validation import compute_device, floating_type, functional_name

EMBEDDED = "embedded"
"""Name, for `load_model`, of the model that comes with the package."""


@overload
def load_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    dtype: str | torch.dtype = ...,
    device: str | torch.device = ...,
    head: str | None = ...,
    dispersion: None = None,
) -> MaceModel: ...


@overload
def load_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    dtype: str | torch.dtype = ...,
    device: str | torch.device = ...,
    head: str | None = ...,
    dispersion: str | bool | D3Settings | None,
) -> MaceModel | SumPotential: ...


def load_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    dtype: str | torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    head: str | None = None,
    dispersion: str | bool | D3Settings | None = None,
) -> MaceModel | SumPotential:
    """Load a MACE model.

    Args:
        source: One of

            - "embedded": the model that comes with this package and needs no network;
            - the name of a foundation model, which mace-torch downloads and caches: a MACE-MP name
              ("small", "medium", "medium-mpa-0", "mh-1", ...), "off-small", "off-medium",
              "off-large", "omol-extra_large" or "anicc";
            - the path of a file of `save_model` (*.safetensors);
            - the path of a mace-torch checkpoint (unpickling runs code: load files that you trust);
            - a mace-torch module.
        dtype: `torch.float64`, or `torch.float32` for less memory and more speed; or its name.
        device: Device of the tensors.
        head: Head of a multi-head model. By default, the only head, the head named "default", or
            for a file of `save_model` the head of the saved model.
        dispersion: D3 correction with Becke-Johnson damping to add to the model: the functional of
            the training data, such as "pbe", or `D3Settings`; None, False or "none" for no
            correction. Only for models whose training data have no dispersion; the functional of
            MACE-MP is PBE.

    Returns:
        The model. With dispersion, the sum of the model and `D3`; its `potentials[0]` is the model.
        The source is not changed.

    Raises:
        ValueError: If the name, the head, the dtype, the device or the functional is unknown, or
            the file holds no model or a damaged one: settings out of range, tensors that do not fit
            the settings or are not finite, energies that are not finite.
        TypeError: If the source is not a name, path or module; if the model's energy is not a
            function of positions, cell and parameters alone; if the model was compiled to
            TorchScript; or if dispersion is of another type.
        ConnectionError: If a foundation model could not be downloaded.
        ImportError: If the checkpoint needs a package, or a version of one, that is not installed,
            or if the data of D3, from tad-dftd3, are not installed.
        OSError: If the file cannot be read.
    """
    d3 = _dispersion(dispersion)
    device, dtype = compute_device(device), floating_type(dtype)
    settings, tensors, default = _read(source)
    where = "the module" if isinstance(source, nn.Module) else str(source)
    check_settings(settings, where)
    check_tensors(settings, tensors, where)
    name = _choose_head(settings.heads, default if head is None else head)
    model = assemble(settings, tensors, name, dtype, device)
    check_energies(model, where)
    return model if d3 is None else SumPotential(model, D3(d3, dtype=dtype, device=device))


def _dispersion(dispersion: str | bool | D3Settings | None) -> D3Settings | None:
    if isinstance(dispersion, D3Settings):
        return dispersion
    functional = functional_name(dispersion)
    return None if functional is None else D3Settings(functional)


def _read(
    source: str | os.PathLike[str] | nn.Module,
) -> tuple[MaceSettings, dict[str, Tensor], str | None]:
    """Read settings and tensors from any source, and the head to use by default."""
    if isinstance(source, nn.Module):
        return _read_mace_torch(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "load_model takes the name of a model, the path of a file or a mace-torch module, not "
            f"{type(source).__name__}"
        )
    name, path = os.fspath(source), Path(source)
    if path.is_file():
        if path.suffix == SUFFIX:
            return read_model_file(path)
        return _read_mace_torch(path)
    if name == EMBEDDED:
        weights = resources.files(__package__) / "embedded" / f"mace-embedded{SUFFIX}"
        with resources.as_file(weights) as file:
            return read_model_file(file)
    if (os.sep in name or path.suffix) and not path.is_dir():
        raise ValueError(f"there is no checkpoint file {name!r}")
    return _read_mace_torch(name)


def _read_mace_torch(
    source: str | Path | nn.Module,
) -> tuple[MaceSettings, dict[str, Tensor], str | None]:
    """Read settings and tensors from a module, a checkpoint or a foundation model by name.

    mace-torch and e3nn are imported here and not at the top of the module, because their import
    takes several times as long as that of torch.
    """
    from mace_functional.mace.mace_torch.checkpoint import read_checkpoint
    from mace_functional.mace.mace_torch.foundation import (
        foundation_models,
        load_foundation_model,
        refuse_polar_model,
    )
    from mace_functional.mace.mace_torch.module import read_module

    if isinstance(source, nn.Module):
        return *read_module(source), None
    if isinstance(source, Path):
        return *read_module(read_checkpoint(source)), None
    refuse_polar_model(source)
    if source in foundation_models():
        head = "omol" if source.startswith("omol-") else None
        return *read_module(load_foundation_model(source)), head
    raise ValueError(_why_unknown(source, foundation_models()))


def _why_unknown(name: str, foundation_models: Iterable[str]) -> str:
    """Explain that a name is unknown, and suggest similar names."""
    if Path(name).is_dir():
        return f"{name} is a folder, not a checkpoint file"
    known = [EMBEDDED, *foundation_models]
    similar = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else "."
    names = ", ".join(known)
    return f"{name!r} is neither a file nor the name of a model{hint} Known names: {names}"


def _choose_head(heads: tuple[str, ...], head: str | None) -> str:
    """Return the given head, else the only one, else the one named "default"."""
    if head is not None:
        if head not in heads:
            raise ValueError(f"the model has no head {head!r}; its heads are {', '.join(heads)}")
        return head
    default = [h for h in heads if len(heads) == 1 or h.lower() == "default"]
    if not default:
        raise ValueError(f"choose a head with head=...; the model's heads are {', '.join(heads)}")
    return default[0]
