"""Hessians to ASE's `VibrationsData` and back: its animations, densities of states, Infrared."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.vibrations import VibrationsData
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.phonons import Phonons
from mace_functional.structure import neighbours
from mace_functional.structure.connectivity import Parts
from mace_functional.structure.selection import Selection, atom_numbers, freedom
from mace_functional.support.renamed import positional_for_a_release
from mace_functional.vibrations.harmonic_modes import NormalModes, normal_modes


def to_vibrations_data(
    source: Phonons | Tensor, atoms: Atoms | None = None, *, indices: Selection | None = None
) -> VibrationsData:
    """ASE's container of a structure and its Hessian.

    Args:
        source: Phonons, of which those at Gamma are taken; or a Hessian in eV/Å², (N, 3, N, 3) or
            (3N, 3N), with `atoms`.
        atoms: The structure of the Hessian; that of the phonons is known.
        indices: Atoms of a partial Hessian (k, 3, k, 3), in its order, such as the `indices` of
            `gamma_modes`; all if None, whatever constraints `atoms` has.

    Returns:
        The data of these atoms, in ascending order.

    Raises:
        ValueError: If the structure is missing, given twice, or does not fit the Hessian; if some
            of the atoms of phonons are chosen; if constraints hold less than whole atoms; or inside
            of a transform.
    """
    refuse_transforms("to_vibrations_data", "frequencies or normal modes of the Hessian", source)
    if isinstance(source, Phonons):
        if atoms is not None or indices is not None:
            raise ValueError("phonons know their structure: leave atoms out, and indices")
        structure = source.atoms.copy()
        structure.set_masses(source.masses.tolist())
        hessian = source.hessian
    elif atoms is None:
        raise ValueError("a Hessian needs the atoms that it belongs to")
    else:
        structure, hessian = atoms, source
        if not freedom(structure, "to_vibrations_data").by_atoms:
            raise ValueError(
                "VibrationsData holds whole atoms, and constraints hold some directions only or a "
                "centre of mass: take normal_modes(..., free=...), or gamma_modes"
            )
    numbers = np.arange(len(structure))
    if indices is not None:
        numbers = np.asarray(atom_numbers(indices, len(structure)))
    size = len(numbers)
    if hessian.numel() != 9 * size**2:
        raise ValueError(f"a Hessian {tuple(hessian.shape)} does not fit {size} atoms")
    array = hessian.detach().cpu().numpy().reshape(size, 3, size, 3)
    order = np.argsort(numbers)  # VibrationsData takes masses in this order
    return VibrationsData(structure, array[order][:, :, order], indices=numbers[order])


@positional_for_a_release("unit")
def from_vibrations_data(
    data: VibrationsData, *, unit: str = "cm-1", reach: float | None = None
) -> NormalModes:
    """Normal modes of the Hessian that ASE holds, rigid motions removed by projection.

    Constraints on directions of atoms hold them, as in `gamma_modes`.

    Args:
        data: Of all or some atoms of a structure, whatever its Hessian was computed with.
        unit: "cm-1", "THz" or "meV".
        reach: Up to which distance atoms feel each other, Å: each part that is connected so has
            rigid motions of its own, and a molecule in a periodic box its rotations. If None, the
            structure is one, connected to itself along all periodic directions.

    Returns:
        The modes with their diagnostics, of which the largest force is not known. If the data
        leave some atoms out, these are held fixed.

    Raises:
        ValueError: If the structure has a constraint of a kind that is not known; see `freedom`.
    """
    atoms, indices = data.get_atoms(), data.get_indices()
    left = freedom(atoms, "from_vibrations_data")
    directions = None if left.by_atoms else left.basis(indices.tolist())
    parts = None
    if reach is not None:
        edges = neighbours.search(atoms.positions, atoms.cell.array, atoms.pbc, reach)
        parts = Parts.of_edges(len(atoms), *edges)
    return normal_modes(
        torch.as_tensor(data.get_hessian()),
        torch.as_tensor(atoms.get_masses()),
        torch.as_tensor(atoms.positions),
        pbc=atoms.pbc.tolist(),
        cell=torch.as_tensor(atoms.cell.array),
        indices=indices,
        free=directions,
        parts=parts,
        unit=unit,
    )
