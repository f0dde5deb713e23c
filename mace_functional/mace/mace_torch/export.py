"""Writing of models as mace-torch checkpoints, for its calculators and programs.

A checkpoint is a pickled module of mace-torch. Its tensors have the names and shapes of
`MaceModel.params`, so a model becomes a checkpoint by setting the tensors of a module of the same
settings. The file is then read back, and mace-torch's energy and forces are compared.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from mace.calculators import MACECalculator
from mace.tools.torch_tools import default_dtype
from torch import Tensor, nn

from mace_functional.mace.evaluation import check_model_params
from mace_functional.mace.mace_torch.built_module import build_module, differing
from mace_functional.mace.mace_torch.checkpoint import read_checkpoint
from mace_functional.mace.mace_torch.foundation import foundation_models, load_foundation_model
from mace_functional.mace.mace_torch.module import plain_module, read_module
from mace_functional.mace.model_check import set_features
from mace_functional.mace.model_file import SUFFIX
from mace_functional.mace.tensors import MASK
from mace_functional.potential.energy import energy_fn
from mace_functional.support.atomic_write import atomic_write
from mace_functional.support.validation import floating_type, in_order

if TYPE_CHECKING:
    from mace_functional.mace.model import MaceModel

TOLERANCE = 1e-9
"""Largest accepted difference of energies, eV, and forces, eV/Å, from mace-torch's in float64.

