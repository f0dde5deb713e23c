"""Phonons of a structure: the dynamical matrix, and diagnostics of its accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from ase.units import GPa
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import BUDGET_FRACTION, free_memory
from mace_functional.derivatives.forces_and_virial import energy_forces_virial
from mace_functional.phonons.cell_matrix import CellMatrix, ShortAndLongRange
from mace_functional.phonons.dynamical_matrix import has_dynamical_matrix
from mace_functional.phonons.force_constants import ForceConstants, force_constants_of_parts
from mace_functional.phonons.wave_vector import WaveVector
from mace_functional.potential.protocol import EdgePotential, Potential
from mace_functional.potential.terms import Part, parts_of_potential
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import Parts, parts_of
from mace_functional.structure.hops import Hops
from mace_functional.structure.lattice import volume_of
from mace_functional.structure.selection import refuse_constraints
from mace_functional.support import validation
from mace_functional.support.defaults import SYMPREC, PhononMethod
from mace_functional.support.renamed import positional_for_a_release
from mace_functional.support.validation import in_order
from mace_functional.vibrations.harmonic_modes import NormalModes, normal_modes
from mace_functional.vibrations.result_text import result_text
from mace_functional.vibrations.rigid import RigidMotions, rigid_motions_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize

ASSUMED_WAVE_VECTORS = 100
"""Number of wave vectors for which the cost of force constants and replicas is compared."""

OVERHEAD_ATOMS = 20
"""Number of atoms that a dynamical matrix without atoms would cost as much as.

With it, the force constants of silicon, quartz and RSM0010 (22 atoms) with MACE-MP-0 small cost as
much as 40, 70 and 40 dynamical matrices, if symmetry does not help.
"""

FLOATS_PER_WEIGHT = 10
"""Floats that linearised stars store for each radial weight of each edge.

The value is an upper bound of measurements.
"""

FLOATS_PER_PAIR = 30
"""Floats that force constants take for each atom of the cell and each image that it reaches.

