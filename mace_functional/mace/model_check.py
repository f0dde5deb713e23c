"""Checks of a model when it is loaded: ranges of settings, shapes and values of tensors.

Checkpoints of mace-torch and files of `save_model` pass the same checks. Settings are checked
first, so that a damaged file cannot make the package allocate huge tensors. The last check computes
the energy of a chain of some of the model's elements, which has to be finite.
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

MAX_CUTOFF = 20.0
"""Largest accepted cutoff radius, Å. Published models have 4 to 12.

Beyond 20 Å, an atom in a solid has more than 3 000 neighbours, and the neighbour search of a few
atoms may fill all memory.
"""

MAX_ATOMIC_NUMBER = 118
"""Largest atomic number of an element."""

MAX_CHANNELS = 10_000
"""Largest accepted number of copies of one irrep. Published models have up to 512."""

MAX_IRREPS = 100
"""Largest accepted number of irreps of one kind of features. Published models have up to 8."""

MAX_DEGREE = 11
"""Largest degree l for which e3nn has Wigner symbols. Published models have up to 4."""

MAX_LAYERS = 20
"""Largest accepted number of layers. Published models have up to 3."""

MAX_CORRELATION = 6
"""Largest accepted correlation order of a product.

The coupling coefficients take memory that grows as (number of components)^order.
"""

MAX_WIDTH = 100_000
"""Largest accepted width of a radial network, and number of classes of a feature.

Published models have up to 2 048.
"""

MAX_CUTOFF_POWER = 100
"""Largest accepted power of a polynomial cutoff function. Published models have 5 or 6."""

CHAIN_SPACING = 0.4
"""Distance between neighbours in the chain of `check_energies`, over the cutoff radius.

Every atom then has four neighbours.
"""

CHAIN_ELEMENTS = 8
"""Number of elements in the chain of `check_energies`.

The time grows with it: all 89 elements of MACE-MP-0 small take 0.3 s.
"""

MAX_WEIGHT = 1e9
"""Largest accepted absolute weight, in any unit.

