"""A relaxation on its way: what it knows of the surface, when it stops, and how it is kept."""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from ase import Atoms

from mace_functional.optimize.bond_stretch import BondStretch
from mace_functional.optimize.coordinates import CellFreedom, free_coordinates, rigid_directions
from mace_functional.optimize.first_hessian import first_hessian
from mace_functional.optimize.minimiser import FIRST_RADIUS, FLAT, LARGEST_RADIUS, Minimiser
from mace_functional.optimize.surface import Surface
from mace_functional.potential.energy import from_ase
from mace_functional.potential.protocol import energy_jump_of, is_mirror_symmetric
from mace_functional.structure.contacts import REPORTED
from mace_functional.structure.symmetry import Operations
from mace_functional.support.atomic_write import atomic_write

if TYPE_CHECKING:
    from mace_functional.optimize.surface import Point
    from mace_functional.potential.protocol import Potential

EXPECTED_GAIN = 1e-3
"""The minimum may lie lower by this times fmax for each atom, Å: where forces are small because the
surface is flat, it is still far."""

REFUSALS = 8
"""Steps refused in a row, after which the Hessian is computed again, or the end is reached."""

LONG_WAY = 80
"""Steps after which the Hessian is computed again."""

NEAR = 0.02
"""Forces near to rest, eV/Å, where exact products along the softest directions are worth it."""

SOFT_DIRECTIONS = 16
"""How many; all, if they are not three times as many. What is stiff is known well enough, what is
soft decides the last steps."""

FAR = 20.0
"""Forces that are found only where atoms are too close, eV/Å: the Hessian of such a place is of no
use where they have come apart, and is computed again."""

LOST = 12
"""Steps in a row within the rounding of the energy that do not lower the largest force, after which
nothing better is to be had."""

SAME_ENERGY = 1e-5
"""Relative difference of energies beyond which a checkpoint is of another model."""

STATE = ("z", "energy", "gradient", "hessian", "radius")
"""What a checkpoint holds of the minimiser."""


class RelaxStep(NamedTuple):
    """One evaluation of energy and gradient.

    Attributes:
        energy: Energy, or enthalpy under pressure, eV.
        largest_force: On any atom, of what is free, eV/Å.
        largest_stress: Largest component of what is free, pressure included, GPa.
        residual: Largest of the forces and of the rows of dE/de per atom, which must be below fmax.
        radius: Trust radius afterwards, Å.
        accepted: Whether the structure was taken; the energy has fallen then.
    """

    energy: float
    largest_force: float
    largest_stress: float
    residual: float
    radius: float
    accepted: bool


class Reason(NamedTuple):
    """Why a relaxation stopped."""

    converged: bool
    words: str


