"""Labelled structures from phonopy: displaced supercells, and force constants as curvature."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mace_functional.interop.phonopy import (
    CALCULATORS_IN_EV_AND_ANGSTROM,
    ase_atoms,
    require_phonopy,
)
from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.formats import COMPRESSED
from mace_functional.training.labelled_structure import Curvature, LabelledStructure

if TYPE_CHECKING:
    from phonopy import Phonopy


def is_phonopy_file(path: Path) -> bool:
    """Return True for the name of a yaml file, which may be compressed."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower() in (".yaml", ".yml")


def labelled_phonopy(path: Path) -> list[LabelledStructure]:
    """Read the labelled structures of a phonopy.yaml and of the files beside it.

    Args:
        path: Path of phonopy.yaml, phonopy_params.yaml or phonopy_disp.yaml. As in `phonopy.load`,
            forces and force constants that it does not hold are read from FORCE_SETS,
            FORCE_CONSTANTS or force_constants.hdf5 in its folder.

    Returns:
        The perfect supercell with its curvature, if there are force constants, and the displaced
        supercells with forces, and with energies if there are any. Units of other calculators are
        converted with phonopy's constants, which differ from CODATA by a relative 1e-6.

    Raises:
        StructureError: If the file cannot be read, has neither, or is in unknown units.
        ImportError: If phonopy is not installed.
    """
    require_phonopy()
    if not path.is_file():
        raise StructureError(f"there is no file {path}")
    try:
        phonopy = _load(path)
        length, force, energy = _units(phonopy.calculator)
        structures = [
            *_perfect(phonopy, path.name, length, force),
            *_displaced(phonopy, path.name, length, force, energy),
        ]
    except Exception as error:  # phonopy raises exceptions of any type
        reason = str(error) or type(error).__name__
        raise StructureError(f"{path}: no labels can be read from it: {reason}") from error
    if not structures:
        raise StructureError(
            f"{path}: it has neither forces nor force constants: put FORCE_SETS, FORCE_CONSTANTS "
            "or force_constants.hdf5 into its folder, or give a phonopy_params.yaml that has them"
        )
    return structures


def _load(path: Path) -> Phonopy:
    """Load a file with those beside it; phonopy looks for them in the working directory."""
    from phonopy import load

    with contextlib.chdir(path.absolute().parent):
        return load(path.name, produce_fc=False, is_nac=False, is_symmetry=False)


def _units(calculator: str | None) -> tuple[float, float, float]:
    """Return a calculator's units of length, force and energy in phonopy, in Å, eV/Å and eV."""
    if calculator in CALCULATORS_IN_EV_AND_ANGSTROM:
        return 1.0, 1.0, 1.0
    try:
        from phonopy.physical_units import get_calculator_physical_units
    except ImportError as error:
        raise StructureError(
            f"its units are those of {calculator!r}, which this phonopy cannot convert: install "
            "phonopy 4 or newer"
        ) from error
    units = get_calculator_physical_units(calculator)
    return units.distance_to_A, units.force_to_eVperA, units.energy_to_eV


def _perfect(
    phonopy: Phonopy, name: str, length: float, force: float
) -> Iterator[LabelledStructure]:
    """Yield the perfect supercell with the force constants as its curvature, if there are any."""
    if phonopy.force_constants is None:
        return
    columns = np.asarray(phonopy.force_constants).transpose(0, 2, 1, 3) * (force / length)
    if len(columns) == len(phonopy.supercell):
        curvature = Curvature.of_hessian(columns)
    else:
        curvature = Curvature.of_columns(list(phonopy.primitive.p2s_map), columns)
    yield LabelledStructure(
        _atoms(phonopy.supercell, length), curvature=curvature, name=f"{name}@perfect"
    )


def _displaced(
    phonopy: Phonopy, name: str, length: float, force: float, energy: float
) -> Iterator[LabelledStructure]:
    """Yield the displaced supercells that have forces, with energies if there are any."""
    dataset: Any = phonopy.dataset or {}
    cells = phonopy.supercells_with_displacements or []
    if "first_atoms" in dataset:
        labels = [(d.get("forces"), d.get("supercell_energy")) for d in dataset["first_atoms"]]
    else:
        forces, energies = dataset.get("forces"), dataset.get("supercell_energies")
        labels = [
            (None if forces is None else forces[k], None if energies is None else energies[k])
            for k in range(len(cells))
        ]
    for number, (cell, (forces, total)) in enumerate(zip(cells, labels, strict=True)):
        if forces is not None:
            yield LabelledStructure(
                _atoms(cell, length),
                energy=None if total is None else total * energy,
                forces=np.asarray(forces) * force,
                name=f"{name}@{number}",
            )


def _atoms(cell: Any, length: float) -> Atoms:
    """Return a supercell of phonopy as ASE Atoms, in Å."""
    atoms = ase_atoms(cell)
    atoms.set_cell(atoms.cell.array * length, scale_atoms=True)
    return atoms
