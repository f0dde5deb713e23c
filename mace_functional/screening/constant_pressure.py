"""Heat capacity of one structure at constant pressure, to first order in its thermal expansion.

The file beside the record has modes with their Grüneisen parameters, and the stiffness of the cell.
They give Cp - Cv at any temperature, so other temperatures cost nothing.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mace_functional.expansion.strained_modes import (
    RELAXED_STRAIN,
    StrainedModes,
    strained_modes,
)
from mace_functional.phonons.mesh import Mesh
from mace_functional.screening.record import Record
from mace_functional.screening.tensor_files import load_tensors, save_tensors
from mace_functional.screening.wording import counted, reason_of

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

GRUNEISEN = "gruneisen.npz"
"""Name of the file, with the attributes of `StrainedModes` as keys."""

MOLECULE = "a molecule has no thermal expansion (for the Cp of its gas: mace-functional thermo)"

NEEDS_MINIMUM = "thermal expansion needs a minimum"
"""End of the reason of a structure with imaginary modes."""


def at_constant_pressure(
    model: Potential,
    atoms: Atoms,
    mesh: Mesh | None,
    n_imaginary: int,
    *,
    symprec: float,
    memory_budget: int | None,
) -> tuple[StrainedModes | None, dict[str, Any]]:
    """Compute what Cp - Cv is made of, or find the reason why there is none.

    Args:
        model: The potential.
        atoms: The structure.
        mesh: Mesh of wave vectors; None for Gamma alone.
        n_imaginary: Number of imaginary modes, over all wave vectors.
        symprec: Tolerance of the symmetry, Å.
        memory_budget: Bytes for second derivatives.

    Returns:
        The modes, or None, and the part of the record about them.
    """
    if not atoms.pbc.any():
        return None, {"no_cp": MOLECULE}
    if n_imaginary:
        return None, {"no_cp": _no_minimum(n_imaginary)}
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the record has what they say
            modes = strained_modes(
                model,
                atoms,
                Mesh.of(atoms, (1, 1, 1), symprec=symprec) if mesh is None else mesh,
                symprec=symprec,
                what="a heat capacity at constant pressure",
                memory_budget=memory_budget,
            )
    except Exception as error:  # the heat capacity at constant volume is there all the same
        return None, {"no_cp": reason_of(error)}
    if modes.n_imaginary:
        return None, {"no_cp": _no_minimum(modes.n_imaginary)}
    return modes, {
        "strain_to_minimum": modes.strain_to_minimum,
        "seconds_cp": time.perf_counter() - started,
    }


def is_cp_retried(record: Record) -> bool:
    """True if a structure has no heat capacity at constant pressure because of an error.

    Molecules and imaginary modes are no errors.
    """
    no_minimum = record.n_imaginary or (record.no_cp or "").endswith(NEEDS_MINIMUM)
    return record.no_cp is not None and record.no_cp != MOLECULE and not no_minimum


def save_modes(folder: Path, modes: StrainedModes) -> None:
    """Write modes to the folder of their structure."""
    save_tensors(folder / GRUNEISEN, modes)


def load_modes(folder: Path) -> StrainedModes:
    """Read what `save_modes` wrote."""
    return load_tensors(StrainedModes, folder / GRUNEISEN)


def strain_words(record: Record) -> str | None:
    """Describe a cell that is not the cell of minimal energy, to which Cp belongs."""
    strain = record.strain_to_minimum
    if strain is None or strain <= RELAXED_STRAIN:
        return None
    return f"a strain of about {strain:.1e} leads to the minimum of the energy"


def _no_minimum(n_imaginary: int) -> str:
    return f"{counted(n_imaginary, 'imaginary mode')}: {NEEDS_MINIMUM}"
