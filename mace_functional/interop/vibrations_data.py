"""Hessians to ASE's `VibrationsData` and back: its animations, densities of states, Infrared."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.vibrations import VibrationsData
from torch import Tensor

from mace_functional.phonons import Phonons
from mace_functional.vibrations import NormalModes, normal_modes


def to_vibrations_data(source: Phonons | Tensor, atoms: Atoms | None = None) -> VibrationsData:
    """ASE's container of a structure and its Hessian.

    Args:
        source: Phonons, of which those at Gamma are taken; or a Hessian in eV/Å², (N, 3, N, 3) or
            (3N, 3N), with `atoms`.
        atoms: The structure of the Hessian; that of the phonons is known.

    Returns:
        The data of all atoms, whatever constraints `atoms` has.

    Raises:
        ValueError: If the structure is missing, given twice, or does not fit the Hessian.
    """
    if isinstance(source, Phonons):
        if atoms is not None:
            raise ValueError("phonons know their structure: leave atoms out")
        structure = source.atoms.copy()
        structure.set_masses(source.masses.tolist())
        root = source.masses.sqrt().repeat_interleave(3)
        matrix = source.dynamical_matrix(source.masses.new_zeros(3)).real
        hessian = matrix * (root[:, None] * root)
    elif atoms is None:
        raise ValueError("a Hessian needs the atoms that it belongs to")
    else:
        structure, hessian = atoms, source
    size = len(structure)
    if hessian.numel() != 9 * size**2:
        raise ValueError(f"a Hessian {tuple(hessian.shape)} does not fit {size} atoms")
    array = hessian.detach().cpu().numpy().reshape(size, 3, size, 3)
    return VibrationsData(structure, array, indices=range(size))


def from_vibrations_data(data: VibrationsData, unit: str = "cm-1") -> NormalModes:
    """Normal modes of the Hessian that ASE holds, rigid motions removed by projection.

    Args:
        data: Of all atoms of a structure, whatever its Hessian was computed with.
        unit: "cm-1", "THz" or "meV".

    Returns:
        The modes with their diagnostics, of which the largest force is not known.

    Raises:
        ValueError: If some atoms are left out: what is held fixed has no rigid motions.
    """
    atoms = data.get_atoms()
    if not np.array_equal(data.get_indices(), range(len(atoms))):
        raise ValueError(
            f"the Hessian is that of {len(data.get_indices())} of {len(atoms)} atoms: rigid "
            "motions can only be removed from that of all"
        )
    return normal_modes(
        torch.as_tensor(data.get_hessian()),
        torch.as_tensor(atoms.get_masses()),
        torch.as_tensor(atoms.positions),
        pbc=atoms.pbc.tolist(),
        cell=torch.as_tensor(atoms.cell.array),
        unit=unit,
    )
