"""Crystals that can be strained: D(q) and its derivatives, stiffness, and response of the ions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives.forces_and_virial import energy_forces_virial
from mace_functional.derivatives.hessian_products import hessian_of
from mace_functional.elasticity.tensor import Ions, solve_hessian, strain_derivatives
from mace_functional.elasticity.voigt import expand, from_voigt
from mace_functional.expansion.mode_gruneisen import StrainedMatrix, strained_matrix_fn
from mace_functional.expansion.mode_slopes import ModeSlopes, mode_slopes_fn
from mace_functional.phonons.cell_matrix import CellMatrix
from mace_functional.phonons.modes import check_crystal, rigid_basis
from mace_functional.phonons.phonons import Diagnostics, Phonons
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support.validation import in_order
from mace_functional.vibrations.rigid import internal_motions

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.potential.protocol import Potential


@dataclass(frozen=True, eq=False)
class StrainedCellMatrix:
    """D(q) of a structure, and derivatives by strain of it and its modes; it can be pickled.

    Attributes:
        matrix: The dynamical matrix.
        response: Response of the ions to a strain, Å, (N, 3, 3, 3); None for clamped ions.
    """

    matrix: CellMatrix
    response: Tensor | None

    def __call__(self, q: Tensor, strains: Tensor) -> StrainedMatrix:
        """Return D and dD/de at a wave vector (3,), for strains (S, 3, 3)."""
        s = self.matrix.structure
        response = None if self.response is None else self.response.to(s.cell)
        args = s.positions, s.cell, self.matrix.potential.params, s.masses
        return self._function(q, *args, strains.to(s.cell), response)

    def mode_slopes(self, q: Tensor, eigenvectors: Tensor, strains: Tensor) -> Tensor:
        """Return the derivatives (S, M) of the eigenvalues of eigenvectors (3N, M)."""
        s = self.matrix.structure
        response = None if self.response is None else self.response.to(s.cell)
        args = s.positions, s.cell, self.matrix.potential.params, s.masses
        return self._mode_slopes(q, eigenvectors, *args, strains.to(s.cell), response)

    def __getstate__(self) -> dict[str, Any]:
        # The cached functions cannot be pickled.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def _function(self) -> Callable[..., StrainedMatrix]:
        return strained_matrix_fn(self.matrix.function, **self._columns)

    @cached_property
    def _mode_slopes(self) -> ModeSlopes:
        matrix = self.matrix
        return mode_slopes_fn(matrix.potential, matrix.structure.topology, **self._columns)

    @property
    def _columns(self) -> dict[str, Any]:
        matrix = self.matrix
        return {"chunk_size": matrix.chunk_size, "memory_budget": matrix.memory_budget}


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
    strained_matrix: StrainedCellMatrix

    @classmethod
    def of(
        cls,
        potential: Potential,
        atoms: Atoms,
        *,
        ions: Ions,
        what: str,
        executor: Executor | None = None,
        **columns: Any,
    ) -> DeformableCrystal:
        """Compute a crystal's derivatives by strain.

        Args:
            potential: The potential.
            atoms: The crystal, relaxed.
            ions: "relaxed" or "clamped".
            what: Name of the requested result, for errors.
            executor: Executor whose workers share the columns of the Hessian; None to compute in
                this process.
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
            h = hessian_of(potential, atoms, s, executor=executor, **columns)
            voigt_response = -solve_hessian(h, by_strain.mixed)
            second = second + torch.einsum("iak,ial->kl", by_strain.mixed, voigt_response)
            response = expand(voigt_response)
        matrix = CellMatrix(potential, s, **columns)
        first = energy_forces_virial(energy)(*e_args)
        return cls(
            atoms=atoms.copy(),
            phonons=Phonons(
                dynamical_matrix=matrix,
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
            strained_matrix=StrainedCellMatrix(matrix, response),
        )

    def on(self, device: str | None, memory_budget: int | None) -> DeformableCrystal:
        """Return the crystal with phonons and matrices on a device.

        Args:
            device: The device; the present one if None.
            memory_budget: Bytes for columns, where the crystal was given none.
        """
        matrix = self.strained_matrix
        return replace(
            self,
            phonons=self.phonons.on(device, memory_budget),
            strained_matrix=replace(
                matrix, matrix=matrix.matrix.on(device, self.atoms, memory_budget)
            ),
        )

    def stiffness_along(self, strains: Tensor) -> Tensor:
        """Return the second derivatives of the energy by strains (S, 3, 3), eV, (S, S)."""
        strains = strains.to(self.stiffness)
        return torch.einsum("sij,ijkl,tkl->st", strains, self.stiffness, strains)

    def modes(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return eigenvalues (M,) and mass-weighted eigenvectors (3N, M), without rigid motions."""
        d, internal = self.phonons.dynamical_matrix(q), self.internal(q)
        if internal is not None:
            p = internal.to(d.dtype)
            d = p.mH @ d @ p
        d = 0.5 * (d + d.mH)
        eigenvalues, e = torch.linalg.eigh(d if bool(d.imag.any()) else d.real)
        if internal is None:
            return eigenvalues, e
        kind = torch.promote_types(internal.dtype, e.dtype)
        return eigenvalues, internal.to(kind) @ e.to(kind)

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
