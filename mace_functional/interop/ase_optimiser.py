"""Optimiser for ASE that uses a Hessian from the first step on, with constraints and filters.

`SecondOrder` runs the optimiser of `relax` (`optimize.optimizer_run`, `optimize.descend`) in the
coordinates of `ase_coordinates`. The first Hessian comes from a valence force field
(`optimize.first_hessian`) or, on request, is the exact Hessian by positions and strain. It lacks
the second derivatives of y(q), the map from a filter's coordinates to positions and strain. Updates
with the gradients correct it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from ase import Atoms
from ase.filters import Filter, UnitCellFilter
from ase.optimize.optimize import Optimizer
from ase.units import GPa

from mace_functional.interop.ase import PotentialCalculator
from mace_functional.interop.ase_coordinates import Chart, innermost
from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.coordinates import Coordinates, rigid_directions
from mace_functional.optimize.dense_hessian import DenseHessian
from mace_functional.optimize.descend import Descend
from mace_functional.optimize.first_hessian import first_hessian
from mace_functional.optimize.optimizer_run import MAX_REJECTED_STEPS, OptimizerRun
from mace_functional.optimize.surface import Surface, in_single_precision
from mace_functional.optimize.trust_region_state import ROUNDING_UNITS
from mace_functional.structure.connectivity import Parts

RIGID_STIFFNESS = 10.0
"""Curvature of the model energy along rigid motions, eV/Å².

The true curvature is zero. A large value keeps rigid motions out of the steps.
"""

CLASH_FORCE = 20.0
"""Largest force, eV/Å, above which atoms are too close for a useful Hessian.

The Hessian is replaced when the largest force has fallen below a tenth of this value.
"""

STEP_CHANGE = 1e-6
"""Largest relative change of a step by constraints that is ignored.

