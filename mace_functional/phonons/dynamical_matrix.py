"""The dynamical matrix at any wave vector, from the primitive cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import ChunkSize, map_columns
from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.memory import keep_freed_memory
from mace_functional.dispersion.bloch_sums import d3_force_constants_at
from mace_functional.mace.evaluation import atom_energies
from mace_functional.phonons.wave_vector import WaveVector, wave_vector
from mace_functional.structure.phase_replicas import Images
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from mace_functional.mace.model import Model
    from mace_functional.structure.graph import Graph

DynamicalMatrix = Callable[[WaveVector, Tensor, Tensor, Mapping[str, Tensor], Tensor], Tensor]
"""A function `D(q, positions, cell, params, masses)`."""


def dynamical_matrix_fn(
    model: Model,
    graph: Graph,
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
) -> DynamicalMatrix:
    r"""The dynamical matrix as a pure function of q, positions, cell, parameters and masses.

        D_jk(q) = sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)

    with the force constants Phi between atom j of the home cell and atom k of cell R. No supercell
    is made, no step taken, nothing interpolated: three coupled replicas of the cell hold a wave of
    any wave vector (see `bloch`), two where all components of q are multiples of 1/2, and one at
    Gamma. Column u is `(2 / 3) sum_m exp(-i phi_m) g_m`, with the changes g_m of the replicas'
    gradients along `cos(phi_m) u`. A dispersion correction of the model is added in closed form,
    over all images within its cutoffs (`mace_functional.dispersion.bloch_sums`).

    Composes with every transform, with respect to every argument: `jvp` in q gives group
    velocities, in the cell Grueneisen parameters, `grad` in params trains on phonons. Under a
    transform in q there are always three replicas.

    Args:
        model: From `load_model`.
        graph: From `from_ase`, of a crystal that is periodic wherever q has a component.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        progress: Show a progress bar.

    Returns:
        `(q, positions, cell, params, masses)`, with q (3,), a tensor or three numbers, in units of
        the reciprocal lattice vectors, to D, complex (3N, 3N) in eV/Å²/amu. It is not made
        hermitian: what it lacks measures the rounding.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the graph is a batch; the function raises it if shapes, dtypes or devices do
            not fit, or q is not finite or has a component along a direction that is not periodic.
        KeyError: The function raises it if names in `params` are missing or unknown.
    """
    in_order("dynamical_matrix_fn(model, graph)", (model, "Model"), (graph, "Graph"))
    if graph.senders.ndim != 2 or not is_concrete(graph.senders):
        raise ValueError("the dynamical matrix takes the graph of one structure, outside of vmap")
    keep_freed_memory()
    images = Images.of(graph)
    energies_of = atom_energies(model)
    atoms = len(graph.inverse)
    dispersion = None if graph.dispersion is None else d3_force_constants_at(graph.dispersion)

    def dynamical_matrix(
        q: WaveVector,
        positions: Tensor,
        cell: Tensor,
        params: Mapping[str, Tensor],
        masses: Tensor,
    ) -> Tensor:
        q = wave_vector(q, graph.pbc, positions)
        _check(graph, positions, cell, masses)
        bloch = images.at(graph, q, _replicas(q))

        def energy(x: Tensor) -> Tensor:
            return energies_of(params, bloch, x, cell).sum()

        at_rest = positions[:, None].expand(-1, bloch.replicas, -1)
        pull_back = vjp(grad(energy), at_rest)[1]
        cosines = torch.cos(bloch.phases)
        real = bloch.replicas < 3  # sin(pi) is not zero to the last digit
        sines = torch.zeros_like(cosines) if real else torch.sin(bloch.phases)
        norm = cosines.square().sum()
        weights = masses.rsqrt()[:, None]

        def column(u: Tensor) -> Tensor:
            (g,) = pull_back((weights * u)[:, None] * cosines[:, None])
            parts = torch.stack([cosines, -sines]) @ g  # (atoms, 2, 3)
            return weights[:, None] * parts / norm

        identity = torch.eye(3 * atoms, dtype=positions.dtype, device=positions.device)
        columns = map_columns(
            column,
            identity.view(-1, atoms, 3),
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            progress=progress,
            description="Dynamical matrix",
        )
        matrix = torch.complex(*(part.flatten(1) for part in columns.unbind(2)))
        matrix = matrix.transpose(0, 1)
        if dispersion is not None:
            root = weights.expand(-1, 3).flatten()
            matrix = matrix + root[:, None] * dispersion(q, positions, cell) * root
        return matrix

    return dynamical_matrix


def _replicas(q: Tensor) -> int:
    """How many phases the wave needs."""
    if not is_concrete(q):
        return 3
    twice = 2 * q.detach()
    if bool((twice != twice.round()).any()):
        return 3
    return 2 if bool((twice % 2 != 0).any()) else 1


def _check(graph: Graph, positions: Tensor, cell: Tensor, masses: Tensor) -> None:
    """Positions, cell and masses fit the graph and each other."""
    atoms = len(graph.inverse)
    if positions.shape != (atoms, 3) or cell.shape != (3, 3) or masses.shape != (atoms,):
        raise ValueError(
            f"the graph is for positions ({atoms}, 3), cell (3, 3) and masses ({atoms},), not "
            f"{tuple(positions.shape)}, {tuple(cell.shape)} and {tuple(masses.shape)}; the order "
            "is D(q, positions, cell, params, masses)"
        )
    kinds = {(t.dtype, t.device) for t in (positions, cell, masses)}
    if len(kinds) > 1:
        raise ValueError(
            "positions, cell and masses must have one dtype and device, not "
            + " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        )
