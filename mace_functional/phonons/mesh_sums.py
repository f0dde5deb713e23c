"""Thermodynamics of a crystal from its phonons on a mesh, and its convergence with the mesh."""

from __future__ import annotations

import html
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mace_functional.phonons.mesh import Mesh, MeshModes, mesh_modes, mesh_size
from mace_functional.phonons.modes import check_crystal, is_gamma
from mace_functional.support.defaults import MESH_TOLERANCE, SYMPREC
from mace_functional.support.renamed import OldAttribute, positional_for_a_release
from mace_functional.support.validation import count, positive
from mace_functional.units import K_B
from mace_functional.vibrations.imaginary import ImaginaryMode
from mace_functional.vibrations.result_text import html_table, result_text
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from mace_functional.phonons.phonons import Phonons

FIRST_SPACING = 1.0
"""Spacing of the first mesh, 1/Å. Cells of 6 Å and more begin with Gamma alone."""

REFINEMENT = 2**-0.5
"""Ratio of the spacings of successive meshes.

Each mesh has about 2.8 times the wave vectors of the mesh before.
"""

MIN_RELATIVE_CV = 0.01
"""Smallest denominator of relative errors of heat capacities, in units of 3N k_B.

Near 0 K only a few waves around Gamma contribute, and no mesh resolves them: errors of smaller heat
capacities are relative to this value.
"""

MAX_WAVE_VECTORS = 4000
"""Number of inequivalent wave vectors of a mesh above which the refinement stops."""


@dataclass(frozen=True, eq=False)
class MeshThermo:
    """Harmonic thermodynamics of a crystal, averaged over a mesh.

    Attributes:
        thermo: Heat capacity, entropy and energies of one cell.
        modes: Modes on the mesh.
    """

    thermo: HarmonicThermo
    modes: MeshModes

    def __repr__(self) -> str:
        return result_text(self, self.modes.mesh.description, repr(self.thermo))

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.modes.mesh.description)}</p>{self.thermo._repr_html_()}"

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """Imaginary modes, which are left out; frequencies in cm-1, the most unstable first."""
        return self.modes.imaginary_modes

    imaginary = OldAttribute("imaginary_modes")

    @property
    def specific_heat_capacity(self) -> Tensor:
        """Heat capacity per mass at constant volume, J/(g K)."""
        return self.thermo.specific_heat_capacity()


@dataclass(frozen=True)
class ConvergenceRow:
    """Thermodynamics from one mesh, as a row of a table.

    Attributes:
        size: Size of the mesh.
        n_q: Number of inequivalent wave vectors.
        specific_heat_capacity: Heat capacity per mass, J/(g K).
        entropy: Entropy of one cell, eV/K.
        free_energy: Helmholtz free energy of one cell, eV.
        n_imaginary: Number of imaginary modes, over all inequivalent wave vectors.
    """

    size: tuple[int, int, int]
    n_q: int
    specific_heat_capacity: float
    entropy: float
    free_energy: float
    n_imaginary: int


def mesh_thermo(modes: MeshModes, temperatures: Sequence[float] | Tensor | float) -> MeshThermo:
    """Compute heat capacity, entropy and energies from the modes on a mesh.

    Rigid motions have a frequency of exactly zero and contribute nothing. A mesh (n, n, n)
    therefore gives the result of an (n, n, n) supercell at Gamma without its three translations.

    Args:
        modes: Modes of `mesh_modes`.
        temperatures: Temperatures in K, (T,) or a scalar.

    Returns:
        Thermodynamics of one cell.

    Raises:
        ValueError: If temperatures are negative or not finite.

    Warns:
        UserWarning: There are imaginary modes.
    """
    return MeshThermo(thermo=harmonic_thermo(modes, temperatures), modes=modes)


