"""Search for a saddle point step by step: Hessians, the climbed mode, and convergence.

The Hessian is exact at first, and again after some accepted steps. Between these it is updated with
gradients, and with one exact product along the climbed mode. If forces vanish, the exact Hessian in
the precision of the potential determines the number of imaginary modes. With one, the search ends;
with more, it continues downhill along the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mace_functional.optimize.climb_mode import ClimbMode, InternalMotions
from mace_functional.optimize.coordinates import free_coordinates, rigid_directions
from mace_functional.optimize.follow_mode import free_direction
from mace_functional.optimize.outcome import Ending, Outcome
from mace_functional.optimize.search_loop import Search
from mace_functional.optimize.surface import Point, Surface
from mace_functional.potential.protocol import Potential
from mace_functional.structure.contacts import REFUSED, shortest_contact
from mace_functional.structure.selection import freedom
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import signed_sqrt

FIRST_DISPLACEMENT = 0.1
"""First displacement along a mode that is climbed from a minimum, Å.

It is that of the atom that moves most.
"""

MAX_REJECTED_CLIMBS = 4
"""Number of successive rejected steps after which the exact Hessian is computed.

If it is exact already, the search ends.
"""

HESSIAN_MAX_STEPS = 3
"""Smallest number of accepted steps after which the exact Hessian is computed again.

An exact Hessian saves a few gradients, and costs a third of a gradient for each coordinate.
"""

COORDINATES_PER_STEP = 15
"""Number of free coordinates per accepted step between two exact Hessians.

The larger of d / 15 and `HESSIAN_MAX_STEPS` steps are made between them.
"""

FLAT_FREQUENCY = 1.0
"""Frequency below which the surface counts as flat along a mode, cm-1."""

MIN_INTERNAL_NORM = 1e-6
"""Smallest norm of the internal part of a mode that can be followed, Å.

