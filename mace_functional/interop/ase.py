"""Calculator for ASE's optimisers, vibrations and dynamics, and for packages that use them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil
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

from mace_functional.autodiff.compilation import compile_checked
from mace_functional.derivatives import hessian
from mace_functional.derivatives.forces_and_virial import (
    EnergyDerivatives,
    energy_forces_virial,
)
from mace_functional.mace.loading import load_model
from mace_functional.potential.protocol import Potential, features_of
from mace_functional.structure.graph import Graph
from mace_functional.structure.lattice import periodic_projector, volume_of
from mace_functional.structure.structure import Structure
from mace_functional.support import validation
from mace_functional.support.defaults import SKIN
from mace_functional.support.renamed import positional_for_a_release

PADDING = 0.05
"""Part of the neighbours by which the lists of a compiled gradient are padded.

With less, a neighbour list that grows needs another compilation sooner. With more, each gradient
takes longer, in proportion to the length of the lists.
"""


class PotentialCalculator(Calculator):
    """ASE calculator with energy, forces, stress, atomic energies and the exact Hessian.

    The stress is `(1 / V) dE/de` in eV/Å³, with the volume V of the whole cell, vacuum included.
    ASE's cell filters use `V sigma`, which does not depend on the vacuum. The stress of slabs and
    rods has components along their periodic directions only. The others are zero, so filters do
    not change the vacuum. Molecules have no stress, whatever their cell.

    Args:
        potential: A potential, for example a model of `load_model`.
        skin: Distance added to the cutoff in the neighbour search, Å. The neighbour list is reused
            until atoms or cell have moved too far for it. Results do not depend on the skin.
        compiled: True to compile the gradient with `torch.compile`, which needs a C++ compiler on
            the CPU. The first call takes minutes (seconds if the files of an earlier process are
            still in torch's cache). It pays for long runs; `docs/performance.md` says how much. The
            first results of each shape are compared with plain ones, see `compile_checked`, and the
            plain gradient is used where they differ or the compiler fails. Hessians are not
            compiled.
        **kwargs: Arguments of ASE's `Calculator`.

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
    def __init__(
        self,
        potential: Potential,
        *,
        skin: float = SKIN,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.potential = potential
        self.skin = validation.skin(skin)
        self.compiled = compiled
        self.structure: Structure | None = None
        """Structure of the last call, with the neighbour list in use."""
        self._features: dict[str, Tensor] | None = None
        """Features of the structure to which `results` belongs; None without results."""
        self._features_of_structure: dict[str, Tensor] = {}
        """Features of `structure`; the last call may have been one of `get_hessian`."""
        self._width = 0
        """Number of neighbours to which graphs are padded, if the gradient is compiled."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute all properties at once: one gradient gives both forces and stress.

        Raises:
            PropertyNotImplementedError: If `properties` contains the stress and the structure has
                no periodic direction, or its cell no volume.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise ValueError("the calculator has no atoms: pass atoms to calculate")
        s = self._structure(self.atoms)
        volume, pbc = float(volume_of(s.cell)), s.topology.pbc.tolist()
        if "stress" in properties and not any(pbc):
            raise PropertyNotImplementedError(
                "the structure is periodic in no direction and has no stress, whatever its cell"
            )
        if "stress" in properties and volume == 0:
            raise PropertyNotImplementedError(
                "the cell has no volume, but the stress is an energy per volume: give the cell "
                "three lattice vectors; along directions that are not periodic, of any length"
            )
        result = self._derivatives(s.topology, s.positions, s.cell, self.potential.params)
        self._features = features_of(self.potential, self.atoms)
        self.results = {
            "energy": float(result.energy),
            "free_energy": float(result.energy),
            "energies": result.energies.detach().cpu().numpy(),
            "forces": result.forces.detach().cpu().numpy(),
        }
        if volume > 0 and any(pbc):
            projector = periodic_projector(s.cell, pbc)
            stress = (projector @ result.virial @ projector / volume).detach().cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def get_hessian(self, atoms: Atoms | None = None, **options: Any) -> np.ndarray:
        """Compute the exact Hessian, (3N, 3N) in eV/Å².

        Args:
            atoms: The structure; None for the atoms of the last calculation.
            **options: Options of `mace_functional.hessian`, for example `progress=True`.

        Raises:
            ValueError: If `atoms` is None and nothing has been calculated yet.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("the calculator has no atoms: pass atoms to get_hessian")
        s = self._structure(atoms)
        energy = self.potential.energy_fn(s.topology)
        matrix = hessian(energy, **options)(s.positions, s.cell, self.potential.params)
        size = 3 * round((matrix.numel() / 9) ** 0.5)
        return matrix.reshape(size, size).detach().cpu().numpy()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List the changes since the last results, including features in `atoms.info`."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if not changes and self._features is not None:
            new, old = features_of(self.potential, atoms), self._features
            if any(not torch.equal(new[name], old[name]) for name in new):
                changes.append("info")
        return changes

    def __getstate__(self) -> dict[str, Any]:
        # The cached function _derivatives cannot be pickled.
        return {k: v for k, v in vars(self).items() if k != "_derivatives"}

    @cached_property
    def _derivatives(self) -> Callable[[Any, Tensor, Tensor, Any], EnergyDerivatives]:
        """Energy, forces and virial as a function of topology, positions, cell and parameters."""
        potential = self.potential

        def derivatives(
            topology: Any, positions: Tensor, cell: Tensor, params: Any
        ) -> EnergyDerivatives:
            energy = potential.energy_fn(topology, per_atom=True)
            return energy_forces_virial(energy)(positions, cell, params)

        # With dynamic shapes, torch 2.13 takes more than five minutes to compile.
        return compile_checked(derivatives, dynamic=False) if self.compiled else derivatives

    def _structure(self, atoms: Atoms) -> Structure:
        """Return the structure of the atoms; reuse the last neighbour list while it is valid."""
        if self.structure is not None and self._only_moved(atoms):
            positions = torch.as_tensor(atoms.positions.copy()).to(self.structure.positions)
            cell = torch.as_tensor(atoms.cell.array.copy()).to(self.structure.cell)
            self.structure = self.structure.at(positions, cell)
        else:
            self.structure = self.potential.structure(atoms, skin=self.skin)
            self._features_of_structure = features_of(self.potential, atoms)
            self._width = 0
        if self.compiled:
            self.structure = self._of_one_shape(self.structure)
        return self.structure

    def _of_one_shape(self, structure: Structure) -> Structure:
        """Pad the edges of a graph, so that rebuilt neighbour lists seldom need a compilation."""
        graph = structure.topology
        if not isinstance(graph, Graph) or graph.senders.shape[1] == self._width:
            return structure
        neighbours = graph.senders.shape[1]
        if neighbours > self._width:
            self._width = neighbours + ceil(PADDING * neighbours)
        return replace(structure, topology=graph.padded(self._width))

    def _only_moved(self, atoms: Atoms) -> bool:
        """Return True if at most positions and cell differ from the last structure."""
        last, features = self.structure, features_of(self.potential, atoms)
        return (
            last is not None
            and np.array_equal(atoms.numbers, last.numbers.cpu().numpy())
            and np.array_equal(atoms.pbc, last.topology.pbc.cpu().numpy())
            and all(torch.equal(features[k], self._features_of_structure[k]) for k in features)
        )


class MaceCalculator(PotentialCalculator):
    """`PotentialCalculator` that also takes the name or file of a MACE model.

    Args:
        model: A potential, or an argument of `load_model`: a name such as "small", a path or a
            module.
        skin: See `PotentialCalculator`.
        compiled: See `PotentialCalculator`.
        **kwargs: Arguments of ASE's `Calculator`.

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
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        potential = model if isinstance(model, Potential) else load_model(model)
        super().__init__(potential, skin=skin, compiled=compiled, **kwargs)

    @property
    def model(self) -> Potential:
        """The potential; the same object as the attribute `potential`."""
        return self.potential
