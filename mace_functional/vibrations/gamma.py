"""Normal modes of a molecule, or of a crystal at the Gamma point, from a potential."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import forces
from mace_functional.derivatives.hessian_products import hessian_of
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import Selection, atom_numbers, freedom
from mace_functional.support.validation import in_order
from mace_functional.vibrations.harmonic_modes import NormalModes, normal_modes
from mace_functional.vibrations.rigid import DIFFERENTIABLE_CALL

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize
    from mace_functional.potential.protocol import Potential


def gamma_modes(
    potential: Potential,
    atoms: Atoms,
    *,
    indices: Selection | None = None,
    unit: str = "cm-1",
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> NormalModes:
    """Compute frequencies and normal modes from the exact Hessian, without rigid motions.

    Each connected part of the structure (`connectivity`) has its own rigid motions: three
    translations, and for a molecule three rotations, also in a periodic box. They are removed by
    projection.

    With `indices`, or with constraints, only some atoms move, such as an adsorbate in a framework.
    The modes are then those of the partial Hessian, and all other atoms are fixed. The Hessian has
    as many columns as there are free coordinates. Translations and rotations of the free atoms
    become vibrations, except for rigid motions that leave all fixed atoms in place.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        indices: Atoms that move, as numbers or as a mask; `range(len(atoms))` for all atoms.
            Constraints are then ignored. None for the atoms and directions that constraints of ASE
            leave free, as in `relax`; see `selection.freedom`.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        chunk_size: Columns of the Hessian at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        executor: Executor whose workers share the columns of the Hessian; see
            `WorkerProcesses`. None to compute in this process.
        progress: Show a progress bar.

    Returns:
        The modes with their diagnostics: imaginary modes, largest force, acoustic-sum-rule residual
        and asymmetry of the Hessian.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential (see `from_ase`), the indices are
            not atoms of the structure, a constraint is of an unknown kind, parameters require grad
            or are inside of a transform, or the potential cannot be sent to processes.
        ChildProcessError: If the executor is broken, or its workers die again and again.

    Source: Li, Jensen, Theor. Chem. Acc. 107, 211 (2002), for partial Hessians.
    """
    in_order("gamma_modes(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    refuse_transforms("gamma_modes", f"{DIFFERENTIABLE_CALL} of mf.hessian(E)", potential.params)
    directions = None
    if indices is None:
        free_space = freedom(atoms, "gamma_modes")
        free, directions = atom_numbers(free_space.atoms, len(atoms)), free_space.basis_of_atoms()
    else:
        free = atom_numbers(indices, len(atoms))
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)
    matrix = hessian_of(
        potential,
        atoms,
        s,
        indices=free,
        executor=executor,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        progress=progress,
    )
    return normal_modes(
        matrix,
        s.masses,
        s.positions,
        pbc=s.topology.pbc.tolist(),
        cell=s.cell,
        forces=forces(energy)(s.positions, s.cell, potential.params),
        indices=free,
        free=directions,
        parts=parts_of(s.topology, s.positions, s.cell),
        unit=unit,
    )
