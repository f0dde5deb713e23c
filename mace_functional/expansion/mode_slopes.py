r"""Derivatives of squared frequencies by strain: all modes at a wave vector, along all strains.

The mode e of D(q) moves the atoms by u = e / sqrt(m). With the Hessian H(q),

    d(omega^2) / d strain = <e| dD / d strain |e> = d/d strain <u| H(q) |u>.

<u|H|u> is the curvature of the energy along the wave u, which replicas of the cell hold
(`phonons/replica_hessian.py`). Its gradient by positions and cell has the derivatives along all
strains, with clamped or relaxed ions: one pass for a mode. `mode_gruneisen` takes derivatives of
whole matrices, one for a strain, which also tell degenerate modes apart. Here only the sum over a
block of degenerate modes has a meaning, and averages over modes need no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.expansion.mode_gruneisen import motion_of_ions, strained_matrix_fn
from mace_functional.phonons.dynamical_matrix import dynamical_matrix_of
from mace_functional.phonons.edge_matrix import n_replicas
from mace_functional.phonons.replica_hessian import ReplicaHessian
from mace_functional.potential.protocol import (
    EdgePotential,
    HasDynamicalMatrix,
    HasParts,
    Potential,
)
from mace_functional.structure.graph import Graph
from mace_functional.structure.phase_replicas import NodeImages

WORKING_SET = 2 * 2**30
"""Largest memory of a chunk of modes on the CPU, bytes.

A chunk evaluates energy and forces again, for all of its modes.
"""

ModeSlopes = Callable[..., Tensor]
"""Function `(q, e, positions, cell, params, masses, strains, response)` of eigenvectors
(3N, M), strains (S, 3, 3) and the response of the ions (N, 3, 3, 3), or None for clamped ions. It
returns d(omega^2)/d strain in eV/Å²/amu, (S, M)."""


def mode_slopes_fn(potential: Potential, topology: Any, **columns: Any) -> ModeSlopes:
    """Return the derivatives of squared frequencies by strain, as a function.

    Args:
        potential: Potential as in `dynamical_matrix_fn`.
        topology: Topology of a structure.
        **columns: Options of `chunked_vmap`, which maps over the modes.

    Raises:
        TypeError: If the potential has no dynamical matrix.
    """
    if isinstance(potential, EdgePotential) and not isinstance(potential, HasDynamicalMatrix):
        return _of_edges(potential, topology, columns)
    if isinstance(potential, HasParts):
        pairs = zip(potential.potentials, topology.parts, strict=True)
        slopes = [mode_slopes_fn(part, part_topology, **columns) for part, part_topology in pairs]

        def sum_of_slopes(
            q: Tensor, e: Tensor, x: Tensor, h: Tensor, params: Any, *others: Any
        ) -> Tensor:
            parts = zip(slopes, potential.parts_of(params), strict=True)
            first, *rest = (slopes_of(q, e, x, h, p, *others) for slopes_of, p in parts)
            return sum(rest, first)

        return sum_of_slopes
    return _of_matrix(dynamical_matrix_of(potential, topology, **columns), columns)


def _of_matrix(dynamical_matrix: Callable[..., Tensor], columns: dict[str, Any]) -> ModeSlopes:
    """Return the function for a dynamical matrix in closed form."""
    strained_matrix = strained_matrix_fn(dynamical_matrix, **columns)

    def mode_slopes(q: Tensor, e: Tensor, *args: Any) -> Tensor:
        slopes = strained_matrix(q, *args).slopes
        return torch.einsum("im,sij,jm->sm", e.conj().to(slopes), slopes, e.to(slopes)).real

    return mode_slopes


def _of_edges(potential: EdgePotential, graph: Graph, columns: dict[str, Any]) -> ModeSlopes:
    """Return the function for a potential with edges."""
    images = NodeImages.of(graph)

    def mode_slopes(
        q: Tensor,
        e: Tensor,
        positions: Tensor,
        cell: Tensor,
        params: Any,
        masses: Tensor,
        strains: Tensor,
        response: Tensor | None = None,
    ) -> Tensor:
        if not e.shape[1]:
            return positions.new_zeros(len(strains), 0)
        wave = images.at(graph, q, n_replicas(q))
        u = e.mT.unflatten(1, (-1, 3)) * masses.rsqrt()[:, None]
        motions, cells = motion_of_ions(positions, strains, response), cell @ strains

        def slopes(v: Tensor) -> Tensor:
            def curvature(x: Tensor, h: Tensor) -> Tensor:
                return ReplicaHessian(potential, wave, x, h, params).form(v[None], v[None])

            by_positions, by_cell = grad(curvature, (0, 1))(positions, cell)
            return torch.tensordot(motions, by_positions, 2) + torch.tensordot(cells, by_cell, 2)

        # Where H(q) is real, real and imaginary part are two motions, whose curvatures add up.
        parts = [u.real, u.imag] if u.is_complex() and wave.replicas < 3 else [u]
        found = [
            chunked_vmap(slopes, v, description="Modes", working_set=WORKING_SET, **columns)
            for v in parts
        ]
        return torch.stack(found).sum(0).mT

    return mode_slopes
