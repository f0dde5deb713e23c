"""Choice of a supercell: multiples of the conventional cell, thick enough in all directions."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from mace_functional.structure.symmetry import conventional_multiples
from mace_functional.support.defaults import SYMPREC


def thick_supercell(
    atoms: Atoms, thickness: float, most_atoms: int, symprec: float = SYMPREC
) -> np.ndarray:
    """Return the smallest supercell of a thickness, which keeps the symmetry of the lattice.

    The thickness is the shortest distance of opposite faces. Half of it is the range of force
    constants that the supercell holds in every direction.

    Args:
        atoms: The crystal, periodic in all directions.
        thickness: The thickness, Å.
        most_atoms: Largest number of atoms. If the thickness takes more, the supercell is the
            thickest that has no more; one cell is the least.
        symprec: Tolerance of the symmetry of the lattice, Å.

    Returns:
        phonopy's supercell matrix, whose columns are the lattice vectors, (3, 3).
    """
    cell = atoms.cell.array
    multiples = conventional_multiples(cell, symprec)
    multiples *= np.sign(np.linalg.det(multiples))
    if len(atoms) * np.linalg.det(multiples) > most_atoms:
        multiples = np.eye(3)
    heights = 1 / np.linalg.norm(np.linalg.inv(multiples @ cell), axis=0)
    most_cells = most_atoms / (len(atoms) * np.linalg.det(multiples))
    repeats = np.ones(3)
    while min(repeats * heights) < thickness * (1 - 1e-9):
        # Directions of equal height are repeated together, which keeps the symmetry.
        heights_now = repeats * heights
        more = repeats + (heights_now < min(heights_now) * (1 + 1e-6))
        if np.prod(more) > most_cells:
            break
        repeats = more
    return np.rint(np.diag(repeats) @ multiples).astype(int).T