class Relaxation:
    """A relaxation on its way: the surface, the minimiser, and the history."""

    def __init__(
        self,
        model: Potential,
        atoms: Atoms,
        cell: CellFreedom,
        pressure: float,
        symprec: float | None,
    ) -> None:
        structure = from_ase(atoms, model)
        symmetry = None
        if symprec is not None:
            symmetry = Operations.of(atoms, atoms.numbers, symprec, not is_mirror_symmetric(model))
        coordinates = free_coordinates(
            atoms, structure.positions, structure.cell, cell_freedom=cell, symmetry=symmetry
        )
        self.surface = Surface(model, atoms, coordinates, pressure)
        self._rough = model.to(dtype=torch.float32) if model.dtype == torch.float64 else model
        self.history: list[RelaxStep] = []
        self.resumed = False
        self._begun_with = 0
        self._refused = self._lost = 0
        self._best_residual = np.inf
        self._start = atoms
        self._apart = ""
        strains = cell if isinstance(cell, str) else np.asarray(cell).tolist()
        self._settings = json.dumps([strains, pressure, symprec])
        self._point: Point
        self._minimiser: Minimiser
        self._springs: BondStretch
        self._exact_at = np.zeros(0)
        self._residual_then, self._steps_since, self._sharpened = 0.0, 0, False

    def begin(self) -> None:
        """Energy and gradient of the first geometry, and a first Hessian."""
        self._begin_at(np.zeros(self.surface.coordinates.count))
        self._note(self._point, accepted=True)
        self._learn(self._first_hessian())

    def _begin_at(self, z: np.ndarray) -> None:
        """Energy and gradient at z, and nothing known of the Hessian."""
        self._point = self.surface.at(z)
        if not (np.isfinite(self._point.energy) and np.isfinite(self._point.gradient).all()):
            raise ValueError(
                "the energy or the forces of the first structure are not finite: look for atoms on "
                "top of each other, or a structure far from all that the model was made for"
            )
        root = len(self._start) ** 0.5
        self._minimiser = Minimiser(
            z=z,
            energy=self._point.energy,
            gradient=self._point.gradient,
            hessian=np.zeros((len(z), len(z))),
            radius=FIRST_RADIUS * root,
            largest_radius=LARGEST_RADIUS * root,
            epsilon=torch.finfo(self.surface.model.dtype).eps,
            jumps=self._jumps(),
        )

    def _jumps(self) -> float:
        """By how much the energy may jump as pairs cross a cutoff, eV."""
        return energy_jump_of(self.surface.model) * len(self._start)

    def step(self) -> bool:
        """Try a step; whether it was taken."""
        minimiser = self._minimiser
        if self._point.residual < NEAR and not self._sharpened:
            self._sharpen()
        basis = self.surface.coordinates.basis
        springs = self._springs.here(basis @ minimiser.z, basis)
        point = self.surface.at(minimiser.propose(springs))
        accepted = minimiser.take(point.energy, point.gradient)
        if accepted:
            self._point = point
        self._steps_since += 1
        self._refused = 0 if accepted else self._refused + 1
        if point.residual < 0.9 * self._best_residual or not minimiser.lost_in_rounding:
            self._lost, self._best_residual = 0, point.residual
        else:
            self._lost += 1
        self._note(point, accepted)
        return accepted

    def reason_to_stop(self, fmax: float, max_steps: int) -> Reason | None:
        """Why to stop, if there is a reason. Looks for negative curvature where forces vanish."""
        if self.surface.coordinates.count == 0:
            return Reason(True, "nothing is free to move")
        residual, minimiser = self._point.residual, self._minimiser
        # A force f turns with a group of atoms that turns, which looks like curvature f / 1 Å.
        flat = max(FLAT, fmax)
        gain = EXPECTED_GAIN * fmax * len(self._start)
        if residual <= fmax and minimiser.expected_gain(flat) <= gain:
            curvature = self._lowest_curvature(flat)
            if curvature >= -flat:
                words = ", and the surface is flat in some direction" if curvature < flat else ""
                return Reason(True, f"the largest force is below {fmax:g} eV/Å{words}{self._apart}")
            minimiser.radius = minimiser.largest_radius
        if self.surface.n_gradients - self._begun_with >= max_steps:
            return Reason(
                False, f"{max_steps} gradients were not enough: raise max_steps{self._too_close()}"
            )
        if self._lost >= LOST:
            return Reason(
                False, "what is left is the rounding of the energy: raise fmax, or use float64"
            )
        if self._refused >= REFUSALS or self._steps_since >= LONG_WAY:
            stuck = Reason(
                False,
                "no step lowers the energy: it is not smooth here, or not finite around"
                + self._too_close(),
            )
            if np.array_equal(self._exact_at, minimiser.z):
                return stuck
            hessian = self._exact_hessian()
            if not np.isfinite(hessian).all():
                return stuck
            self._learn(hessian)
            self._exact_at = minimiser.z
        elif self._residual_then > FAR and self._point.residual < FAR / 10:
            self._learn(self._first_hessian())
        return None

    def _too_close(self) -> str:
        """A hint where models make no sense."""
        ratio = self.surface.smallest_ratio
        if ratio >= REPORTED:
            return ""
        return f"; atoms have come as close as {ratio:.2f} of the sum of their covalent radii"

    def atoms(self) -> Atoms:
        """The best structure, with its energy, forces and stress."""
        return self.surface.atoms_at(self._point.z, self._point.results)

    def _learn(self, hessian: np.ndarray) -> None:
        """Begin anew with a Hessian by y, (3N + 6, 3N + 6), and the springs that it shows."""
        z, c = self._minimiser.z, self.surface.coordinates
        self._minimiser.hessian = c.basis.T @ hessian @ c.basis
        self._minimiser.radius = self._minimiser.largest_radius * FIRST_RADIUS / LARGEST_RADIUS
        self._springs = BondStretch.of(c, c.basis @ z, hessian, np.asarray(self._start.pbc))
        self._residual_then = self._point.residual
        self._refused = self._steps_since = 0
        self._sharpened = False

    def _first_hessian(self) -> np.ndarray:
        """That of a valence force field."""
        c = self.surface.coordinates
        y = c.basis @ self._minimiser.z
        return first_hessian(c, y, self._start.numbers, np.asarray(self._start.pbc))

    def _exact_hessian(self) -> np.ndarray:
        """Single precision is enough for what gradients go on to correct."""
        return self.surface.joint_hessian(self._minimiser.z, self._rough)

    def _sharpen(self) -> None:
        """Correct the Hessian along its softest directions by exact products."""
        directions = np.linalg.eigh(self._minimiser.hessian)[1]
        if len(directions) > 3 * SOFT_DIRECTIONS:
            directions = directions[:, :SOFT_DIRECTIONS]
        products = self.surface.products(self._minimiser.z, self._rough)(directions)
        self._minimiser.correct(directions, products)
        self._sharpened = True

    def _lowest_curvature(self, flat: float) -> float:
        """The lowest curvature, by exact products; rigid motions do not count."""
        minimiser, c = self._minimiser, self.surface.coordinates
        positions, cell = c.place(c.joint(minimiser.z))
        parts = self.surface.parts_at(minimiser.z)
        if parts.count > 1:
            self._apart = f"; {parts.count} parts do not feel each other, the surface is flat there"
        rigid = rigid_directions(c, positions, cell, parts)
        if rigid.shape[1] == c.count:
            return np.inf
        return minimiser.lowest_curvature(self.surface.products(minimiser.z), rigid, flat)

    def _note(self, point: Point, accepted: bool) -> None:
        self.history.append(
            RelaxStep(
                point.energy,
                point.largest_force,
                point.largest_stress,
                point.residual,
                self._minimiser.radius,
                accepted,
            )
        )

    def save(self, path: Path) -> None:
        """Write all that is needed to go on."""
        data: dict[str, Any] = {
            **self._identity(),
            **{name: getattr(self._minimiser, name) for name in STATE},
            **{f"springs_{f.name}": getattr(self._springs, f.name) for f in fields(BondStretch)},
            "basis": self.surface.coordinates.basis,
            "history": np.array(self.history, dtype=float),
            "counts": (self.surface.n_gradients, self.surface.n_hvps),
            "exact_at": self._exact_at,
            "since": (self._residual_then, self._steps_since, self._sharpened),
        }
        with atomic_write(path) as partial, open(partial, "wb") as file:
            np.savez(file, **data)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        try:
            with np.load(path, allow_pickle=False) as file:
                data = dict(file)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no checkpoint of a relaxation: {error}") from error
        differing = self._differing(data)
        if differing:
            raise ValueError(
                f"{path} is of another relaxation: it differs in {differing}. Remove it, or name "
                "another"
            )
        self.surface.coordinates = replace(self.surface.coordinates, basis=data["basis"])
        self.surface.n_gradients, self.surface.n_hvps = map(int, data["counts"])
        self._begun_with = self.surface.n_gradients
        self._begin_at(data["z"])
        if abs(self._point.energy - data["energy"]) > SAME_ENERGY * abs(data["energy"]):
            raise ValueError(f"{path} is of another model: remove it, or name another")
        for name in STATE:
            value = data[name]
            setattr(self._minimiser, name, value if value.ndim else float(value))
        self._springs = BondStretch(
            **{f.name: data[f"springs_{f.name}"] for f in fields(BondStretch)}
        )
        rows = data["history"].tolist()
        self.history = [RelaxStep._make([*row[:-1], bool(row[-1])]) for row in rows]
        self._exact_at = data["exact_at"]
        self._residual_then, self._steps_since, self._sharpened = data["since"].tolist()
        self.resumed = True

    def _identity(self) -> dict[str, np.ndarray]:
        """What two runs of one relaxation have in common."""
        return {
            "settings": np.array(self._settings),
            "elements": self._start.numbers,
            "positions": self._start.positions,
            "cell": self._start.cell.array,
        }

    def _differing(self, data: dict[str, np.ndarray]) -> str:
        """What a checkpoint has different from this relaxation, in words."""
        differing = [
            name
            for name, value in self._identity().items()
            if name not in data or not _same(data[name], value)
        ]
        basis, own = data.get("basis", np.zeros(0)), self.surface.coordinates.basis
        # The same space may have another basis on another machine, and z is in that of the file.
        if basis.shape != own.shape or not np.allclose(basis @ (basis.T @ own), own, atol=1e-6):
            differing.append("constraints")
        return ", ".join(differing)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "U":
        return bool(one == other)
    return one.shape == other.shape and np.allclose(one, other, atol=1e-8)
