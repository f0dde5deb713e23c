"""Thermodynamics of a crystal from its phonons on a mesh, and how it converges with the mesh."""

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
    from mace_functional.phonons.phonons import Phonons

FIRST_SPACING, REFINEMENT = 1.0, 2**-0.5
"""Spacing of the first mesh, 1/Å, and what it is multiplied by from mesh to mesh: cells of 6 Å and
more begin at Gamma alone, and each mesh has about 2.8 times the wave vectors of the last."""

COLD = 0.01
"""Heat capacities below this part of Dulong and Petit's count as that large where errors are
relative: near 0 K only a few waves around Gamma hold heat, and no mesh resolves them."""

MOST_INEQUIVALENT = 4000
"""Wave vectors of one mesh, after symmetry, at which a search for a converged one ends."""


@dataclass(frozen=True, eq=False)
class MeshThermo:
    """Harmonic thermodynamics of a crystal, averaged over a mesh.

    Attributes:
        thermo: Heat capacity, entropy and energies of one cell.
        modes: The modes on the mesh.
    """

    thermo: HarmonicThermo
    modes: MeshModes

    def __repr__(self) -> str:
        return result_text(self, self.modes.mesh.description, repr(self.thermo))

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.modes.mesh.description)}</p>{self.thermo._repr_html_()}"

    @property
    def imaginary_modes(self) -> list[ImaginaryMode]:
        """The imaginary modes, in cm-1, which are left out; the most unstable first."""
        return self.modes.imaginary_modes

    imaginary = OldAttribute("imaginary_modes")

    @property
    def specific_heat_capacity(self) -> Tensor:
        """Heat capacity per mass at constant volume, J/(g K)."""
        return self.thermo.specific_heat_capacity()


@dataclass(frozen=True)
class ConvergenceRow:
    """Thermodynamics from one mesh.

    Attributes:
        size: Of the mesh.
        n_q: Wave vectors, after symmetry.
        specific_heat_capacity: J/(g K).
        entropy: eV/K per cell.
        free_energy: eV per cell.
        n_imaginary: Imaginary modes, over all these wave vectors.
    """

    size: tuple[int, int, int]
    n_q: int
    specific_heat_capacity: float
    entropy: float
    free_energy: float
    n_imaginary: int


def mesh_thermo(modes: MeshModes, temperatures: Sequence[float] | Tensor | float) -> MeshThermo:
    """Heat capacity, entropy and energies from the modes on a mesh.

    Rigid motions, which projection has put to exactly zero, hold nothing, as in a supercell at
    Gamma: a mesh (n, n, n) gives what an (n, n, n) supercell gives with its three
    translations taken out.

    Args:
        modes: From `mesh_modes`.
        temperatures: (T,) or a scalar, K.

    Returns:
        Thermodynamics of one cell.

    Raises:
        ValueError: If temperatures are negative or not finite.

    Warns:
        UserWarning: There are imaginary modes.
    """
    return MeshThermo(thermo=harmonic_thermo(modes, temperatures), modes=modes)


def mesh_convergence(
    phonons: Phonons, meshes: Iterable[Mesh], temperature: float, *, progress: bool = False
) -> list[ConvergenceRow]:
    """Thermodynamics from one mesh after the other, to see how fine it must be.

    Args:
        phonons: From `phonons_of`.
        meshes: From `Mesh.of`, of the same structure.
        temperature: K.
        progress: Show a progress bar for each mesh.

    Returns:
        A row for each mesh. Imaginary modes are counted in it.

    Raises:
        ValueError: See `mesh_modes` and `mesh_thermo`.
    """
    rows = []
    for mesh in meshes:
        modes = mesh_modes(phonons, mesh, eigenvectors=False, progress=progress)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*imaginary modes")
            found = mesh_thermo(modes, temperature)
        rows.append(
            ConvergenceRow(
                size=mesh.size,
                n_q=len(mesh.q),
                specific_heat_capacity=float(found.specific_heat_capacity),
                entropy=float(found.thermo.entropy),
                free_energy=float(found.thermo.free_energy),
                n_imaginary=modes.n_imaginary,
            )
        )
    return rows


@dataclass(frozen=True)
class MeshStep:
    """One mesh on the way to a converged one.

    Attributes:
        size: Of the mesh.
        n_q: Wave vectors, after symmetry.
        specific_heat_capacity: At each temperature, J/(g K).
        change: Largest relative change of the heat capacity from the mesh before, over the
            temperatures; None for the first mesh.
        missing: Most that the acoustic modes at Gamma, which are left out, would add, relative.
    """

    size: tuple[int, int, int]
    n_q: int
    specific_heat_capacity: tuple[float, ...]
    change: float | None
    missing: float

    @property
    def error(self) -> float:
        """The larger of change and what is missing; infinite for the first mesh."""
        return math.inf if self.change is None else max(self.change, self.missing)


