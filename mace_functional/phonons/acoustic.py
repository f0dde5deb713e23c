r"""The acoustic branches, which the Gamma point alone leaves out, estimated from speeds of sound.

At Gamma the three acoustic modes are translations and hold nothing: of 3N modes a cell 3 are
missing in the sums, which is much for a small cell. Their heat lies between nothing and 3 k_B a
cell. It is estimated as in Kieffer's model of the acoustic branches of minerals: with the speed
of sound v_s of a branch, a sphere of the volume of the Brillouin zone and a sine dispersion,

    omega_s(q) = (2/pi) v_s q_D sin(pi q / 2 q_D),   q_D = (6 pi^2 / V)^(1/3),   0 < q < q_D,

the average of c(omega_s(q)) over the sphere. Speeds of sound follow from the deformations of the
cell. With a displacement gradient F, x' = x (1 + F), h' = h (1 + F), and the Hessian Phi by
positions, whose inverse leaves translations out,

    A = d2E/dFdF - L^T Phi^-1 L,      L = d2E/dxdF,

a wave along n with the polarisation a has v^2 = a.M(n).a, with the Christoffel matrix

    M_bd(n) = sum_ac n_a n_c A_ab,cd / (mass of the cell),

stress included, because F holds rotations too. Branches are averaged over directions as
v_s = <v_s(n)^-3>^(-1/3), which keeps the density of states at low frequencies. In two dimensions
q_D = (4 pi / area)^(1/2) and the average is <v^-2>^(-1/2); in one, pi / length and v.

What remains is the dispersion of the optical branches, which this does not see. How good the
estimate is, against converged meshes: `docs/theory/gamma.md`.

Source: Kieffer, Rev. Geophys. Space Phys. 1979, 17, 1 and 35; Born, Huang, *Dynamical Theory of
Crystal Lattices* (1954), sections 26 and 27; Wallace, *Thermodynamics of Crystals* (1972).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import chunked_vmap
from mace_functional.phonons.modes import LARGEST_FORCE
from mace_functional.support.renamed import OldAttribute
from mace_functional.units import ANGULAR_FREQUENCY, K_B, frequency_factor
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential
    from mace_functional.vibrations.harmonic_modes import NormalModes

DIRECTIONS = 200
"""Directions of the average of speeds of sound, on half a sphere or circle. With 50 or 400 what
quartz lacks at 50 K changes by 1e-4 of itself or less."""

POINTS = 24
"""Points of the average over the sphere of wave vectors (Gauss and Legendre's)."""

STILL = 1e-3
"""Squared speeds of sound below this part of the largest count as zero: out of a free plane or
across a free chain nothing holds back but bending, whose frequency is quadratic in q. What
rounding and remaining stress of 0.01 GPa leave is below 1e-4; branches of crystals and frameworks
lie above 1e-2."""

APART = (200 / (ANGULAR_FREQUENCY * 1e-10)) ** 2
"""Squared speed of sound, eV/amu, of 200 m/s: where even the fastest branch is slower, parts of
the structure do not feel their images. In crystals the fastest has more than 1000 m/s. Forces that
are left pretend a speed: water in a box, relaxed to 1e-4 eV/Å, 12 m/s; to 1e-3 eV/Å, 60 m/s."""


@dataclass(frozen=True)
class AcousticBranches:
    """What the Gamma point leaves out of a crystal: an upper bound and an estimate.

    Attributes:
        n_branches: Number of acoustic branches: 3 for a crystal, 4 for a chain, 0 where nothing is
            missing, as for a molecule.
        edges: Highest frequency of each branch, cm-1, ascending; zero for one that no elasticity
            holds, which counts in full; None where there is no estimate.
        reason: Why there is no estimate, in words; None where there is one.
    """

    n_branches: int
    edges: tuple[float, ...] | None
    reason: str | None = None

    count = OldAttribute("n_branches")

    @property
    def bound(self) -> float:
        """Most that the heat capacity of one cell can lack, `n_branches` k_B, eV/K."""
        return self.n_branches * K_B

    def thermo(self, temperatures: Sequence[float] | Tensor | float) -> HarmonicThermo | None:
        """Thermodynamics of the branches, of one cell; None where there is no estimate.

        Branches that no elasticity holds have a frequency of zero here, and are left out: see
        `heat_capacity`.

        Args:
            temperatures: (T,) or a scalar, K.
        """
        if self.edges is None:
            return None
        nodes, weights = np.polynomial.legendre.leggauss(POINTS)
        q = torch.as_tensor((nodes + 1) / 2)
        edges = torch.tensor(self.edges, dtype=torch.float64)
        frequencies = edges * torch.sin(math.pi / 2 * q)[:, None]
        return harmonic_thermo(
            frequencies, temperatures, weights=torch.as_tensor(weights) * q**2, unit="cm-1"
        )

    def heat_capacity(self, temperatures: Sequence[float] | Tensor | float) -> Tensor | None:
        """Estimate of what the heat capacity of one cell lacks, eV/K; None where there is none.

        Args:
            temperatures: (T,) or a scalar, K.
        """
        thermo = self.thermo(temperatures)
        if thermo is None or self.edges is None:
            return None
        free = self.edges.count(0.0)
        return thermo.heat_capacity + K_B * free * (thermo.temperatures > 0)


NOTHING = AcousticBranches(0, ())
"""Of a molecule, of a mesh of wave vectors, or of a structure that is held."""


def acoustic_branches(
    potential: Potential, atoms: Atoms, modes: NormalModes, *, memory_budget: int | None = None
) -> AcousticBranches:
    """The acoustic branches of a structure, from its modes at Gamma and nine columns more.

    Args:
        potential: Such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        modes: From `gamma_modes` of the same potential and structure.
        memory_budget: Bytes that second derivatives may fill; see `hessian`.

    Returns:
        The branches. There is a count and no estimate where modes or branches are imaginary, or
        forces are large; nothing at all for molecules, also where they stand in a periodic box
        whose images do not feel each other, and where some atoms are held.

    Raises:
        ValueError: If the structure does not fit the potential.
    """
    if not atoms.pbc.any() or len(modes.indices) < len(atoms) or modes.n_rigid < 3:
        return NOTHING
    count = 4 if modes.n_rigid == 4 else 3
    if modes.n_imaginary:
        return AcousticBranches(count, None, "there are imaginary modes")
    if modes.largest_force is not None and modes.largest_force > LARGEST_FORCE:
        return AcousticBranches(count, None, "the structure is not at rest")
    stiffness = _stiffness(potential, atoms, modes, memory_budget)
    squares = _squared_speeds(stiffness, atoms)
    largest = float(np.abs(squares).max())
    if largest < APART:
        return NOTHING
    if squares.min() < -STILL * largest:
        return AcousticBranches(count, None, "an acoustic branch is imaginary")
    squares = np.where(squares < STILL * largest, 0.0, squares)
    speeds = _mean_speeds(squares, int(atoms.pbc.sum()))
    edges = frequency_factor("cm-1") * 2 / math.pi * _zone_radius(atoms) * speeds
    return AcousticBranches(count, tuple([0.0] * (count - 3) + sorted(edges.tolist())))


def _stiffness(
    potential: Potential, atoms: Atoms, modes: NormalModes, memory_budget: int | None
) -> np.ndarray:
    """A / mass of the cell, eV/amu, (3, 3, 3, 3)."""
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)

    def deformed(moved: Tensor, gradient: Tensor) -> Tensor:
        positions = s.positions + moved
        return energy(
            positions + positions @ gradient, s.cell + s.cell @ gradient, potential.params
        )

    still = torch.zeros_like(s.positions), torch.zeros_like(s.cell)
    pull_back = vjp(grad(deformed, argnums=(0, 1)), *still)[1]

    def column(gradient: Tensor) -> Tensor:
        moved, bent = pull_back((torch.zeros_like(s.positions), gradient))
        return torch.cat([moved, bent])

    units = torch.eye(9, dtype=s.cell.dtype, device=s.cell.device).view(9, 3, 3)
    columns = chunked_vmap(
        column, units, memory_budget=memory_budget, description="Speeds of sound"
    ).double()
    clamped, strain = columns[:, -3:].flatten(1), columns[:, :-3].flatten(1)
    along = strain @ modes.displacements.flatten(1).double().mT  # (9, modes)
    squares = (modes.frequencies.double() / frequency_factor(modes.unit)) ** 2
    relaxed = clamped - (along / squares) @ along.mT
    total = float(modes.masses.sum())
    found: np.ndarray = (relaxed / total).reshape(3, 3, 3, 3).cpu().numpy()
    return found