def mesh_convergence(
    phonons: Phonons,
    meshes: Iterable[Mesh],
    temperature: float,
    *,
    executor: Executor | None = None,
    progress: bool = False,
) -> list[ConvergenceRow]:
    """Compute thermodynamics on several meshes, to see how fine a mesh must be.

    Args:
        phonons: Phonons of `phonons_of`.
        meshes: Meshes of `Mesh.of` for the same structure.
        temperature: Temperature, K.
        executor: Executor whose workers share the wave vectors; see `WorkerProcesses`. None to
            compute in this process.
        progress: Show a progress bar for each mesh.

    Returns:
        A row for each mesh, with its number of imaginary modes.

    Raises:
        ValueError: See `mesh_modes` and `mesh_thermo`.
    """
    rows = []
    for mesh in meshes:
        modes = mesh_modes(phonons, mesh, eigenvectors=False, executor=executor, progress=progress)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*imaginary modes")
            result = mesh_thermo(modes, temperature)
        rows.append(
            ConvergenceRow(
                size=mesh.size,
                n_q=len(mesh.q),
                specific_heat_capacity=float(result.specific_heat_capacity),
                entropy=float(result.thermo.entropy),
                free_energy=float(result.thermo.free_energy),
                n_imaginary=modes.n_imaginary,
            )
        )
    return rows


@dataclass(frozen=True)
class MeshStep:
    """One mesh of a series that is refined until it is converged.

    Attributes:
        size: Size of the mesh.
        n_q: Number of inequivalent wave vectors.
        specific_heat_capacity: Heat capacity per mass at each temperature, J/(g K).
        change: Largest relative change of the heat capacity from the mesh before, over the
            temperatures; None for the first mesh.
        missing: Largest relative contribution of the acoustic modes at Gamma, which are left out.
    """

    size: tuple[int, int, int]
    n_q: int
    specific_heat_capacity: tuple[float, ...]
    change: float | None
    missing: float

    @property
    def error(self) -> float:
        """Larger of `change` and `missing`; infinite for the first mesh."""
        return math.inf if self.change is None else max(self.change, self.missing)


@dataclass(frozen=True, eq=False)
class ConvergedThermo:
    """Thermodynamics of a crystal from a mesh that was refined until it was converged.

    Attributes:
        result: Result of the last and finest mesh.
        steps: The meshes, the coarsest first.
        tolerance: Tolerance of the relative error.
        converged: True if the error of the last mesh is within the tolerance.
    """

    result: MeshThermo
    steps: list[MeshStep]
    tolerance: float
    converged: bool

    def __repr__(self) -> str:
        return result_text(self, self._ending, repr(self.result))

    def _repr_html_(self) -> str:
        columns = {
            "mesh": [" x ".join(map(str, step.size)) for step in self.steps],
            "inequivalent": [str(step.n_q) for step in self.steps],
            "largest error of Cv (%)": [
                "" if step.change is None else f"{100 * step.error:.3f}" for step in self.steps
            ],
        }
        return html_table(self._ending, columns) + self.result.thermo._repr_html_()

    @property
    def _ending(self) -> str:
        """Statement whether the mesh converged, and to which error."""
        outcome = "converged" if self.converged else "not converged"
        return (
            f"{outcome} to {self.tolerance:g} of the heat capacity after {len(self.steps)} meshes"
        )

    @property
    def size(self) -> tuple[int, int, int]:
        """Size of the last mesh."""
        return self.steps[-1].size


