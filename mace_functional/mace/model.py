"""Models: where they come from, and what they hold.

A model is read once, from whatever holds it: its tensors are copied under the names that mace-torch
gives them, its settings into `MaceSettings`, and the energy is then computed by
`mace_functional.mace`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mace_functional.dispersion.d3_potential import D3Potential
from mace_functional.dispersion.pairs import D3Settings, functional_name
from mace_functional.mace.energies import Mace
from mace_functional.mace.mace_torch.checkpoint import read_checkpoint
from mace_functional.mace.mace_torch.foundation import (
    foundation_models,
    load_foundation_model,
    refuse_polar_model,
)
from mace_functional.mace.mace_torch.module import read_module
from mace_functional.mace.model_check import check_energies, check_settings, check_tensors
from mace_functional.mace.model_file import SUFFIX, read_model_file
from mace_functional.mace.settings import MaceSettings
from mace_functional.mace.subnormal import without_subnormal
from mace_functional.phonons.dynamical_matrix import DynamicalMatrix, dynamical_matrix_fn
from mace_functional.potential.energy import Energy, energy_fn
from mace_functional.structure.graph import Graph, Structure, from_ase
from mace_functional.support.validation import compute_device

if TYPE_CHECKING:
    from ase import Atoms

EMBEDDED = "embedded"
"""Name of the model that comes with the package."""


@dataclass(frozen=True, eq=False)
class Model:
    """A MACE model: its tensors, its settings, and the module that computes with them.

    Attributes:
        params: The floating-point tensors of the mace-torch state dict, under its names.
        settings: Everything that is not a tensor.
        module: The energy as a module, to be called through `energy_fn`.
        head: Name of the head whose energy is computed.
        dispersion: The D3 correction that is added to it; None for none.
        n_subnormal: How many weights were too small to be normal numbers of the dtype and were set
            to zero.
    """

    params: dict[str, Tensor]
    settings: MaceSettings
    module: Mace
    head: str
    dispersion: D3Settings | None = None
    n_subnormal: int = 0

    def __repr__(self) -> str:
        s, d3 = self.settings, self.dispersion
        return (
            f"Model({len(s.interactions)} interactions, {s.products[0].irreps_out}, cutoff "
            f"{s.cutoff:g} Å, {len(s.atomic_numbers)} elements, head {self.head!r}, "
            + (f"D3({d3.functional}), " if d3 else "")
            + f"{self.dtype}, {self.device}"
            + (f", {self.n_subnormal} subnormal weights set to zero" if self.n_subnormal else "")
            + ")"
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

    def to(
        self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Model:
        """The same model in another precision or on another device.

        Args:
            dtype: `torch.float64` or `torch.float32`; that of this model if None.
            device: That of this model if None.

        Raises:
            ValueError: If the dtype is another.
        """
        dtype = self.dtype if dtype is None else dtype
        device = self.device if device is None else device
        return _assemble(
            self.settings,
            self.params,
            self.head,
            dtype,
            device,
            self.dispersion,
            self.n_subnormal,
        )

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """The structure and graph of an ASE Atoms object; see `from_ase`."""
        return from_ase(atoms, self, skin)

    def energy_fn(self, topology: Graph, *, per_atom: bool = False) -> Energy:
        """The energy as a pure function `E(positions, cell, params)`; see `energy_fn`."""
        return energy_fn(self, topology, per_atom=per_atom)

    def dynamical_matrix_fn(self, topology: Graph) -> DynamicalMatrix:
        """The dynamical matrix as a pure function; see `dynamical_matrix_fn`."""
        return dynamical_matrix_fn(self, topology)

    def split_dispersion(self) -> tuple[Model, D3Potential] | None:
        """The model without its dispersion, and the dispersion; None if it has none."""
        if self.dispersion is None:
            return None
        d3 = D3Potential(self.dispersion, self.dtype, self.device)
        return replace(self, dispersion=None), d3

    def hold_pairs(self, structure: Structure) -> Structure:
        """The same structure with dispersion between the pairs of now, wherever they move."""
        graph = structure.graph
        if graph.dispersion is None:
            return structure
        held = graph.dispersion.held(structure.positions, structure.cell, graph.pbc)
        return replace(structure, graph=replace(graph, dispersion=held))


def load_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    head: str | None = None,
    dispersion: str | bool | D3Settings | None = None,
) -> Model:
    """Load a MACE model.

    Args:
        source: "embedded", the model that comes with this package and needs no network; or the name
            of a foundation model, loaded and cached by mace-torch: its MACE-MP names ("small",
            "medium", "medium-mpa-0", "mh-1", ...), "off-small", "off-medium", "off-large",
            "omol-extra_large" or "anicc"; or the path of a file of `save_model` (*.safetensors), or
            of a mace-torch checkpoint (unpickling runs code: load files that you trust); or a
            mace-torch module.
        dtype: `torch.float64`, or `torch.float32` where memory or speed matter more.
        device: Where the tensors go.
        head: Head of a multi-head model; may be left out if there is one, or one named "default",
            or for a file of `save_model`, which has the head of the model that was saved.
        dispersion: A D3 correction with Becke-Johnson damping that belongs to the model from here
            on: the functional whose data it was fitted to, such as "pbe", or `D3Settings`; None,
            False or "none" for no correction. For models whose data had no dispersion; those of
            MACE-MP are of PBE. It is no part of what `save_model` writes.

    Returns:
        The model. The module or file it came from is left as it was.

    Raises:
        ValueError: If the name, the head, the dtype, the device or the functional is unknown, the
            file holds no model, or one that is damaged: settings out of range, tensors that are not
            what the settings ask for or not finite, energies that are not finite.
        TypeError: If the source is no name, path or module, or the model is of a class whose energy
            is not a function of positions, cell and parameters alone, or was compiled to
            TorchScript, or dispersion is no name.
        ConnectionError: If a foundation model could not be downloaded.
        ImportError: If the checkpoint needs a package, or a version of one, that is not installed,
            or dispersion its data, from tad-dftd3.
        OSError: If the file cannot be read.
    """
    d3 = _dispersion(dispersion)
    device = compute_device(device)
    settings, tensors, default = _read(source)
    where = "the module" if isinstance(source, nn.Module) else str(source)
    check_settings(settings, where)
    check_tensors(settings, tensors, where)
    name = _choose_head(settings.heads, default if head is None else head)
    model = _assemble(settings, tensors, name, dtype, device, d3)
    check_energies(model, where)
    return model


def _dispersion(dispersion: str | bool | D3Settings | None) -> D3Settings | None:
    if isinstance(dispersion, D3Settings):
        return dispersion
    functional = functional_name(dispersion)
    return None if functional is None else D3Settings(functional)


def _assemble(
    settings: MaceSettings,
    tensors: Mapping[str, Tensor],
    head: str,
    dtype: torch.dtype,
    device: str | torch.device,
    dispersion: D3Settings | None,
    subnormal: int = 0,
) -> Model:
    """A model with tensors of its own, without subnormal weights.

    Args:
        settings: Of the model.
        tensors: From where they are.
        head: Name of the head.
        dtype: Of the model.
        device: Of the model.
        dispersion: D3 correction.
        subnormal: How many weights were set to zero before.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, not {dtype}")
    params = {}
    for key, tensor in tensors.items():
        params[key], rounded = without_subnormal(tensor.detach(), dtype, device)
        subnormal += rounded
    module = Mace(settings, settings.heads.index(head))
    _attach(module, params)
    module.read_constants()
    _assert_no_torchscript(module)
    return Model(params, settings, module, head, dispersion, subnormal)


