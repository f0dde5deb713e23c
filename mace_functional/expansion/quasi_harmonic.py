r"""Quasi-harmonic approximation: the cell that minimises the Gibbs energy at each temperature.

At each temperature the cell minimises G(e, T) = E(e) + p V(e) + F(e, T) over all strains e that
keep the symmetry, with relaxed ions. With the curvature G_ee and the entropy slope S_e,

    expansion       de/dT = G_ee^-1 S_e
    heat capacity   Cp = Cv + T S_e G_ee^-1 S_e
    bulk modulus    B_T = V / (V_e G_ee^-1 V_e),   B_S = B_T Cp / (Cp - T V alpha_V^2 B_T).

Few cells suffice, because each has exact slopes: energy, stress, D(q) and dD/de on the mesh. The
first cell is that of minimal E, the second is at the strain that the first one predicts for the
highest temperature. G is interpolated between the cells. The next cell is the minimum with the
largest error, or of equal ones the farthest from all cells. The search ends when the slopes of the
last cell no longer change the strains by more than a tolerance, and no minimum lies far outside of
the cells.

Source: Togo, Chaput, Tanaka, Hug, Phys. Rev. B 81, 174301 (2010), doi:10.1103/PhysRevB.81.174301;
Wallace, Thermodynamics of Crystals, chapter 1.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.cell import Cell
from ase.units import GPa
from rich.progress import track
from torch import Tensor
from torch.func import grad

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.expansion.deformable import DeformableCrystal, confined
from mace_functional.expansion.expansion_checkpoint import SavedCell, read_cells, write_cells
from mace_functional.expansion.free_energy import FreeEnergyPoint, GibbsEnergy, StrainedCell
from mace_functional.expansion.symmetric_strains import invariant_strains
from mace_functional.expansion.thermal_expansion import mesh_of
from mace_functional.optimize.relax import relax
from mace_functional.phonons.mesh import SAVE_INTERVAL, Mesh
from mace_functional.phonons.wave_vector import wave_vector
from mace_functional.potential.protocol import Potential, is_mirror_symmetric
from mace_functional.support import validation
from mace_functional.support.defaults import MESH_SPACING, SYMPREC
from mace_functional.support.validation import in_order
from mace_functional.units import EV_PER_MOLECULE
from mace_functional.vibrations.result_text import html_table, result_text, values_text

if TYPE_CHECKING:
    from mace_functional.autodiff.columns import ChunkSize

IONS_FMAX = 1e-5
"""Largest force on an atom of a relaxed cell, eV/Å.

Slopes of the energy have an error of this force times the response of the ions, about 1 Å.
"""

STRAIN_ERROR = 1e-2
"""Default tolerance of strains, relative to the largest strain from the cell of minimal energy."""

MAX_CELLS = 6
"""Default largest number of cells. Each takes one derivative of D(q) for every symmetric strain."""

GENERAL_WAVE_VECTOR = (0.31, 0.17, 0.43)
"""Wave vector at which a crystal has rigid motions only if parts of it do not interact."""

FARTHEST_MINIMUM = 1.1
"""Largest strain of a minimum, relative to that of the farthest cell.

Beyond it the interpolation is an extrapolation, whose error is larger than its estimate where
shells of neighbours cross the cutoff of the potential.
"""

SAME_CELL = 0.02
"""Distance of two cells, relative to the strain of the second, below which they count as the same.

