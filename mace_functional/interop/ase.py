"""The calculator for ASE: its optimisers, vibrations and dynamics, and what builds on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from mace_functional.derivatives import hessian
from mace_functional.derivatives.forces_and_virial import energy_forces_virial
from mace_functional.mace.loading import load_model
from mace_functional.potential.protocol import Potential, features_of
from mace_functional.structure.lattice import periodic_projector, volume_of
from mace_functional.structure.structure import Structure
from mace_functional.support import validation
from mace_functional.support.defaults import SKIN
from mace_functional.support.renamed import positional_for_a_release


class PotentialCalculator(Calculator):
    """Energy, forces, stress, energies of the atoms, and the exact Hessian.

    The stress is `(1 / V) dE/de`, in eV/Å³, with the volume V of the cell as it is given, vacuum
    included: `V sigma`, which ASE's cell filters take from it, does not depend on the vacuum. Slabs
    and rods are strained along their periodic directions only; components along the others are
    zero, so that filters leave the vacuum as it is. Molecules have no stress, whatever their cell.

    Args:
        potential: Such as a model of `load_model`.
        skin: Added to the cutoff in the neighbour search, Å: the neighbour list is used again until
            atoms or cell have moved too far for it. Results do not depend on it.
        **kwargs: Passed on to ASE's `Calculator`.

    Raises:
        ValueError: If the skin is negative or not finite.

    Example:
        >>> from ase.build import molecule
        >>> from ase.vibrations import VibrationsData
        >>> atoms = molecule("H2O")
        >>> atoms.calc = PotentialCalculator(load_model("embedded"))
        >>> data = VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms))
        >>> len(data.get_energies())
        9
    """

    implemented_properties = [  # noqa: RUF012  (ASE declares an instance variable)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    @positional_for_a_release("skin")
    def __init__(self, potential: Potential, *, skin: float = SKIN, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.potential = potential
        self.skin = validation.skin(skin)
        self.structure: Structure | None = None
        """Structure of the last call, with the neighbour list in use."""
        self._features: dict[str, Tensor] | None = None
        """Those of the structure that the results are for."""
        self._features_of_structure: dict[str, Tensor] = {}
        """Those of the structure of the last call, which may be of a Hessian."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute all properties at once: the gradient gives forces and stress together.

        Raises:
            PropertyNotImplementedError: If a stress is asked for of a structure that is periodic in
                no direction, or whose cell has no volume.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise ValueError("give the atoms whose properties are wanted")
        s = self._structure(self.atoms)
        volume, pbc = float(volume_of(s.cell)), s.topology.pbc.tolist()
        if "stress" in properties and not any(pbc):
            raise PropertyNotImplementedError(
                "the structure is periodic in no direction and has no stress, whatever its cell"
            )
        if "stress" in properties and volume == 0:
            raise PropertyNotImplementedError(
                "a stress is per volume, and the cell has none: give it a lattice vector along the "
                "directions that are not periodic too"
            )
        derivatives = energy_forces_virial(self.potential.energy_fn(s.topology, per_atom=True))
        found = derivatives(s.positions, s.cell, self.potential.params)
        self._features = features_of(self.potential, self.atoms)
        self.results = {
            "energy": float(found.energy),
            "free_energy": float(found.energy),
            "energies": found.energies.detach().cpu().numpy(),
            "forces": found.forces.detach().cpu().numpy(),
        }
        if volume > 0 and any(pbc):
            inside = periodic_projector(s.cell, pbc)
            stress = (inside @ found.virial @ inside / volume).detach().cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def get_hessian(self, atoms: Atoms | None = None, **options: Any) -> np.ndarray:
        """Exact Hessian, (3N, 3N) in eV/Å².

        Args:
            atoms: The structure; the calculator's own if None.
            **options: Passed on to `mace_functional.hessian`, such as `progress=True`.

        Raises:
            ValueError: If there is no structure.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("give the atoms whose Hessian is wanted")
        s = self._structure(atoms)
        energy = self.potential.energy_fn(s.topology)
        matrix = hessian(energy, **options)(s.positions, s.cell, self.potential.params)
        size = 3 * round((matrix.numel() / 9) ** 0.5)
        return matrix.reshape(size, size).detach().cpu().numpy()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the results; also the features of `atoms.info` that matter."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if not changes and self._features is not None:
            now, before = features_of(self.potential, atoms), self._features
            if any(not torch.equal(now[name], before[name]) for name in now):
                changes.append("info")
        return changes

    def _structure(self, atoms: Atoms) -> Structure:
        """The structure of the atoms, with the neighbour list of the last call while it holds."""
        if self.structure is not None and self._same_but_moved(atoms):
            positions = torch.as_tensor(atoms.positions.copy()).to(self.structure.positions)
            cell = torch.as_tensor(atoms.cell.array.copy()).to(self.structure.cell)
            self.structure = self.structure.at(positions, cell)
        else:
            self.structure = self.potential.structure(atoms, skin=self.skin)
            self._features_of_structure = features_of(self.potential, atoms)
        return self.structure

    def _same_but_moved(self, atoms: Atoms) -> bool:
        """Whether only positions and cell differ from the last structure."""
        last, features = self.structure, features_of(self.potential, atoms)
        return (
            last is not None
            and np.array_equal(atoms.numbers, last.numbers.cpu().numpy())
            and np.array_equal(atoms.pbc, last.topology.pbc.cpu().numpy())
            and all(torch.equal(features[k], self._features_of_structure[k]) for k in features)
        )


class MaceCalculator(PotentialCalculator):
    """`PotentialCalculator` of a MACE model, which it loads where it is given a name.

    Args:
        model: From `load_model`, or what it takes: a name such as "small", a path or a module.
        skin: As of `PotentialCalculator`.
        **kwargs: Passed on to ASE's `Calculator`.

    Example:
        >>> from ase.build import molecule
        >>> atoms = molecule("H2O")
        >>> atoms.calc = MaceCalculator("embedded")
        >>> atoms.get_forces().shape
        (3, 3)
    """

    @positional_for_a_release("skin")
    def __init__(
        self,
        model: Potential | str | os.PathLike[str] | torch.nn.Module,
        *,
        skin: float = SKIN,
        **kwargs: Any,
    ) -> None:
        potential = model if isinstance(model, Potential) else load_model(model)
        super().__init__(potential, skin=skin, **kwargs)

    @property
    def model(self) -> Potential:
        """The model, a potential."""
        return self.potential