def _read(
    source: str | os.PathLike[str] | nn.Module,
) -> tuple[MaceSettings, dict[str, Tensor], str | None]:
    """Settings and tensors from wherever they are, and the head to take if none is asked for."""
    if isinstance(source, nn.Module):
        return *read_module(source), None
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "load_model takes the name of a model, the path of a file or a mace-torch module, not "
            f"{type(source).__name__}"
        )
    name, path = os.fspath(source), Path(source)
    if path.is_file():
        if path.suffix == SUFFIX:
            return read_model_file(path)
        return *read_module(read_checkpoint(path)), None
    if name == EMBEDDED:
        weights = resources.files(__package__) / "embedded" / f"mace-embedded{SUFFIX}"
        with resources.as_file(weights) as file:
            return read_model_file(file)
    refuse_polar_model(name)
    if name in foundation_models():
        head = "omol" if name.startswith("omol-") else None
        return *read_module(load_foundation_model(name)), head
    raise ValueError(_why_unknown(name, path))


def _why_unknown(name: str, path: Path) -> str:
    """What is wrong with a source that is neither a file nor a name, and what was meant."""
    if path.is_dir():
        return f"{path} is a folder, not a checkpoint file"
    if os.sep in name or path.suffix:
        return f"there is no checkpoint file {name!r}"
    known = [EMBEDDED, *foundation_models()]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    names = ", ".join(known)
    return f"{name!r} is neither a file nor the name of a model{hint} Known names: {names}"


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
