"""The calculator for pysisyphus: its transition states, reaction paths and growing strings."""

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
"""Å; the CODATA values of scipy, as in pysisyphus."""

HARTREE = codata.value("Hartree energy in eV")
"""eV."""


class PysisyphusCalculator:
    """Energy, forces and exact Hessian of a molecule, in the units of pysisyphus.

    For `Geometry.set_calculator`. pysisyphus knows no periodic directions, and neither does this.

    Args:
        potential: Such as a model of `load_model`.
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
        """Energy in Hartree.

        Args:
            atoms: Chemical symbols, (N,).
            coords: Bohr, (3N,).
            **kwargs: What pysisyphus passes on to other programs; not used.
        """
        here = self._molecule(atoms, coords)
        return {"energy": self._calculator.get_potential_energy(here) / HARTREE}

    def get_forces(self, atoms: Sequence[str], coords: np.ndarray, **kwargs: Any) -> dict[str, Any]:
        """Energy, and forces (3N,) in Hartree/Bohr; arguments as those of `get_energy`."""
        here = self._molecule(atoms, coords)
        forces = self._calculator.get_forces(here).ravel() * (BOHR / HARTREE)
        return {"energy": self._calculator.get_potential_energy(here) / HARTREE, "forces": forces}

    def get_hessian(
        self, atoms: Sequence[str], coords: np.ndarray, **kwargs: Any
    ) -> dict[str, Any]:
        """Energy, forces, and Hessian (3N, 3N) in Hartree/Bohr²; arguments as above."""
        hessian = self._calculator.get_hessian(self._molecule(atoms, coords))
        return {**self.get_forces(atoms, coords), "hessian": hessian * (BOHR**2 / HARTREE)}

    def _molecule(self, symbols: Sequence[str], coords: np.ndarray) -> Atoms:
        return Atoms(
            [symbol.capitalize() for symbol in symbols],
            np.reshape(coords, (-1, 3)) * BOHR,
            info={"charge": self.charge, "spin": self.mult},
        )
