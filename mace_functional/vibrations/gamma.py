"""Normal modes of a structure: of a molecule, or of a crystal at the Gamma point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.derivatives import forces, hessian
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.selection import Selection, atom_numbers, freedom
from mace_functional.support.validation import in_order
from mace_functional.vibrations.harmonic_modes import NormalModes, normal_modes
from mace_functional.vibrations.rigid import INSTEAD

if TYPE_CHECKING:
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
    progress: bool = False,
) -> NormalModes:
    """Frequencies and modes from the exact Hessian, rigid motions removed by projection.

    Rigid motions are those of each connected part of the structure (`connectivity`): three
    translations, and three rotations of a molecule, whether it lies in a periodic box or not.

    Of some atoms alone, such as an adsorbate in a framework, they are those of the partial Hessian:
    all other atoms are held fixed, at the cost of as many columns as free coordinates. Translations
    and rotations of the free atoms are vibrations then, but for those that move nothing held.

    Args:
        potential: Such as a model of `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        indices: The atoms that move, by number or by a mask, whatever constraints there are; with
            `range(len(atoms))` all of them. If None, all that constraints of ASE leave free, in the
            directions that they leave free, as in `relax`; see `selection.freedom`.
        unit: "cm-1", "THz" or "meV".
        chunk_size: Columns of the Hessian at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        progress: Show a progress bar.

    Returns:
        The modes with their diagnostics: imaginary ones, largest force, acoustic-sum-rule residual
        and asymmetry of the Hessian.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential (see `from_ase`), the indices are no
            choice of its atoms, a constraint is of a kind that is not known, or parameters
            require grad or are inside of a transform.

    Source: Li, Jensen, Theor. Chem. Acc. 107, 211 (2002), for partial Hessians.
    """
    in_order("gamma_modes(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    refuse_transforms("gamma_modes", f"{INSTEAD} of mf.hessian(E)", potential.params)
    directions = None
    if indices is None:
        left = freedom(atoms, "gamma_modes")
        free, directions = atom_numbers(left.atoms, len(atoms)), left.basis_of_atoms()
    else:
        free = atom_numbers(indices, len(atoms))
    s = potential.structure(atoms)
    energy = potential.energy_fn(s.topology)
    matrix = hessian(
        energy,
        indices=free,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        progress=progress,
    )
    return normal_modes(
        matrix(s.positions, s.cell, potential.params),
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
