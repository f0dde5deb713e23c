"""The six interaction blocks of MACE: messages and skip connection of one layer.

    block                    skip connection               divisor            radial network reads
    RealAgnostic             element map of the message    mean neighbours    radial basis
    RealAgnosticDensity      element map of the message    1 + density        radial basis
    ... Residual             element map of the features   mean neighbours    radial basis
    ... DensityResidual      element map of the features   1 + density        radial basis
    ... AttResidual          linear map of the features    mean neighbours    basis, node features
    ... ResidualNonLinear    linear map of the features    alpha + beta dens. basis, elements

The skip connection bypasses the many-body products. The density is a learnt sum over neighbours.
The last block also adds the node's own features to the message, and passes the sum through a gate.
Source: Batatia et al., arXiv:2206.07697 (blocks), arXiv:2401.00096 (foundation models).
"""

from __future__ import annotations

from torch import Tensor, nn

from mace_functional.mace.activation import activate
from mace_functional.mace.convolution import Convolution
from mace_functional.mace.density import density
from mace_functional.mace.edges import Edges
from mace_functional.mace.irreps import SCALAR, Irreps
from mace_functional.mace.linear import ElementEmbedding, ElementLinear, Features, Linear
from mace_functional.mace.radial_function import RadialFunction
from mace_functional.mace.radial_network import NormalisedRadialNetwork, RadialNetwork
from mace_functional.mace.settings import Activation, InteractionSettings
from mace_functional.structure.species import Species

ATTENTION_CHANNELS = 64
"""Number of scalars per node that the radial network of AttResidual reads, as in mace-torch."""


def interaction(
    settings: InteractionSettings, harmonics_irreps: str, num_elements: int
) -> Interaction | NonLinearInteraction:
    """Make the interaction block that the settings name."""
    non_linear = settings.kind == "RealAgnosticResidualNonLinear"
    block = NonLinearInteraction if non_linear else Interaction
    return block(settings, harmonics_irreps, num_elements)


def _radial_function(
    edges: Edges,
    network: RadialNetwork | NormalisedRadialNetwork,
    nodes: tuple[Tensor, ...] = (),
) -> RadialFunction:
    """Make the radial function of a network, which may also read vectors of both nodes."""
    return RadialFunction(edges.embedding, network, edges.species, edges.sender_species, nodes)


class Interaction(nn.Module):
    """All interaction blocks of the table except the last."""

    def __init__(
        self, settings: InteractionSettings, harmonics_irreps: str, num_elements: int
    ) -> None:
        super().__init__()
        node, target, skip = settings.node_irreps, settings.target_irreps, settings.skip_irreps
        self.avg_num_neighbors = settings.avg_num_neighbors
        self.skip, self.reads_features = settings.skip, settings.radial_reads_features
        self.linear_up = Linear(node, settings.edge_irreps)
        self.conv_tp = Convolution(settings.edge_irreps, harmonics_irreps, target)
        self.conv_tp_weights = RadialNetwork(
            len(settings.radial_widths) - 1, settings.radial_activation
        )
        self.linear = Linear(self.conv_tp.irreps_out, target)
        if self.reads_features:
            self.linear_down = Linear(node, f"{ATTENTION_CHANNELS}x0e")
        if self.skip == "linear of features":
            self.skip_linear = Linear(node, skip)
        elif self.skip == "elements of features":
            self.skip_tp = ElementLinear(node, skip, num_elements)
        else:
            self.skip_tp = ElementLinear(target, target, num_elements)
        self.density_fn = RadialNetwork(1, Activation()) if settings.has_density else None

    def forward(
        self, features: Features, edges: Edges, species: Species
    ) -> tuple[Features, Features | None]:
        """Compute messages and skip connection, lists of (nodes, 2l+1, channels)."""
        nodes: tuple[Tensor, ...] = ()
        skip = None
        if self.reads_features:
            down = self.linear_down(features)[0][:, 0]
            nodes = (edges.sent(down), down)
        if self.skip == "linear of features":
            skip = self.skip_linear(features)
        elif self.skip == "elements of features":
            skip = self.skip_tp(features, species)
        radial = _radial_function(edges, self.conv_tp_weights, nodes)
        messages = self.conv_tp(self.linear_up(features), edges, radial)
        if self.density_fn is None:
            messages = self.linear(messages, 1 / self.avg_num_neighbors)
        else:
            messages = self.linear(messages)
            divisor = 1 + density(_radial_function(edges, self.density_fn), edges)
            messages = [m / divisor for m in messages]
        if self.skip == "elements of message":
            messages = self.skip_tp(messages, species)
        return messages, skip


class NonLinearInteraction(nn.Module):
    """The last interaction block of the table, RealAgnosticResidualNonLinear."""

    alpha: Tensor
    beta: Tensor

    def __init__(
        self, settings: InteractionSettings, harmonics_irreps: str, num_elements: int
    ) -> None:
        super().__init__()
        node, edge, target = settings.node_irreps, settings.edge_irreps, settings.target_irreps
        self.activations = settings.scalar_activation, settings.gate_activation
        channels = Irreps(node).count(SCALAR)
        self.source_embedding = ElementEmbedding(num_elements, channels)
        self.target_embedding = ElementEmbedding(num_elements, channels)
        self.linear_up = Linear(node, edge)
        self.conv_tp = Convolution(edge, harmonics_irreps, target)
        self.conv_tp_weights = NormalisedRadialNetwork(len(settings.radial_widths) - 1)
        self.density_fn = NormalisedRadialNetwork(depth=2)
        self.skip_tp = Linear(node, settings.skip_irreps)
        self.gate_widths = [mul for mul, _ in Irreps(target)]
        gated = [(mul, ir) for mul, ir in Irreps(target) if ir.l > 0]
        gate_irreps = str(Irreps([(sum(self.gate_widths), SCALAR), *gated]))
        self.linear_res = Linear(edge, gate_irreps)
        self.linear_1 = Linear(self.conv_tp.irreps_out, gate_irreps)
        self.linear_2 = Linear(target, target)

    def forward(
        self, features: Features, edges: Edges, species: Species
    ) -> tuple[Features, Features | None]:
        """Compute messages and skip connection, lists of (nodes, 2l+1, channels)."""
        nodes = self.source_embedding(edges.sender_species), self.target_embedding(species)
        radial = _radial_function(edges, self.conv_tp_weights, nodes)
        density_radial = _radial_function(edges, self.density_fn, nodes)
        up = self.linear_up(features)
        messages = self.linear_1(self.conv_tp(up, edges, radial))
        divisor = self.alpha + self.beta * density(density_radial, edges)
        residual = self.linear_res(up)
        gated = self._gate([m / divisor + r for m, r in zip(messages, residual, strict=True)])
        return self.linear_2(gated), self.skip_tp(features)

    def _gate(self, features: Features) -> Features:
        """Activate the invariants and multiply each equivariant by an activated invariant."""
        scalar_activation, gate_activation = self.activations
        scalars, *gates = features[0].split(self.gate_widths, -1)
        gated = [f * activate(g, gate_activation) for f, g in zip(features[1:], gates, strict=True)]
        return [activate(scalars, scalar_activation), *gated]