Energies of isolated atoms reach 1e6 eV, other weights of published models 1e3. Products of weights
beyond 1e9 overflow.
"""


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that the tensors of a model are finite.

    Args:
        tensors: Tensors by name.
        where: Name of their source, for the error message.

    Raises:
        ValueError: If a tensor has entries that are infinite or NaN.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ValueError(f"{name} of {where} has {bad} entries that are not finite")


def check_tensors(settings: MaceSettings, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that the tensors of a model fit its settings.

    Args:
        settings: Settings that `check_settings` accepts.
        tensors: Tensors by name.
        where: Name of their source, for the error message.

    Raises:
        ValueError: If a tensor is missing, has the wrong shape or an integer type, has entries that
            are not finite or larger than `MAX_WEIGHT`, or if the cutoff radius in the tensors
            differs from that in the settings.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} of {where} holds {tensor.dtype}, not floating-point numbers")
    free: dict[str, int] = {}
    for name, shapes in tensor_shapes(settings).items():
        if name not in tensors:
            if name.endswith(MASK):
                continue
            raise ValueError(f"{where} lacks the tensor {name}, which its settings require")
        found = tuple(tensors[name].shape)
        if not any(_fits(found, shape, free) for shape in shapes):
            expected = " or ".join(_as_text(shape, free) for shape in shapes)
            raise ValueError(f"{name} of {where} has the shape {found}, not {expected}")
    if free.get(RADII, MAX_ATOMIC_NUMBER + 1) <= max(settings.atomic_numbers):
        raise ValueError(f"{where} has no covalent radii for all of its elements")
    check_finite(tensors, where)
    for name, tensor in tensors.items():
        if tensor.numel() and float(tensor.abs().max()) > MAX_WEIGHT:
            raise ValueError(
                f"{name} of {where} has entries up to {float(tensor.abs().max()):.1e}, beyond "
                f"{MAX_WEIGHT:g}: the model is damaged"
            )
    for name in ("r_max", "radial_embedding.cutoff_fn.r_max"):
        if not math.isclose(float(tensors[name]), settings.cutoff, rel_tol=1e-6):
            raise ValueError(
                f"{name} of {where} is {float(tensors[name]):g} Å, but the cutoff in its settings "
                f"is {settings.cutoff:g} Å"
            )


def _fits(found: tuple[int, ...], shape: Shape, free: dict[str, int]) -> bool:
    """True if a shape is as expected; sizes of new free dimensions are added to `free`."""
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
    """Check that settings of a model are within their ranges and fit each other.

    Args:
        settings: Settings of a model.
        where: Name of their source, for the error message.

    Raises:
        ValueError: If a setting is out of range, or does not fit another.
    """
    try:
        _check_elements(settings)
        _check_layers(settings)
        _check_readouts(settings)
        for feature in settings.features:
            _check_feature(feature)
        _require(
            len({f.name for f in settings.features}) == len(settings.features),
            "features must have different names",
            [f.name for f in settings.features],
        )
    except ValueError as error:
        raise ValueError(f"the settings of {where} are damaged: {error}") from error


def _check_elements(settings: MaceSettings) -> None:
    numbers, heads, radial = settings.atomic_numbers, settings.heads, settings.radial
    _require(bool(numbers), "a model must have elements", numbers)
    for z in numbers:
        _check_integer("an atomic number", z, 1, MAX_ATOMIC_NUMBER)
    _require(len(set(numbers)) == len(numbers), "elements must not be repeated", numbers)
    _require(
        0 < settings.cutoff <= MAX_CUTOFF,
        f"the cutoff must lie between 0 and {MAX_CUTOFF:g} Å",
        settings.cutoff,
    )
    _require(
        bool(heads) and all(isinstance(h, str) and h for h in heads), "heads must have names", heads
    )
    _require(len(set(heads)) == len(heads), "names of heads must not be repeated", heads)
    _check_integer("the size of the radial basis", radial.size, 1, MAX_WIDTH)
    _check_integer("the power of the cutoff", radial.cutoff_power, 2, MAX_CUTOFF_POWER)
    if settings.repulsion_power is not None:
        _check_integer("the power of the repulsion", settings.repulsion_power, 2, MAX_CUTOFF_POWER)
    _require(
        math.isfinite(radial.gaussian_coefficient) and radial.gaussian_coefficient <= 0,
        "the exponent of Gaussians must be finite and not positive",
        radial.gaussian_coefficient,
    )


def _check_layers(settings: MaceSettings) -> None:
    layers, products = settings.interactions, settings.products
    _check_integer("the number of layers", len(layers), 1, MAX_LAYERS)
    _require(len(products) == len(layers), "every layer must have a product", len(products))
    harmonics = _irreps("spherical harmonics", settings.harmonics_irreps)
    _require(
        [(mul, ir.l) for mul, ir in harmonics] == [(1, degree) for degree in range(len(harmonics))],
        "spherical harmonics must be one of each degree from 0",
        settings.harmonics_irreps,
    )
    first = _irreps("nodes", layers[0].node_irreps)
    _require(
        len(first) == 1 and first[0].ir.is_scalar(),
        "features of the first layer must be scalars",
        first,
    )
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
        _require(
            len(channels) == 1,
            "targets and products must have the same number of channels",
            channels,
        )
        if i:
            _require(
                _irreps("nodes", layer.node_irreps) == _irreps("", products[i - 1].irreps_out),
                "features of a layer must be those of the product before it",
                layer.node_irreps,
            )
        _require(len(product.correlations) == len(out), "each irrep must have an order", product)
        for order in product.correlations:
            _check_integer("the order of a product", order, 1, MAX_CORRELATION)
        widths = layer.radial_widths
        _check_integer("the depth of the radial network", len(widths), 2, MAX_LAYERS)
        for width in widths:
            _check_integer("the width of a radial network", width, 1, MAX_WIDTH)
        _require(
            math.isfinite(layer.avg_num_neighbors) and layer.avg_num_neighbors > 0,
            "the mean number of neighbours must be finite and positive",
            layer.avg_num_neighbors,
        )
        for activation in (
            layer.radial_activation,
            layer.scalar_activation,
            layer.gate_activation,
        ):
            _check_activation(activation)


def _check_readouts(settings: MaceSettings) -> None:
    _require(bool(settings.readouts), "a model must have readouts", settings.readouts)
    for readout in settings.readouts:
        _check_integer("the layer of a readout", readout.layer, 0, len(settings.products) - 1)
        features = settings.products[readout.layer].irreps_out
        _require(
            _irreps("readout", readout.irreps_in) == _irreps("products", features),
            "features of a readout must be those of the product of its layer",
            readout.irreps_in,
        )
        if readout.kind != "Linear":
            hidden = _irreps("hidden layer of a readout", readout.hidden_irreps)
            _require(
                len(hidden) == 1 and hidden[0].ir.is_scalar(),
                "hidden layers must be scalars",
                hidden,
            )
            _require(
                hidden.dim % len(settings.heads) == 0,
                "the width of a hidden layer must be a multiple of the number of heads",
                hidden,
            )
        _check_activation(readout.activation)


def _check_feature(feature: FeatureSettings) -> None:
    _require(
        isinstance(feature.name, str) and feature.name.isidentifier(),
        "the name of a feature must consist of letters, digits and underscores",
        feature.name,
    )
    types, pers = ("categorical", "continuous"), ("graph", "node")
    _require(feature.type in types, "a feature must be categorical or continuous", feature.type)
    _require(feature.per in pers, "a feature must be per graph or per node", feature.per)
    _check_integer("the offset of a feature", feature.offset, -MAX_WIDTH, MAX_WIDTH)
    minimum = 1 if feature.type == "categorical" else 0
    _check_integer("the number of classes of a feature", feature.num_classes, minimum, MAX_WIDTH)


def _check_activation(activation: Activation) -> None:
    _require(
        math.isfinite(activation.scale), "scales of activations must be finite", activation.scale
    )


def _irreps(what: str, text: str) -> Irreps:
    """Read irreps in e3nn's notation, and check that their numbers are within the limits."""
    try:
        irreps = Irreps(text)
    except (TypeError, ValueError) as error:  # not a string, or not a sum of irreps
        raise ValueError(f"the irreps of the {what} cannot be read: {text!r:.60}") from error
    _require(1 <= len(irreps) <= MAX_IRREPS, f"the {what} must have 1 to {MAX_IRREPS} irreps", text)
    for mul, ir in irreps:
        _check_integer(f"the number of channels of the {what}", mul, 1, MAX_CHANNELS)
        _check_integer(f"the degree of the {what}", ir.l, 0, MAX_DEGREE)
    return irreps


