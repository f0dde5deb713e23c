"""Relaxation step by step: initial Hessian, updates of the Hessian, and convergence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from mace_functional.optimize.coordinates import CellFreedom, free_coordinates, rigid_directions
from mace_functional.optimize.dense_hessian import ZERO_CURVATURE
from mace_functional.optimize.descend import Descend
from mace_functional.optimize.first_hessian import first_hessian, sparse_first_hessian
from mace_functional.optimize.limited_hessian import LimitedHessian
from mace_functional.optimize.negative_curvature import lowest_curvature
from mace_functional.optimize.optimizer_run import MAX_REJECTED_STEPS
from mace_functional.optimize.outcome import Ending, Outcome
from mace_functional.optimize.search_loop import Search
from mace_functional.optimize.sparse_factors import SparseFactors
from mace_functional.optimize.surface import Point, Surface
from mace_functional.potential.protocol import Potential, is_mirror_symmetric
from mace_functional.structure.selection import freedom
from mace_functional.structure.symmetry import Operations

EXPECTED_GAIN = 1e-3
"""Largest predicted energy gain of a converged relaxation, g H^-1 g / 2, over fmax times N, Å.

On flat surfaces, the criterion of forces alone ends too early.
"""

MAX_DENSE_ATOMS = 300
"""Largest number of atoms for which the Hessian is a dense matrix, (3N + 6)^2 numbers.

More atoms have a `LimitedHessian`, unless a symmetry or a constraint of the centre of mass is kept,
whose free coordinates move many atoms at once. MOF-5 of 106 atoms takes the same number of
gradients with both (`benchmarks/README.md`).
"""

HESSIAN_MAX_TRIALS = 80
"""Number of trial steps after which the exact Hessian of at most `MAX_DENSE_ATOMS` is computed."""

HIGH_FORCE = 2.0
"""Largest force, eV/Å, above which the Hessian of the force field is computed anew.

There bonds are squeezed or stretched, and an accepted step changes their stiffness by factors that
no update describes. Updates spread the errors of a few bonds over all atoms: start 0 of MOF-5 of
2 862 atoms takes 26 gradients, and with updates alone more than 200 (`benchmarks/README.md`). Eight
relaxations of rattled ethanol, benzene and sodalite take 218 gradients with 20 eV/Å, 151 with 5,
142 with 2 and 130 with 1. Updates are better for metals and salts, for which the force field is too
stiff.
"""

REFINE_FORCE = 0.02
"""Largest force, eV/Å, below which exact products along the softest directions refine the Hessian.

This happens once, because the softest directions determine the last steps. In relaxations to
0.005 eV/Å it saves 6 of 147 gradients of four frameworks (`benchmarks/README.md`).
"""

SOFT_DIRECTIONS = 16
"""Number of softest directions along which the Hessian is refined.

If there are at most three times as many directions, all are used.
"""

MAX_NOISE_STEPS = 12
"""Number of successive trial steps within the noise of the energy, after which the relaxation ends.

