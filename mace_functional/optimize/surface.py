"""The potential energy surface in the coordinates of a relaxation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import GPa
from torch import Tensor
from torch.func import grad, grad_and_value, vjp

from mace_functional.autodiff.columns import map_columns
from mace_functional.optimize.coordinates import STRAINS, Coordinates
from mace_functional.potential.energy import from_ase
from mace_functional.potential.protocol import Potential
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts, parts_of
from mace_functional.structure.contacts import REFUSED, smallest_ratio
from mace_functional.structure.lattice import volume_of
from mace_functional.structure.structure import Structure

SKIN = 0.1
"""Of the neighbour lists, Å."""

Products = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Point:
    """The surface at one geometry.

    Attributes:
        z: Free coordinates, (d,).
        energy: Energy, or enthalpy under pressure, eV; infinite where there is no structure.
        gradient: By z, (d,).
        results: Energy, forces and, for crystals, stress, as calculators of ASE have them.
        largest_force: On any atom, of what is free, eV/Å.
        largest_virial: Largest row of the free part of dE/de, over the number of atoms, eV.
        largest_stress: Largest component of its free part, pressure included, GPa; for slabs and
            rods over the volume of the cell as it is given, with its vacuum.
    """

    z: np.ndarray
    energy: float
    gradient: np.ndarray
    results: dict[str, Any]
    largest_force: float
    largest_virial: float
    largest_stress: float

    @property
    def residual(self) -> float:
        """Largest of the forces and the virial per atom, as optimisers of ASE's filters see it."""
        return max(self.largest_force, self.largest_virial)


class Surface:
    """Energy, gradient and Hessian by free coordinates; the neighbour list follows the atoms.

    Args:
        model: From `load_model`.
        atoms: The geometry at z = 0.
        coordinates: The meaning of z.
        pressure: GPa.
    """

    def __init__(
        self, model: Potential, atoms: Atoms, coordinates: Coordinates, pressure: float = 0.0
    ) -> None:
        self.model, self.coordinates = model, coordinates
        self.n_gradients = self.n_hvps = 0
        self._atoms, self._pressure = atoms.copy(), pressure * GPa
        self._structure = from_ase(atoms, model, SKIN)
        self.smallest_ratio = smallest_ratio(atoms)
        """Of a distance to the sum of covalent radii, where atoms were last; see `contacts`."""
        self._least_ratio = min(REFUSED, 0.9 * self.smallest_ratio)

    def at(self, z: np.ndarray) -> Point:
        """The surface at z."""
        nothing = np.full_like(z, np.nan)
        try:
            s = self._structure_at(z)
        except ValueError:  # atoms that coincide, a cell that has collapsed
            return Point(z, np.inf, nothing, {}, np.inf, np.inf, np.inf)
        self.n_gradients += 1
        slopes, energy = grad_and_value(self.model.energy_fn(s.topology), argnums=(0, 1))(
            s.positions, s.cell, self.model.params
        )
        by_positions, by_cell = map(as_array, slopes)
        positions, cell, volume = as_array(s.positions), as_array(s.cell), float(volume_of(s.cell))
        virial = positions.T @ by_positions + cell.T @ by_cell
        virial = (virial + virial.T) / 2
        results = {"energy": float(energy), "forces": -by_positions}
        if self._atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(virial / volume)
        virial += self._pressure * volume * np.eye(3)
        c = self.coordinates
        deformation = np.eye(3) + as_array(c.split(c.joint(z))[1])
        by_strain = np.tensordot(STRAINS, np.linalg.solve(deformation, virial)) / c.strain_length
        joint = np.concatenate([(by_positions @ deformation).ravel(), by_strain])
        forces, free_virial = c.confined(-by_positions, virial)
        return Point(
            z,
            float(energy) + self._pressure * volume,
            c.basis.T @ joint,
            results,
            float(np.linalg.norm(forces, axis=1).max()),
            float(np.linalg.norm(free_virial, axis=1).max()) / len(positions),
            float(np.abs(free_virial).max() / volume / GPa) if volume > 0 else 0.0,
        )

    def atoms_at(self, z: np.ndarray, results: dict[str, Any] | None = None) -> Atoms:
        """The structure at z, with all else that the first one had, and results if given."""
        positions, cell = self.coordinates.place(self.coordinates.joint(z))
        atoms = self._atoms.copy()
        atoms.set_cell(as_array(cell))
        atoms.set_positions(as_array(positions), apply_constraint=False)
        if results is not None:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def joint_hessian(self, z: np.ndarray, model: Potential | None = None) -> np.ndarray:
        """Hessian by the joint vector y, eV/Å², (3N + 6, 3N + 6); zero for what is never free.

        Args:
            z: Free coordinates, (d,).
            model: Computes it: that of the surface if None.
        """
        model = self.model if model is None else model
        pull_back, like = self._linearised(z, model)
        involved = self.coordinates.involved
        units = torch.eye(self.coordinates.basis.shape[0], dtype=like.dtype, device=like.device)
        columns = map_columns(pull_back, units[torch.as_tensor(involved, device=like.device)])
        self.n_hvps += len(involved)
        hessian = np.zeros(self.coordinates.basis.shape[:1] * 2)
        hessian[np.ix_(involved, involved)] = as_array(columns)[:, involved]
        return (hessian + hessian.T) / 2

    def products(self, z: np.ndarray, model: Potential | None = None) -> Products:
        """Products of the Hessian by z, from one linearisation of the gradient.

        Args:
            z: Free coordinates, (d,).
            model: Computes them: that of the surface if None.

        Returns:
            A function of a vector (d,), or of the columns of a matrix (d, m).
        """
        pull_back, like = self._linearised(z, self.model if model is None else model)
        basis = self.coordinates.basis

        def product(vectors: np.ndarray) -> np.ndarray:
            columns = torch.as_tensor((basis @ vectors).T.reshape(-1, len(basis))).to(like)
            self.n_hvps += len(columns)
            images = as_array(map_columns(pull_back, columns)) @ basis
            if not np.isfinite(images).all():
                raise ArithmeticError(
                    "a product of the Hessian has entries that are not finite, where forces are: "
                    "use a model in float64"
                )
            return images.T.reshape(vectors.shape)

        return product

    def parts_at(self, z: np.ndarray) -> Parts:
        """The connected parts of the structure at z."""
        s = self._structure_at(z)
        return parts_of(s.topology, s.positions, s.cell)

    def _linearised(
        self, z: np.ndarray, model: Potential
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """`v -> H v` by y, and a tensor of the precision and place it works in."""
        s = from_ase(self.atoms_at(z), model)
        energy, c = model.energy_fn(s.topology), self.coordinates

        def enthalpy(joint: Tensor) -> Tensor:
            positions, cell = c.place(joint)
            return energy(positions, cell, model.params) + self._pressure * volume_of(cell)

        joint = c.joint(z).to(s.positions)
        pull_back = vjp(grad(enthalpy), joint)[1]
        return lambda vector: pull_back(vector)[0], joint

    def _structure_at(self, z: np.ndarray) -> Structure:
        """The structure, with the neighbour list of the last one while it holds."""
        joint = self.coordinates.joint(z)
        strain = as_array(self.coordinates.split(joint)[1])
        if not np.linalg.eigvalsh(np.eye(3) + strain)[0] > 0:
            raise ValueError("the cell has collapsed")
        positions, cell = self.coordinates.place(joint)
        self._structure = self._structure.at(positions, cell)
        self.smallest_ratio = smallest_ratio(self.atoms_at(z))
        if self.smallest_ratio < self._least_ratio:
            raise ValueError("atoms are on top of each other")
        return self._structure
