"""Structures made for a potential, and their energies as pure functions."""

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
    """Make the structure of an ASE Atoms object, with its neighbours.

    Args:
        atoms: ASE Atoms, periodic in any directions. Features that a MACE model embeds are read
            from `atoms.info` ("charge" and "spin", 0 and 1 if absent) or `atoms.arrays`.
        potential: A potential, such as a model of `load_model`. It sets the cutoffs, the dtype and
            the device.
        skin: Length that is added to the cutoffs in the neighbour search, Å. The topology stays
            exact while atoms move within the skin (see `Topology.is_current`). Energies do not
            depend on it.

    Returns:
        The structure, on the potential's device and in its dtype.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure has no atoms, the potential does not know an element, positions
            or cell are not finite, atoms coincide, periodic lattice vectors are missing or linearly
            dependent, the skin is negative, or an embedded feature is missing or out of range.
    """
    in_order("from_ase(atoms, potential)", (atoms, "Atoms"), (potential, "Potential"))
    return potential.structure(atoms, skin=skin)


def energy_fn(potential: Potential, topology: Any, *, per_atom: bool = False) -> Energy:
    """Return the energy of a structure as a pure function `E(positions, cell, params)`, in eV.

    The function takes `positions` (N, 3) and `cell` (3, 3) in Å, and `params` such as
    `potential.params`. It reads no values and keeps no state, so the transforms `grad`, `jvp`,
    `vjp` and `vmap` of it can be nested in any order.

    Args:
        potential: A potential, such as a model of `load_model`.
        topology: Topology of a structure from `from_ase` or `batch`. The function is only for this
            structure.
        per_atom: True to return the energies of the atoms (N,), not their sum.

    Returns:
        The function. For a MACE model it raises KeyError if names in `params` are missing or
        unknown, and ValueError if positions, cell or a parameter have the wrong shape, dtype or
        device.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
    """
    if not torch.compiler.is_compiling():
        kinds = (potential, "Potential"), (topology, "Topology")
        in_order("energy_fn(potential, topology)", *kinds)
    return potential.energy_fn(topology, per_atom=per_atom)


def edge_energy_fn(potential: EdgePotential, topology: Any, *, per_atom: bool = False) -> Energy:
    """Return the energy function of a potential with edges; it checks positions and cell."""
    if not torch.compiler.is_compiling():
        tune_allocator()

    def energy(positions: Tensor, cell: Tensor, params: Any) -> Tensor:
        check_shapes(topology, positions, cell)
        energies = potential.atom_energies(topology, positions, cell, params)
        return energies if per_atom else energies.sum()

    return with_periodicity(energy, topology)


def with_periodicity(energy: Energy, topology: Topology) -> Energy:
    """Store the periodic directions of a structure on its energy function, for `stress`."""
    if is_concrete(topology.pbc) and topology.pbc.ndim == 1:
        setattr(energy, PERIODIC, tuple(topology.pbc.tolist()))
    return energy


def check_shapes(topology: Topology, positions: Tensor, cell: Tensor) -> None:
    """Check shapes, dtypes and devices of positions and cell; values are not read.

    Raises:
        ValueError: If they do not fit the topology or each other.
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
