r"""Thermal expansion and Cp to first order in the thermal strain, without a scan of cells.

    alpha = (1/V) S : sum gamma c,      Cp - Cv = T V alpha : C : alpha

`strained_modes` derives both, and has all that they are made of.

Elastic constants and Grüneisen tensors are those of the cell of minimal energy. The error is of
second order in e; `quasi_harmonic` has none of it.

Source: Barron, Collins, White, Adv. Phys. 29, 609 (1980), doi:10.1080/00018738000101426.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_functional.expansion.gruneisen import warn_of_imaginary
from mace_functional.expansion.strained_modes import strained_modes
from mace_functional.phonons.mesh import Mesh, mesh_size
from mace_functional.phonons.modes import check_crystal
from mace_functional.potential.protocol import Potential, is_mirror_symmetric
from mace_functional.support import validation
from mace_functional.support.defaults import MESH_SPACING, SYMPREC
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations.result_text import html_table, result_text, values_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase import Atoms

    from mace_functional.autodiff.columns import ChunkSize


@dataclass(frozen=True, eq=False)
class ThermalExpansion:
    """Thermal expansion and heat capacities of a crystal, to first order.

    Attributes:
        temperatures: Temperatures, K, (T,).
        expansion: Expansion tensor alpha, 1/K, (T, 3, 3).
        strain: Strain from the cell of minimal energy, with that of the zero-point motion,
            (T, 3, 3).
        cv: Heat capacity of a cell at constant volume and shape, eV/K, (T,).
        cp: Heat capacity of a cell at constant pressure, eV/K, (T,).
        mass: Mass of the cell, amu.
        mesh: Mesh of wave vectors.
        n_imaginary: Number of imaginary modes that are left out, over all wave vectors.
    """

    temperatures: Tensor
    expansion: Tensor
    strain: Tensor
    cv: Tensor
    cp: Tensor
    mass: float
    mesh: Mesh
    n_imaginary: int

    def __repr__(self) -> str:
        left_out = f"{self.n_imaginary} imaginary modes left out" if self.n_imaginary else None
        return result_text(
            self,
            self.mesh.description,
            f"{values_text(self.temperatures, 'K', 'g')}: volumetric expansion "
            f"{values_text(1e6 * self.volumetric_expansion, '1e-6/K', '.2f')}",
            f"Cp {values_text(self.specific_cp, 'J/(g K)', '.4f')}",
            left_out,
        )

    def _repr_html_(self) -> str:
        columns = {
            "T (K)": [f"{t:g}" for t in self.temperatures.tolist()],
            "alpha_V (1e-6/K)": [f"{1e6 * a:.2f}" for a in self.volumetric_expansion.tolist()],
            "Cv (J/(g K))": [f"{c:.4f}" for c in self.specific_cv.tolist()],
            "Cp (J/(g K))": [f"{c:.4f}" for c in self.specific_cp.tolist()],
        }
        return html_table(f"Thermal expansion to first order; {self.mesh.description}", columns)

    @property
    def cells(self) -> Tensor:
        """Lattice vectors at each temperature as rows, Å, (T, 3, 3)."""
        cell = 2 * torch.pi * torch.linalg.inv(self.mesh.reciprocal.to(self.strain)).mT
        return cell + cell @ self.strain

    @property
    def volumetric_expansion(self) -> Tensor:
        """Relative expansion of the volume, or of the area of a slab, 1/K, (T,)."""
        return self.expansion.diagonal(dim1=-2, dim2=-1).sum(-1)

    @property
    def specific_cv(self) -> Tensor:
        """Heat capacity per mass at constant volume and shape, J/(g K), (T,)."""
        return EV_PER_MOLECULE / self.mass * self.cv

    @property
    def specific_cp(self) -> Tensor:
        """Heat capacity per mass at constant pressure, J/(g K), (T,)."""
        return EV_PER_MOLECULE / self.mass * self.cp


def thermal_expansion(
    potential: Potential,
    atoms: Atoms,
    temperatures: Sequence[float] | Tensor | float,
    *,
    mesh: Mesh | Sequence[int] | float = MESH_SPACING,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ThermalExpansion:
    """Compute thermal expansion and Cp to first order, from one cell.

        alpha = (1/V) S : sum gamma c,      Cp - Cv = T V alpha : C : alpha

    with the mode Grüneisen tensors gamma, the heat capacities c of the modes, the elastic tensor C
    with relaxed ions and its inverse S. It takes D(q) and one third derivative of the energy along
    each mode, whatever the number of strains; see `mode_slopes`.

    Args:
        potential: A potential with a dynamical matrix; see `dynamical_matrix_fn`.
        atoms: The crystal, with relaxed positions and cell; periodic in any directions.
        temperatures: Temperatures in K, (T,) or a scalar.
        mesh: Mesh of `Mesh.of`; or its size; or the largest distance of neighbouring points, 1/Å.
        symprec: Tolerance of the symmetry, Å.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        executor: Executor whose workers share the columns of the Hessian and the wave vectors; see
            `WorkerProcesses`. None to compute in this process.
        progress: Show a progress bar.

    Returns:
        Expansion and heat capacities. Acoustic modes at Gamma and imaginary modes are left out.

    Raises:
        TypeError: If the arguments are of other classes, swapped, or the potential has no dynamical
            matrix.
        ValueError: If the structure is a molecule or does not fit the potential, its energy has no
            minimum in the cell, or temperatures or the mesh are out of range.

    Warns:
        UserWarning: Positions or cell are far from relaxed; there are imaginary modes.

    Source: Barron, Collins, White, Adv. Phys. 29, 609 (1980).
    """
    kelvins = validation.temperatures(temperatures)
    kinds = (potential, "Potential"), (atoms, "Atoms")
    validation.in_order("thermal_expansion(potential, atoms)", *kinds)
    check_crystal(atoms, "thermal_expansion")
    proper = not is_mirror_symmetric(potential)
    grid = mesh_of(atoms, mesh, symprec=symprec, proper=proper)
    modes = strained_modes(
        potential,
        atoms,
        grid,
        symprec=symprec,
        what="thermal_expansion",
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        executor=executor,
        progress=progress,
    )
    warn_of_imaginary(
        modes.eigenvalues, "they are left out of thermal expansion and heat capacities"
    )
    return ThermalExpansion(
        temperatures=torch.tensor(kelvins, dtype=torch.float64),
        **modes.thermal(kelvins)._asdict(),
        mass=float(atoms.get_masses().sum()),
        mesh=grid,
        n_imaginary=modes.n_imaginary,
    )


def mesh_of(
    atoms: Atoms, mesh: Mesh | Sequence[int] | float, *, symprec: float, proper: bool
) -> Mesh:
    """Return a mesh that is given as such, by its size, or by the distance of its points.

    Args:
        atoms: The crystal.
        mesh: Mesh; or its size; or the largest distance of neighbouring points, 1/Å.
        symprec: Tolerance of the symmetry, Å.
        proper: Leave out improper operations.

    Raises:
        ValueError: If the mesh is out of range, or was made for another structure.
    """
    if isinstance(mesh, Mesh):
        return mesh
    size = mesh_size(atoms, mesh) if isinstance(mesh, (int, float)) else mesh
    return Mesh.of(atoms, size, symprec=symprec, proper=proper)
