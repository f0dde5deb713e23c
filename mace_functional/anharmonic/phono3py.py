"""Conversion of third-order force constants to phono3py and back, as objects and as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mace_functional.anharmonic.third_order_constants import ThirdOrderForceConstants
from mace_functional.interop.phonopy import (
    Supercell,
    ase_atoms,
    phonopy_atoms,
    supercell_matrix,
)
from mace_functional.support.atomic_write import atomic_write

if TYPE_CHECKING:
    from phono3py import Phono3py

SETTINGS, SECOND_ORDER, THIRD_ORDER = "phono3py_params.yaml", "fc2.hdf5", "fc3.hdf5"
"""Names of the files, those of phono3py itself."""


def phono3py_of(
    atoms: Atoms,
    supercell: Supercell,
    *,
    phonon_supercell: Supercell | None,
    symmetry: bool,
    symprec: float,
) -> Phono3py:
    """Return a `Phono3py` object without force constants.

    Args:
        atoms: The unit cell.
        supercell: Supercell of the third order; see `to_phonopy`.
        phonon_supercell: Supercell of the second order; None for the same.
        symmetry: False to use translations between the unit cells of the supercell alone.
        symprec: Tolerance of the symmetry, Å.

    Raises:
        ValueError: If a supercell is not valid; see `to_phonopy`.
        ImportError: If phono3py is not installed.
    """
    require_phono3py()
    from phono3py import Phono3py
    from phonopy.structure.cells import guess_primitive_matrix

    other = None if phonon_supercell is None else supercell_matrix(atoms, phonon_supercell)
    unit = phonopy_atoms(atoms)
    return Phono3py(
        unit,
        supercell_matrix(atoms, supercell),
        primitive_matrix=guess_primitive_matrix(unit, symprec) if symmetry else np.eye(3),
        phonon_supercell_matrix=other,
        is_symmetry=symmetry,
        symprec=symprec,
    )


def to_phono3py(constants: ThirdOrderForceConstants) -> Phono3py:
    """Convert force constants to a `Phono3py` object, whose methods then work.

    Args:
        constants: Force constants of `third_order_force_constants`.

    Raises:
        ImportError: If phono3py is not installed.
    """
    phono3py = phono3py_of(
        constants.atoms,
        constants.supercell,
        phonon_supercell=constants.phonon_supercell,
        symmetry=constants.symmetry,
        symprec=constants.symprec,
    )
    phono3py.fc2 = constants.second_order
    phono3py.fc3 = constants.values
    return phono3py


def write_phono3py(folder: str | os.PathLike[str], constants: ThirdOrderForceConstants) -> None:
    """Write phono3py_params.yaml, fc2.hdf5 and fc3.hdf5, for phono3py's programs.

    In this folder, `phono3py-load phono3py_params.yaml --mesh ... --br` computes conductivities.

    Args:
        folder: Folder; it is made if it does not exist.
        constants: Force constants of `third_order_force_constants`.

    Raises:
        ImportError: If phono3py is not installed.
    """
    phono3py = to_phono3py(constants)
    from phono3py.file_IO import write_fc2_to_hdf5, write_fc3_to_hdf5

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first = phono3py.primitive.p2s_map
    with atomic_write(folder / THIRD_ORDER) as partial:
        write_fc3_to_hdf5(constants.values, filename=os.fspath(partial), p2s_map=first)
    first = phono3py.phonon_primitive.p2s_map
    with atomic_write(folder / SECOND_ORDER) as partial:
        write_fc2_to_hdf5(constants.second_order, filename=os.fspath(partial), p2s_map=first)
    with atomic_write(folder / SETTINGS) as partial:
        phono3py.save(partial)


def from_phono3py(source: Phono3py | str | os.PathLike[str]) -> ThirdOrderForceConstants:
    """Convert phono3py's force constants, whatever they were computed with.

    Args:
        source: A `Phono3py` object with force constants of both orders, or a folder with
            phono3py_params.yaml, fc2.hdf5 and fc3.hdf5.

    Raises:
        ValueError: If force constants or files are missing.
        ImportError: If phono3py is not installed.
    """
    require_phono3py()
    phono3py: Any = source
    if isinstance(source, str | os.PathLike):
        from phono3py import load

        folder = Path(source)
        missing = [n for n in (SETTINGS, SECOND_ORDER, THIRD_ORDER) if not (folder / n).exists()]
        if missing:
            raise ValueError(f"{folder} has no {', '.join(missing)}: write it with write_phono3py")
        phono3py = load(
            folder / SETTINGS,
            fc2_filename=folder / SECOND_ORDER,
            fc3_filename=folder / THIRD_ORDER,
            produce_fc=False,
            symmetrize_fc=False,
        )
    if phono3py.fc2 is None or phono3py.fc3 is None:
        raise ValueError(
            "phono3py lacks force constants of the second or the third order: call produce_fc2 and "
            "produce_fc3, or load them"
        )
    return ThirdOrderForceConstants(
        values=_compact(phono3py.fc3, phono3py.primitive),
        second_order=_compact(phono3py.fc2, phono3py.phonon_primitive),
        atoms=ase_atoms(phono3py.unitcell),
        supercell=np.array(phono3py.supercell_matrix),
        phonon_supercell=np.array(
            phono3py.supercell_matrix
            if phono3py.phonon_supercell_matrix is None
            else phono3py.phonon_supercell_matrix
        ),
        symprec=phono3py.symmetry.tolerance,
    )


def require_phono3py() -> None:
    """Raise an ImportError that says how to install phono3py if it is missing."""
    try:
        import phono3py  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "this needs phono3py: pip install 'mace_functional[anharmonic]'"
        ) from error


def _compact(constants: np.ndarray, primitive: Any) -> np.ndarray:
    """Return force constants whose first atom is in the primitive cell."""
    if constants.shape[0] == len(primitive):
        return constants
    return np.array(constants[primitive.p2s_map])
