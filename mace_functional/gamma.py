"""Normal modes of a structure: of a molecule, or of a crystal at the Gamma point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mace_functional.derivatives import forces, hessian
from mace_functional.energy import energy_fn
from mace_functional.graph import from_ase
from mace_functional.selection import Selection, free_atoms
from mace_functional.validation import in_order
from mace_functional.vibrations import NormalModes, normal_modes

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.columns import ChunkSize
    from mace_functional.model import Model


def gamma_modes(
    model: Model,
    atoms: Atoms,
    *,
    indices: Selection | None = None,
    unit: str = "cm-1",
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
) -> NormalModes:
    """Frequencies and modes from the exact Hessian, rigid motions removed by projection.

    Of some atoms alone, such as an adsorbate in a framework, they are those of the partial Hessian:
    all other atoms are held fixed, at the cost of as many columns as free coordinates. No motion is
    removed then, because translations and rotations of the free atoms are vibrations.

    Args:
        model: From `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        indices: The atoms that move, by number or by a mask, whatever constraints there are; with
            `range(len(atoms))` all of them. If None, all but those that ASE's `FixAtoms` holds, as
            in ASE's `Vibrations`; other constraints hold nothing here.
        unit: "cm-1", "THz" or "meV".
        chunk_size: Columns of the Hessian at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        progress: Show a progress bar.

    Returns:
        The modes with their diagnostics: imaginary ones, largest force, acoustic-sum-rule residual
        and asymmetry of the Hessian.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the model (see `from_ase`), or the indices are no
            choice of its atoms.

    Source: Li, Jensen, Theor. Chem. Acc. 107, 211 (2002), for partial Hessians.
    """
    in_order("gamma_modes(model, atoms)", (model, "Model"), (atoms, "Atoms"))
    free = free_atoms(atoms, indices)
    s = from_ase(atoms, model)
    energy = energy_fn(model, s.graph)
    matrix = hessian(
        energy,
        indices=free,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        progress=progress,
    )
    return normal_modes(
        matrix(s.positions, s.cell, model.params),
        s.masses,
        s.positions,
        pbc=s.graph.pbc.tolist(),
        cell=s.cell,
        forces=forces(energy)(s.positions, s.cell, model.params),
        indices=free,
        unit=unit,
    )