def _check_integer(what: str, value: Any, minimum: int, maximum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ValueError(f"{what} must lie between {minimum} and {maximum}, not {value!r:.60}")


def _require(holds: bool, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{rule}, not {value!r:.60}")


def check_energies(model: MaceModel, where: str) -> None:
    """Check that the energies of a chain of some of the model's elements are finite.

    Args:
        model: The model.
        where: Name of its source, for the error message.

    Raises:
        ValueError: If the parts of the model do not fit each other, or an energy is not finite.
    """
    step = -(-len(model.atomic_numbers) // CHAIN_ELEMENTS)
    atoms = _chain(model.atomic_numbers[::step], CHAIN_SPACING * model.cutoff)
    set_features(atoms, model)
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


def _chain(numbers: Sequence[int], spacing: float) -> Atoms:
    """Make a periodic chain of elements; a single atom then has neighbours too."""
    positions = [[spacing * k, 0.0, 0.0] for k in range(len(numbers))]
    cell = [spacing * len(numbers), 0.0, 0.0]
    return Atoms(numbers, positions, cell=[cell, [0, 0, 0], [0, 0, 0]], pbc=[True, False, False])


def set_features(atoms: Atoms, model: MaceModel) -> None:
    """Set the features that a model embeds to values within their ranges."""
    for s in model.settings.features:
        value = float(-s.offset) if s.type == "categorical" else 0.0
        if s.per == "graph":
            atoms.info[s.name] = value
        else:
            width = 1
            if s.type == "continuous":
                width = model.params[f"joint_embedding.embedders.{s.name}.0.weight"].shape[1]
            atoms.arrays[s.name] = np.full((len(atoms), width)[: 1 + (width > 1)], value)