Cells that are closer make the interpolation ill-conditioned.
"""

SCALARS = (
    "volume",
    "gibbs_energy",
    "entropy",
    "cv",
    "cp",
    "isothermal_bulk_modulus",
    "adiabatic_bulk_modulus",
)
"""Names of the results that are one number for each temperature."""


@dataclass(frozen=True, eq=False)
class QuasiHarmonic:
    """Cell and thermodynamics of a crystal at constant pressure, in the order of the temperatures.

    Where there is no minimum, or modes are imaginary in its cell, all values are NaN.

    Attributes:
        temperatures: Temperatures, K, (T,).
        pressure: Pressure, GPa.
        cells: Lattice vectors of the minima as rows, Å, (T, 3, 3).
        strain: Strain from the cell of minimal energy, (T, 3, 3).
        volume: Volume, Å³, (T,).
        expansion: Expansion tensor alpha, 1/K, (T, 3, 3).
        gibbs_energy: Gibbs energy of a cell, with that of the static crystal, eV, (T,).
        entropy: Entropy of a cell, eV/K, (T,).
        cv: Heat capacity of a cell at constant volume and shape, eV/K, (T,).
        cp: Heat capacity of a cell at constant pressure, eV/K, (T,).
        isothermal_bulk_modulus: Bulk modulus B_T, GPa, (T,).
        adiabatic_bulk_modulus: Bulk modulus B_S, GPa, (T,).
        n_imaginary: Number of imaginary modes in the cell of the minimum, (T,).
        error: Estimated error of the strain, (T,).
        atoms: Structure of minimal energy, or of minimal enthalpy under pressure.
        mesh: Mesh of wave vectors.
        converged: True if the errors of all temperatures are within the tolerance.
        n_cells: Number of cells.
        n_gradients: Number of energies with gradient, in all relaxations.
        n_matrices: Number of dynamical matrices with their derivatives by strain.
    """

    temperatures: Tensor
    pressure: float
    cells: Tensor
    strain: Tensor
    volume: Tensor
    expansion: Tensor
    gibbs_energy: Tensor
    entropy: Tensor
    cv: Tensor
    cp: Tensor
    isothermal_bulk_modulus: Tensor
    adiabatic_bulk_modulus: Tensor
    n_imaginary: Tensor
    error: Tensor
    atoms: Atoms
    mesh: Mesh
    converged: bool
    n_cells: int
    n_gradients: int
    n_matrices: int

    def __repr__(self) -> str:
        n_unknown = int(self.volume.isnan().sum())
        return result_text(
            self,
            f"{self.atoms.get_chemical_formula()}, {self.mesh.description}",
            f"{values_text(self.temperatures, 'K', 'g')}: volume "
            f"{values_text(self.volume, 'Å³', '.3f')}",
            f"Cp {values_text(self.specific_cp, 'J/(g K)', '.4f')}",
            f"{n_unknown} temperatures without result" if n_unknown else None,
            None if self.converged else "not converged",
        )

    def _repr_html_(self) -> str:
        columns = {
            "T (K)": (self.temperatures, "g"),
            "V (Å³)": (self.volume, ".4f"),
            "alpha_V (1e-6/K)": (1e6 * self.volumetric_expansion, ".2f"),
            "Cv (J/(g K))": (self.specific_cv, ".4f"),
            "Cp (J/(g K))": (self.specific_cp, ".4f"),
            "B_T (GPa)": (self.isothermal_bulk_modulus, ".2f"),
            "B_S (GPa)": (self.adiabatic_bulk_modulus, ".2f"),
            "G (eV)": (self.gibbs_energy, ".5f"),
        }
        cells = {
            name: [f"{x:{digits}}" for x in values.tolist()]
            for name, (values, digits) in columns.items()
        }
        return html_table(f"Quasi-harmonic crystal; {self.mesh.description}", cells)

    @property
    def lattice_parameters(self) -> Tensor:
        """Lengths a, b, c in Å and angles alpha, beta, gamma in degrees, (T, 6)."""
        return torch.as_tensor(np.array([Cell(h).cellpar() for h in self.cells.numpy()]))

    @property
    def volumetric_expansion(self) -> Tensor:
        """Relative expansion of the volume, 1/K, (T,)."""
        return self.expansion.diagonal(dim1=-2, dim2=-1).sum(-1)

    @property
    def specific_cv(self) -> Tensor:
        """Heat capacity per mass at constant volume and shape, J/(g K), (T,)."""
        return EV_PER_MOLECULE / float(self.atoms.get_masses().sum()) * self.cv

    @property
    def specific_cp(self) -> Tensor:
        """Heat capacity per mass at constant pressure, J/(g K), (T,)."""
        return EV_PER_MOLECULE / float(self.atoms.get_masses().sum()) * self.cp


def quasi_harmonic(
    potential: Potential,
    atoms: Atoms,
    temperatures: Sequence[float] | Tensor | float,
    *,
    pressure: float = 0.0,
    mesh: Sequence[int] | float = MESH_SPACING,
    tolerance: float = STRAIN_ERROR,
    max_cells: int = MAX_CELLS,
    fmax: float = IONS_FMAX,
    symprec: float = SYMPREC,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> QuasiHarmonic:
    """Compute cell, expansion, Cp, moduli and Gibbs energy of a crystal over temperature.

    The crystal is relaxed first. At each temperature, the Gibbs energy is minimised over all
    strains that keep the symmetry, with relaxed ions. It is interpolated between few cells, two or
    three for most crystals, because each has exact slopes: stress, and derivatives of D(q) by
    strain.

    Args:
        potential: A potential with a dynamical matrix; see `dynamical_matrix_fn`.
        atoms: The crystal, periodic in three directions; it is not changed.
        temperatures: Temperatures in K, (T,) or a scalar.
        pressure: External pressure, GPa.
        mesh: Size of the mesh, or the largest distance of neighbouring points, 1/Å.
        tolerance: Largest error of the strains, relative to the largest strain from the cell of
            minimal energy.
        max_cells: Largest number of strained cells.
        fmax: Largest force on an atom of a relaxed cell, eV/Å.
        symprec: Tolerance of the symmetry that is preserved, Å.
        chunk_size: Columns at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.
        checkpoint: File (npz) to which finished cells and wave vectors are written every minute,
            and on interruption. If it exists, the calculation continues from it, also with other
            temperatures.
        progress: Show progress bars.

    Returns:
        The results at each temperature. They are NaN where modes are imaginary in the cell of the
        minimum, and where there is no minimum.

    Raises:
        TypeError: If the arguments are of other classes, swapped, or the potential has no dynamical
            matrix.
        ValueError: If the structure is no crystal or does not fit the potential, its relaxation
            fails, parts of it do not interact, an option is out of range, or the checkpoint belongs
            to another calculation.

    Warns:
        UserWarning: Modes are imaginary in the cell of a minimum; there is no minimum; the number
            of cells does not suffice.

    Source: Togo, Chaput, Tanaka, Hug, Phys. Rev. B 81, 174301 (2010).
    """
    in_order("quasi_harmonic(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    kelvins = validation.temperatures(temperatures)
    pressure = validation.pressure("pressure", pressure)
    tolerance = validation.positive("tolerance", tolerance)
    max_cells = validation.count("max_cells", max_cells, 2)
    fmax = validation.positive("fmax", fmax, "eV/Å")
    refuse_transforms("quasi_harmonic", "gruneisen_fn", potential.params)
    if not atoms.pbc.all():
        raise ValueError(
            "quasi_harmonic needs a crystal that is periodic in three directions: for a layer call "
            "thermal_expansion, for a molecule ideal_gas_thermo"
        )
    columns = {"chunk_size": chunk_size, "memory_budget": memory_budget}
    path = None if checkpoint is None else Path(checkpoint)
    crystal = _StrainedCrystal(
        potential, atoms, pressure, mesh, fmax, symprec, columns, path, progress
    )
    order = np.argsort(kelvins, kind="stable")
    ascending = [kelvins[i] for i in order]
    minima, errors, converged = _search(crystal, ascending, tolerance, max_cells)
    by_temperature = np.argsort(order)
    points = [minima[i] for i in by_temperature]
    errors = [errors[i] for i in by_temperature]
    _warn(kelvins, points, converged, errors)
    return _results(crystal, kelvins, points, errors, converged)


class _StrainedCrystal:
    """Strained cells of a crystal, computed one by one, and the Gibbs energy between them."""

    def __init__(
        self,
        potential: Potential,
        atoms: Atoms,
        pressure: float,
        mesh: Sequence[int] | float,
        fmax: float,
        symprec: float,
        columns: dict[str, Any],
        path: Path | None,
        progress: bool,
    ) -> None:
        self._potential, self._fmax, self._symprec = potential, fmax, symprec
        self.pressure, self._columns, self._path = pressure, columns, path
        self._progress = progress
        s = potential.structure(atoms)
        energy = potential.energy_fn(s.topology)(s.positions, s.cell, potential.params)
        proper = not is_mirror_symmetric(potential)
        size = mesh_of(atoms, mesh, symprec=symprec, proper=proper).size
        self._identity = {
            "numbers": atoms.numbers,
            "positions": atoms.positions,
            "cell": atoms.cell.array,
            "masses": atoms.get_masses(),
            "pressure": np.array(pressure),
            "mesh": np.array(size),
            "energy": np.array(float(energy)),
        }
        self._saved = [] if path is None else read_cells(path, self._identity)
        if not self._saved:
            self._saved.append(self._relaxed(atoms, pressure=pressure))
        self.atoms = atoms.copy()
        self.atoms.calc = None
        self._move(self.atoms, self._saved[0])
        self.mesh = mesh_of(self.atoms, size, symprec=symprec, proper=proper)
        self.strains = invariant_strains(self.atoms, symprec=symprec, proper=proper)
        self._q = [wave_vector(q, [True] * 3, s.masses) for q in self.mesh.q]
        first = self._deformable(0)
        self._internal = [first.internal(q) for q in self._q]
        general = wave_vector(GENERAL_WAVE_VECTOR, [True] * 3, s.masses)
        at_gamma = first.internal(torch.zeros_like(general))
        n_rigid = 3 * len(atoms) - (0 if at_gamma is None else at_gamma.shape[1])
        if n_rigid > 3 or first.internal(general) is not None:
            raise ValueError(
                "parts of the crystal do not interact, so the cell has no minimum of the energy: "
                "use a potential with a longer cutoff, or one with dispersion"
            )
        self._stiffness = first.stiffness_along(self.strains).double().cpu()
        self.cells: list[StrainedCell] = []
        for k in range(len(self._saved)):
            self.cells.append(self._complete(k, first if k == 0 else self._deformable(k)))

    @property
    def n_gradients(self) -> int:
        """Number of energies with gradient, in all relaxations."""
        return sum(saved.n_gradients for saved in self._saved)

    def gibbs_energy(self, *, last_slopes: bool = True) -> GibbsEnergy:
        """Return the Gibbs energy between the cells so far."""
        return GibbsEnergy(
            self.cells,
            self._stiffness,
            self.strains,
            torch.as_tensor(self.atoms.cell.array),
            self.mesh.weights,
            self.pressure * GPa,
            last_slopes=last_slopes,
        )

    def distance(self, strain: Tensor) -> float:
        """Return the distance of a strain (S,) from the nearest cell."""
        return min(float((strain - cell.strain).norm()) for cell in self.cells)

    def add(self, strain: Tensor) -> bool:
        """Compute the cell at a strain (S,); return False if there is one already."""
        if len(self.cells) > 1 and self.distance(strain) < SAME_CELL * self.cells[1].strain.norm():
            return False
        nearest = min(range(len(self.cells)), key=lambda k: (self.cells[k].strain - strain).norm())
        moved = self.atoms.copy()
        self._move(moved, self._saved[nearest])
        e = np.tensordot(strain.numpy(), self.strains.numpy(), 1)
        moved.set_cell(self.atoms.cell.array @ (np.eye(3) + e), scale_atoms=True)
        self._saved.append(self._relaxed(moved, relax_cell=False))
        k = len(self.cells)
        self.cells.append(self._complete(k, self._deformable(k)))
        return True

    def _relaxed(self, atoms: Atoms, **options: Any) -> SavedCell:
        """Relax a structure within its symmetry; raise an error if it does not converge."""
        found = relax(
            self._potential,
            atoms,
            symmetry=True,
            symprec=self._symprec,
            fmax=self._fmax,
            progress=self._progress,
            **options,
        )
        if not found.converged:
            raise ValueError(
                f"the relaxation of a cell did not converge ({found.reason}): raise fmax, or start "
                "from a relaxed structure"
            )
        # Atoms stay in the cells that the phases of D(q) belong to.
        fractional = np.linalg.solve(found.atoms.cell.array.T, found.atoms.positions.T).T
        original = np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T
        fractional -= np.rint(fractional - original)
        cell = found.atoms.cell.array
        return SavedCell(fractional @ cell, cell, found.n_gradients)

    def _move(self, atoms: Atoms, saved: SavedCell) -> None:
        atoms.set_cell(saved.cell)
        atoms.set_positions(saved.positions, apply_constraint=False)

    def _deformable(self, k: int) -> DeformableCrystal:
        """Return energy, stress and D(q) with its derivatives by strain of a saved cell."""
        moved = self.atoms.copy()
        self._move(moved, self._saved[k])
        return DeformableCrystal.of(
            self._potential, moved, ions="relaxed", what="quasi_harmonic", **self._columns
        )

    def _complete(self, k: int, crystal: DeformableCrystal) -> StrainedCell:
        """Compute the wave vectors of a cell that are not finished."""
        saved = self._saved[k]
        deformation = np.linalg.solve(self.atoms.cell.array, saved.cell)
        strain = torch.tensordot(self.strains, torch.as_tensor(deformation) - torch.eye(3), 2)
        # h (1 + e + de) = h' (1 + (1 + e)^-1 de): strains of the present cell h'.
        strains = torch.linalg.solve(torch.as_tensor(deformation), self.strains)
        n_done, saved_at = len(saved.matrices), time.monotonic()
        remaining = track(
            range(n_done, len(self._q)),
            f"Cell {k + 1}",
            total=len(self._q),
            completed=n_done,
            disable=not self._progress,
        )
        try:
            for i in remaining:
                d = confined(crystal.strained_matrix(self._q[i], strains), self._internal[i])
                saved.matrices.append(torch.cat([d.matrix[None], d.slopes]))
                if time.monotonic() - saved_at > SAVE_INTERVAL:
                    self._save()
                    saved_at = time.monotonic()
        finally:
            if len(saved.matrices) > n_done:
                self._save()
        return StrainedCell(
            strain=strain,
            energy=crystal.energy,
            slopes=torch.tensordot(strains, crystal.virial.double().cpu(), 2),
            matrices=[m.to(torch.complex128).cpu() for m in saved.matrices],
        )

    def _save(self) -> None:
        if self._path is not None:
            write_cells(self._path, self._identity, self._saved)


def _search(
    crystal: _StrainedCrystal, temperatures: Sequence[float], tolerance: float, max_cells: int
) -> tuple[list[FreeEnergyPoint | None], list[float], bool]:
    """Add cells until the minima at ascending temperatures no longer change.

    Returns:
        The minima, their errors, and True if these are within the tolerance.
    """
    if len(crystal.cells) == 1:
        crystal.add(crystal.gibbs_energy().first_order(temperatures[-1]))
    while True:
        minima = _minima(crystal.gibbs_energy(), temperatures)
        rough = _minima(crystal.gibbs_energy(last_slopes=False), temperatures)
        errors = [_distance(a, b) for a, b in zip(minima, rough, strict=True)]
        found = [(e, p.strain) for e, p in zip(errors, minima, strict=True) if p is not None]
        largest = max((float(strain.norm()) for _, strain in found), default=0.0)
        reach = FARTHEST_MINIMUM * max(float(cell.strain.norm()) for cell in crystal.cells)
        converged = 0 < largest <= reach and all(e <= tolerance * largest for e, _ in found)
        next_strain = (
            max(found, key=lambda pair: (pair[0], crystal.distance(pair[1])))[1]
            if found
            else crystal.gibbs_energy().first_order(temperatures[0])
        )
        if converged or len(crystal.cells) >= max_cells or not crystal.add(next_strain):
            return minima, errors, converged


def _minima(
    gibbs_energy: GibbsEnergy, temperatures: Sequence[float]
) -> list[FreeEnergyPoint | None]:
    """Find the minimum at each of ascending temperatures, from that before."""
    minima: list[FreeEnergyPoint | None] = []
    start = gibbs_energy.no_strain
    for t in temperatures:
        found = gibbs_energy.minimum(start, t)
        minima.append(found)
        start = start if found is None else found.strain
    return minima


def _distance(one: FreeEnergyPoint | None, other: FreeEnergyPoint | None) -> float:
    """Return the distance of two minima in strain; infinite if one is missing."""
    if one is None or other is None:
        return float("inf")
    return float((one.strain - other.strain).norm())


def _warn(
    temperatures: list[float],
    points: list[FreeEnergyPoint | None],
    converged: bool,
    errors: list[float],
) -> None:
    """Warn of imaginary modes, of missing minima, and of errors above the tolerance."""
    missing = [t for t, p in zip(temperatures, points, strict=True) if p is None]
    unstable = [
        (t, p.n_imaginary)
        for t, p in zip(temperatures, points, strict=True)
        if p is not None and p.n_imaginary
    ]
    if missing:
        warnings.warn(
            f"the Gibbs energy has no minimum at {_listed(missing)} K: results there are NaN",
            stacklevel=3,
        )
    if unstable:
        most = max(n for _, n in unstable)
        warnings.warn(
            f"up to {most} modes are imaginary in the cell at {_listed([t for t, _ in unstable])} "
            "K: results there are NaN; the phase is unstable, or the structure is a saddle point",
            stacklevel=3,
        )
    if not converged:
        finite = [e for e in errors if np.isfinite(e)]
        warnings.warn(
            "strains are not converged"
            + (f" (estimated error {max(finite):.1e})" if finite else "")
            + ": raise max_cells, or leave out the highest temperatures",
            stacklevel=3,
        )


def _listed(temperatures: list[float]) -> str:
    """Return a few temperatures as text, and the range of many."""
    if len(temperatures) <= 3:
        return ", ".join(f"{t:g}" for t in temperatures)
    return f"{min(temperatures):g} to {max(temperatures):g}"


def _results(
    crystal: _StrainedCrystal,
    temperatures: list[float],
    points: list[FreeEnergyPoint | None],
    errors: list[float],
    converged: bool,
) -> QuasiHarmonic:
    """Compute the results of all minima."""
    gibbs_energy, strains = crystal.gibbs_energy(), crystal.strains
    cell = torch.as_tensor(crystal.atoms.cell.array)
    nan = {
        "cells": torch.full((3, 3), torch.nan, dtype=torch.float64),
        "strain": torch.full((3, 3), torch.nan, dtype=torch.float64),
        "expansion": torch.full((3, 3), torch.nan, dtype=torch.float64),
        **{name: torch.tensor(torch.nan, dtype=torch.float64) for name in SCALARS},
    }
    rows = []
    for t, point in zip(temperatures, points, strict=True):
        if point is None or point.n_imaginary:
            rows.append(nan)
            continue
        e = torch.tensordot(point.strain, strains, 1)
        deformation = torch.eye(3, dtype=e.dtype) + e
        volume = gibbs_energy.volume(point.strain)
        volume_slopes = grad(gibbs_energy.volume)(point.strain)
        rate = torch.linalg.solve(point.curvature, point.entropy_slopes)
        expansion = torch.linalg.solve(deformation, torch.tensordot(rate, strains, 1))
        cp = point.heat_capacity + t * (rate @ point.entropy_slopes)
        softness = volume_slopes @ torch.linalg.solve(point.curvature, volume_slopes)
        isothermal = volume / softness
        alpha_v = (volume_slopes @ rate) / volume
        at_constant_volume = cp - t * volume * alpha_v**2 * isothermal
        ratio = cp / at_constant_volume if t > 0 else torch.ones_like(cp)
        rows.append(
            {
                "cells": cell @ deformation,
                "strain": e,
                "expansion": 0.5 * (expansion + expansion.mT),
                "volume": volume,
                "gibbs_energy": torch.tensor(point.gibbs_energy, dtype=torch.float64),
                "entropy": torch.tensor(point.entropy, dtype=torch.float64),
                "cv": torch.tensor(point.heat_capacity, dtype=torch.float64),
                "cp": cp,
                "isothermal_bulk_modulus": isothermal / GPa,
                "adiabatic_bulk_modulus": isothermal * ratio / GPa,
            }
        )
    return QuasiHarmonic(
        temperatures=torch.tensor(temperatures, dtype=torch.float64),
        pressure=crystal.pressure,
        **{name: torch.stack([row[name] for row in rows]) for name in nan},
        n_imaginary=torch.tensor([0 if p is None else p.n_imaginary for p in points]),
        error=torch.tensor(errors, dtype=torch.float64),
        atoms=crystal.atoms,
        mesh=crystal.mesh,
        converged=converged,
        n_cells=len(crystal.cells),
        n_gradients=crystal.n_gradients,
        n_matrices=len(crystal.cells) * len(crystal.mesh.q),
    )
