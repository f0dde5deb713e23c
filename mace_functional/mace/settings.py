"""Settings of a MACE model: everything that is not a tensor.

Settings and tensors of a model determine its energy. Settings are plain numbers and strings (irreps
in e3nn's notation, `"128x0e+128x1o"`), so they can be printed, compared and stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

InteractionKind = Literal[
    "RealAgnostic",
    "RealAgnosticResidual",
    "RealAgnosticDensity",
    "RealAgnosticDensityResidual",
    "RealAgnosticAttResidual",
    "RealAgnosticResidualNonLinear",
]
SkipKind = Literal["elements of message", "elements of features", "linear of features"]
"""Linear map of the skip connection, and its input.

"elements of ..." has weights for each element, "linear of ..." the same weights for all.
"""
ReadoutKind = Literal["Linear", "NonLinear", "NonLinearBias"]
ActivationName = Literal["identity", "silu", "tanh", "sigmoid", "abs"]


@dataclass(frozen=True)
class Activation:
    """An activation function, and the factor that gives it unit second moment."""

    name: ActivationName = "identity"
    scale: float = 1.0


@dataclass(frozen=True)
class RadialSettings:
    """Settings of the radial basis, the cutoff function and the distance transform.

    Attributes:
        basis: Kind of the basis functions.
        size: Number of basis functions.
        cutoff_power: Power p of the polynomial cutoff function.
        distance_transform: Transform of the length before the basis; None for none.
        apply_cutoff: True if the cutoff function multiplies the basis; else it multiplies the
            radial weights.
        gaussian_coefficient: Factor c in the Gaussian basis `exp(c (r - r_n)^2)`; not positive.
    """

    basis: Literal["bessel", "gaussian", "chebyshev"]
    size: int
    cutoff_power: int
    distance_transform: Literal["Agnesi", "Soft"] | None = None
    apply_cutoff: bool = True
    gaussian_coefficient: float = 0.0


@dataclass(frozen=True)
class InteractionSettings:
    """Settings of one interaction block.

    Attributes:
        kind: Kind of block; see `interaction`.
        node_irreps: Irreps of the node features that enter the block.
        edge_irreps: Irreps of the features of the senders.
        target_irreps: Irreps of the messages.
        skip_irreps: Irreps of the skip connection.
        radial_widths: Widths of the radial network, from its inputs to its outputs.
        radial_activation: Activation of the radial network.
        avg_num_neighbors: Mean number of neighbours, which messages without a density are divided
            by.
        scalar_activation: Activation of the scalars in the gate.
        gate_activation: Activation of the gates.
    """

    kind: InteractionKind
    node_irreps: str
    edge_irreps: str
    target_irreps: str
    skip_irreps: str
    radial_widths: tuple[int, ...]
    radial_activation: Activation
    avg_num_neighbors: float
    scalar_activation: Activation = Activation()
    gate_activation: Activation = Activation()

    @property
    def skip(self) -> SkipKind:
        """Kind of the linear map in the skip connection."""
        if self.kind in ("RealAgnosticAttResidual", "RealAgnosticResidualNonLinear"):
            return "linear of features"
        return "elements of features" if "Residual" in self.kind else "elements of message"

    @property
    def has_density(self) -> bool:
        """True if messages are divided by a learnt density, not by a mean number of neighbours."""
        return "Density" in self.kind or self.kind == "RealAgnosticResidualNonLinear"

    @property
    def radial_reads_features(self) -> bool:
        """True if the radial network also reads the features of both nodes."""
        return self.kind == "RealAgnosticAttResidual"


@dataclass(frozen=True)
class ProductSettings:
    """Settings of one symmetric contraction, with the linear map that follows it.

    Attributes:
        irreps_out: Irreps of the node features that leave it.
        correlations: Correlation order of each irrep of `irreps_out`.
        agnostic: True for the same weights for all elements.
        use_skip: True if the skip connection is added.
    """

    irreps_out: str
    correlations: tuple[int, ...]
    agnostic: bool
    use_skip: bool


@dataclass(frozen=True)
class ReadoutSettings:
    """Settings of one readout.

    Attributes:
        kind: Kind of readout; see `readout.Readout`.
        layer: Index of the product whose features it reads.
        irreps_in: Irreps of these features.
        hidden_irreps: Irreps of the hidden layers; "" for none.
        activation: Activation of the hidden layers.
    """

    kind: ReadoutKind
    layer: int
    irreps_in: str
    hidden_irreps: str = ""
    activation: Activation = Activation()


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of one embedded extra feature, such as the total charge or spin.

    Attributes:
        name: Name of the feature.
        type: "categorical" for integers, "continuous" for real numbers.
        per: "graph" for a feature of the structure, "node" for one of the atoms.
        offset: Number that is added to an integer to give its row in the table of vectors.
        num_classes: Number of values of a categorical feature.
    """

    name: str
    type: Literal["categorical", "continuous"]
    per: Literal["graph", "node"]
    offset: int = 0
    num_classes: int = 0


@dataclass(frozen=True)
class MaceSettings:
    """All settings of one model.

    Attributes:
        atomic_numbers: Elements, in the order of the tables of the model.
        cutoff: Cutoff radius, Å.
        heads: Names of the heads.
        harmonics_irreps: Irreps of the spherical harmonics.
        radial: Radial basis, cutoff function and distance transform.
        interactions: One interaction block for each layer.
        products: One symmetric contraction for each layer.
        readouts: Readouts, which are summed.
        features: Embedded extra features.
        embedding_readout: True if a linear readout of the initial node features is added.
        repulsion_power: Power of the cutoff function of the pair repulsion; None for no repulsion.
        scale_shift: True if the sum of readouts and repulsion is scaled and shifted.
    """

    atomic_numbers: tuple[int, ...]
    cutoff: float
    heads: tuple[str, ...]
    harmonics_irreps: str
    radial: RadialSettings
    interactions: tuple[InteractionSettings, ...]
    products: tuple[ProductSettings, ...]
    readouts: tuple[ReadoutSettings, ...]
    features: tuple[FeatureSettings, ...] = ()
    embedding_readout: bool = False
    repulsion_power: int | None = None
    scale_shift: bool = True
