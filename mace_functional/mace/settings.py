"""Settings of a MACE model: every choice that is not a tensor.

Together with the tensors of a checkpoint they determine the energy. They are plain numbers and
strings (irreps in e3nn's notation, `"128x0e+128x1o"`), so they can be printed, compared and stored.
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
"""The map that skips the products: one for each element, or one for all; and what it takes."""
ReadoutKind = Literal["Linear", "NonLinear", "NonLinearBias"]
ActivationName = Literal["identity", "silu", "tanh", "sigmoid", "abs"]


@dataclass(frozen=True)
class Activation:
    """An activation function and the constant that gives it unit second moment."""

    name: ActivationName = "identity"
    scale: float = 1.0


@dataclass(frozen=True)
class RadialSettings:
    """Radial basis, cutoff and distance transform of the edges."""

    basis: Literal["bessel", "gaussian", "chebyshev"]
    size: int
    cutoff_power: int
    distance_transform: Literal["Agnesi", "Soft"] | None = None
    apply_cutoff: bool = True
    gaussian_coefficient: float = 0.0


@dataclass(frozen=True)
class InteractionSettings:
    """One layer; irreps of what enters, travels along edges, arrives, and skips the product."""

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
        """The map that skips the products."""
        if self.kind in ("RealAgnosticAttResidual", "RealAgnosticResidualNonLinear"):
            return "linear of features"
        return "elements of features" if "Residual" in self.kind else "elements of message"

    @property
    def has_density(self) -> bool:
        """Whether messages are divided by a learnt density, or by a mean number of neighbours."""
        return "Density" in self.kind or self.kind == "RealAgnosticResidualNonLinear"

    @property
    def radial_reads_features(self) -> bool:
        """Whether the radial network reads the features of both nodes too."""
        return self.kind == "RealAgnosticAttResidual"


@dataclass(frozen=True)
class ProductSettings:
    """One symmetric contraction; `correlations` has one entry per irrep of `irreps_out`."""

    irreps_out: str
    correlations: tuple[int, ...]
    agnostic: bool
    use_skip: bool


@dataclass(frozen=True)
class ReadoutSettings:
    """One readout; `layer` is the product whose features it reads."""

    kind: ReadoutKind
    layer: int
    irreps_in: str
    hidden_irreps: str = ""
    activation: Activation = Activation()


@dataclass(frozen=True)
class FeatureSettings:
    """One embedded extra feature, such as the total charge or spin."""

    name: str
    type: Literal["categorical", "continuous"]
    per: Literal["graph", "node"]
    offset: int = 0
    num_classes: int = 0


@dataclass(frozen=True)
class MaceSettings:
    """All settings of one model."""

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
