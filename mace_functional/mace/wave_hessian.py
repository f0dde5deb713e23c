"""The Hessian of a MACE model at a wave vector, from the gradient of one cell.

A Bloch wave displaces atom k of cell R by `u_k exp(2 pi i q.R)`. Its Hessian follows from the
linearised gradient of one cell: all parts of it act on the atoms one by one, except the messages,
where every sender is multiplied by its factor of the wave. `dense_messages` has these matrices. The
linear map is complex, and acts on real and imaginary parts as on two vectors (`waves`).

Replicas of the cell (`structure/phase_replicas.py`) give the same from the values alone and under
every transform, at the cost of up to three cells along all edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap
from typing_extensions import override

from mace_functional.autodiff.primitive import is_plain
from mace_functional.autodiff.torch_internals import pytree
from mace_functional.mace.dense_messages import dense_pays
from mace_functional.mace.waves import as_waves
from mace_functional.structure.graph import Graph
from mace_functional.structure.topology import EdgeList

if TYPE_CHECKING:
    from mace_functional.mace.model import MaceModel


@dataclass(frozen=True, eq=False)
class WaveGraph(Graph):
    """A graph whose batches of displacements are Bloch waves.

    Attributes:
        factors: Factor of each edge; see `EdgeList`.
    """

    factors: Tensor

    @property
    @override
    def edge_list(self) -> EdgeList:
        """The edges, with the factors of the wave."""
        return super().edge_list._replace(factors=self.factors)


def wave_hessian(
    model: MaceModel, graph: Graph, q: Tensor, positions: Tensor, cell: Tensor, params: Any
) -> Callable[[Tensor], Tensor] | None:
    """Return the map from displacements u to `H(q) u`; None if replicas of the cell are needed.

    Args:
        model: The model.
        graph: The graph of one cell.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        params: Parameters of the model.

    Returns:
        A function from n real displacements (n, N, 3) to complex (n, N, 3). None under transforms,
        for large cells, and for models whose radial functions read the features of both atoms.
    """
    if not is_plain([q, positions, cell, *graph.edge_list, *pytree.tree_leaves(params)]):
        return None
    if any(layer.radial_reads_features for layer in model.settings.interactions):
        return None
    if not _small(model, graph, positions.dtype.to_complex()):
        return None
    twice = [2 * component for component in q.tolist()]
    theta = -2 * math.pi * (graph.unit_shifts @ q.to(positions.device, non_blocking=True))
    factors: Tensor = torch.polar(torch.ones_like(theta), theta)
    if all(map(float.is_integer, twice)):
        factors = torch.cos(theta).round()
    # Operations on tensors that require grad are recorded, and recorded ones know no waves.
    positions, cell = positions.detach(), cell.detach()
    params = pytree.tree_map(lambda p: p.detach() if isinstance(p, Tensor) else p, params)
    wave = WaveGraph(**{f.name: getattr(graph, f.name) for f in fields(Graph)}, factors=factors)

    def energy(x: Tensor) -> Tensor:
        return model.atom_energies(wave, x, cell, params).sum()

    pull_back = vmap(vjp(grad(energy), positions)[1])

    def apply(displacements: Tensor) -> Tensor:
        if not factors.is_complex():
            (real,) = pull_back(displacements)
            return torch.complex(real, torch.zeros_like(real))
        (both,) = pull_back(torch.cat([displacements, torch.zeros_like(displacements)]))
        return as_waves(both, factors)

    return apply


def _small(model: MaceModel, graph: Graph, dtype: torch.dtype) -> bool:
    layers: Any = model.module.interactions
    return all(
        dense_pays(layer.conv_tp.paths, len(graph.order), graph.senders, features, dtype)
        for layer, features in zip(layers, [False, True, *[True] * len(layers)], strict=False)
    )
