"""Dynamical matrix at any wave vector, computed from the primitive cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mace_functional.autodiff.columns import ChunkSize
from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.memory import tune_allocator
from mace_functional.phonons.edge_matrix import CrystalOfEdges, on_device_of
from mace_functional.phonons.wave_vector import WaveVector, checked_where_given
from mace_functional.potential.protocol import (
    EdgePotential,
    HasDynamicalMatrix,
    HasParts,
    Potential,
)
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from mace_functional.structure.topology import Topology

DynamicalMatrix = Callable[[WaveVector, Tensor, Tensor, Any, Tensor], Tensor]
"""Function `D(q, positions, cell, params, masses)` that returns a dynamical matrix."""


def dynamical_matrix_fn(
    potential: Potential,
    topology: Any,
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
) -> DynamicalMatrix:
    r"""Return the dynamical matrix as a pure function of q, positions, cell, params and masses.

        D_jk(q) = sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)

    with the force constants Phi between atom j of the home cell and atom k of cell R. There is no
    supercell, no finite difference and no interpolation. A potential whose atoms interact with
    neighbours within a cutoff (`EdgePotential`) is evaluated on three coupled replicas of the cell,
    which represent a wave of any wave vector (see `structure/phase_replicas.py`). Two replicas are
    enough if all components of q are multiples of 1/2, and one at Gamma. Column u is
    `(2 / 3) sum_m exp(-i phi_m) g_m`, with the changes g_m of the gradients of the replicas for
    displacements `cos(phi_m) u`. Outside of transforms, MACE models multiply waves of one small
    cell by complex matrices instead (`HasWaveHessian`), which is three times as fast. D3 has a
    closed form, over all images within its cutoffs. The matrix of a sum of potentials is the sum
    of their matrices.

    The function composes with every transform, with respect to every argument: `jvp` in q gives
    group velocities, `jvp` in the cell gives Grueneisen parameters, and `grad` in params trains on
    phonons. Under a transform in q there are always three replicas.

    Reverse mode records nothing of D(q) of an `EdgePotential`. It computes the gradient again, as a
    sum of curvatures along waves, a few at a time (see `edge_matrix`): one product of the Hessian
    for each mode that the differentiated function depends on, in the memory of a chunk. Reverse
    mode over forward mode, such as of group velocities, records all columns.

    Args:
        potential: An `EdgePotential` such as a model of `load_model`, a potential that
            `HasDynamicalMatrix`, or a sum of these.
        topology: Topology of a structure from `from_ase`. The structure is periodic in every
            direction in which q has a component.
        chunk_size: Columns, or terms of a gradient, at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        progress: Show a progress bar.

    Returns:
        A function `(q, positions, cell, params, masses)`, with q in units of the reciprocal lattice
        vectors, a tensor (3,) or three numbers. It returns D in eV/Å²/amu, complex (3N, 3N). D is
        not made hermitian, so its deviation from a hermitian matrix shows the rounding error.

    Raises:
        TypeError: If the arguments are of other classes, or swapped, or the potential has no
            dynamical matrix.
        ValueError: If the topology is a batch. The function raises it if shapes, dtypes or devices
            do not fit, q is not finite, or q has a component along a direction that is not
            periodic.
        KeyError: The function raises it if names in `params` are missing or unknown.
    """
    kinds = (potential, "Potential"), (topology, "Topology")
    in_order("dynamical_matrix_fn(potential, topology)", *kinds)
    if topology.pbc.ndim != 1 or not is_concrete(topology.pbc):
        raise ValueError("dynamical_matrix_fn takes the graph of one structure, outside of vmap")
    tune_allocator()
    pbc = topology.pbc.tolist()
    matrix = dynamical_matrix_of(
        potential,
        topology,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        progress=progress,
    )

    def dynamical_matrix(
        q: WaveVector, positions: Tensor, cell: Tensor, params: Any, masses: Tensor
    ) -> Tensor:
        q = checked_where_given(q, pbc, positions.dtype)
        _check(topology, positions, cell, masses)
        return matrix(q, positions, cell, params, masses)

    return dynamical_matrix


def has_dynamical_matrix(potential: Potential) -> bool:
    """Return True if a potential, or every part of a sum, has a dynamical matrix at any q."""
    if isinstance(potential, (HasDynamicalMatrix, EdgePotential)):
        return True
    return isinstance(potential, HasParts) and all(map(has_dynamical_matrix, potential.potentials))


def dynamical_matrix_of(potential: Potential, topology: Any, **columns: Any) -> DynamicalMatrix:
    """Return the dynamical matrix of a potential, or of a sum of potentials, without checks.

    Args:
        potential: Potential as in `dynamical_matrix_fn`.
        topology: Topology of a structure.
        **columns: Options of `chunked_vmap`.

    Returns:
        The function. It takes q as a tensor on any device.

    Raises:
        TypeError: If the potential has no dynamical matrix.
    """
    if isinstance(potential, HasDynamicalMatrix):
        closed_form = potential.dynamical_matrix_fn(topology)
        return lambda q, x, *args: closed_form(on_device_of(x, q), x, *args)
    if isinstance(potential, EdgePotential):
        return CrystalOfEdges(potential, topology, columns).dynamical_matrix
    if isinstance(potential, HasParts):
        pairs = zip(potential.potentials, topology.parts, strict=True)
        matrices = [
            dynamical_matrix_of(part, topology_part, **columns) for part, topology_part in pairs
        ]

        def sum_of_matrices(q: Any, x: Tensor, cell: Tensor, params: Any, masses: Tensor) -> Tensor:
            parts = zip(matrices, potential.parts_of(params), strict=True)
            first, *others = (matrix(q, x, cell, p, masses) for matrix, p in parts)
            return sum(others, first)

        return sum_of_matrices
    raise TypeError(
        f"{potential} has no dynamical matrix: a potential needs a cutoff and atom_energies (see "
        "EdgePotential), or dynamical_matrix_fn (see HasDynamicalMatrix)"
    )


def _check(topology: Topology, positions: Tensor, cell: Tensor, masses: Tensor) -> None:
    """Raise an error if positions, cell and masses do not fit the graph and each other."""
    atoms = topology.n_atoms
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
