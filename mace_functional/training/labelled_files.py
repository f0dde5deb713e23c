"""Labelled structures from files: extended XYZ with the keys of mace-torch, and phonopy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mace_functional.structure.reading.errors import StructureError
from mace_functional.training.label_keys import LabelKeys
from mace_functional.training.labelled_frames import is_isolated, labelled_frames, read_frames
from mace_functional.training.labelled_phonopy import is_phonopy_file, labelled_phonopy
from mace_functional.training.labelled_structure import LabelledStructure


def read_labelled(
    path: str | os.PathLike[str],
    *,
    energy_key: str | None = "REF_energy",
    forces_key: str | None = "REF_forces",
    stress_key: str | None = "REF_stress",
    virials_key: str | None = "REF_virials",
    hessian_key: str | None = "REF_hessian",
    hessians: str | os.PathLike[str] | None = None,
    config_type_weights: Mapping[str, float] | None = None,
    keep_isolated_atoms: bool = False,
) -> list[LabelledStructure]:
    """Read the labelled structures of a file.

    Keys, weights and signs are those of mace-torch. A stress is (3, 3), nine numbers, or six in the
    order xx, yy, zz, yz, xz, xy. Virials are W = -V sigma, with the volume V and the stress sigma.
    The weight of a structure is its `config_weight` times the weight of its `config_type`, and a
    `config_energy_weight=0` takes its energy away, as those of other labels do.

    Hessians, in eV/Å², are an array of (N, 9N) or 9N² numbers in the frame, or arrays in an npz
    file, (3N, 3N) or (N, 3, N, 3), that are named by the name of the structure
    (`atoms.info["name"]`) or by its number in the file, counted from 0.

    Args:
        path: Path of a file of structures in any format that ASE reads, or of a phonopy.yaml,
            phonopy_params.yaml or phonopy_disp.yaml. Of phonopy's files, the displaced supercells
            are read, with forces and any energies, and force constants as the curvature of the
            perfect supercell. FORCE_SETS, FORCE_CONSTANTS and force_constants.hdf5 are found in the
            same folder. Units of other calculators are converted.
        energy_key: Key of the energy, eV, in `atoms.info`; "energy" for the result of the
            calculator, which is where ASE puts the `energy` of a file; None for no energies.
        forces_key: Key of the forces, eV/Å, in `atoms.arrays`; likewise "forces" and None.
        stress_key: Key of the stress, eV/Å³, in `atoms.info`; likewise "stress" and None.
        virials_key: Key of the virials, eV, in `atoms.info`, for structures without a stress.
        hessian_key: Key of the Hessian in `atoms.info` or `atoms.arrays`.
        hessians: Path of an npz file of Hessians; None for `NAME.hessians.npz` beside the file
            `NAME.extxyz`, if there is one.
        config_type_weights: Weights of the values of `config_type`, 1 for those without one;
            "Default" for structures without a `config_type`.
        keep_isolated_atoms: Whether to read single atoms with the `config_type` `IsolatedAtom`.
            Their energies are the reference energies, `isolated_atom_energies`.

    Returns:
        The structures, in the order of the file.

    Raises:
        StructureError: If the file cannot be read, a structure has no label or a wrong one, or
            labels are found nowhere but among results of a calculator, which any program may have
            written. It is a ValueError; it names the file, the structure, and what to do.
        ImportError: If the file is phonopy's and phonopy is not installed.
    """
    path = Path(path)
    if is_phonopy_file(path):
        if hessians is not None:
            raise StructureError(
                f"{path}: force constants of phonopy are read from its own files, not from "
                f"{hessians}: leave out hessians"
            )
        return labelled_phonopy(path)
    return labelled_frames(
        path,
        keys=LabelKeys(energy_key, forces_key, stress_key, virials_key, hessian_key),
        hessians=None if hessians is None else Path(hessians),
        config_type_weights=config_type_weights or {},
        keep_isolated_atoms=keep_isolated_atoms,
    )


def isolated_atom_energies(
    path: str | os.PathLike[str], *, energy_key: str = "REF_energy"
) -> dict[int, float]:
    """Read the energies of isolated atoms, which mace-torch takes as reference energies.

    Args:
        path: Path of a file of structures in any format that ASE reads.
        energy_key: See `read_labelled`.

    Returns:
        Energies in eV, by atomic number, of the structures of a single atom with the `config_type`
        `IsolatedAtom`; empty if there are none.

    Raises:
        StructureError: If the file cannot be read, or one of them has no energy, or an element
            has two.
    """
    path = Path(path)
    keys = LabelKeys(energy_key, None, None, None, None)
    energies: dict[int, float] = {}
    for number, atoms in enumerate(read_frames(path)):
        if not is_isolated(atoms):
            continue
        Z, energy = int(atoms.numbers[0]), keys.find("energy", atoms)
        if energy is None:
            raise StructureError(
                f"{path}, structure {number}: the isolated atom {atoms.symbols} has no "
                f"{energy_key!r}: pass the right energy_key, or give its energy"
            )
        if Z in energies:
            raise StructureError(
                f"{path}, structure {number}: it is the second isolated atom {atoms.symbols}: "
                "remove one"
            )
        energies[Z] = float(energy)
    return energies