@positional_for_a_release("tolerance")
def converged_mesh_thermo(
    phonons: Phonons,
    temperatures: Sequence[float] | Tensor | float,
    *,
    tolerance: float = MESH_TOLERANCE,
    symprec: float = SYMPREC,
    most_wave_vectors: int = MAX_WAVE_VECTORS,
    checkpoint: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ConvergedThermo:
    """Compute heat capacity, entropy and energies on a mesh that is converged in the heat capacity.

    The spacing of wave vectors (`mesh_size`) is reduced until two relative errors of the heat
    capacity are within the tolerance, at all temperatures: its change from the mesh before, and the
    upper bound of the part that is missing, k_B for each acoustic mode at Gamma times the weight of
    Gamma. The second is the larger one on most meshes, and is inversely proportional to the number
    of points. Errors of heat capacities below `MIN_RELATIVE_CV` times 3N k_B are relative to that
    value.

    Args:
        phonons: Phonons of `phonons_of`.
        temperatures: Temperatures in K, (T,) or a scalar.
        tolerance: Largest relative error.
        symprec: Largest distance of an atom from the position that an operation gives, Å.
        most_wave_vectors: Largest number of inequivalent wave vectors of a mesh; no finer mesh is
            computed.
        checkpoint: File (npz). Each mesh writes its finished wave vectors to a file of this name
            with its size appended, and an interrupted calculation continues from these files.
        executor: Executor whose workers share the wave vectors; see `WorkerProcesses`. None to
            compute in this process.
        progress: Show a progress bar for each mesh.

    Returns:
        The thermodynamics, all meshes, and whether they converged.

    Raises:
        ValueError: If a limit is not positive; see also `mesh_modes` and `mesh_thermo`.

    Warns:
        UserWarning: There are imaginary modes; the structure is far from relaxed; the tolerance
            is not reached.
    """
    check_crystal(phonons.atoms, "a mesh")
    positive("tolerance", tolerance)
    count("most_wave_vectors", most_wave_vectors)
    spacing, steps = FIRST_SPACING, list[MeshStep]()
    result: MeshThermo | None = None
    while result is None or steps[-1].error > tolerance:
        size = mesh_size(phonons.atoms, spacing)
        spacing *= REFINEMENT
        if result is not None and size == steps[-1].size:
            continue
        mesh = Mesh.of(phonons.atoms, size, symprec=symprec)
        if result is not None and len(mesh.q) > most_wave_vectors:
            warnings.warn(
                f"the heat capacity has an error of {steps[-1].error:.1e} on a mesh of "
                f"{steps[-1].size}, above the tolerance of {tolerance:g}: the next one has "
                f"{len(mesh.q)} wave vectors, more than {most_wave_vectors}",
                stacklevel=3,
            )
            break
        modes = mesh_modes(
            phonons,
            mesh,
            eigenvectors=False,
            checkpoint=None if checkpoint is None else mesh_checkpoint(Path(checkpoint), size),
            executor=executor,
            progress=progress,
        )
        previous = result
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*imaginary modes")
            result = mesh_thermo(modes, temperatures)
        steps.append(_step(result, previous))
    assert result is not None
    return ConvergedThermo(
        result=mesh_thermo(result.modes, temperatures),
        steps=steps,
        tolerance=tolerance,
        converged=steps[-1].error <= tolerance,
    )


def mesh_checkpoint(path: Path, size: tuple[int, int, int]) -> Path:
    """Return the file of `converged_mesh_thermo` for the finished wave vectors of one mesh.

    Args:
        path: Checkpoint that the user named.
        size: Size of the mesh.
    """
    return path.with_name(f"{path.stem}-{'x'.join(map(str, size))}{path.suffix}")


def _step(result: MeshThermo, previous: MeshThermo | None) -> MeshStep:
    """Compare the result of a mesh with that of the mesh before."""
    modes, cv = result.modes, result.thermo.heat_capacity
    scale = cv.clamp(min=MIN_RELATIVE_CV * modes.eigenvalues.shape[1] * K_B)
    change = None
    if previous is not None:
        change = float(((cv - previous.thermo.heat_capacity).abs() / scale).max())
    at_gamma = is_gamma(modes.mesh.q).to(cv.device)
    # Rigid motions of isolated molecules exist at every q; they are no acoustic modes.
    free_molecules = modes.n_rigid.min() if len(modes.n_rigid) > 1 else 0
    n_left_out = ((modes.n_rigid - free_molecules) * modes.mesh.weights.to(cv))[at_gamma].sum()
    positive_t = result.thermo.temperatures > 0
    return MeshStep(
        size=modes.mesh.size,
        n_q=len(modes.mesh.q),
        specific_heat_capacity=tuple(result.specific_heat_capacity.reshape(-1).tolist()),
        change=change,
        missing=float((K_B * n_left_out * positive_t / scale).max()),
    )
