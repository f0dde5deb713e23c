"""Potential energy surface as a function of the free coordinates of an optimiser."""

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
from torch.func import grad, vjp

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.derivatives.forces_and_virial import energy_forces_virial
from mace_functional.optimize.coordinates import STRAINS, Coordinates
from mace_functional.potential.protocol import Potential
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts, parts_of
from mace_functional.structure.contacts import REFUSED, smallest_ratio
from mace_functional.structure.lattice import volume_of
from mace_functional.structure.structure import Structure
from mace_functional.support.defaults import SKIN

Products = Callable[[np.ndarray], np.ndarray]
"""Function that multiplies a Hessian with a vector (d,), or with the columns of a matrix (d, m)."""


@dataclass(frozen=True, eq=False)
class Point:
    """Energy and derivatives at one geometry.

    Attributes:
        z: Free coordinates, Å, (d,).
        energy: Energy, or enthalpy under pressure, eV; infinite if the geometry is impossible.
        gradient: Gradient of the energy by z, eV/Å, (d,).
        results: Energy, forces and, for crystals, stress, as calculators of ASE have them.
        largest_force: Largest free force on an atom, eV/Å.
        largest_virial: Largest row of the free part of dE/de, over the number of atoms, eV.
        largest_stress: Largest component of the free stress, pressure included, GPa; for slabs and
            rods relative to the volume of the cell, with its vacuum.
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
        """Larger of `largest_force` and `largest_virial`, as in ASE's cell filters."""
        return max(self.largest_force, self.largest_virial)


