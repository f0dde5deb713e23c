"""Calculator for pysisyphus: for its transition states, reaction paths and growing strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from scipy import constants as codata

from mace_functional.interop.ase import PotentialCalculator
from mace_functional.support.defaults import SKIN
from mace_functional.support.renamed import positional_for_a_release

if TYPE_CHECKING:
    from mace_functional.potential.protocol import Potential

BOHR = codata.value("Bohr radius") * 1e10
"""Bohr radius, Å; the CODATA value of scipy, as in pysisyphus."""

HARTREE = codata.value("Hartree energy in eV")
"""Hartree energy, eV; the CODATA value of scipy, as in pysisyphus."""


class PysisyphusCalculator:
    """Calculator of pysisyphus with energy, forces and exact Hessian of a molecule.

    It is an argument of `Geometry.set_calculator`. Like pysisyphus, it has no periodic directions.

    Args:
        potential: A potential, for example a model of `load_model`.
        charge: Total charge, for models that embed it.
        mult: Spin multiplicity, for models that embed it.
        skin: See `PotentialCalculator`.

    Example:
        >>> geometry = geom_loader("guess.xyz", coord_type="redund")  # doctest: +SKIP
        >>> geometry.set_calculator(PysisyphusCalculator(model))  # doctest: +SKIP
        >>> RSPRFOptimizer(geometry, hessian_recalc=1).run()  # doctest: +SKIP
    """

    @positional_for_a_release("charge", "mult", "skin")
    def __init__(
        self, potential: Potential, *, charge: int = 0, mult: int = 1, skin: float = SKIN
    ) -> None:
        self.charge, self.mult = charge, mult
        self._calculator = PotentialCalculator(potential, skin=skin)

    def get_energy(
        self, atoms: Sequence[str], coords: np.ndarray, **kwargs: Any
    ) -> dict[str, float]:
        """Compute the energy in Hartree.

        Args:
            atoms: Chemical symbols, (N,).
            coords: Coordinates in Bohr, (3N,).
            **kwargs: Arguments of pysisyphus for other programs; not used.
        """
        molecule = self._molecule(atoms, coords)
        return {"energy": self._calculator.get_potential_energy(molecule) / HARTREE}

    def get_forces(self, atoms: Sequence[str], coords: np.ndarray, **kwargs: Any) -> dict[str, Any]:
        """Compute energy and forces (3N,) in Hartree/Bohr; for arguments, see `get_energy`."""
        molecule = self._molecule(atoms, coords)
        energy = self._calculator.get_potential_energy(molecule) / HARTREE
        forces = self._calculator.get_forces(molecule).ravel() * (BOHR / HARTREE)
        return {"energy": energy, "forces": forces}

    def get_hessian(
        self, atoms: Sequence[str], coords: np.ndarray, **kwargs: Any
    ) -> dict[str, Any]:
        """Compute energy, forces and the Hessian (3N, 3N) in Hartree/Bohr²; see `get_energy`."""
        hessian = self._calculator.get_hessian(self._molecule(atoms, coords))
        return {**self.get_forces(atoms, coords), "hessian": hessian * (BOHR**2 / HARTREE)}

    def _molecule(self, symbols: Sequence[str], coords: np.ndarray) -> Atoms:
        """Return the molecule as `Atoms`, in Å."""
        return Atoms(
            [symbol.capitalize() for symbol in symbols],
            np.reshape(coords, (-1, 3)) * BOHR,
            info={"charge": self.charge, "spin": self.mult},
        )