The mode displaces the atom that moves most by 1 Å. Modes below are rigid motions.
"""


@dataclass(frozen=True)
class SaddleStep:
    """Energy and forces of one step of a search for a saddle point.

    Attributes:
        energy: Energy, eV.
        largest_force: Largest free force on an atom, eV/Å.
        frequency: Signed frequency of the climbed mode before the step, cm-1; NaN for the first
            structure.
        radius: Trust radius after the step, Å.
        accepted: True if the step was accepted.
    """

    energy: float
    largest_force: float
    frequency: float
    radius: float
    accepted: bool


class SaddleSearch(Search[SaddleStep]):
    """Search for a first-order saddle point at fixed cell, step by step.

    Args:
        potential: The potential.
        atoms: Initial structure.
        mode: Direction or number of the mode to climb, as in `find_saddle`.

    Raises:
        ValueError: If atoms are on top of each other, or only rigid motions are free.
    """

    doing: ClassVar[str] = "climbing"

    def __init__(
        self, potential: Potential, atoms: Atoms, mode: int | np.ndarray | Tensor | None
    ) -> None:
        contact = shortest_contact(atoms)
        if contact is not None and contact.ratio < REFUSED:
            raise ValueError(f"{contact}: remove one of them, or move them apart")
        s = potential.structure(atoms)
        coordinates = free_coordinates(atoms, s.positions, s.cell, cell_freedom=False)
        self._climb = ClimbMode(InternalMotions(*[np.zeros((0, 0))] * 3))
        super().__init__(
            Surface(potential, atoms, coordinates), self._climb, atoms, ["saddle", _as_list(mode)]
        )
        self._mode = mode
        self._free = freedom(atoms, "find_saddle")
        self._masses = s.masses.cpu().double().numpy()
        self._best: Point | None = None
        self._fragments = 0

    def begin(self) -> None:
        """Evaluate the initial structure and its Hessian, and leave a minimum along the mode."""
        self.start_at(self.surface.at(np.zeros(self.surface.coordinates.count)))
        self._exact_at = np.full(len(self.point.z), np.nan)
        self._fragments = self.surface.parts_at(self.state.z).count
        if not self._internal().basis.shape[1]:
            raise ValueError("nothing is free to move but the structure as a whole")
        self._compute_hessian(self.float32_potential)
        self._record(self.point, np.nan, accepted=True)
        if self._mode is not None:
            self._begin_along(self._mode)

    def step(self) -> bool:
        """Evaluate a trial step; return True if it was accepted."""
        previous = self.point
        self._climb = self.strategy = self._tracked()
        point, accepted = self.attempt()
        curvature = self._climb.curvature
        if curvature < 0 and (
            self._best is None or previous.largest_force < self._best.largest_force
        ):
            self._best = previous
        if accepted:
            steps = max(HESSIAN_MAX_STEPS, self.state.z.size // COORDINATES_PER_STEP)
            if self.accepted >= steps:
                self._compute_hessian(self.float32_potential)
            else:
                self._refine_along_mode()
        self._record(point, _frequency(curvature), accepted)
        return accepted

    def ending(self, fmax: float, max_steps: int) -> Ending | None:
        """Return the reason to end, if there is one; compute the exact Hessian if forces vanish."""
        if self.point.largest_force <= fmax and not self.is_exact:
            self._compute_hessian(self.surface.potential)
            values, _ = self._modes()
            fragments = self.surface.parts_at(self.state.z).count
            if fragments > self._fragments:
                return Ending(Outcome.FRAGMENTED, f"{fragments} parts do not interact")
            if abs(_frequency(np.abs(values).min())) < FLAT_FREQUENCY:
                return Ending(
                    Outcome.FLAT, "the structure may have fragmented, or a mode costs no energy"
                )
            if int((values < 0).sum()) == 1:
                return Ending(
                    Outcome.CONVERGED,
                    f"one imaginary mode, and the largest force is below {fmax:g} eV/Å",
                )
        if self.new_gradients >= max_steps:
            return Ending(Outcome.MAX_STEPS, self.limit_of_steps(max_steps))
        if self.rejected >= MAX_REJECTED_CLIMBS:
            if self.is_exact:
                return Ending(
                    Outcome.STUCK,
                    "the energy is not smooth, or not finite, near this structure, or remaining "
                    "changes are rounding errors",
                )
            self._compute_hessian(self.surface.potential)
        return None

    def describe(self) -> str:
        """Describe the last step by energy, force and mode, for the line of progress."""
        last = self.history[-1]
        text = f"energy {last.energy:.6f} eV, largest force {last.largest_force:.5f} eV/Å"
        if math.isnan(last.frequency):  # the first structure, before a mode is known
            return text
        return f"{text}, mode at {last.frequency:.0f} cm-1"

    def return_to_best(self) -> None:
        """Move back to the structure of smallest forces among those with negative curvature."""
        best = self._best
        if best is not None and best.largest_force < self.point.largest_force:
            self.move_to(best)

    def lowest_mode(self) -> tuple[float, np.ndarray]:
        """Return the signed frequency, cm-1, and the normalised displacement (N, 3).

        They are NaN and zero if the exact Hessian is not known.
        """
        if not self.is_exact:
            return np.nan, np.zeros((len(self._masses), 3))
        internal = self._internal()
        values, vectors = self._modes()
        mode = (internal.displacements @ internal.basis.T @ vectors[:, 0]).reshape(-1, 3)
        return _frequency(values[0]), mode / np.linalg.norm(mode)

    def memory(self) -> dict[str, Any]:
        """Return the followed direction and the best structure, for a checkpoint."""
        followed, best = self._climb.followed, self._best
        return {
            "followed": np.zeros(0) if followed is None else followed,
            "is_mode": self._climb.is_mode,
            "best_z": np.zeros(0) if best is None else best.z,
            "fragments": self._fragments,
        }

    def recall(self, memory: Mapping[str, np.ndarray]) -> None:
        """Restore the state from a checkpoint; the best structure is evaluated again."""
        rows = memory["history"].tolist()
        self.history = [SaddleStep(*[*row[:-1], bool(row[-1])]) for row in rows]
        followed, best_z = memory["followed"], memory["best_z"]
        self._climb = replace(
            self._climb,
            followed=followed if followed.size else None,
            is_mode=bool(memory["is_mode"]),
        )
        self._best = self.surface.at(best_z) if best_z.size else None
        self._fragments = int(memory["fragments"])

    def _begin_along(self, mode: int | np.ndarray | Tensor) -> None:
        """Follow a mode; if the start is a minimum along it, displace the structure along it."""
        internal = self._internal()
        signs: tuple[int, ...] = (1,)
        if isinstance(mode, int | np.integer):
            signs = (1, -1)
            vectors = self._modes()[1]
            if not -vectors.shape[1] <= mode < vectors.shape[1]:
                raise ValueError(
                    f"there is no mode {mode}: the structure has {vectors.shape[1]} vibrations, "
                    "counted from 0"
                )
            displacement = self.surface.coordinates.basis[:-6] @ vectors[:, mode]
            direction = free_direction(displacement.reshape(-1, 3), self.surface)
        else:
            direction = free_direction(mode, self.surface)
        direction = internal.basis @ (internal.basis.T @ direction)
        if np.linalg.norm(direction) < MIN_INTERNAL_NORM:
            raise ValueError("the mode is a motion of the structure as a whole")
        self._climb = replace(self._climb, followed=direction)
        slope = float(self.state.gradient @ direction)
        curvature = float(direction @ self.state.hessian.product(direction))
        if abs(slope) < FIRST_DISPLACEMENT * curvature:
            self._climb = self._tracked()
            points = [
                self.surface.at(self.state.z + FIRST_DISPLACEMENT * k * direction) for k in signs
            ]
            point = min(points, key=lambda point: point.energy)
            if np.isfinite(point.energy):
                self.move_to(point)
                self._compute_hessian(self.float32_potential)
                self._record(point, _frequency(self._climb.curvature), accepted=True)

    def _compute_hessian(self, potential: Potential) -> None:
        """Compute the exact Hessian of a potential at the current geometry."""
        hessian = self.surface.joint_hessian(self.state.z, potential)
        if not np.isfinite(hessian).all():
            raise ValueError(
                "forces are finite, but the Hessian is not: use a potential in float64"
            )
        self.set_hessian(hessian)
        if potential is self.surface.potential:
            self._exact_at = self.state.z

    def _refine_along_mode(self) -> None:
        """Refine the Hessian with an exact product along the mode that is climbed next."""
        self._climb = self._tracked()
        u = self._climb.mode / np.linalg.norm(self._climb.mode)
        product = self.surface.products(self.state.z)(u)
        self.state = self.state.refine(u[:, None], product[:, None])

    def _tracked(self) -> ClimbMode:
        """Return the strategy with the mode to climb at the current geometry."""
        return replace(self._climb, internal=self._internal()).track(self.state.hessian)

    def _modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return curvatures, eV/Å²/amu, and normal modes (d, m) of the approximate Hessian."""
        return replace(self._climb, internal=self._internal()).modes(self.state.hessian)

    def _internal(self) -> InternalMotions:
        """Return the free motions at the current geometry, without free rigid motions."""
        c = self.surface.coordinates
        free = c.basis[:-6]
        positions, cell = c.place(c.joint(self.state.z))
        parts = self.surface.parts_at(self.state.z)
        exact_hessian = None
        if self.is_exact and self._free.whole:
            exact_hessian = self.state.hessian.product(np.eye(c.count))
        rigid = rigid_directions(c, positions, cell, parts, exact_hessian)
        basis = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
        sqrt_m = np.repeat(np.sqrt(self._masses), 3)[:, None]
        weighted = sqrt_m * (free @ basis)
        weighted_rigid = sqrt_m * (free @ rigid)
        if not self._free.pinned:
            translations = sqrt_m * np.tile(np.eye(3), (len(positions), 1))
            weighted_rigid = np.column_stack([weighted_rigid, translations])
        weighted_rigid = np.linalg.qr(weighted_rigid)[0]
        weighted = weighted - weighted_rigid @ (weighted_rigid.T @ weighted)
        return InternalMotions(basis, weighted / sqrt_m, weighted.T @ weighted)

    def _record(self, point: Point, frequency: float, accepted: bool) -> None:
        """Append an evaluated point to the history."""
        self.history.append(
            SaddleStep(point.energy, point.largest_force, frequency, self.state.radius, accepted)
        )


def _frequency(curvature: float) -> float:
    """Convert a curvature in eV/Å²/amu to a signed frequency in cm-1."""
    return frequency_factor("cm-1") * float(signed_sqrt(torch.as_tensor(curvature)))


def _as_list(mode: int | np.ndarray | Tensor | None) -> Any:
    """Convert a mode to numbers and lists, for JSON."""
    if mode is None or isinstance(mode, int | np.integer):
        return None if mode is None else int(mode)
    array = np.asarray(mode.detach().cpu() if isinstance(mode, Tensor) else mode, dtype=float)
    return array.tolist()