class Surface:
    """Energy, gradient and Hessian by free coordinates, with a neighbour list that is updated.

    Args:
        potential: The potential.
        atoms: Geometry at z = 0.
        coordinates: Coordinates that define z.
        pressure: External pressure, GPa; the energy is the enthalpy E + pV.

    Attributes:
        n_gradients: Number of gradients so far.
        n_hvps: Number of Hessian-vector products so far.
        smallest_ratio: Smallest ratio of a distance to the sum of the covalent radii, at the last
            evaluated geometry; see `contacts`.
    """

    def __init__(
        self, potential: Potential, atoms: Atoms, coordinates: Coordinates, pressure: float = 0.0
    ) -> None:
        self.potential, self.coordinates = potential, coordinates
        self.n_gradients = self.n_hvps = 0
        self._atoms, self._pressure = atoms.copy(), pressure * GPa
        self._structure = potential.structure(atoms, skin=SKIN)
        self.smallest_ratio = smallest_ratio(atoms)
        self._least_ratio = min(REFUSED, 0.9 * self.smallest_ratio)

    def at(self, z: np.ndarray) -> Point:
        """Compute energy and derivatives at z."""
        nan = np.full_like(z, np.nan)
        try:
            s = self._structure_at(z)
        except ValueError:  # atoms that coincide, a cell that has collapsed
            return Point(z, np.inf, nan, {}, np.inf, np.inf, np.inf)
        self.n_gradients += 1
        derivatives = energy_forces_virial(self.potential.energy_fn(s.topology))
        values = derivatives(s.positions, s.cell, self.potential.params)
        energy, forces, virial = (
            float(values.energy),
            as_array(values.forces),
            as_array(values.virial),
        )
        volume = float(volume_of(s.cell))
        results: dict[str, Any] = {"energy": energy, "forces": forces}
        if self._atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(virial / volume)
        virial = virial + self._pressure * volume * np.eye(3)
        c = self.coordinates
        deformation = np.eye(3) + as_array(c.split(c.joint(z))[1])
        de_dstrain = np.tensordot(STRAINS, np.linalg.solve(deformation, virial)) / c.strain_length
        joint = np.concatenate([-(forces @ deformation).ravel(), de_dstrain])
        free_forces, free_virial = c.confined(forces, virial)
        return Point(
            z,
            energy + self._pressure * volume,
            c.basis.T @ joint,
            results,
            float(np.linalg.norm(free_forces, axis=1).max()),
            float(np.linalg.norm(free_virial, axis=1).max()) / len(forces),
            float(np.abs(free_virial).max() / volume / GPa) if volume > 0 else 0.0,
        )

    def atoms_at(self, z: np.ndarray, results: dict[str, Any] | None = None) -> Atoms:
        """Return the structure at z, with the other data of the initial one, and given results."""
        positions, cell = self.coordinates.place(self.coordinates.joint(z))
        atoms = self._atoms.copy()
        atoms.set_cell(as_array(cell))
        atoms.set_positions(as_array(positions), apply_constraint=False)
        if results is not None:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def joint_hessian(self, z: np.ndarray, potential: Potential | None = None) -> np.ndarray:
        """Compute the Hessian by the joint vector y, eV/Å², (3N + 6, 3N + 6).

        Args:
            z: Free coordinates, (d,).
            potential: Potential of the Hessian; None for that of the surface.

        Returns:
            The matrix, symmetric, zero for components of y that are never free.
        """
        pull_back, like = self._linearised(z, potential)
        involved = self.coordinates.involved
        units = torch.eye(self.coordinates.basis.shape[0], dtype=like.dtype, device=like.device)
        self.n_hvps += len(involved)
        columns = chunked_vmap(pull_back, units[torch.as_tensor(involved, device=like.device)])
        hessian = np.zeros(self.coordinates.basis.shape[:1] * 2)
        hessian[np.ix_(involved, involved)] = as_array(columns)[:, involved]
        return (hessian + hessian.T) / 2

    def products(self, z: np.ndarray, potential: Potential | None = None) -> Products:
        """Return products with the Hessian by z, from one linearisation of the gradient.

        Args:
            z: Free coordinates, (d,).
            potential: Potential of the Hessian; None for that of the surface.

        Returns:
            A function of a vector (d,), or of the columns of a matrix (d, m).
        """
        pull_back, like = self._linearised(z, potential)
        basis = self.coordinates.basis

        def product(vectors: np.ndarray) -> np.ndarray:
            columns = torch.as_tensor((basis @ vectors).T.reshape(-1, basis.shape[0])).to(like)
            self.n_hvps += len(columns)
            images = as_array(chunked_vmap(pull_back, columns)) @ basis
            if not np.isfinite(images).all():
                raise ArithmeticError(
                    "forces are finite, but a product of the Hessian has entries that are not "
                    "finite: use a potential in float64"
                )
            return images.T.reshape(vectors.shape)

        return product

    def parts_at(self, z: np.ndarray) -> Parts:
        """Return the connected parts of the structure at z."""
        s = self._structure_at(z)
        return parts_of(s.topology, s.positions, s.cell)

    def _linearised(
        self, z: np.ndarray, potential: Potential | None
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the function v -> H v by y, and a tensor with its dtype and device."""
        potential = self.potential if potential is None else potential
        s = potential.structure(self.atoms_at(z))
        energy, c = potential.energy_fn(s.topology), self.coordinates

        def enthalpy(joint: Tensor) -> Tensor:
            positions, cell = c.place(joint)
            return energy(positions, cell, potential.params) + self._pressure * volume_of(cell)

        joint = c.joint(z).to(s.positions)
        pull_back = vjp(grad(enthalpy), joint)[1]
        return lambda vector: pull_back(vector)[0], joint

    def _structure_at(self, z: np.ndarray) -> Structure:
        """Return the structure at z; the neighbour list is rebuilt only if needed.

        Raises:
            ValueError: If the cell has collapsed, or atoms are on top of each other.
        """
        joint = self.coordinates.joint(z)
        strain = as_array(self.coordinates.split(joint)[1])
        if not np.linalg.eigvalsh(np.eye(3) + strain)[0] > 0:
            raise ValueError("the cell has collapsed")
        positions, cell = self.coordinates.place(joint)
        self.smallest_ratio = smallest_ratio(self.atoms_at(z))
        if self.smallest_ratio < self._least_ratio:
            raise ValueError("atoms are on top of each other")
        device = self._structure.positions.device
        self._structure = self._structure.at(positions.to(device), cell.to(device))
        return self._structure


def in_single_precision(potential: Potential) -> Potential:
    """Return the potential in single precision, or unchanged if it has only one precision."""
    if potential.dtype == torch.float32:
        return potential
    try:
        return potential.to(dtype=torch.float32)
    except ValueError:
        return potential