@dataclass(frozen=True, eq=False)
class ConvergedThermo:
    """Thermodynamics of a crystal from a mesh that was refined until it was fine enough.

    Attributes:
        result: From the last and finest mesh.
        steps: The meshes, the coarsest first.
        tolerance: That was asked for.
        converged: Whether the error of the last mesh is within it.
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
        """Whether the mesh converged, and to which error."""
        verb = "converged" if self.converged else "not converged"
        return f"{verb} to {self.tolerance:g} of the heat capacity after {len(self.steps)} meshes"

    @property
    def size(self) -> tuple[int, int, int]:
        """Of the last mesh."""
        return self.steps[-1].size


@positional_for_a_release("tolerance")
def converged_mesh_thermo(
    phonons: Phonons,
    temperatures: Sequence[float] | Tensor | float,
    *,
    tolerance: float = MESH_TOLERANCE,
    symprec: float = SYMPREC,
    most_wave_vectors: int = MOST_INEQUIVALENT,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> ConvergedThermo:
    """Heat capacity, entropy and energies from a mesh that is fine enough for the heat capacity.

    Meshes are refined by the spacing of wave vectors (`mesh_size`) until two conditions hold at all
    temperatures: from the mesh before, the heat capacity has changed by no more than the tolerance,
    relative to itself; and no more than that is missing, k_B for each acoustic mode at Gamma times
    the weight of Gamma. The second is the larger part of the error of most meshes, and falls with
    the number of their points. Heat capacities below `COLD` of 3N k_B count as that large.

    Args:
        phonons: From `phonons_of`.
        temperatures: (T,) or a scalar, K.
        tolerance: Largest relative error.
        symprec: How far atoms may be from where an operation takes them, Å.
        most_wave_vectors: After symmetry, of one mesh: no finer one is computed.
        checkpoint: A file (npz): beside it, with the size of the mesh in its name, each mesh keeps
            what is done, and an interrupted calculation goes on from there.
        progress: Show a progress bar for each mesh.

    Returns:
        The thermodynamics, the meshes on the way, and whether they converged.

    Raises:
        ValueError: See `mesh_modes` and `mesh_thermo`, or if a limit is not positive.

    Warns:
        UserWarning: There are imaginary modes; the structure is far from relaxed; the tolerance
            is not reached.
    """
    check_crystal(phonons.atoms, "a mesh")
    positive("tolerance", tolerance)
    count("most_wave_vectors", most_wave_vectors)
    spacing, steps = FIRST_SPACING, list[MeshStep]()
    found: MeshThermo | None = None
    while found is None or steps[-1].error > tolerance:
        size = mesh_size(phonons.atoms, spacing)
        spacing *= REFINEMENT
        if found is not None and size == steps[-1].size:
            continue
        mesh = Mesh.of(phonons.atoms, size, symprec=symprec)
        if found is not None and len(mesh.q) > most_wave_vectors:
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
            progress=progress,
        )
        before = found
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*imaginary modes")
            found = mesh_thermo(modes, temperatures)
        steps.append(_step(found, before))
    assert found is not None
    return ConvergedThermo(
        result=mesh_thermo(found.modes, temperatures),
        steps=steps,
        tolerance=tolerance,
        converged=steps[-1].error <= tolerance,
    )


def mesh_checkpoint(path: Path, size: tuple[int, int, int]) -> Path:
    """Where `converged_mesh_thermo` keeps what is done of one mesh.

    Args:
        path: The checkpoint that was named.
        size: Of the mesh.
    """
    return path.with_name(f"{path.stem}-{'x'.join(map(str, size))}{path.suffix}")


def _step(found: MeshThermo, before: MeshThermo | None) -> MeshStep:
    """A mesh, and how far it is from the one before."""
    modes, heat = found.modes, found.thermo.heat_capacity
    scale = heat.clamp(min=COLD * modes.eigenvalues.shape[1] * K_B)
    change = None
    if before is not None:
        change = float(((heat - before.thermo.heat_capacity).abs() / scale).max())
    at_gamma = is_gamma(modes.mesh.q).to(heat.device)
    # What moves as a whole in every wave, a molecule by itself, leaves nothing out.
    everywhere = modes.n_rigid.min() if len(modes.n_rigid) > 1 else 0
    left_out = ((modes.n_rigid - everywhere) * modes.mesh.weights.to(heat))[at_gamma].sum()
    warm = found.thermo.temperatures > 0
    return MeshStep(
        size=modes.mesh.size,
        n_q=len(modes.mesh.q),
        specific_heat_capacity=tuple(found.specific_heat_capacity.reshape(-1).tolist()),
        change=change,
        missing=float((K_B * left_out * warm / scale).max()),
    )
