"""Checks of a model where it enters: every setting against its range, every tensor against both.

Checkpoints of mace-torch and files of `save_model` go through the same checks before anything of
the size that they ask for is made. What passes computes: at the end a chain of some of its elements
has to have finite energies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mace_functional.mace.irreps import Irreps
from mace_functional.mace.settings import Activation, FeatureSettings, MaceSettings
from mace_functional.mace.tensors import MASK, RADII, Shape, tensor_shapes

if TYPE_CHECKING:
    from mace_functional.mace.model import MaceModel

LARGEST_CUTOFF = 20.0
"""Cutoff radius in Å. Published models have 4 to 12; beyond 20 an atom of a solid has more than
3 000 neighbours, and a neighbour search of a few atoms may take all memory."""

HEAVIEST = 118
"""Atomic number of the last element."""

MOST_CHANNELS = 10_000
"""Copies of one irrep. Published models have 512 at most."""

MOST_IRREPS = 100
"""Irreps of one kind of features. Published models have 8 at most."""

LARGEST_DEGREE = 11
"""Degree l of an irrep, up to which e3nn has Wigner symbols. Published models have 4 at most."""

MOST_LAYERS = 20
"""Layers. Published models have 3 at most."""

LARGEST_ORDER = 6
"""Correlation order of a product; symbols grow as (number of components)^order."""

WIDEST = 100_000
"""Width of a radial network or number of classes of a feature. Published models have 2 048."""

LARGEST_POWER = 100
"""Power of a polynomial cutoff. Published models have 5 or 6."""

CHAIN = 0.4
"""Distance of the atoms in the chain on which a model is tried, over its cutoff: every atom has
four neighbours."""

TRIED = 8
"""Elements in the chain. The time grows with their number: 0.3 s for the 89 of MACE-MP-0 small."""

LARGEST_WEIGHT = 1e9
"""Largest weight, of any unit. Energies of isolated atoms reach 1e6 eV, other weights of published
models 1e3; products of larger ones overflow."""


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Tensors of a model are finite.

    Args:
        tensors: By name.
        where: What holds them, for the error.

    Raises:
        ValueError: If one has entries that are infinite or NaN.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ValueError(f"{name} of {where} has {bad} entries that are not finite")


def check_tensors(settings: MaceSettings, tensors: Mapping[str, Tensor], where: str) -> None:
    """Tensors of a model are those that its settings ask for.

    Args:
        settings: Within their ranges, see `check_settings`.
        tensors: By name.
        where: What holds them, for the error.

    Raises:
        ValueError: If a tensor is missing, has another shape, is not floating point, not finite or
            beyond `LARGEST_WEIGHT`, or its cutoff is not that of the settings.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} of {where} holds {tensor.dtype} and not floating point")
    free: dict[str, int] = {}
    for name, shapes in tensor_shapes(settings).items():
        if name not in tensors:
            if name.endswith(MASK):
                continue
            raise ValueError(f"{where} lacks the tensor {name}, which its settings ask for")
        found = tuple(tensors[name].shape)
        if not any(_fits(found, shape, free) for shape in shapes):
            asked = " or ".join(_as_text(shape, free) for shape in shapes)
            raise ValueError(f"{name} of {where} has the shape {found}, not {asked}")
    if free.get(RADII, HEAVIEST + 1) <= max(settings.atomic_numbers):
        raise ValueError(f"{where} has no covalent radii for all of its elements")
    check_finite(tensors, where)
    for name, tensor in tensors.items():
        if tensor.numel() and float(tensor.abs().max()) > LARGEST_WEIGHT:
            raise ValueError(
                f"{name} of {where} has entries up to {float(tensor.abs().max()):.1e}, beyond "
                f"{LARGEST_WEIGHT:g}: it is damaged"
            )
    for name in ("r_max", "radial_embedding.cutoff_fn.r_max"):
        if not math.isclose(float(tensors[name]), settings.cutoff, rel_tol=1e-6):
            raise ValueError(
                f"{name} of {where} is {float(tensors[name]):g} Å, and the cutoff of its settings "
                f"{settings.cutoff:g} Å"
            )


def _fits(found: tuple[int, ...], shape: Shape, free: dict[str, int]) -> bool:
    """Whether a shape is as it should be; free dimensions are noted where they first come."""
    if len(found) != len(shape):
        return False
    named = {str(d): n for n, d in zip(found, shape, strict=True) if isinstance(d, str)}
    if not all(
        n == (free.get(d, n) if isinstance(d, str) else d)
        for n, d in zip(found, shape, strict=True)
    ):
        return False
    free.update(named)
    return True


