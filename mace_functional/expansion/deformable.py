"""Crystals that can be strained: D(q) and its derivatives, stiffness, and response of the ions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import hessian
from mace_functional.derivatives.forces_and_virial import energy_forces_virial
from mace_functional.elasticity.tensor import Ions, solve_hessian, strain_derivatives
from mace_functional.elasticity.voigt import expand, from_voigt
from mace_functional.expansion.mode_gruneisen import StrainedMatrix, strained_matrix_fn
from mace_functional.phonons.dynamical_matrix import dynamical_matrix_fn
from mace_functional.phonons.modes import check_crystal, rigid_basis
from mace_functional.phonons.phonons import Diagnostics, Phonons
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support.validation import in_order
from mace_functional.vibrations.rigid import internal_motions

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential


@dataclass(frozen=True, eq=False)
class DeformableCrystal:
    """A crystal with everything that a strain changes to first order.

    Attributes:
        atoms: The structure.
        phonons: Phonons of the structure, for rigid motions and the largest force; errors of the
            dynamical matrix are not computed and NaN.
        energy: Energy, eV.
        virial: First derivative of the energy by the strain, eV, (3, 3).
        stiffness: Second derivative of the energy by the strain, eV, (3, 3, 3, 3): the elastic
            tensor times the volume.
        strained_matrix: Function of q and strains (S, 3, 3) that returns D and dD/de.
    """

    atoms: Atoms
    phonons: Phonons
    energy: float
    virial: Tensor
    stiffness: Tensor
    strained_matrix: Callable[[Tensor, Tensor], StrainedMatrix]

    @classmethod
    def of(
        cls, potential: Potential, atoms: Atoms, *, ions: Ions, what: str, **columns: Any
    ) -> DeformableCrystal:
        """Compute a crystal's derivatives by strain.

        Args:
            potential: The potential.
            atoms: The crystal, relaxed.
            ions: "relaxed" or "clamped".
            what: Name of the requested result, for errors.
            **columns: `chunk_size` and `memory_budget`; see `hessian`.

        Raises:
            TypeError: If the arguments are of other classes, or swapped.
            ValueError: If the structure is a molecule, does not fit the potential, or an option is
                unknown.
        """
        in_order(f"{what}(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
        if ions not in get_args(Ions):
            raise ValueError(f"ions must be 'relaxed' or 'clamped', not {ions!r}")
        refuse_transforms(what, "gruneisen_fn", potential.params)
        check_crystal(atoms, what)
        refuse_constraints(atoms, what, "remove them: a strain moves all atoms")
        s = potential.structure(atoms)
        energy = potential.energy_fn(s.topology)
        e_args = (s.positions, s.cell, potential.params)
        by_strain = strain_derivatives(energy, **columns)(*e_args)
        second, response = by_strain.second, None
        if ions == "relaxed":
            h = hessian(energy, **columns)(*e_args)
            voigt_response = -solve_hessian(h, by_strain.mixed)
            second = second + torch.einsum("iak,ial->kl", by_strain.mixed, voigt_response)
            response = expand(voigt_response)
        dynamical_matrix = dynamical_matrix_fn(potential, s.topology, **columns)
        matrix = strained_matrix_fn(dynamical_matrix, **columns)

        def strained_matrix(q: Tensor, strains: Tensor) -> StrainedMatrix:
            return matrix(q, *e_args, s.masses, strains.to(s.cell), response)

        first = energy_forces_virial(energy)(*e_args)
        return cls(
            atoms=atoms.copy(),
            phonons=Phonons(
                dynamical_matrix=lambda q: dynamical_matrix(q, *e_args, s.masses),
                atoms=atoms.copy(),
                masses=s.masses,
                diagnostics=Diagnostics(
                    largest_force=float(first.forces.norm(dim=1).max()),
                    largest_stress=None,
                    acoustic_sum_residual=math.nan,
                    asymmetry=math.nan,
                ),
                parts=parts_of(s.topology, s.positions, s.cell),
            ),
            energy=float(first.energy),
            virial=by_strain.virial,
            stiffness=from_voigt(second),
            strained_matrix=strained_matrix,
        )

    def stiffness_along(self, strains: Tensor) -> Tensor:
        """Return the second derivatives of the energy by strains (S, 3, 3), eV, (S, S)."""
        strains = strains.to(self.stiffness)
        return torch.einsum("sij,ijkl,tkl->st", strains, self.stiffness, strains)

    def internal(self, q: Tensor) -> Tensor | None:
        """Return a basis of all motions at q but the rigid ones, (3N, M); None if all are."""
        rigid = rigid_basis(self.phonons, q)
        return internal_motions(rigid) if rigid.shape[1] else None


def confined(d: StrainedMatrix, internal: Tensor | None) -> StrainedMatrix:
    """Return D and dD/de in the space of a basis of motions (3N, M)."""
    if internal is None:
        return d
    p = internal.to(d.matrix.dtype)
    return StrainedMatrix(p.mH @ d.matrix @ p, p.mH @ d.slopes @ p)
