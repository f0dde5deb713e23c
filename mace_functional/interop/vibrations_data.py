"""Conversion of Hessians to ASE's `VibrationsData` and back.

ASE makes animations, densities of states and infrared spectra from `VibrationsData`.
"""

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
    """Convert a Hessian, or phonons at Gamma, to ASE's `VibrationsData`.

    Args:
        source: Phonons, whose Hessian at Gamma is used; or a Hessian in eV/Å², (N, 3, N, 3) or
            (3N, 3N), together with `atoms`.
        atoms: The structure of the Hessian. Phonons know their structure.
        indices: Atoms of a partial Hessian (k, 3, k, 3), in the order of its rows, for example the
            `indices` of `gamma_modes`. None for all atoms, also if `atoms` has constraints.

    Returns:
        The data of these atoms, in ascending order of their indices.

    Raises:
        ValueError: If the structure is missing, is given twice, or does not fit the Hessian; if
            `indices` are given with phonons; if a constraint fixes anything other than whole atoms;
            or inside a transform.
    """
    refuse_transforms("to_vibrations_data", "frequencies or normal modes of the Hessian", source)
    if isinstance(source, Phonons):
        if atoms is not None or indices is not None:
            raise ValueError("phonons know their structure: leave out atoms and indices")
        structure = source.atoms.copy()
        structure.set_masses(source.masses.tolist())
        hessian = source.hessian
    elif atoms is None:
        raise ValueError("a Hessian needs its structure: give atoms")
    else:
        structure, hessian = atoms, source
        if not freedom(structure, "to_vibrations_data").by_atoms:
            raise ValueError(
                "VibrationsData can only fix whole atoms, but a constraint fixes single directions "
                "or a centre of mass: use normal_modes(..., free=...) or gamma_modes"
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
    """Compute normal modes from ASE's `VibrationsData`; rigid motions are projected out.

    Directions that constraints fix do not move, as in `gamma_modes`.

    Args:
        data: Hessian of all or some atoms of a structure, whatever it was computed with.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        reach: Largest distance of interacting atoms, Å. Atoms within this distance belong to one
            part, and each part has its own rigid motions; a molecule in a periodic box then has
            rotations. If None, the structure is one part, connected along all periodic directions.

    Returns:
        The modes with their diagnostics. The largest force is not known. Atoms that are not in the
        data are fixed.

    Raises:
        ValueError: If the structure has a constraint of an unknown kind; see `freedom`.
    """
    atoms, indices = data.get_atoms(), data.get_indices()
    freedoms = freedom(atoms, "from_vibrations_data")
    directions = None if freedoms.by_atoms else freedoms.basis(indices.tolist())
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
