"""The MACE module: energies of the atoms of a structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mace_functional.mace.contraction import Product
from mace_functional.mace.edge_coordinates import EdgeCoordinates
from mace_functional.mace.edge_geometry import EdgeGeometry
from mace_functional.mace.edges import Edges
from mace_functional.mace.embedding import JointEmbedding
from mace_functional.mace.interaction import interaction
from mace_functional.mace.irreps import Irreps
from mace_functional.mace.linear import ElementEmbedding, Features, Linear
from mace_functional.mace.radial_embedding import RadialEmbedding
from mace_functional.mace.readout import Readout
from mace_functional.mace.repulsion import ZieglerBiersackLittmark
from mace_functional.mace.settings import MaceSettings
from mace_functional.structure.species import rows_at
from mace_functional.structure.topology import EdgeTopology


class Holder(nn.Module):
    """A container that adds a level to dotted names, as mace-torch's state dict has it."""

    def __init__(self, linear: nn.Module | None = None) -> None:
        super().__init__()
        if linear is not None:
            self.linear = linear


class Mace(nn.Module):
    """Energies of the atoms, `E_i = E0[z_i] + scale (sum_layers readout(h_i) + pair_i) + shift`.

    The tensors are registered as buffers, under the names of mace-torch's state dict. Call the
    module through `torch.func.functional_call` to compute with other tensors.
    """

    def __init__(self, settings: MaceSettings, head: int) -> None:
        super().__init__()
        self.settings, self.head = settings, head
        num_elements, num_heads = len(settings.atomic_numbers), len(settings.heads)
        first = settings.interactions[0]
        channels = Irreps(first.node_irreps).dim
        self.node_embedding = Holder(ElementEmbedding(num_elements, channels))
        self.atomic_energies_fn = Holder()
        self.radial_embedding = RadialEmbedding(settings.radial)
        self.interactions = nn.ModuleList(
            interaction(s, settings.harmonics_irreps, num_elements) for s in settings.interactions
        )
        self.products = nn.ModuleList(Product(s) for s in settings.products)
        self.readouts = nn.ModuleList(Readout(s, num_heads) for s in settings.readouts)
        if settings.features:
            self.joint_embedding = JointEmbedding(settings.features)
        if settings.embedding_readout:
            self.embedding_readout = Holder(Linear(f"{channels}x0e", f"{num_heads}x0e"))
        if settings.repulsion_power is not None:
            self.pair_repulsion_fn = ZieglerBiersackLittmark(settings.repulsion_power)
        if settings.scale_shift:
            self.scale_shift = Holder()

    def read_constants(self) -> None:
        """Prepare constants on the device of the tensors, once, after these are registered."""
        device = next(self.buffers()).device
        self.geometry = EdgeGeometry(Irreps(self.settings.harmonics_irreps).lmax, device)
        products: Any = self.products
        for product in products:
            product.symmetric_contractions.find_monomials()

    def forward(self, graph: EdgeTopology, positions: Tensor, cell: Tensor) -> Tensor:
        """Compute the energies of the atoms in eV, (atoms,).

        Args:
            graph: A graph of `from_ase` or `batch`, replicas of a cell, or stars.
            positions: Positions in Å, (atoms, 3).
            cell: Lattice vectors in Å as rows, (3, 3).
        """
        species = graph.species
        edges = Edges(
            edge_list=graph.edge_list,
            points=graph.points(positions),
            cell=cell,
            sent=graph.sent,
            species=species,
            sender_species=graph.sender_species,
            embedding=self.radial_embedding,
            coordinates=EdgeCoordinates(self.geometry),
        )
        features = [self.node_embedding.linear(species)[:, None]]
        isolated = torch.atleast_2d(self.atomic_energies_fn.atomic_energies)[self.head]
        reference = species.expand(rows_at(isolated, species.elements))
        if self.settings.features:
            embedded = self.joint_embedding(graph.features, graph.order)
            features = [features[0] + embedded[:, None]]
        if self.settings.embedding_readout:
            reference = reference + self.embedding_readout.linear(features)[0][:, 0, self.head]
        layers: list[Features] = []
        for interact, product in zip(self.interactions, self.products, strict=True):
            messages, skip = interact(features, edges, species)
            features = product(messages, skip, species)
            layers.append(features)
        energies = torch.zeros_like(layers[0][0][:, 0, 0])
        if self.settings.repulsion_power is not None:
            energies = self.pair_repulsion_fn(edges)
        for s, readout in zip(self.settings.readouts, self.readouts, strict=True):
            energies = energies + readout(layers[s.layer], self.head)
        if self.settings.scale_shift:
            scale = torch.atleast_1d(self.scale_shift.scale)[self.head]
            shift = torch.atleast_1d(self.scale_shift.shift)[self.head]
            energies = scale * energies + shift
        return graph.to_atoms(reference + energies)
