"""Hessians to ASE's `VibrationsData` and back: its animations, densities of states, Infrared."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.vibrations import VibrationsData
from torch import Tensor

from mace_functional.phonons import Phonons
from mace_functional.selection import Selection, atom_numbers
from mace_functional.vibrations import NormalModes, normal_modes


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
        ValueError: If the structure is missing, given twice, or does not fit the Hessian; or if
            some of the atoms of phonons are chosen.
    """
    if isinstance(source, Phonons):
        if atoms is not None or indices is not None:
            raise ValueError("phonons know their structure: leave atoms out, and indices")
        structure = source.atoms.copy()
        structure.set_masses(source.masses.tolist())
        root = source.masses.sqrt().repeat_interleave(3)
        matrix = source.dynamical_matrix(source.masses.new_zeros(3)).real
        hessian = matrix * (root[:, None] * root)
    elif atoms is None:
        raise ValueError("a Hessian needs the atoms that it belongs to")
    else:
        structure, hessian = atoms, source
    numbers = np.arange(len(structure))
    if indices is not None:
        numbers = np.asarray(atom_numbers(indices, len(structure)))
    size = len(numbers)
    if hessian.numel() != 9 * size**2:
        raise ValueError(f"a Hessian {tuple(hessian.shape)} does not fit {size} atoms")
    array = hessian.detach().cpu().numpy().reshape(size, 3, size, 3)
    order = np.argsort(numbers)  # VibrationsData takes masses in this order
    return VibrationsData(structure, array[order][:, :, order], indices=numbers[order])


def from_vibrations_data(data: VibrationsData, unit: str = "cm-1") -> NormalModes:
    """Normal modes of the Hessian that ASE holds, rigid motions removed by projection.

    Args:
        data: Of all or some atoms of a structure, whatever its Hessian was computed with.
        unit: "cm-1", "THz" or "meV".

    Returns:
        The modes with their diagnostics, of which the largest force is not known. If the data
        leave some atoms out, these are held fixed, and no rigid motion is removed.
    """
    atoms = data.get_atoms()
    return normal_modes(
        torch.as_tensor(data.get_hessian()),
        torch.as_tensor(atoms.get_masses()),
        torch.as_tensor(atoms.positions),
        pbc=atoms.pbc.tolist(),
        cell=torch.as_tensor(atoms.cell.array),
        indices=data.get_indices(),
        unit=unit,
    )
