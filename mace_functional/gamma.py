"""Normal modes of a structure: of a molecule, or of a crystal at the Gamma point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mace_functional.derivatives import forces, hessian
from mace_functional.energy import energy_fn
from mace_functional.graph import from_ase
from mace_functional.vibrations import NormalModes, normal_modes

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.columns import ChunkSize
    from mace_functional.model import Model


def gamma_modes(
    model: Model,
    atoms: Atoms,
    *,
    unit: str = "cm-1",
    chunk_size: ChunkSize = "auto",
    progress: bool = False,
) -> NormalModes:
    """Frequencies and modes from the exact Hessian, rigid motions removed by projection.

    Args:
        model: From `load_model`.
        atoms: The structure, relaxed; periodic in any directions.
        unit: "cm-1", "THz" or "meV".
        chunk_size: Columns of the Hessian at once; see `hessian`.
        progress: Show a progress bar.

    Returns:
        The modes with their diagnostics: imaginary ones, largest force, acoustic-sum-rule residual
        and asymmetry of the Hessian.

    Raises:
        ValueError: If the structure does not fit the model; see `from_ase`.
    """
    s = from_ase(atoms, model)
    energy = energy_fn(model, s.graph)
    matrix = hessian(energy, chunk_size=chunk_size, progress=progress)
    return normal_modes(
        matrix(s.positions, s.cell, model.params),
        s.masses,
        s.positions,
        pbc=s.graph.pbc.tolist(),
        cell=s.cell,
        forces=forces(energy)(s.positions, s.cell, model.params),
        unit=unit,
    )
