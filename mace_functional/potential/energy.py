"""Structures of a potential, and their energies as pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete
from mace_functional.autodiff.memory import tune_allocator
from mace_functional.potential.protocol import EdgePotential, Energy, Potential
from mace_functional.structure.lattice import PERIODIC
from mace_functional.support.renamed import positional_for_a_release
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.structure.structure import Structure
    from mace_functional.structure.topology import Topology


@positional_for_a_release("skin")
def from_ase(atoms: Atoms, potential: Potential, *, skin: float = 0.0) -> Structure:
    """The structure and neighbours of an ASE Atoms object.

    Args:
        atoms: Periodic in any directions. Features that a MACE model embeds are read from
            `atoms.info` ("charge" and "spin", 0 and 1 if absent) or `atoms.arrays`.
        potential: Such as a model of `load_model`: gives cutoffs, dtype and device.
        skin: Added to the cutoffs in the neighbour search, Å: the topology then stays exact while
            atoms move (see `Topology.is_current`). Energies do not depend on it.

    Returns:
        The structure, on the potential's device and in its dtype.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If there are no atoms, an element is unknown to the potential, positions or cell
            are not finite, atoms coincide, periodic lattice vectors are missing or linearly
            dependent, the skin is negative, or an embedded feature is missing or out of range.
    """
    in_order("from_ase(atoms, potential)", (atoms, "Atoms"), (potential, "Potential"))
    return potential.structure(atoms, skin=skin)


def energy_fn(potential: Potential, topology: Any, *, per_atom: bool = False) -> Energy:
    """The energy of a structure as a pure function, to be composed with any transform.

    `E(positions, cell, params)` in eV, with `positions` (N, 3) and `cell` (3, 3) in Å and `params`
    such as `potential.params`. It reads no values and keeps no state: `grad`, `jvp`, `vjp`, `vmap`
    of it may be nested in any order.

    Args:
        potential: Such as a model of `load_model`.
        topology: Of a structure from `from_ase` or `batch`: the function holds for it.
        per_atom: Return the energies of the atoms (N,) and not their sum.

    Returns:
        The function. That of a MACE model raises KeyError if names in `params` are missing or
        unknown, and ValueError if positions, cell or a parameter have a shape, dtype or device that
        does not fit.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
    """
    if not torch.compiler.is_compiling():
        kinds = (potential, "Potential"), (topology, "Topology")
        in_order("energy_fn(potential, topology)", *kinds)
        tune_allocator()
    return potential.energy_fn(topology, per_atom=per_atom)


def edge_energy_fn(potential: EdgePotential, topology: Any, *, per_atom: bool = False) -> Energy:
    """The energy of a potential with edges, with checks of positions and cell; see `energy_fn`."""

    def energy(positions: Tensor, cell: Tensor, params: Any) -> Tensor:
        check_shapes(topology, positions, cell)
        energies = potential.atom_energies(topology, positions, cell, params)
        return energies if per_atom else energies.sum()

    return with_periodicity(energy, topology)


def with_periodicity(energy: Energy, topology: Topology) -> Energy:
    """An energy function that says in which directions its structure is periodic, for `stress`."""
    if is_concrete(topology.pbc) and topology.pbc.ndim == 1:
        setattr(energy, PERIODIC, tuple(topology.pbc.tolist()))
    return energy


def check_shapes(topology: Topology, positions: Tensor, cell: Tensor) -> None:
    """Positions and cell fit the topology and each other; values are never read.

    Raises:
        ValueError: If they do not.
    """
    atoms = topology.n_atoms
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