Above one, it is relative to the largest of them.
"""

PROBED_ELEMENTS = 12
"""Largest number of elements in the structure for which energies and forces are compared."""

SPACING = 0.4
"""Distance of neighbours in this structure, over the cutoff radius."""


def save_mace_torch(
    model: MaceModel,
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | nn.Module | None = None,
    dtype: str | torch.dtype | None = None,
) -> None:
    """Write a model as a mace-torch checkpoint, for `mace.calculators.MACECalculator`.

    `load_model` reads it too. To save changed parameters, pass
    `dataclasses.replace(model, params=changed)`. The file is read back before it is put in place:
    for a small structure of the model's elements, mace-torch must give the energy and forces of
    this model to 1e-9 in float64, the weights being those in the file.

    Args:
        model: A model from `load_model`.
        path: Path of the file; mace-torch names it `*.model`. An existing file is replaced only
            once the new one is complete and checked.
        source: The mace-torch checkpoint, name of a foundation model or module that the model came
            from, in which the tensors are replaced by the model's; None to build a module from the
            settings. mace-torch builds those that its training makes; older or edited modules need
            the source. It is not changed. Unpickling runs code: give files that you trust.
        dtype: Floating-point type of the tensors in the file, or its name; the model's if None.

    Raises:
        TypeError: If the model is of another class, or mace-torch cannot build it from its
            settings: pass the source.
        ValueError: If the path ends in `.safetensors`, the source is unknown or has other settings
            or tensors, parameters are not the model's or not finite, or mace-torch's energy or
            forces differ.
        ConnectionError: If the source is a foundation model that could not be downloaded.
        OSError: If the file cannot be written.
    """
    in_order("save_mace_torch(model, path)", (model, "MaceModel"))
    path = Path(path)
    if path.suffix == SUFFIX:
        raise ValueError(f"name the file *.model, not {path.name}: *{SUFFIX} is for save_model")
    check_model_params(model)
    stored = model.to(dtype=model.dtype if dtype is None else floating_type(dtype), device="cpu")
    if source is None:
        module = build_module(stored.settings, stored.params)
    else:
        module = _module_of(source, stored)
    _set_tensors(module.to(stored.dtype), stored, built=source is None)
    try:
        with atomic_write(path) as partial:
            with partial.open("wb") as file:
                torch.save(module, file)
            _check_written(partial, stored)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror}): choose an existing folder in which you "
            "may write"
        ) from error


def _module_of(source: str | os.PathLike[str] | nn.Module, model: MaceModel) -> nn.Module:
    """Return a copy of the module of a source, if it has the settings of a model.

    Raises:
        ValueError: If the source is unknown, or has other settings.
    """
    original = source if isinstance(source, nn.Module) else _read_source(source)
    module = plain_module(original)
    if module is source:
        module = copy.deepcopy(module)
    settings, _ = read_module(module)
    if settings != model.settings:
        raise ValueError(
            f"the source is not what the model came from: it has other "
            f"{', '.join(differing(model.settings, settings))}"
        )
    return module


def _read_source(source: str | os.PathLike[str]) -> Any:
    path, name = Path(source), os.fspath(source)
    if path.is_file() and path.suffix != SUFFIX:
        return read_checkpoint(path)
    if name in foundation_models():
        return load_foundation_model(name)
    raise ValueError(
        f"the source {name!r} is neither a mace-torch checkpoint nor the name of a foundation "
        "model: give one, or leave it out to build the module from the settings"
    )


def _set_tensors(module: nn.Module, model: MaceModel, *, built: bool) -> None:
    """Set the tensors of a module to those of a model, after a check of names and shapes.

    Masks of e3nn, which no computation reads, may be missing from a model if the module was built.
    Old modules have a power of the cutoff function that is a floating-point number.

    Raises:
        ValueError: If names or shapes differ.
    """
    state, own = module.state_dict(), model.params
    wrong = {name for name in own if name not in state or state[name].shape != own[name].shape}
    for name, tensor in state.items():
        is_needed = tensor.is_floating_point() and not (built and name.endswith(MASK))
        if is_needed and name not in own:
            wrong.add(name)
    if wrong:
        raise ValueError(
            f"the tensors {', '.join(sorted(wrong)[:5])} of the model and of mace-torch's module "
            "differ in name or shape: pass as source the mace-torch checkpoint that the model came "
            "from"
        )
    module.load_state_dict(own, strict=False)


def _check_written(path: Path, model: MaceModel) -> None:
    """Compare mace-torch's energy and forces of a checkpoint with a model's, in float64.

    Raises:
        ValueError: If they differ.
    """
    atoms = _probe(model)
    ours = _energy_and_forces(model.to(dtype=torch.float64), atoms)
    theirs = _mace_torch_results(read_checkpoint(path).double(), model, atoms)
    for what, unit, one, other in zip(
        ("energy", "forces"), ("eV", "eV/Å"), ours, theirs, strict=True
    ):
        difference = float(abs(one - other).max())
        if not difference <= TOLERANCE * max(1.0, float(abs(one).max())):
            raise ValueError(
                f"the {what} of the written module in mace-torch differs by {difference:.3g} {unit}"
                " from the model's, so it is not kept: pass as source the mace-torch checkpoint "
                "that the model came from"
            )


def _probe(model: MaceModel) -> Atoms:
    """Make a cluster of some of a model's elements, in which no force is zero by symmetry."""
    step = math.ceil(len(model.atomic_numbers) / PROBED_ELEMENTS)
    numbers = np.array(model.atomic_numbers[::step])
    numbers = np.resize(numbers, max(4, len(numbers)))
    side = math.ceil(len(numbers) ** (1 / 3))
    grid = np.indices((side, side, side)).reshape(3, -1).T[: len(numbers)]
    shifts = np.random.default_rng(0).uniform(-0.15, 0.15, grid.shape)
    atoms = Atoms(numbers, SPACING * model.cutoff * (grid + shifts))
    set_features(atoms, model)
    return atoms


def _energy_and_forces(model: MaceModel, atoms: Atoms) -> tuple[Tensor, Tensor]:
    s = model.structure(atoms)
    positions = s.positions.detach().requires_grad_()
    energy = energy_fn(model, s.topology)(positions, s.cell, model.params)
    (gradient,) = torch.autograd.grad(energy, positions)
    return energy.detach(), -gradient


def _mace_torch_results(module: nn.Module, model: MaceModel, atoms: Atoms) -> tuple[Tensor, Tensor]:
    """Return energy and forces that mace-torch's calculator computes with a module."""
    features = model.settings.features
    with _quiet():
        calculator = MACECalculator(
            models=[module],
            default_dtype="float64",
            head=model.head,
            info_keys={s.name: s.name for s in features if s.per == "graph"},
            arrays_keys={s.name: s.name for s in features if s.per == "node"},
        )
        calculator.calculate(atoms.copy())
    energy, forces = calculator.results["energy"], calculator.results["forces"]
    return torch.tensor(energy, dtype=torch.float64), torch.tensor(forces, dtype=torch.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence mace-torch's log, and let it make tensors in float64."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with default_dtype(torch.float64):
            yield
    finally:
        logging.disable(level)