def _as_text(shape: Shape, free: Mapping[str, int]) -> str:
    numbers = [str(free.get(d, "any") if isinstance(d, str) else d) for d in shape]
    return f"({', '.join(numbers)}{',' * (len(numbers) == 1)})"


def check_settings(settings: MaceSettings, where: str) -> None:
    """Settings of a model are within their ranges, and its parts fit each other.

    Args:
        settings: Of the model.
        where: What holds them, for the error.

    Raises:
        ValueError: If one is out of range.
    """
    try:
        _check_elements(settings)
        _check_layers(settings)
        _check_readouts(settings)
        for feature in settings.features:
            _check_feature(feature)
        _require(
            len({f.name for f in settings.features}) == len(settings.features),
            "features have one name each",
            [f.name for f in settings.features],
        )
    except ValueError as error:
        raise ValueError(f"the settings of {where} are damaged: {error}") from error


def _check_elements(settings: MaceSettings) -> None:
    numbers, heads, radial = settings.atomic_numbers, settings.heads, settings.radial
    _require(bool(numbers), "a model has elements", numbers)
    for z in numbers:
        _check_whole("an atomic number", z, 1, HEAVIEST)
    _require(len(set(numbers)) == len(numbers), "every element comes once", numbers)
    _require(
        0 < settings.cutoff <= LARGEST_CUTOFF,
        f"the cutoff lies between 0 and {LARGEST_CUTOFF:g} Å",
        settings.cutoff,
    )
    _require(
        bool(heads) and all(isinstance(h, str) and h for h in heads), "heads have names", heads
    )
    _require(len(set(heads)) == len(heads), "every head comes once", heads)
    _check_whole("the size of the radial basis", radial.size, 1, WIDEST)
    _check_whole("the power of the cutoff", radial.cutoff_power, 2, LARGEST_POWER)
    if settings.repulsion_power is not None:
        _check_whole("the power of the repulsion", settings.repulsion_power, 2, LARGEST_POWER)
    _require(
        math.isfinite(radial.gaussian_coefficient) and radial.gaussian_coefficient <= 0,
        "the exponent of Gaussians is finite and not positive",
        radial.gaussian_coefficient,
    )


def _check_layers(settings: MaceSettings) -> None:
    layers, products = settings.interactions, settings.products
    _check_whole("the number of layers", len(layers), 1, MOST_LAYERS)
    _require(len(products) == len(layers), "every layer has a product", len(products))
    harmonics = _irreps("spherical harmonics", settings.harmonics_irreps)
    _require(
        [(mul, ir.l) for mul, ir in harmonics] == [(1, degree) for degree in range(len(harmonics))],
        "spherical harmonics are one of each degree from 0",
        settings.harmonics_irreps,
    )
    first = _irreps("nodes", layers[0].node_irreps)
    _require(len(first) == 1 and first[0].ir.is_scalar(), "the first nodes are scalars", first)
    for i, (layer, product) in enumerate(zip(layers, products, strict=True)):
        target = _irreps("targets", layer.target_irreps)
        out = _irreps("products", product.irreps_out)
        for name, irreps in (
            ("nodes", layer.node_irreps),
            ("edges", layer.edge_irreps),
            ("skip", layer.skip_irreps),
        ):
            _irreps(name, irreps)
        channels = {mul for mul, _ in (*target, *out)}
        _require(len(channels) == 1, "targets and products have one number of channels", channels)
        if i:
            _require(
                _irreps("nodes", layer.node_irreps) == _irreps("", products[i - 1].irreps_out),
                "nodes of a layer are what the product before it gives",
                layer.node_irreps,
            )
        _require(len(product.correlations) == len(out), "each irrep has an order", product)
        for order in product.correlations:
            _check_whole("the order of a product", order, 1, LARGEST_ORDER)
        widths = layer.radial_widths
        _check_whole("the depth of the radial network", len(widths), 2, MOST_LAYERS)
        for width in widths:
            _check_whole("the width of a radial network", width, 1, WIDEST)
        _require(
            math.isfinite(layer.avg_num_neighbors) and layer.avg_num_neighbors > 0,
            "the mean number of neighbours is finite and positive",
            layer.avg_num_neighbors,
        )
        for activation in (
            layer.radial_activation,
            layer.scalar_activation,
            layer.gate_activation,
        ):
            _check_activation(activation)


