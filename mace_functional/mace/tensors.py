"""Names and shapes of the tensors of a model, from its settings.

Some dimensions do not follow from the settings, such as the number of couplings k of a symmetric
contraction. These free dimensions have a name in place of a number; dimensions of one name are
equal. The private functions yield names and shapes for one part of the model, without its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from mace_functional.mace.convolution import Convolution
from mace_functional.mace.interaction import ATTENTION_CHANNELS
from mace_functional.mace.irreps import SCALAR, Irreps
from mace_functional.mace.linear import ElementLinear, Linear
from mace_functional.mace.settings import (
    FeatureSettings,
    InteractionSettings,
    MaceSettings,
    ProductSettings,
    RadialSettings,
    ReadoutSettings,
)

MASK = "output_mask"
"""Last part of the name of masks, which e3nn stores with the weights of its linear maps."""

RADII = "atomic numbers"
"""Name of the free dimension of all tables of covalent radii."""

Shape = tuple[int | str, ...]
Named = Iterator[tuple[str, Shape]]


def tensor_shapes(settings: MaceSettings) -> dict[str, list[Shape]]:
    """Return the shapes that each tensor of a model may have, by name in its state dict.

    Args:
        settings: Settings of the model, which `check_settings` accepts.

    Returns:
        Shapes of all tensors that the model reads. There is more than one shape for a tensor that
        versions of mace-torch store in different shapes. The result also has the masks, whose names
        end in `MASK`; no computation reads them, and a model need not have them.
    """
    elements, heads = len(settings.atomic_numbers), len(settings.heads)
    channels = Irreps(settings.interactions[0].node_irreps).dim
    head_shapes: list[Shape] = [(heads,), ()] if heads == 1 else [(heads,)]
    shapes: dict[str, list[Shape]] = {
        "r_max": [()],
        "node_embedding.linear.weight": [(elements * channels,)],
        f"node_embedding.linear.{MASK}": [(channels,)],
        "atomic_energies_fn.atomic_energies": [(heads, elements)],
        "radial_embedding.cutoff_fn.r_max": [()],
    }
    if heads == 1:
        shapes["atomic_energies_fn.atomic_energies"].append((elements,))
    if settings.scale_shift:
        shapes |= {"scale_shift.scale": head_shapes, "scale_shift.shift": head_shapes}
    single = {
        **_prefixed("radial_embedding", _radial(settings.radial)),
        **_prefixed("joint_embedding", _features(settings.features, channels)),
    }
    if settings.embedding_readout:
        single["embedding_readout.linear.weight"] = (channels * heads,)
    if settings.repulsion_power is not None:
        single |= _prefixed("pair_repulsion_fn", _repulsion())
    for i, (layer, product) in enumerate(
        zip(settings.interactions, settings.products, strict=True)
    ):
        single |= _prefixed(f"interactions.{i}", _interaction(layer, settings, elements))
        single |= _prefixed(f"products.{i}", _product(product, layer, elements))
    for i, readout in enumerate(settings.readouts):
        single |= _prefixed(f"readouts.{i}", _readout(readout, heads))
    return shapes | {name: [shape] for name, shape in single.items()}


def _prefixed(prefix: str, named: Named) -> dict[str, Shape]:
    """Prefix the names of tensors, and of free dimensions, with the name of a part of the model."""
    return {
        f"{prefix}.{name}": tuple(
            f"{prefix}: {d}" if isinstance(d, str) and d != RADII else d for d in shape
        )
        for name, shape in named
    }


def _linear(name: str, irreps_in: str, irreps_out: str, biases: bool = False) -> Named:
    linear = Linear(irreps_in, irreps_out, biases)
    yield f"{name}.weight", (sum(m * n for m, n in linear.widths),)
    yield f"{name}.{MASK}", (Irreps(irreps_out).dim,)
    if linear.biased:
        yield f"{name}.bias", (sum(mul for _, mul in linear.biased),)


def _element_linear(name: str, irreps_in: str, irreps_out: str, elements: int) -> Named:
    widths = ElementLinear(irreps_in, irreps_out, elements).widths
    yield f"{name}.weight", (sum(m * elements * n for m, n in widths),)
    yield f"{name}.{MASK}", (Irreps(irreps_out).dim,)


def _radial(settings: RadialSettings) -> Named:
    if settings.basis == "bessel":
        yield "bessel_fn.bessel_weights", (settings.size,)
        yield "bessel_fn.prefactor", ()
    elif settings.basis == "gaussian":
        yield "bessel_fn.gaussian_weights", (settings.size,)
    scalars = {"Agnesi": ("q", "p", "a"), "Soft": ("alpha",), None: ()}
    for name in scalars[settings.distance_transform]:
        yield f"distance_transform.{name}", ()
    if settings.distance_transform is not None:
        yield "distance_transform.covalent_radii", (RADII,)


def _repulsion() -> Named:
    yield "c", (4,)
    yield "covalent_radii", (RADII,)
    yield "a_exp", ()
    yield "a_prefactor", ()


def _features(features: Sequence[FeatureSettings], channels: int) -> Named:
    for s in features:
        name = f"embedders.{s.name}"
        if s.type == "categorical":
            yield f"{name}.weight", (s.num_classes, f"width of {s.name}")
        else:
            yield f"{name}.0.weight", (f"hidden of {s.name}", f"inputs of {s.name}")
            yield f"{name}.2.weight", (f"width of {s.name}", f"hidden of {s.name}")
    if features:
        yield "project.0.weight", (channels, "sum of the widths")


def _interaction(layer: InteractionSettings, settings: MaceSettings, elements: int) -> Named:
    node, target = layer.node_irreps, layer.target_irreps
    coupling = Convolution(layer.edge_irreps, settings.harmonics_irreps, target)
    yield from _linear("linear_up", node, layer.edge_irreps)
    yield f"conv_tp.{MASK}", (Irreps(coupling.irreps_out).dim,)
    for _, l1, l2, l3, _ in coupling.paths:
        if 0 not in (l1, l2, l3):
            name = f"conv_tp._compiled_main_left_right._w3j_{l1}_{l2}_{l3}"
            yield name, (2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1)
    if layer.kind == "RealAgnosticResidualNonLinear":
        yield from _non_linear(layer, coupling, elements)
        return
    for i, width in enumerate(pairwise(layer.radial_widths)):
        yield f"conv_tp_weights.layer{i}.weight", width
    yield from _linear("linear", coupling.irreps_out, target)
    if layer.radial_reads_features:
        yield from _linear("linear_down", node, f"{ATTENTION_CHANNELS}x0e")
    if layer.skip == "linear of features":
        yield from _linear("skip_linear", node, layer.skip_irreps)
    elif layer.skip == "elements of features":
        yield from _element_linear("skip_tp", node, layer.skip_irreps, elements)
    else:
        yield from _element_linear("skip_tp", target, target, elements)
    if layer.has_density:
        yield "density_fn.layer0.weight", (settings.radial.size, 1)


def _non_linear(layer: InteractionSettings, coupling: Convolution, elements: int) -> Named:
    node, target = Irreps(layer.node_irreps), Irreps(layer.target_irreps)
    gated = [(mul, ir) for mul, ir in target if ir.l > 0]
    gates = str(Irreps([(sum(mul for mul, _ in target), SCALAR), *gated]))
    channels = node.count(SCALAR)
    yield "alpha", ()
    yield "beta", ()
    yield "source_embedding.weight", (elements * channels,)
    yield "target_embedding.weight", (elements * channels,)
    yield from _linear("skip_tp", str(node), layer.skip_irreps)
    yield from _linear("linear_res", layer.edge_irreps, gates)
    yield from _linear("linear_1", coupling.irreps_out, gates)
    yield from _linear("linear_2", str(target), str(target))
    yield from _normalised_network("conv_tp_weights", layer.radial_widths)
    hidden = "hidden of the density network"
    yield from _normalised_network("density_fn", (layer.radial_widths[0], hidden, 1))


def _normalised_network(name: str, widths: Shape) -> Named:
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        yield f"{name}.net.{3 * i}.weight", (outputs, inputs)
        yield f"{name}.net.{3 * i}.bias", (outputs,)
        if i < len(widths) - 2:
            yield f"{name}.net.{3 * i + 1}.weight", (outputs,)
            yield f"{name}.net.{3 * i + 1}.bias", (outputs,)


def _product(product: ProductSettings, layer: InteractionSettings, elements: int) -> Named:
    target = Irreps(layer.target_irreps)
    components, channels = sum(ir.dim for _, ir in target), target[0].mul
    rows = 1 if product.agnostic else elements
    for i, ((_, ir), order) in enumerate(
        zip(Irreps(product.irreps_out), product.correlations, strict=True)
    ):
        name = f"symmetric_contractions.contractions.{i}"
        for nu in range(1, order + 1):
            couplings = f"couplings of {name}, order {nu}"
            first = (ir.dim,) if ir.l else ()
            yield f"{name}.U_matrix_{nu}", (*first, *[components] * nu, couplings)
            weights = "weights_max" if nu == order else f"weights.{order - 1 - nu}"
            yield f"{name}.{weights}", (rows, couplings, channels)
    yield from _linear("linear", product.irreps_out, product.irreps_out)


def _readout(readout: ReadoutSettings, heads: int) -> Named:
    out, hidden = f"{heads}x0e", readout.hidden_irreps
    if readout.kind == "Linear":
        yield from _linear("linear", readout.irreps_in, out)
        return
    biased = readout.kind == "NonLinearBias"
    yield from _linear("linear_1", readout.irreps_in, hidden)
    yield from _linear("linear_2", hidden, out, biases=biased)
    if biased:
        yield from _linear("linear_mid", hidden, hidden, biases=True)
