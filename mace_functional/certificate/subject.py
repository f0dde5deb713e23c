"""Subject of the checks: a potential, and a structure in which no symmetry hides an error.

In a relaxed crystal, forces and many other derivatives are zero by symmetry, and a wrong factor of
zero is not visible. The atoms are therefore displaced at random, by a fraction of their thermal
motion at room temperature. Derivatives are taken along random directions that move every atom, so
that an error in any of them affects all products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch.func import grad, jvp

from mace_functional.certificate.richardson import Slope, differentiate
from mace_functional.potential.protocol import Potential, hold_pairs_of
from mace_functional.structure.structure import Structure

SKIN = 0.3
"""Skin of the neighbour lists, Å; all displacements in the checks are less than half of it."""

VECTORS = 3
"""Number of random directions of derivatives."""

ENERGY_STEP = 4e-3
"""First step of finite differences of energies, Å.

With it, a central difference has a relative error below 1e-4 for stiff bonds, before extrapolation.
The rounding of an energy of 100 eV, divided by the last step, is 3e-11 eV/Å.
"""

FORCE_STEP = 4e-4
"""First step of finite differences of forces and Hessian products, Å.

Their rounding allows smaller steps than that of energies. Fewer pairs then cross the cutoff, where
third derivatives of MACE are discontinuous.
"""


@dataclass(frozen=True, eq=False)
class Subject:
    """A potential and a structure for the checks.

    Attributes:
        potential: The potential, in double precision if it supports it.
        atoms: Displaced atoms, without constraints and calculator.
        seed: Seed of all random numbers.
    """

    potential: Potential
    atoms: Atoms
    seed: int

    @classmethod
    def of(cls, potential: Potential, atoms: Atoms, displacement: float, seed: int) -> Subject:
        """Return the subject for a structure, with randomly displaced atoms.

        Args:
            potential: The potential to check.
            atoms: The structure, which is copied.
            displacement: Largest displacement along x, y and z, Å.
            seed: Seed of the random numbers.
        """
        displaced = atoms.copy()
        displaced.set_constraint()
        if len(displaced) == 1 and displaced.pbc.any():  # a lattice of one atom has no forces
            axis = np.argmax(displaced.pbc)
            displaced = displaced.repeat([2 if k == axis else 1 for k in range(3)])
        random = np.random.default_rng(seed)
        shape = displaced.positions.shape
        displaced.positions += random.uniform(-displacement, displacement, shape)
        return cls(potential, displaced, seed)

    def random(self, number: int) -> np.random.Generator:
        """Return a random number generator of its own for each use, which `number` identifies."""
        return np.random.default_rng([self.seed, number])

    @cached_property
    def structure(self) -> Structure:
        """The displaced structure, with a skin."""
        return self.potential.structure(self.atoms, skin=SKIN)

    def fresh_energy(self) -> Callable[[Tensor], Tensor]:
        """Return the energy as a function of positions, from a new call of `energy_fn`."""
        s = self.structure
        energy = self.potential.energy_fn(s.topology)
        return lambda x: energy(x, s.cell, self.potential.params)

    @cached_property
    def energy(self) -> Callable[[Tensor], Tensor]:
        """The energy as a function of positions."""
        return self.fresh_energy()

    @cached_property
    def continuous_energy(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The energy as a function of positions and cell with a fixed list of pairs.

        It has no discontinuities at a cutoff, which would spoil finite differences.
        """
        potential = self.potential
        s = hold_pairs_of(potential, self.structure)
        energy = potential.energy_fn(s.topology)
        return lambda x, cell: energy(x, cell, potential.params)

    @cached_property
    def continuous_gradient(self) -> Callable[[Tensor], Tensor]:
        """The gradient of `continuous_energy` as a function of positions."""
        energy, cell = self.continuous_energy, self.structure.cell
        return grad(lambda x: energy(x, cell))

    @cached_property
    def gradient(self) -> Callable[[Tensor], Tensor]:
        """The gradient of the energy as a function of positions."""
        return grad(self.energy)

    @cached_property
    def forces(self) -> Tensor:
        """Forces on the atoms, eV/Å, (N, 3)."""
        return -self.gradient(self.structure.positions).detach()

    @cached_property
    def vectors(self) -> Tensor:
        """Random directions, (VECTORS, N, 3), with components of magnitude 0.5 to 1.5."""
        x, random = self.structure.positions, self.random(0)
        shape = VECTORS, *x.shape
        vectors = random.choice([-1.0, 1.0], shape) * random.uniform(0.5, 1.5, shape)
        return torch.as_tensor(vectors, dtype=x.dtype, device=x.device)

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Hessian product `H v` at positions x, forward over reverse, (N, 3)."""
        return jvp(self.gradient, (x,), (v,))[1]

    @cached_property
    def products(self) -> list[Slope]:
        """Hessian products with the vectors by finite differences of forces, eV/Å²."""
        x, gradient = self.structure.positions, self.continuous_gradient
        return [
            differentiate(lambda h, v=v: gradient(x + h * v), FORCE_STEP)  # type: ignore[misc]
            for v in self.vectors
        ]


def energy_and_forces(
    potential: Potential, atoms: Atoms, *, skin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the energy, (1,) in eV, and the forces, (N, 3) in eV/Å, with a new topology."""
    s = potential.structure(atoms, skin=skin)
    return energy_and_forces_with(potential, s.topology, s.positions, s.cell)


def energy_and_forces_with(
    potential: Potential, topology: object, positions: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the energy, (1,) in eV, and the forces, (N, 3) in eV/Å, with a given topology."""
    energy = potential.energy_fn(topology)
    value = energy(positions, cell, potential.params).detach()
    gradient = grad(lambda x: energy(x, cell, potential.params))(positions)
    return value.reshape(1), -gradient.detach()


def three_orders(potential: Potential, atoms: Atoms, vector: Tensor) -> tuple[Tensor, ...]:
    """Return the energy (1,), the forces (N, 3) and the Hessian product with a vector (N, 3)."""
    s = potential.structure(atoms)
    energy_fn = potential.energy_fn(s.topology)

    def energy(x: Tensor) -> Tensor:
        return energy_fn(x, s.cell, potential.params)

    x, v = s.positions, vector.to(s.positions)
    derivatives = jvp(grad(energy), (x,), (v,))
    gradient, product = derivatives[0].detach(), derivatives[1].detach()
    return energy(x).detach().reshape(1), -gradient, product