Steps that lower the largest force do not count.
"""

SMALLER_FORCE = 0.9
"""Ratio of two largest forces below which the second one counts as lower."""


@dataclass(frozen=True)
class RelaxStep:
    """Energy and forces of one step of a relaxation.

    Attributes:
        energy: Energy, or enthalpy under pressure, eV.
        largest_force: Largest free force on an atom, eV/Å.
        largest_stress: Largest component of the free stress, pressure included, GPa.
        residual: Largest of the forces and of the rows of dE/de per atom; below fmax at
            convergence.
        radius: Trust radius after the step, Å.
        accepted: True if the step was accepted, because the energy fell.
    """

    energy: float
    largest_force: float
    largest_stress: float
    residual: float
    radius: float
    accepted: bool


class Relaxation(Search[RelaxStep]):
    """Relaxation of positions and cell, step by step.

    Args:
        potential: The potential.
        atoms: Initial structure.
        cell: Free strains; see `CellFreedom`.
        pressure: External pressure, GPa.
        symprec: Tolerance of the symmetry that is found and preserved, Å; None for no symmetry.
    """

    doing: ClassVar[str] = "relaxing"

    def __init__(
        self,
        potential: Potential,
        atoms: Atoms,
        cell: CellFreedom,
        pressure: float,
        symprec: float | None,
    ) -> None:
        structure = potential.structure(atoms)
        symmetry = None
        if symprec is not None:
            proper_only = not is_mirror_symmetric(potential)
            symmetry = Operations.of(atoms, atoms.numbers, symprec, proper_only)
        self._sparse = (
            len(atoms) > MAX_DENSE_ATOMS
            and symmetry is None
            and not freedom(atoms, "relax").sums.size
        )
        coordinates = free_coordinates(
            atoms,
            structure.positions,
            structure.cell,
            cell_freedom=cell,
            symmetry=symmetry,
            sparse=self._sparse,
        )
        strains = cell if isinstance(cell, str) else np.asarray(cell).tolist()
        super().__init__(
            Surface(potential, atoms, coordinates, pressure),
            Descend(),
            atoms,
            [strains, pressure, symprec],
        )
        self._fragments = ""
        self._noise_steps, self._best_residual = 0, np.inf
        self._residual_at_hessian, self._refined = 0.0, False

    def begin(self) -> None:
        """Evaluate the initial structure, and set the Hessian of a valence force field."""
        self.start_at(self.surface.at(np.zeros(self.surface.coordinates.count)))
        self._record(self.point, accepted=True)
        self._set_first_hessian()

    def step(self) -> bool:
        """Evaluate a trial step; return True if it was accepted."""
        if self.point.residual < REFINE_FORCE and not self._refined:
            self._refine_soft_directions()
        before = self.state
        point, accepted = self.attempt()
        if accepted and self._residual_at_hessian > HIGH_FORCE:
            self._renew_hessian(self.state.z - before.z, point.gradient - before.gradient)
        force_fell = point.residual < SMALLER_FORCE * self._best_residual
        if force_fell or not self.state.within_noise:
            self._noise_steps, self._best_residual = 0, point.residual
        else:
            self._noise_steps += 1
        self._record(point, accepted)
        return accepted

    def ending(self, fmax: float, max_steps: int) -> Ending | None:
        """Return the reason to end, if there is one; replace the Hessian if steps fail.

        Few atoms get the exact Hessian, many the valence Hessian of the current geometry.
        """
        if self.surface.coordinates.count == 0:
            return Ending(Outcome.NOTHING_FREE)
        # A force f that rotates with a group of atoms looks like a curvature f / 1 Å.
        flat = max(ZERO_CURVATURE, fmax)
        if self._forces_vanish(fmax, flat):
            curvature = self._lowest_curvature(flat)
            if curvature >= -flat:
                is_flat = curvature < flat or bool(self._fragments)
                return Ending(
                    Outcome.FLAT if is_flat else Outcome.CONVERGED,
                    f"the largest force is below {fmax:g} eV/Å{self._fragments}",
                )
            self.widest_radius()
        if self.new_gradients >= max_steps:
            return Ending(Outcome.MAX_STEPS, self.limit_of_steps(max_steps))
        if self._noise_steps >= MAX_NOISE_STEPS:
            return Ending(Outcome.NOISE_LIMIT, "raise fmax, or use float64")
        too_many = self.trials >= HESSIAN_MAX_TRIALS and not self._sparse
        if self.rejected >= MAX_REJECTED_STEPS or too_many:
            if self.is_exact:
                return Ending(
                    Outcome.STUCK,
                    "the energy is not smooth, or not finite, near this structure" + self.clash(),
                )
            if self._sparse:
                self._set_first_hessian()
            else:
                hessian = self.surface.joint_hessian(self.state.z, self.float32_potential)
                if not np.isfinite(hessian).all():
                    return Ending(Outcome.NOT_FINITE, self.clash().removeprefix("; "))
                self.set_hessian(hessian)
                self._residual_at_hessian, self._refined = 0.0, False
            self.reset_radius()
            self._exact_at = self.state.z
        return None

    def describe(self) -> str:
        """Describe the last step by energy and force, for the line of progress."""
        last = self.history[-1]
        return f"energy {last.energy:.6f} eV, largest force {last.largest_force:.5f} eV/Å"

    def memory(self) -> dict[str, Any]:
        """Return counters that determine when the Hessian is refined and when the search ends."""
        return {
            "residual_at_hessian": self._residual_at_hessian,
            "refined": self._refined,
            "noise_steps": self._noise_steps,
            "best_residual": self._best_residual,
        }

    def recall(self, memory: Mapping[str, np.ndarray]) -> None:
        """Restore the counters and the history from a checkpoint."""
        rows = memory["history"].tolist()
        self.history = [RelaxStep(*[*row[:-1], bool(row[-1])]) for row in rows]
        self._residual_at_hessian = float(memory["residual_at_hessian"])
        self._refined = bool(memory["refined"])
        self._noise_steps = int(memory["noise_steps"])
        self._best_residual = float(memory["best_residual"])

    def _forces_vanish(self, fmax: float, flat: float) -> bool:
        """Return True if forces and predicted energy gain meet the criteria."""
        if self.point.residual > fmax:
            return False
        gain = self.state.hessian.expected_gain(self.state.gradient, flat)
        return gain <= EXPECTED_GAIN * fmax * len(self.start_atoms)

    def _set_first_hessian(self) -> None:
        """Replace the Hessian by that of a valence force field at this geometry."""
        c = self.surface.coordinates
        pbc = np.asarray(self.start_atoms.pbc)
        geometry = c, c.basis @ self.state.z, self.start_atoms.numbers, pbc
        if self._sparse:
            found = sparse_first_hessian(*geometry)
            factors = SparseFactors(c.by_free(found.near))
            by_z = c.by_free(found.hessian)
            model = LimitedHessian(by_z, c.groups(), c.translations(), factors)
            self.set_model(model, found.hessian)
        else:
            self.set_hessian(first_hessian(*geometry))
        self._residual_at_hessian, self._refined = self.point.residual, False

    def _renew_hessian(self, step: np.ndarray, change: np.ndarray) -> None:
        """Set the valence Hessian at this geometry; few atoms update it with the last step.

        This step says little about each of many atoms.

        Args:
            step: The step, (d,).
            change: Change of the gradient by the step, eV/Å, (d,).
        """
        self._set_first_hessian()
        if not self._sparse:
            first = self.state.hessian
            updated = first.update(step, change - first.product(step))
            self.state = replace(self.state, hessian=updated)

    def _refine_soft_directions(self) -> None:
        """Refine the Hessian with exact products along its softest directions."""
        directions = self.state.hessian.softest(SOFT_DIRECTIONS)
        products = self.surface.products(self.state.z, self.float32_potential)(directions)
        self.state = self.state.refine(directions, products)
        self._refined = True

    def _lowest_curvature(self, flat: float) -> float:
        """Search the lowest curvature, eV/Å², by exact products, which also refine the Hessian."""
        z, c = self.state.z, self.surface.coordinates
        positions, cell = c.place(c.joint(z))
        parts = self.surface.parts_at(z)
        if parts.count > 1:
            self._fragments = f"; {parts.count} parts do not interact"
        rigid = rigid_directions(c, positions, cell, parts)
        if rigid.shape[1] == c.count:
            return np.inf
        lowest = lowest_curvature(self.state.hessian, self.surface.products(z), rigid, flat)
        if lowest.products.size:
            self.state = self.state.refine(lowest.directions, lowest.products)
        return lowest.curvature

    def _record(self, point: Point, accepted: bool) -> None:
        """Append an evaluated point to the history."""
        self.history.append(
            RelaxStep(
                point.energy,
                point.largest_force,
                point.largest_stress,
                point.residual,
                self.state.radius,
                accepted,
            )
        )
