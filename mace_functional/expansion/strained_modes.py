r"""Modes with their Grüneisen parameters, and stiffness: all that first-order expansion is made of.

In the cell of minimal energy E, the vibrations exert the thermal stress that their Grüneisen
tensors gamma determine. With the heat capacity c and the energy u of each mode, and K = d2E/de de,
the elastic tensor C times the volume V, with relaxed ions,

    strain        e     = K^-1 : sum gamma u
    expansion     alpha = K^-1 : sum gamma c = (1/V) S : sum gamma c
    difference    Cp - Cv = T V alpha : C : alpha = T alpha : sum gamma c.

Sums are averages over a mesh. Only strains that keep the symmetry take part.

Source: Barron, Collins, White, Adv. Phys. 29, 609 (1980), doi:10.1080/00018738000101426.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mace_functional.expansion.deformable import DeformableCrystal
from mace_functional.expansion.gruneisen import modes_and_parameters, parameters_of_sums
from mace_functional.expansion.symmetric_strains import invariant_strains
from mace_functional.phonons.modes import warn_if_not_relaxed
from mace_functional.potential.protocol import Potential, is_mirror_symmetric
from mace_functional.vibrations.mode_functions import mode_functions

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.phonons.mesh import Mesh

RELAXED_STRAIN = 1e-3
"""Entry of the strain to the minimum of the energy, above which a cell counts as not relaxed.

Expansion up to room temperature strains a crystal by 1e-3 to 1e-2.
"""


class ThermalStrains(NamedTuple):
    """Thermal expansion and heat capacities of a cell.

    Attributes:
        expansion: Expansion tensor alpha, 1/K, (T, 3, 3).
        strain: Strain from the cell of minimal energy, (T, 3, 3).
        cv: Heat capacity at constant volume and shape, eV/K, (T,).
        cp: Heat capacity at constant pressure, eV/K, (T,).
    """

    expansion: Tensor
    strain: Tensor
    cv: Tensor
    cp: Tensor


@dataclass(frozen=True, eq=False)
class StrainedModes:
    """Modes on a mesh, and what the strains that keep the symmetry do to them and to the energy.

    Attributes:
        eigenvalues: Squared frequencies, eV/Å²/amu, (Q, M).
        parameters: Grüneisen parameters along each strain, (Q, S, M); NaN for rigid motions and
            imaginary modes. In a block of degenerate modes only their sum has a meaning.
        weights: Weights of the wave vectors, (Q,), with sum 1.
        strains: The strains, (S, 3, 3).
        stiffness: Second derivatives of the energy by the strains, eV, (S, S).
        slopes: First derivatives of the energy by the strains, eV, (S,).
    """

    eigenvalues: Tensor
    parameters: Tensor
    weights: Tensor
    strains: Tensor
    stiffness: Tensor
    slopes: Tensor

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes, over all wave vectors."""
        return int((self.eigenvalues < 0).sum())

    @property
    def strain_to_minimum(self) -> float:
        """Largest entry of the strain that leads to the minimum of the energy, to first order."""
        return _strain_to_minimum(self.slopes, self.stiffness, self.strains)

    def thermal(self, temperatures: Sequence[float]) -> ThermalStrains:
        """Compute expansion and heat capacities, without rigid motions and imaginary modes.

        Args:
            temperatures: Temperatures, K, (T,).
        """
        gamma = torch.where(self.parameters.isnan(), 0.0, self.parameters)
        found = []
        for t in temperatures:
            functions = mode_functions(self.eigenvalues, t)
            by_heat = torch.einsum("q,qm,qsm->s", self.weights, functions.heat_capacity, gamma)
            by_energy = torch.einsum("q,qm,qsm->s", self.weights, functions.energy, gamma)
            alpha = torch.linalg.solve(self.stiffness, by_heat)
            e = torch.linalg.solve(self.stiffness, by_energy)
            cv = (self.weights @ functions.heat_capacity).sum()
            found.append(
                (
                    torch.tensordot(alpha, self.strains, 1),
                    torch.tensordot(e, self.strains, 1),
                    cv,
                    cv + t * (alpha * by_heat).sum(),
                )
            )
        return ThermalStrains(*(torch.stack(values) for values in zip(*found, strict=True)))


def strained_modes(
    potential: Potential,
    atoms: Atoms,
    mesh: Mesh,
    *,
    symprec: float,
    what: str,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> StrainedModes:
    """Compute modes, Grüneisen parameters and stiffness of a crystal, from one cell.

    Args:
        potential: A potential with a dynamical matrix.
        atoms: The crystal, with relaxed positions and cell; periodic in any directions.
        mesh: Mesh of wave vectors.
        symprec: Tolerance of the symmetry, Å.
        what: Name of the requested result, for errors.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        executor: Executor whose workers share the columns of the Hessian and the wave vectors; see
            `WorkerProcesses`. None to compute in this process.
        progress: Show a progress bar.

    Raises:
        TypeError: If the arguments are of other classes, swapped, or the potential has no dynamical
            matrix.
        ValueError: If the structure is a molecule or does not fit the potential, or its energy has
            no minimum in the cell.

    Warns:
        UserWarning: Positions or cell are far from relaxed.
    """
    crystal = DeformableCrystal.of(
        potential,
        atoms,
        ions="relaxed",
        what=what,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        executor=executor,
    )
    warn_if_not_relaxed(crystal.phonons)
    strains = invariant_strains(atoms, symprec=symprec, proper=not is_mirror_symmetric(potential))
    strains = strains.to(crystal.stiffness)
    stiffness = crystal.stiffness_along(strains)
    slopes = torch.tensordot(strains, crystal.virial, 2)
    _check_minimum(slopes, stiffness, strains)
    eigenvalues, parameters = modes_and_parameters(
        crystal, mesh.q, strains, parameters_of_sums, executor=executor, progress=progress
    )
    return StrainedModes(
        eigenvalues=eigenvalues,
        parameters=parameters,
        weights=mesh.weights.to(eigenvalues),
        strains=strains,
        stiffness=stiffness,
        slopes=slopes,
    )


def _check_minimum(slopes: Tensor, stiffness: Tensor, strains: Tensor) -> None:
    """Check that the energy has a minimum in the cell, and warn if it lies at another cell."""
    lowest = float(torch.linalg.eigvalsh(stiffness)[0])
    if not lowest > 0:
        raise ValueError(
            f"the energy has no minimum in the cell (curvature {lowest:.3g} eV along a strain that "
            "keeps the symmetry), so there is no thermal expansion: relax positions and cell first"
        )
    missing = _strain_to_minimum(slopes, stiffness, strains)
    if missing > RELAXED_STRAIN:
        warnings.warn(
            f"the cell is not relaxed: a strain of about {missing:.1e} leads to the minimum of the "
            "energy, and expansion is that of another cell; relax positions and cell first",
            stacklevel=4,
        )


def _strain_to_minimum(slopes: Tensor, stiffness: Tensor, strains: Tensor) -> float:
    step = torch.tensordot(torch.linalg.solve(stiffness, slopes), strains, 1)
    return float(step.abs().max())
