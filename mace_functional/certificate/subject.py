"""What is checked: a potential and a structure in which no symmetry hides an error.

In a crystal at rest forces, and most derivatives along most directions, are zero by symmetry, and a
wrong factor before zero cannot be seen. So atoms are displaced at random first, by tenths of what
they move at room temperature. Derivatives are taken along random directions that move every atom:
an error in any of them then shows in all products.
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
"""Å. Steps and displacements of the checks stay below half of it."""

VECTORS = 3
"""Random directions of derivatives."""

ENERGY_STEP = 4e-3
"""First step of differences of energies, Å.

The error of a central difference is then below 1e-4 of stiff bonds before it is extrapolated, and
the rounding of 100 eV over the last step is 3e-11 eV/Å.
"""

FORCE_STEP = 4e-4
"""First step of differences of forces and Hessian products, Å.

Their rounding allows smaller steps. Fewer pairs then cross the cutoff, where third derivatives of
MACE jump.
"""


@dataclass(frozen=True, eq=False)
class Subject:
    """A potential with a structure.

    Attributes:
        potential: In double precision, if there is one.
        atoms: Displaced, without constraints and calculator.
        seed: Of all random numbers.
    """

    potential: Potential
    atoms: Atoms
    seed: int

    @classmethod
    def of(cls, potential: Potential, atoms: Atoms, displacement: float, seed: int) -> Subject:
        """Displace the atoms at random.

        Args:
            potential: To be checked.
            atoms: Left as they are.
            displacement: Largest along x, y and z, Å.
            seed: Of the random numbers.
        """
        bare = atoms.copy()
        bare.set_constraint()
        if len(bare) == 1 and bare.pbc.any():  # no force acts on a lattice of one atom
            bare = bare.repeat([2 if axis == np.argmax(bare.pbc) else 1 for axis in range(3)])
        random = np.random.default_rng(seed)
        bare.positions += random.uniform(-displacement, displacement, bare.positions.shape)
        return cls(potential, bare, seed)

    def random(self, number: int) -> np.random.Generator:
        """Random numbers that do not depend on what other checks took; one number for each use."""
        return np.random.default_rng([self.seed, number])

    @cached_property
    def structure(self) -> Structure:
        """The structure, with a skin."""
        return self.potential.structure(self.atoms, skin=SKIN)

    def fresh_energy(self) -> Callable[[Tensor], Tensor]:
        """The energy as a function of positions, made anew from the topology."""
        s = self.structure
        energy = self.potential.energy_fn(s.topology)
        return lambda x: energy(x, s.cell, self.potential.params)

    @cached_property
    def energy(self) -> Callable[[Tensor], Tensor]:
        """The energy as a function of positions."""
        return self.fresh_energy()

    @cached_property
    def held_energy(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The energy as a function of positions and cell that jumps nowhere, for differences."""
        potential = self.potential
        s = hold_pairs_of(potential, self.structure)
        energy = potential.energy_fn(s.topology)
        return lambda x, cell: energy(x, cell, potential.params)

    @cached_property
    def held_gradient(self) -> Callable[[Tensor], Tensor]:
        """The gradient of the energy that jumps nowhere, as a function of positions."""
        energy, cell = self.held_energy, self.structure.cell
        return grad(lambda x: energy(x, cell))

    @cached_property
    def gradient(self) -> Callable[[Tensor], Tensor]:
        """The gradient of the energy as a function of positions."""
        return grad(self.energy)

    @cached_property
    def forces(self) -> Tensor:
        """At the positions, eV/Å, (N, 3)."""
        return -self.gradient(self.structure.positions).detach()

    @cached_property
    def vectors(self) -> Tensor:
        """Random directions, (VECTORS, N, 3): every coordinate moves by 0.5 to 1.5."""
        x, random = self.structure.positions, self.random(0)
        shape = VECTORS, *x.shape
        moves = random.choice([-1.0, 1.0], shape) * random.uniform(0.5, 1.5, shape)
        return torch.as_tensor(moves, dtype=x.dtype, device=x.device)

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Hessian product `H v` at positions x, forward over reverse, (N, 3)."""
        return jvp(self.gradient, (x,), (v,))[1]

    @cached_property
    def products(self) -> list[Slope]:
        """Hessian products with the vectors, by differences of forces, eV/Å² each."""
        x, gradient = self.structure.positions, self.held_gradient
        return [
            differentiate(lambda h, v=v: gradient(x + h * v), FORCE_STEP)  # type: ignore[misc]
            for v in self.vectors
        ]


def energy_and_forces(
    potential: Potential, atoms: Atoms, *, skin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Energy, (1,) in eV, and forces, (N, 3) in eV/Å, with a topology made for the atoms."""
    s = potential.structure(atoms, skin=skin)
    return energy_and_forces_with(potential, s.topology, s.positions, s.cell)


def energy_and_forces_with(
    potential: Potential, topology: object, positions: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Energy, (1,) in eV, and forces, (N, 3) in eV/Å, with a given topology."""
    energy = potential.energy_fn(topology)
    value = energy(positions, cell, potential.params).detach()
    gradient = grad(lambda x: energy(x, cell, potential.params))(positions)
    return value.reshape(1), -gradient.detach()


def three_orders(potential: Potential, atoms: Atoms, vector: Tensor) -> tuple[Tensor, ...]:
    """Energy (1,), forces (N, 3) and the Hessian product with a vector (N, 3)."""
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)

    def of_positions(x: Tensor) -> Tensor:
        return energy(x, s.cell, potential.params)

    x, v = s.positions, vector.to(s.positions)
    derivatives = jvp(grad(of_positions), (x,), (v,))
    gradient, product = derivatives[0].detach(), derivatives[1].detach()
    return of_positions(x).detach().reshape(1), -gradient, product
