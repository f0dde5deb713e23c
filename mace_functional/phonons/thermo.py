"""Thermodynamics of a crystal from its phonons on a mesh, and how it converges with the mesh."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from mace_functional.phonons.mesh import Mesh, MeshModes, frequencies_on
from mace_functional.phonons.modes import ImaginaryMode
from mace_functional.thermo import HarmonicThermo, harmonic_thermo

if TYPE_CHECKING:
    from mace_functional.phonons.phonons import Phonons


@dataclass(frozen=True, eq=False)
class MeshThermo:
    """Harmonic thermodynamics of a crystal, averaged over a mesh.

    Attributes:
        thermo: Heat capacity, entropy and energies of one cell.
        imaginary: Imaginary modes in cm-1, which are left out of them; the most unstable first.
        modes: The modes on the mesh.
    """

    thermo: HarmonicThermo
    imaginary: list[ImaginaryMode]
    modes: MeshModes

    @property
    def specific_heat_capacity(self) -> Tensor:
        """Heat capacity per mass at constant volume, J/(g K)."""
        return self.thermo.specific_heat_capacity(self.modes.masses)


class ConvergenceRow(NamedTuple):
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

    The rigid motions at Gamma, which projection has put to exactly zero, hold nothing, as in a
    supercell at Gamma: a mesh (n, n, n) gives what an (n, n, n) supercell gives with its three
    translations taken out.

    Args:
        modes: From `frequencies_on`.
        temperatures: (T,) or a scalar, K.

    Returns:
        Thermodynamics of one cell.

    Raises:
        ValueError: If temperatures are negative or not finite.

    Warns:
        UserWarning: There are imaginary modes.
    """
    return MeshThermo(
        thermo=harmonic_thermo(
            modes.frequencies(),
            temperatures,
            weights=modes.mesh.weights.to(modes.eigenvalues),
            drop=modes.rigid,
        ),
        imaginary=modes.imaginary(),
        modes=modes,
    )


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
        ValueError: See `frequencies_on` and `mesh_thermo`.
    """
    rows = []
    for mesh in meshes:
        modes = frequencies_on(phonons, mesh, eigenvectors=False, progress=progress)
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
                n_imaginary=len(found.imaginary),
            )
        )
    return rows
