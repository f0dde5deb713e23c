"""Force constants of second and third order of a crystal, in supercells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mace_functional.vibrations.result_text import result_text


@dataclass(frozen=True, eq=False)
class ThirdOrderForceConstants:
    """Second and third derivatives of the energy of a crystal by atomic positions.

    They are those of phono3py: the first atom is in phono3py's primitive cell, the others are in
    the supercell, and forces of atoms include those of their images.

    Attributes:
        values: Third order, d3E / dx_i dx_j dx_k in eV/Å³, (n, S, S, 3, 3, 3).
        second_order: Second order, d2E / dx_i dx_j in eV/Å², (n, P, 3, 3).
        atoms: The unit cell.
        supercell: Matrix of the supercell of the third order, with S atoms, (3, 3).
        phonon_supercell: Matrix of the supercell of the second order, with P atoms, (3, 3).
        symprec: Tolerance of the symmetry, Å.
        symmetry: True if the space group was used.
        cutoff: Largest distance of pairs of displaced atoms, Å; None for all pairs.
        n_pairs: Number of third derivatives along pairs of displacements; 0 if unknown.
        error: Error of the third order, relative to its size, as root mean square along random
            displacements; NaN if unknown.
        frequency_error: Largest error of frequencies from the second order, between the wave
            vectors that are commensurate with its supercell, THz; NaN if unknown.
        largest_force: Largest force on an atom, eV/Å; NaN if unknown.
    """

    values: np.ndarray
    second_order: np.ndarray
    atoms: Atoms
    supercell: np.ndarray
    phonon_supercell: np.ndarray
    symprec: float
    symmetry: bool = True
    cutoff: float | None = None
    n_pairs: int = 0
    error: float = math.nan
    frequency_error: float = math.nan
    largest_force: float = math.nan

    def __repr__(self) -> str:
        n, size = self.values.shape[:2]
        return result_text(
            self,
            f"{self.atoms.get_chemical_formula()}, {n} atoms in the primitive cell",
            f"third order in a supercell of {size} atoms",
            f"second order in one of {self.second_order.shape[1]} atoms",
            None if self.cutoff is None else f"pairs within {self.cutoff:g} Å",
            None if math.isnan(self.error) else f"relative error {self.error:.1e}",
        )

    def along(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Compute d3E[u, v, .] for displacements u of the primitive cell.

        Args:
            u: Displacements of the atoms of the primitive cell, Å, (n, 3).
            v: Displacements of the atoms of the supercell, Å, (S, 3).

        Returns:
            Third derivatives in eV/Å, (S, 3).
        """
        by_v = np.einsum("ijkabc,jb->ikac", self.values, v)
        derivatives: np.ndarray = np.einsum("ikac,ia->kc", by_v, u)
        return derivatives
