r"""Acoustic branches, which the Gamma point alone leaves out, estimated from speeds of sound.

At Gamma the three acoustic modes are translations and have no heat capacity. Of the 3N modes of a
cell, 3 are missing in the sums, which matters for a small cell. Their heat capacity lies between 0
and 3 k_B per cell. The estimate is Kieffer's model of the acoustic branches of minerals: from the
speed of sound v_s of a branch, a sphere with the volume of the Brillouin zone and a sine
dispersion,

    omega_s(q) = (2/pi) v_s q_D sin(pi q / 2 q_D),   q_D = (6 pi^2 / V)^(1/3),   0 < q < q_D,

it averages c(omega_s(q)) over the sphere. Speeds of sound follow from deformations of the cell. Let
F be a displacement gradient, x' = x (1 + F), h' = h (1 + F), and Phi the Hessian by positions; its
inverse Phi^-1 excludes translations. With

    A = d2E/dFdF - L^T Phi^-1 L,      L = d2E/dxdF,

a wave along n with the polarisation a has v^2 = a.M(n).a, with the Christoffel matrix

    M_bd(n) = sum_ac n_a n_c A_ab,cd / (mass of the cell).

Stress is included, because F also contains rotations. Branches are averaged over directions as
v_s = <v_s(n)^-3>^(-1/3), which preserves the density of states at low frequencies. In two
dimensions q_D = (4 pi / area)^(1/2) and the average is <v^-2>^(-1/2); in one, pi / length and v.

The estimate does not contain the dispersion of the optical branches. It is compared with converged
meshes in `docs/theory/gamma.md`.

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
from mace_functional.support.renamed import OldAttribute
from mace_functional.units import ANGULAR_FREQUENCY, K_B, frequency_factor
from mace_functional.vibrations.harmonic_modes import LARGEST_FORCE
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential
    from mace_functional.vibrations.harmonic_modes import NormalModes

N_DIRECTIONS = 200
"""Number of directions in the average of speeds of sound, on half a sphere or circle.

With 50 or 400, the estimate for quartz at 50 K changes by a relative 1e-4 or less.
"""

N_RADII = 24
"""Number of points of the average over the sphere of wave vectors (Gauss-Legendre quadrature)."""

ZERO_SPEED = 1e-3
"""Squared speed of sound, relative to the largest, below which it counts as zero.

Displacements out of a free layer, or across a free chain, are opposed only by bending, whose
frequency is quadratic in q. Rounding and a residual stress of 0.01 GPa leave less than 1e-4;
branches of crystals and frameworks lie above 1e-2.
"""

MIN_LARGEST_SPEED = (200 / (ANGULAR_FREQUENCY * 1e-10)) ** 2
"""Squared speed of sound, eV/amu, of 200 m/s, which the fastest branch of a crystal exceeds.