def _check_readouts(settings: MaceSettings) -> None:
    _require(bool(settings.readouts), "a model has readouts", settings.readouts)
    for readout in settings.readouts:
        _check_whole("the layer of a readout", readout.layer, 0, len(settings.products) - 1)
        features = settings.products[readout.layer].irreps_out
        _require(
            _irreps("readout", readout.irreps_in) == _irreps("products", features),
            "a readout reads what the product of its layer gives",
            readout.irreps_in,
        )
        if readout.kind != "Linear":
            hidden = _irreps("hidden layer of a readout", readout.hidden_irreps)
            _require(
                len(hidden) == 1 and hidden[0].ir.is_scalar(), "hidden layers are scalars", hidden
            )
            _require(
                hidden.dim % len(settings.heads) == 0, "heads share a hidden layer evenly", hidden
            )
        _check_activation(readout.activation)


def _check_feature(feature: FeatureSettings) -> None:
    _require(
        isinstance(feature.name, str) and feature.name.isidentifier(),
        "a feature is named by letters, digits and underscores",
        feature.name,
    )
    _require(feature.type in ("categorical", "continuous"), "a feature is of a kind", feature.type)
    _require(feature.per in ("graph", "node"), "a feature is of the graph or a node", feature.per)
    _check_whole("the offset of a feature", feature.offset, -WIDEST, WIDEST)
    least = 1 if feature.type == "categorical" else 0
    _check_whole("the number of classes of a feature", feature.num_classes, least, WIDEST)


def _check_activation(activation: Activation) -> None:
    _require(math.isfinite(activation.scale), "activations have finite scales", activation.scale)


def _irreps(what: str, text: str) -> Irreps:
    """Irreps from e3nn's notation, in numbers that a model may have."""
    try:
        irreps = Irreps(text)
    except (TypeError, ValueError) as error:  # no text, or one that is no sum of irreps
        raise ValueError(f"the irreps of the {what} cannot be read: {text!r:.60}") from error
    _require(1 <= len(irreps) <= MOST_IRREPS, f"the {what} have 1 to {MOST_IRREPS} irreps", text)
    for mul, ir in irreps:
        _check_whole(f"the number of channels of the {what}", mul, 1, MOST_CHANNELS)
        _check_whole(f"the degree of the {what}", ir.l, 0, LARGEST_DEGREE)
    return irreps


def _check_whole(what: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{what} must lie between {least} and {most}, not {value!r:.60}")


def _require(holds: bool, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{rule}, and not {value!r:.60}")


def check_energies(model: MaceModel, where: str) -> None:
    """A model computes, and its energies are finite, for a chain of some of its elements.

    Args:
        model: As it was put together.
        where: Where it is from, for the error.

    Raises:
        ValueError: If its parts do not fit each other, or an energy is not finite.
    """
    step = -(-len(model.atomic_numbers) // TRIED)
    atoms = _chain(model.atomic_numbers[::step], CHAIN * model.cutoff)
    _set_features(atoms, model)
    try:
        s = model.structure(atoms)
        with torch.no_grad():
            energies = model.energy_fn(s.graph, per_atom=True)(s.positions, s.cell, model.params)
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"the parts of {where} do not fit each other: {first}") from error
    if not bool(energies.isfinite().all()):
        raise ValueError(
            f"{where} gives energies that are not finite for a chain of its elements: its weights "
            f"are damaged, or too large for {model.dtype}"
        )


def _chain(numbers: Sequence[int], apart: float) -> Atoms:
    """Elements in a row, periodic so that one element has neighbours too."""
    positions = [[apart * k, 0.0, 0.0] for k in range(len(numbers))]
    cell = [apart * len(numbers), 0.0, 0.0]
    return Atoms(numbers, positions, cell=[cell, [0, 0, 0], [0, 0, 0]], pbc=[True, False, False])


def _set_features(atoms: Atoms, model: MaceModel) -> None:
    """Values that are in range for the features that a model embeds."""
    for s in model.settings.features:
        value = float(-s.offset) if s.type == "categorical" else 0.0
        if s.per == "graph":
            atoms.info[s.name] = value
        else:
            width = 1
            if s.type == "continuous":
                width = model.params[f"joint_embedding.embedders.{s.name}.0.weight"].shape[1]
            atoms.arrays[s.name] = np.full((len(atoms), width)[: 1 + (width > 1)], value)
