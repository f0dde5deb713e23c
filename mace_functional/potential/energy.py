"""The pure function: energy of positions, cell and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.memory import keep_freed_memory
from mace_functional.dispersion.d3 import d3_energies
from mace_functional.mace.evaluation import atom_energies
from mace_functional.structure.lattice import PERIODIC
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from mace_functional.mace.model import Model
    from mace_functional.structure.graph import Graph

Energy = Callable[..., Tensor]
"""A function `E(positions, cell, params)`."""


def energy_fn(model: Model, graph: Graph, *, per_atom: bool = False) -> Energy:
    """The energy of a structure as a pure function, to be composed with any transform.

    `E(positions, cell, params)` in eV, with `positions` (N, 3) and `cell` (3, 3) in Å and `params`
    a dict such as `model.params`. It reads no values and keeps no state: `grad`, `jvp`, `vjp`,
    `vmap` of it may be nested in any order. The dispersion of a model that was loaded with one is
    part of it, and depends on no parameter.

    Args:
        model: From `load_model`.
        graph: From `from_ase` or `batch`: the topology for which the function holds.
        per_atom: Return the energies of the atoms (N,) and not their sum.

    Returns:
        The function. It raises KeyError if names in `params` are missing or unknown, and ValueError
        if positions, cell or a parameter have a shape, dtype or device that does not fit.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
    """
    if not torch.compiler.is_compiling():
        in_order("energy_fn(model, graph)", (model, "Model"), (graph, "Graph"))
        keep_freed_memory()
    energies_of = atom_energies(model)
    dispersion = None if graph.dispersion is None else d3_energies(graph.dispersion)

    def energy(positions: Tensor, cell: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        _check(graph, positions, cell)
        energies = energies_of(params, graph, positions, cell)
        if dispersion is not None:
            energies = energies + dispersion(positions, cell)
        return energies if per_atom else energies.sum()

    if is_concrete(graph.pbc) and graph.pbc.ndim == 1:
        setattr(energy, PERIODIC, tuple(graph.pbc.tolist()))
    return energy


def _check(graph: Graph, positions: Tensor, cell: Tensor) -> None:
    """Positions and cell fit the graph; values are never read."""
    atoms = graph.inverse.shape[0]
    if positions.shape != (atoms, 3) or cell.shape != (3, 3):
        raise ValueError(
            f"the graph is for positions ({atoms}, 3) and cell (3, 3), not "
            f"{tuple(positions.shape)} and {tuple(cell.shape)}; use vmap for more than one"
        )
    if positions.dtype != cell.dtype or positions.device != cell.device:
        raise ValueError(
            f"positions ({positions.dtype} on {positions.device}) and cell ({cell.dtype} on "
            f"{cell.device}) must have one dtype and device"
        )