After a larger change, predictions of energy and gradient are made for the changed step.
"""

HessianFunction = Callable[[Atoms], np.ndarray]
"""Function that returns the Hessian of atoms by their positions, eV/Å², (3N, 3N)."""


class _AsePoint(NamedTuple):
    """Coordinates z with the energy, eV, and the gradient by z; see `EvaluatedPoint`."""

    z: np.ndarray
    energy: float
    gradient: np.ndarray


class _AseSurface:
    """Energy and gradient as functions of the coordinates z of a chart.

    An evaluation at z moves the atoms to z.

    Args:
        optimised: The atoms or the filter.
        optimizable: ASE's wrapper of `optimised`, which its optimisers use.
        chart: Free coordinates.
    """

    def __init__(self, optimised: Atoms | Filter, optimizable: Any, chart: Chart) -> None:
        self.chart, self.coordinates = chart, chart.coordinates
        self.n_gradients = 0
        self._optimised, self._optimizable = optimised, optimizable

    def at(self, z: np.ndarray) -> _AsePoint:
        """Move the atoms to z, as far as constraints allow it, and evaluate the energy there."""
        q = self.place()
        z_start = self.chart.z(q)
        step = z - z_start
        try:
            self.move(q + self.chart.columns @ step)
        except (ValueError, RuntimeError):  # constraints that a step this long cannot satisfy
            return _AsePoint(z, np.inf, np.zeros_like(z))
        actual_step = self.chart.z(self.place()) - z_start
        changed = np.linalg.norm(actual_step - step) > STEP_CHANGE * np.linalg.norm(step)
        self.n_gradients += 1
        return self.current()._replace(z=z_start + actual_step if changed else z)

    def current(self) -> _AsePoint:
        """Evaluate energy and gradient at the current positions of the atoms."""
        # ASE 3.25 has no get_value.
        value = getattr(self._optimizable, "get_value", None)
        energy = self._optimizable.get_potential_energy() if value is None else value()
        gradient = -self.chart.columns.T @ np.asarray(self._optimised.get_forces()).ravel()
        return _AsePoint(self.chart.z(self.place()), float(energy), gradient)

    def place(self) -> np.ndarray:
        """Return the current coordinates q of the atoms or the filter, flat."""
        return np.array(self._optimised.get_positions(), dtype=float).ravel()

    def move(self, q: np.ndarray) -> None:
        """Set the coordinates q of the atoms or the filter."""
        self._optimised.set_positions(q.reshape(-1, 3))


class SecondOrder(Optimizer):
    """ASE optimiser with a Hessian from the first step on; its interface is that of ASE's `BFGS`.

    The first Hessian comes from a valence force field, with every calculator. If no step lowers the
    energy, the exact Hessian is computed; this needs a `PotentialCalculator`. A step that raises
    the energy is undone, and a shorter one is tried at once. Every step in the log is therefore the
    best so far. `force_calls` counts the trial steps.

    Args:
        atoms: Atoms, with any constraints, or a filter of ASE.
        restart: File for the Hessian. If the file exists, the run continues from it.
        logfile: See ASE's `Optimizer`.
        trajectory: See ASE's `Optimizer`.
        append_trajectory: See ASE's `Optimizer`.
        hessian: "exact" for the exact Hessian by positions and cell from the start, which needs a
            `PotentialCalculator`; or a function that returns the Hessian of atoms by their
            positions, eV/Å², (3N, 3N).
        noise: Noise of the energy, eV; None for its rounding error. If the predicted change of the
            energy is smaller, a step is judged by gradients.
        **kwargs: Arguments of ASE's `Optimizer`.

    Raises:
        TypeError: If `atoms` is neither atoms nor a filter.
        ValueError: If the restart file belongs to another structure, or `hessian` is an unknown
            word.
        RuntimeError: From `run`, if no step lowers the energy.

    Example:
        >>> SecondOrder(FrechetCellFilter(atoms)).run(fmax=1e-3)          # doctest: +SKIP
    """

    def __init__(
        self,
        atoms: Atoms | Filter,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        append_trajectory: bool = False,
        *,
        hessian: HessianFunction | Literal["exact"] | None = None,
        noise: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(atoms, Atoms | Filter):
            raise TypeError(f"SecondOrder takes atoms or a filter, not {type(atoms).__name__}")
        if isinstance(hessian, str) and hessian != "exact":
            raise ValueError(f'hessian must be a function or "exact", not {hessian!r}')
        self._calls_before = 0
        self._hessian, self._noise = hessian, noise
        self._surface: _AseSurface | None = None
        self._run: OptimizerRun[_AsePoint]
        self._steps_since_hessian, self._force_at_hessian = 0, 0.0
        super().__init__(
            atoms=cast(Any, atoms),
            restart=_name(restart),
            logfile=_name(logfile),
            trajectory=_name(trajectory),
            append_trajectory=append_trajectory,
            **kwargs,
        )

    @property
    def force_calls(self) -> int:
        """Number of trial steps that were evaluated."""
        return self._calls_before + (0 if self._surface is None else self._surface.n_gradients)

    def step(self) -> None:
        """Make one step that lowers the energy.

        Raises:
            RuntimeError: If no step lowers the energy.
        """
        if self._surface is None or self._clash_resolved():
            self._start_at_current_geometry(exact=self._hessian == "exact")
        while not self._descend():
            if self._steps_since_hessian == 0:
                raise RuntimeError(
                    "no step lowers the energy: its changes may be smaller than its rounding error "
                    "or noise (raise fmax, or give noise), or the forces are not its derivatives"
                )
            self._start_at_current_geometry(exact=self._has_exact_hessian())
        self._steps_since_hessian += 1
        self.dump(self._restart_data())

    def read(self) -> None:
        """Continue from the restart file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "WARNING: restart function is untested")
            data = self.load()
        if len(data["origin"]) != self.atoms.get_positions().size:
            raise ValueError(
                f"{self.restart} belongs to another structure: remove it, or name another file"
            )
        if isinstance(self.atoms, UnitCellFilter):
            self.atoms.orig_cell = data["orig_cell"]
        coordinates = Coordinates(
            torch.as_tensor(data["positions"]),
            torch.as_tensor(data["cell"]),
            data["basis"],
            data["strain_length"],
        )
        self._begin_run(Chart(data["origin"], data["columns"], coordinates))
        run = self._run
        run.springs = BondSprings(**{k: np.asarray(v) for k, v in data["springs"].items()})
        run.state = replace(run.state, hessian=DenseHessian(data["hessian"]), radius=data["radius"])
        self._steps_since_hessian = data["steps_since_hessian"]
        self._force_at_hessian = data["force_at_hessian"]

    def _restart_data(self) -> dict[str, Any]:
        """Return the contents of the restart file."""
        run, chart = self._run, cast(_AseSurface, self._surface).chart
        return {
            "hessian": cast(DenseHessian, run.state.hessian).matrix,
            "radius": run.state.radius,
            "steps_since_hessian": self._steps_since_hessian,
            "force_at_hessian": self._force_at_hessian,
            "origin": chart.origin,
            "columns": chart.columns,
            "basis": chart.coordinates.basis,
            "strain_length": chart.coordinates.strain_length,
            "positions": chart.coordinates.positions.numpy(),
            "cell": chart.coordinates.cell.numpy(),
            "orig_cell": np.array(getattr(self.atoms, "orig_cell", np.zeros((3, 3)))),
            "springs": vars(run.springs),
        }

    def _begin_run(self, chart: Chart) -> None:
        """Begin a new run in the coordinates of a chart, without energy and Hessian yet."""
        self._calls_before = self.force_calls
        self._surface = surface = _AseSurface(self.atoms, self.optimizable, chart)
        self._run = OptimizerRun(surface, Descend(), innermost(self.atoms).pbc, epsilon=0.0)
        size = chart.coordinates.count
        self._run.start_at(_AsePoint(np.zeros(size), 0.0, np.zeros(size)))

    def _descend(self) -> bool:
        """Try steps until one is accepted and return True; else undo them and return False."""
        run, surface = self._run, cast(_AseSurface, self._surface)
        q = surface.place()
        # The user may have moved atoms that a filter hides since the last step.
        run.move_to(surface.current())
        run.state = replace(run.state, energy_noise=self._energy_noise(run.state.energy))
        for _ in range(MAX_REJECTED_STEPS):
            if run.attempt().accepted:
                return True
            surface.move(q)
        return False

    def _start_at_current_geometry(self, exact: bool) -> None:
        """Construct coordinates, Hessian and springs at the current geometry, and begin a run."""
        atoms, chart = innermost(self.atoms), Chart.of(self.atoms)
        c = chart.coordinates
        hessian_y = self._exact_hessian(c) if exact else self._first_hessian(c)
        if not np.isfinite(hessian_y).all():
            raise ValueError("the Hessian is not finite")
        rigid = rigid_directions(c, c.positions, c.cell, Parts.whole(len(atoms), atoms.pbc))
        self._begin_run(chart)
        self._run.set_hessian(hessian_y, RIGID_STIFFNESS * rigid @ rigid.T)
        self._steps_since_hessian, self._force_at_hessian = 0, self._largest_force()

    def _first_hessian(self, coordinates: Coordinates) -> np.ndarray:
        """Return the Hessian by y of the force field or a given function, (3N + 6, 3N + 6)."""
        atoms = innermost(self.atoms)
        y = np.zeros(len(coordinates.basis))
        hessian = first_hessian(coordinates, y, atoms.numbers, atoms.pbc)
        if callable(self._hessian):
            by_positions = np.asarray(self._hessian(atoms)).reshape(len(y) - 6, len(y) - 6)
            hessian[:-6, :-6] = (by_positions + by_positions.T) / 2
        return hessian

    def _exact_hessian(self, coordinates: Coordinates) -> np.ndarray:
        """Compute the exact Hessian by y in single precision, (3N + 6, 3N + 6)."""
        atoms = innermost(self.atoms)
        if not self._has_exact_hessian():
            raise ValueError('hessian="exact" needs PotentialCalculator: give a function instead')
        free = atoms.copy()
        free.set_constraint()
        potential = in_single_precision(atoms.calc.potential)
        pressure = getattr(self.atoms, "scalar_pressure", 0.0) / GPa
        surface = Surface(potential, free, coordinates, pressure)
        return surface.joint_hessian(np.zeros(coordinates.count))

    def _has_exact_hessian(self) -> bool:
        """Return True if the calculator is a `PotentialCalculator`, which has exact Hessians."""
        return isinstance(innermost(self.atoms).calc, PotentialCalculator)

    def _clash_resolved(self) -> bool:
        """Return True if the Hessian was made for clashing atoms that no longer clash."""
        return self._force_at_hessian > CLASH_FORCE and self._largest_force() < CLASH_FORCE / 10

    def _largest_force(self) -> float:
        """Return the largest norm of a row of ASE's forces, the number that `fmax` limits."""
        return float(np.linalg.norm(self.atoms.get_forces().reshape(-1, 3), axis=1).max())

    def _energy_noise(self, energy: float) -> float:
        """Return the noise of the energy, eV: smaller differences are not significant."""
        if self._noise is not None:
            return self._noise
        atoms = innermost(self.atoms)
        dtype = (
            atoms.calc.potential.dtype
            if isinstance(atoms.calc, PotentialCalculator)
            else torch.float64
        )
        # An energy relative to a reference is a difference of larger numbers.
        return ROUNDING_UNITS * torch.finfo(dtype).eps * max(abs(energy), float(len(atoms)))


def _name(file: Any) -> Any:
    # Later versions of ASE take paths, ASE 3.25 only names.
    return str(file) if isinstance(file, Path) else file