def _squared_speeds(stiffness: np.ndarray, atoms: Atoms) -> np.ndarray:
    """Eigenvalues of the Christoffel matrices, ascending, eV/amu, (directions, 3)."""
    directions = _directions(atoms)
    matrices = np.einsum("na,nc,abcd->nbd", directions, directions, stiffness)
    return np.asarray(np.linalg.eigvalsh((matrices + matrices.transpose(0, 2, 1)) / 2))


def _directions(atoms: Atoms) -> np.ndarray:
    """Unit vectors in the space of the periodic directions, all of equal weight."""
    periodic = atoms.cell.array[atoms.pbc]
    axes = np.linalg.qr(periodic.T)[0].T
    if len(axes) == 1:
        return np.asarray(axes)
    number = (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    if len(axes) == 2:
        angle = math.pi * number
        return np.asarray(np.stack([np.cos(angle), np.sin(angle)], 1) @ axes)
    height, turn = number, math.pi * (1 + 5**0.5) * np.arange(DIRECTIONS)
    radius = np.sqrt(1 - height**2)
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)
    return np.asarray(points @ axes)


def _mean_speeds(squares: np.ndarray, dimensions: int) -> np.ndarray:
    """<v^-d>^(-1/d) of each branch, (3,); zero for one that stands still in some direction."""
    with np.errstate(divide="ignore"):
        return np.asarray((squares ** (-dimensions / 2)).mean(0) ** (-1 / dimensions))


def _zone_radius(atoms: Atoms) -> float:
    """Radius of the sphere, disc or line that is as large as the Brillouin zone, 1/Å."""
    periodic = atoms.cell.array[atoms.pbc]
    size = math.sqrt(np.linalg.det(periodic @ periodic.T))
    if len(periodic) == 1:
        return math.pi / size
    return (
        math.sqrt(4 * math.pi / size) if len(periodic) == 2 else (6 * math.pi**2 / size) ** (1 / 3)
    )
