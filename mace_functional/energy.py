"""The pure function: energy of positions, cell and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call

from mace_functional.dispersion.d3 import d3_energies
from mace_functional.memory import keep_freed_memory

if TYPE_CHECKING:
    from mace_functional.graph import Graph
    from mace_functional.model import Model

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
        The function. It raises ValueError if shapes or dtypes do not fit the graph, and KeyError if
        names in `params` are missing or unknown.
    """
    if not torch.compiler.is_compiling():
        keep_freed_memory()
    dispersion = None if graph.dispersion is None else d3_energies(graph.dispersion)

    def energy(positions: Tensor, cell: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        _check(graph, positions, cell, params)
        energies = functional_call(
            model.module, dict(params), (graph, positions, cell), tie_weights=False
        )
        if dispersion is not None:
            energies = energies + dispersion(positions, cell)
        return energies if per_atom else energies.sum()

    return energy


def _check(graph: Graph, positions: Tensor, cell: Tensor, params: Mapping[str, Tensor]) -> None:
    """Shapes, dtypes and names; values are never read."""
    atoms = graph.inverse.shape[0]
    if positions.shape != (atoms, 3) or cell.shape != (3, 3):
        raise ValueError(
            f"the graph is for positions ({atoms}, 3) and cell (3, 3), not "
            f"{tuple(positions.shape)} and {tuple(cell.shape)}; use vmap for more than one"
        )
    dtypes = {positions.dtype, cell.dtype, params["r_max"].dtype}
    if len(dtypes) > 1:
        raise ValueError(
            f"positions ({positions.dtype}), cell ({cell.dtype}) and params "
            f"({params['r_max'].dtype}) must have one dtype"
        )