If even the fastest branch is slower, parts of the structure do not interact with their images. In
crystals the fastest branch has more than 1000 m/s. Residual forces cause an apparent speed: water
in a box has 12 m/s after relaxation to 1e-4 eV/Å, and 60 m/s after relaxation to 1e-3 eV/Å.
"""


@dataclass(frozen=True)
class AcousticBranches:
    """Acoustic branches of a crystal, with bounds on the heat capacity that Gamma leaves out.

    Attributes:
        n_branches: Number of acoustic branches: 3 for a crystal, 4 for a chain, 0 if nothing is
            missing, as for a molecule.
        edges: Highest frequency of each branch, cm-1, ascending; zero for a branch without elastic
            restoring force, which contributes a full k_B. None if there is no estimate.
        reason: Reason why there is no estimate, as text; None if there is one.
    """

    n_branches: int
    edges: tuple[float, ...] | None
    reason: str | None = None

    count = OldAttribute("n_branches")

    @property
    def bound(self) -> float:
        """Upper bound of the missing heat capacity of one cell, `n_branches` k_B, eV/K."""
        return self.n_branches * K_B

    def thermo(self, temperatures: Sequence[float] | Tensor | float) -> HarmonicThermo | None:
        """Compute thermodynamics of the branches for one cell; None if there is no estimate.

        Branches without elastic restoring force have a frequency of zero and are left out; see
        `heat_capacity`.

        Args:
            temperatures: Temperatures in K, (T,) or a scalar.
        """
        if self.edges is None:
            return None
        nodes, weights = np.polynomial.legendre.leggauss(N_RADII)
        q = torch.as_tensor((nodes + 1) / 2)
        edges = torch.tensor(self.edges, dtype=torch.float64)
        frequencies = edges * torch.sin(math.pi / 2 * q)[:, None]
        return harmonic_thermo(
            frequencies, temperatures, weights=torch.as_tensor(weights) * q**2, unit="cm-1"
        )

    def heat_capacity(self, temperatures: Sequence[float] | Tensor | float) -> Tensor | None:
        """Estimate the missing heat capacity of one cell, eV/K; None if there is no estimate.

        Args:
            temperatures: Temperatures in K, (T,) or a scalar.
        """
        thermo = self.thermo(temperatures)
        if thermo is None or self.edges is None:
            return None
        n_free = self.edges.count(0.0)
        return thermo.heat_capacity + K_B * n_free * (thermo.temperatures > 0)


NO_BRANCHES = AcousticBranches(0, ())
"""Result for a molecule, a mesh of wave vectors, or a structure with fixed atoms: no branches."""


def acoustic_branches(
    potential: Potential, atoms: Atoms, modes: NormalModes, *, memory_budget: int | None = None
) -> AcousticBranches:
    """Compute the acoustic branches of a structure, from its modes at Gamma and nine more columns.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        modes: Modes of `gamma_modes` for the same potential and structure.
        memory_budget: Bytes that second derivatives may fill; see `hessian`.

    Returns:
        The branches. They have a number but no estimate if modes or branches are imaginary, or
        forces are large. There are no branches for a molecule, also in a periodic box whose images
        do not interact, and for a structure with fixed atoms.

    Raises:
        ValueError: If the structure does not fit the potential.
    """
    if not atoms.pbc.any() or len(modes.indices) < len(atoms) or modes.n_rigid < 3:
        return NO_BRANCHES
    n_branches = 4 if modes.n_rigid == 4 else 3
    if modes.n_imaginary:
        return AcousticBranches(n_branches, None, "there are imaginary modes")
    if modes.largest_force is not None and modes.largest_force > LARGEST_FORCE:
        return AcousticBranches(n_branches, None, "the structure is not relaxed")
    stiffness = _stiffness(potential, atoms, modes, memory_budget)
    v2 = _squared_speeds(stiffness, atoms)
    largest = float(np.abs(v2).max())
    if largest < MIN_LARGEST_SPEED:
        return NO_BRANCHES
    if v2.min() < -ZERO_SPEED * largest:
        return AcousticBranches(n_branches, None, "an acoustic branch is imaginary")
    v2 = np.where(v2 < ZERO_SPEED * largest, 0.0, v2)
    speeds = _mean_speeds(v2, int(atoms.pbc.sum()))
    edges = frequency_factor("cm-1") * 2 / math.pi * _zone_radius(atoms) * speeds
    return AcousticBranches(n_branches, tuple([0.0] * (n_branches - 3) + sorted(edges.tolist())))


def _stiffness(
    potential: Potential, atoms: Atoms, modes: NormalModes, memory_budget: int | None
) -> np.ndarray:
    """Compute A / mass of the cell, eV/amu, (3, 3, 3, 3)."""
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)

    def energy_of_deformation(u: Tensor, f: Tensor) -> Tensor:
        positions = s.positions + u
        return energy(positions + positions @ f, s.cell + s.cell @ f, potential.params)

    undeformed = torch.zeros_like(s.positions), torch.zeros_like(s.cell)
    pull_back = vjp(grad(energy_of_deformation, argnums=(0, 1)), *undeformed)[1]

    def column(f: Tensor) -> Tensor:
        u, df = pull_back((torch.zeros_like(s.positions), f))
        return torch.cat([u, df])

    units = torch.eye(9, dtype=s.cell.dtype, device=s.cell.device).view(9, 3, 3)
    columns = chunked_vmap(
        column, units, memory_budget=memory_budget, description="Speeds of sound"
    ).double()
    d2e_df2, d2e_dxdf = columns[:, -3:].flatten(1), columns[:, :-3].flatten(1)
    d2e_dxdf_modes = d2e_dxdf @ modes.displacements.flatten(1).double().mT  # (9, modes)
    omega2 = (modes.frequencies.double() / frequency_factor(modes.unit)) ** 2
    a = d2e_df2 - (d2e_dxdf_modes / omega2) @ d2e_dxdf_modes.mT
    mass = float(modes.masses.sum())
    result: np.ndarray = (a / mass).reshape(3, 3, 3, 3).cpu().numpy()
    return result


def _squared_speeds(stiffness: np.ndarray, atoms: Atoms) -> np.ndarray:
    """Return the eigenvalues of the Christoffel matrices, ascending, eV/amu, (directions, 3)."""
    directions = _directions(atoms)
    matrices = np.einsum("na,nc,abcd->nbd", directions, directions, stiffness)
    return np.asarray(np.linalg.eigvalsh((matrices + matrices.transpose(0, 2, 1)) / 2))


def _directions(atoms: Atoms) -> np.ndarray:
    """Return unit vectors of equal weight in the space of the periodic directions."""
    periodic = atoms.cell.array[atoms.pbc]
    axes = np.linalg.qr(periodic.T)[0].T
    if len(axes) == 1:
        return np.asarray(axes)
    fractions = (np.arange(N_DIRECTIONS) + 0.5) / N_DIRECTIONS
    if len(axes) == 2:
        angle = math.pi * fractions
        return np.asarray(np.stack([np.cos(angle), np.sin(angle)], 1) @ axes)
    height, turn = fractions, math.pi * (1 + 5**0.5) * np.arange(N_DIRECTIONS)
    radius = np.sqrt(1 - height**2)
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)
    return np.asarray(points @ axes)


def _mean_speeds(v2: np.ndarray, d: int) -> np.ndarray:
    """Average speeds of each branch, <v^-d>^(-1/d), (3,); zero if one of them is zero."""
    with np.errstate(divide="ignore"):
        return np.asarray((v2 ** (-d / 2)).mean(0) ** (-1 / d))


def _zone_radius(atoms: Atoms) -> float:
    """Return the radius of the sphere, disc or line of the size of the Brillouin zone, 1/Å."""
    periodic = atoms.cell.array[atoms.pbc]
    size = math.sqrt(np.linalg.det(periodic @ periodic.T))
    if len(periodic) == 1:
        return math.pi / size
    return (
        math.sqrt(4 * math.pi / size) if len(periodic) == 2 else (6 * math.pi**2 / size) ** (1 / 3)
    )
