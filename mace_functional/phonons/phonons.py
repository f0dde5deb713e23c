"""The phonons of a structure: its dynamical matrix, and how much it can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from ase.units import GPa
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.autodiff.memory import BUDGET_FRACTION, free_memory
from mace_functional.derivatives.forces_and_virial import energy_forces_virial
from mace_functional.phonons.dynamical_matrix import (
    dynamical_matrix_fn,
    has_dynamical_matrix,
)
from mace_functional.phonons.force_constant_rows import finite_parts
from mace_functional.phonons.force_constants import (
    ForceConstants,
    force_constants,
)
from mace_functional.phonons.wave_vector import WaveVector
from mace_functional.potential.protocol import EdgePotential, Potential
from mace_functional.structure.arrays import as_array
from mace_functional.structure.cluster import Cluster
from mace_functional.structure.connectivity import Parts, parts_of
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
    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize

WAVE_VECTORS = 1000
"""How many wave vectors force constants must save to be worth their computation."""

NUMBERS_PER_WEIGHT = 10
"""Kept for each radial weight of each edge by a linearised gradient; measured, from above."""


@dataclass(frozen=True)
class Diagnostics:
    """How far structure and matrix are from what they should be.

    Attributes:
        largest_force: On any atom, eV/Å; phonons are those of a structure at rest.
        largest_stress: Largest entry of the stress, eV/Å³; None if not periodic in all directions.
        acoustic_sum_residual: max |sum_k Phi_jk|, eV/Å²; zero for an energy that is invariant under
            translations.
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
        dynamical_matrix: q (3,) in units of the reciprocal lattice vectors to D(q), complex
            (3N, 3N) in eV/Å²/amu: a pure function for `jvp`, `grad` and `vmap`.
        atoms: The structure.
        masses: amu, (N,).
        diagnostics: How far it is from what it should be.
        force_constants: What the dynamical matrix is made of; None if it is not made of them.
        parts: Connected parts of the structure, each with rigid motions of its own; if None, it is
            one, connected to itself along all periodic directions.
    """

    dynamical_matrix: Callable[[WaveVector], Tensor]
    atoms: Atoms
    masses: Tensor
    diagnostics: Diagnostics
    force_constants: ForceConstants | None = None
    parts: Parts | None = None

    @cached_property
    def hessian(self) -> Tensor:
        """Force constants at q = 0 between all atoms, (3N, 3N), eV/Å²."""
        root = self.masses.sqrt().repeat_interleave(3)
        return self.dynamical_matrix(self.masses.new_zeros(3)).real * (root[:, None] * root)

    @cached_property
    def rigid(self) -> RigidMotions:
        """The rigid motions, at q = 0 and at all waves in which a part moves as a whole."""
        count = len(self.atoms)

        def block(atoms: np.ndarray) -> np.ndarray:
            rows = (3 * atoms[:, None] + np.arange(3)).ravel()
            return as_array(self.hessian)[np.ix_(rows, rows)]

        return rigid_motions_of(
            self.atoms.positions,
            as_array(self.masses),
            self.atoms.cell.array,
            self.parts or Parts.whole(count, self.atoms.pbc),
            block=block,
            epsilon=torch.finfo(self.masses.dtype).eps,
        )

    def __repr__(self) -> str:
        stress, constants = self.diagnostics.largest_stress, self.force_constants
        return result_text(
            self,
            f"{self.atoms.get_chemical_formula()}, {len(self.atoms)} atoms",
            "D(q) from coupled replicas" if constants is None else f"D(q) from {constants!r}",
            f"largest force {self.diagnostics.largest_force:.1e} eV/Å",
            None if stress is None else f"largest stress {stress / GPa:.1e} GPa",
        )

    @positional_for_a_release("unit")
    def gamma_modes(self, *, unit: str = "cm-1") -> NormalModes:
        """Modes at q = 0 without rigid motions, of crystals and molecules alike.

        Args:
            unit: "cm-1", "THz" or "meV".
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
    progress: bool = False,
) -> Phonons:
    """Phonons of a structure from its primitive cell, at any wave vector.

    Args:
        potential: Such as a model of `load_model`, or a sum; see `dynamical_matrix_fn`.
        atoms: The structure, relaxed; periodic in any directions.
        method: "force-constants" computes those of all cells first, after which D(q) costs almost
            nothing; "replicas" computes D(q) anew for every q, by `dynamical_matrix_fn`, in less
            memory. Both are exact. "auto" takes force constants of crystals wherever they fit into
            memory and cost less than replicas at a thousand wave vectors, and replicas otherwise,
            for potentials without edges, such as dispersion, always.
        symmetry: Use it in computing force constants.
        symprec: Its tolerance, Å; see `force_constants`.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto", here as method and chunk size, may fill; a fraction of
            the free memory if None.
        progress: Show a progress bar for the force constants. What walks through wave vectors, a
            path or a mesh, has one of its own.

    Returns:
        The phonons.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the method is unknown, the structure does not fit the potential (see
            `from_ase`), or force constants are asked for and it is not periodic, or a part of the
            potential has no edges; or if constraints hold atoms, or parameters require grad or are
            inside of a transform.
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
    arguments = (s.positions, s.cell, potential.params)
    constants = None
    dynamical_matrix: Callable[[WaveVector], Tensor]
    if method == "force-constants" or (
        method == "auto" and _cluster_pays(potential, s.topology, memory_budget)
    ):
        constants = force_constants(
            potential,
            atoms,
            symmetry=symmetry,
            symprec=symprec,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            progress=progress,
        )
        dynamical_matrix = constants.dynamical_matrix
    else:
        matrix = dynamical_matrix_fn(
            potential, s.topology, chunk_size=chunk_size, memory_budget=memory_budget
        )

        def dynamical_matrix(q: WaveVector) -> Tensor:
            return matrix(q, *arguments, s.masses)

    at_rest = energy_forces_virial(potential.energy_fn(s.topology))(*arguments)
    periodic = bool(atoms.pbc.all())
    stress = float((at_rest.virial / volume_of(s.cell)).abs().max()) if periodic else None
    return Phonons(
        dynamical_matrix=dynamical_matrix,
        atoms=atoms.copy(),
        masses=s.masses,
        diagnostics=Diagnostics(
            largest_force=float(at_rest.forces.norm(dim=1).max()),
            largest_stress=stress,
            **matrix_diagnostics(dynamical_matrix, s.masses, s.topology.pbc),
        ),
        force_constants=constants,
        parts=parts_of(s.topology, s.positions, s.cell),
    )


def _cluster_pays(potential: Potential, topology: Any, memory_budget: int | None) -> bool:
    """Whether force constants are the better way, by the size of the clusters that they need.

    Both ways linearise the network once for 3N columns: force constants on the nodes of a cluster,
    replicas on 3N nodes for every wave vector.
    """
    parts = finite_parts(potential, topology, potential.params)
    if parts is None or not bool(topology.pbc.any()):
        return False
    if not has_dynamical_matrix(potential):
        return True
    atoms, numbers, nodes = topology.n_atoms, 0, 0
    for part, graph, _ in parts:
        if not isinstance(part, EdgePotential):
            return False
        cluster = Cluster.around(list(range(atoms)), graph, part.layers)
        weights = part.n_edge_features * part.layers
        columns = 3 * atoms * cluster.cells.numel()
        numbers += NUMBERS_PER_WEIGHT * weights * cluster.senders.numel() + 3 * columns
        nodes += len(cluster.senders)
    if memory_budget is None:
        memory_budget = int(BUDGET_FRACTION * free_memory(potential.device))
    fits = numbers * potential.dtype.itemsize < memory_budget
    return fits and nodes < WAVE_VECTORS * 3 * atoms


def matrix_diagnostics(
    dynamical_matrix: Callable[[WaveVector], Tensor], masses: Tensor, pbc: Tensor
) -> dict[str, float]:
    """Those of the `Diagnostics` that a dynamical matrix tells.

    Args:
        dynamical_matrix: q (3,) to D(q) in eV/Å²/amu.
        masses: amu, (N,).
        pbc: Periodic directions, (3,).

    Returns:
        Acoustic-sum-rule residual, and asymmetry at Gamma and a general wave vector.
    """
    q = masses.new_tensor([0.31, 0.17, 0.43]) * pbc
    matrices = [dynamical_matrix(torch.zeros_like(q)), dynamical_matrix(q)]
    root = masses.sqrt().repeat_interleave(3)
    at_gamma = matrices[0].real * (root[:, None] * root)
    sums = at_gamma.view(-1, len(masses), 3).sum(1)
    return {
        "acoustic_sum_residual": float(sums.abs().max()),
        "asymmetry": max(float((d - d.mH).abs().max()) for d in matrices),
    }