There are 9 in the rows, and twice 9 while force constants are assembled.
"""


@dataclass(frozen=True)
class Diagnostics:
    """Deviations from a relaxed structure, and from an exact dynamical matrix.

    Attributes:
        largest_force: Largest force on an atom, eV/Å; zero for a relaxed structure.
        largest_stress: Largest entry of the stress, eV/Å³; None if not periodic in all directions.
        acoustic_sum_residual: Largest entry of |sum_k Phi_jk|, eV/Å²; zero for an energy that is
            invariant under translations.
        asymmetry: Largest entry of D - D^H, eV/Å²/amu, at Gamma and a general wave vector.
    """

    largest_force: float
    largest_stress: float | None
    acoustic_sum_residual: float
    asymmetry: float


@dataclass(frozen=True, eq=False)
class Phonons:
    """Lattice vibrations of a crystal, or vibrations of a molecule.

    Attributes:
        dynamical_matrix: Function of q (3,) in units of the reciprocal lattice vectors that returns
            D(q) in eV/Å²/amu, complex (3N, 3N); a pure function for `jvp`, `grad` and `vmap`.
        atoms: The structure.
        masses: Masses in amu, (N,).
        diagnostics: Deviations from a relaxed structure and an exact matrix.
        force_constants: Force constants from which the dynamical matrix is computed; None if it is
            computed without. They do not contain terms of the potential without a finite range.
        parts: Connected parts of the structure, each with its own rigid motions; None for one part
            that is connected to its images along all periodic directions.
    """

    dynamical_matrix: Callable[[WaveVector], Tensor]
    atoms: Atoms
    masses: Tensor
    diagnostics: Diagnostics
    force_constants: ForceConstants | None = None
    parts: Parts | None = None

    @cached_property
    def hessian(self) -> Tensor:
        """Sum of the force constants over all cells (q = 0), (3N, 3N), eV/Å²."""
        sqrt_m = self.masses.sqrt().repeat_interleave(3)
        return self.dynamical_matrix(self.masses.new_zeros(3)).real * (sqrt_m[:, None] * sqrt_m)

    @cached_property
    def rigid(self) -> RigidMotions:
        """Rigid motions, at q = 0 and at all waves in which a part moves as a whole."""
        n_atoms = len(self.atoms)

        def block(atoms: np.ndarray) -> np.ndarray:
            rows = (3 * atoms[:, None] + np.arange(3)).ravel()
            return as_array(self.hessian)[np.ix_(rows, rows)]

        return rigid_motions_of(
            self.atoms.positions,
            as_array(self.masses),
            self.atoms.cell.array,
            self.parts or Parts.whole(n_atoms, self.atoms.pbc),
            block=block,
            epsilon=torch.finfo(self.masses.dtype).eps,
        )

    def on(self, device: str | None, memory_budget: int | None) -> Phonons:
        """Return the phonons on a device, with the rigid motions that are known.

        Args:
            device: The device; the present one if None.
            memory_budget: Bytes for the columns of D(q), where `phonons_of` was given none.
        """
        matrix, constants = self.dynamical_matrix, self.force_constants
        if isinstance(matrix, CellMatrix):
            matrix = matrix.on(device, self.atoms, memory_budget)
        elif isinstance(matrix, ShortAndLongRange):
            matrix = matrix.on(device, self.atoms, memory_budget)
            constants = matrix.constants
        elif device is not None and constants is not None:
            constants = constants.to(device)
            matrix = constants.dynamical_matrix
        other = replace(
            self,
            dynamical_matrix=matrix,
            force_constants=constants,
            masses=self.masses if device is None else self.masses.to(device),
        )
        vars(other)["rigid"] = self.rigid
        return other

    @property
    def long_range(self) -> tuple[Potential, ...]:
        """Terms without a finite range, such as dispersion; they are not in `force_constants`."""
        matrix = self.dynamical_matrix
        matrices = matrix.matrices if isinstance(matrix, ShortAndLongRange) else ()
        return tuple(m.potential for m in matrices)

    def __repr__(self) -> str:
        stress, constants = self.diagnostics.largest_stress, self.force_constants
        return result_text(
            self,
            f"{self.atoms.get_chemical_formula()}, {len(self.atoms)} atoms",
            "D(q) at each q" if constants is None else f"D(q) from {constants!r}",
            *(f"{potential} at each q" for potential in self.long_range),
            f"largest force {self.diagnostics.largest_force:.1e} eV/Å",
            None if stress is None else f"largest stress {stress / GPa:.1e} GPa",
        )

    @positional_for_a_release("unit")
    def gamma_modes(self, *, unit: str = "cm-1") -> NormalModes:
        """Compute the modes at q = 0 without rigid motions, for crystals and molecules.

        Args:
            unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        """
        return normal_modes(
            self.hessian,
            self.masses,
            torch.as_tensor(self.atoms.positions),
            pbc=self.atoms.pbc.tolist(),
            cell=torch.as_tensor(self.atoms.cell.array),
            parts=self.parts,
            unit=unit,
        )


def phonons_of(
    potential: Potential,
    atoms: Atoms,
    *,
    method: PhononMethod = "auto",
    symmetry: bool = True,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Phonons:
    """Compute the phonons of a structure from its primitive cell, for any wave vector.

    Args:
        potential: A potential, such as a model of `load_model`, or a sum; see
            `dynamical_matrix_fn`.
        atoms: The structure, relaxed; periodic in any directions.
        method: "force-constants" computes the force constants of all cells first; D(q) then costs
            almost nothing. The dynamical matrix of dispersion is added at every q in closed form.
            "replicas" computes D(q) for every q by `dynamical_matrix_fn`. Both are exact. "auto"
            chooses force constants of a crystal if they fit into memory and cost less than a
            hundred D(q), else replicas.
        symmetry: Use the space group to compute fewer force constants.
        symprec: Tolerance of the symmetry, Å; see `force_constants`.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill, as method and as chunk size; None for a fraction
            of the free memory.
        executor: Executor whose workers share the rows of the force constants; see
            `WorkerProcesses`. None to compute in this process.
        progress: Show a progress bar for the force constants. Functions that compute many wave
            vectors have their own.

    Returns:
        The phonons.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the method is unknown, the structure does not fit the potential (see
            `from_ase`), constraints fix atoms, or parameters require grad or are inside of a
            transform. With method "force-constants", also if the structure is not periodic or no
            part of the potential has edges or a reach.
    """
    in_order("phonons_of(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    if method not in get_args(PhononMethod):
        known = ", ".join(get_args(PhononMethod))
        raise ValueError(f"method must be one of {known}, not {method!r}")
    validation.symmetry_tolerance("symprec", symprec)
    chunk_size = validation.chunk_size(chunk_size)
    memory_budget = validation.memory_budget(memory_budget)
    refuse_transforms("phonons_of", "dynamical_matrix_fn", potential.params)
    refuse_constraints(atoms, "phonons_of", "take gamma_modes, which keeps them")
    s = potential.structure(atoms)
    e_args = (s.positions, s.cell, potential.params)
    chunks: dict[str, Any] = {"chunk_size": chunk_size, "memory_budget": memory_budget}
    constants = None
    dynamical_matrix: Callable[[WaveVector], Tensor]
    parts = parts_of_potential(potential, s.topology, potential.params)
    finite = [part for part in parts if part.is_finite]
    others = [part for part in parts if not part.is_finite]
    if method == "force-constants" or (
        method == "auto" and _force_constants_pay(potential, parts, s.topology, memory_budget)
    ):
        if not finite:
            raise ValueError(
                f"{potential} has neither edges nor a reach, so it has no force constants of "
                "finite range: take method='replicas', or give the potential a reach"
            )
        constants = force_constants_of_parts(
            potential,
            finite,
            atoms,
            s,
            symmetry=symmetry,
            symprec=symprec,
            columns={**chunks, "executor": executor, "progress": progress},
        )
        dynamical_matrix = constants.dynamical_matrix
        if others:
            matrices = [CellMatrix(p.potential, replace(s, topology=p.topology)) for p in others]
            dynamical_matrix = ShortAndLongRange(constants, tuple(matrices))
    else:
        dynamical_matrix = CellMatrix(potential, s, chunk_size, memory_budget)

    derivatives = energy_forces_virial(potential.energy_fn(s.topology))(*e_args)
    periodic = bool(atoms.pbc.all())
    stress = float((derivatives.virial / volume_of(s.cell)).abs().max()) if periodic else None
    return Phonons(
        dynamical_matrix=dynamical_matrix,
        atoms=atoms.copy(),
        masses=s.masses,
        diagnostics=Diagnostics(
            largest_force=float(derivatives.forces.norm(dim=1).max()),
            largest_stress=stress,
            **matrix_diagnostics(dynamical_matrix, s.masses, s.topology.pbc),
        ),
        force_constants=constants,
        parts=parts_of(s.topology, s.positions, s.cell),
    )


def _force_constants_pay(
    potential: Potential, parts: list[Part[Potential]], topology: Any, memory_budget: int | None
) -> bool:
    """Return True if force constants cost less than replicas and fit into memory.

    A row costs what the nodes cost that it reaches in the layer before the last one. A dynamical
    matrix has as many columns as there are rows, of all nodes of the cell.
    """
    finite = [part for part in parts if part.is_finite]
    others = [part.potential for part in parts if not part.is_finite]
    if not finite or not bool(topology.pbc.any()) or not all(map(has_dynamical_matrix, others)):
        return False
    if not has_dynamical_matrix(potential):
        return True
    atoms, floats, nodes = topology.n_atoms, 0, 0
    for part, graph, _ in finite:
        if not isinstance(part, EdgePotential):
            return False
        *_, inner, images = Hops.around([0], graph, 2 * part.layers).counts
        n_weights = part.n_edge_features * part.layers
        floats += FLOATS_PER_WEIGHT * n_weights * graph.senders.numel()
        floats += FLOATS_PER_PAIR * atoms * images
        nodes += inner
    if memory_budget is None:
        memory_budget = int(BUDGET_FRACTION * free_memory(potential.device))
    fits = floats * potential.dtype.itemsize < memory_budget
    return fits and nodes < ASSUMED_WAVE_VECTORS * (atoms + OVERHEAD_ATOMS)


def matrix_diagnostics(
    dynamical_matrix: Callable[[WaveVector], Tensor], masses: Tensor, pbc: Tensor
) -> dict[str, float]:
    """Compute the entries of `Diagnostics` that follow from a dynamical matrix.

    Args:
        dynamical_matrix: Function of q (3,) that returns D(q) in eV/Å²/amu.
        masses: Masses in amu, (N,).
        pbc: True for each periodic direction, (3,).

    Returns:
        Acoustic-sum-rule residual, and asymmetry at Gamma and a general wave vector.
    """
    q = masses.new_tensor([0.31, 0.17, 0.43]) * pbc
    matrices = [dynamical_matrix(torch.zeros_like(q)), dynamical_matrix(q)]
    sqrt_m = masses.sqrt().repeat_interleave(3)
    phi = matrices[0].real * (sqrt_m[:, None] * sqrt_m)
    acoustic_sums = phi.view(-1, len(masses), 3).sum(1)
    return {
        "acoustic_sum_residual": float(acoustic_sums.abs().max()),
        "asymmetry": max(float((d - d.mH).abs().max()) for d in matrices),
    }
