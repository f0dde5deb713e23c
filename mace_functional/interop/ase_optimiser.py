"""An optimiser for ASE that begins with a Hessian: for atoms with constraints, and for filters.

It is a run of the optimiser of `relax` (`optimize.optimizer_run`, `optimize.descend`) in the
coordinates of `ase_coordinates`. The first Hessian is that of a valence force field
(`optimize.first_hessian`) or, on request, the exact one by positions and strain. It lacks the
second derivatives of the functions by which filters change positions and strain. Gradients correct
it.
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
from mace_functional.optimize.optimizer_run import CLASH_FORCE, MAX_REJECTED_STEPS, OptimizerRun
from mace_functional.optimize.surface import Surface, in_single_precision
from mace_functional.optimize.trust_region_state import ROUNDING_UNITS
from mace_functional.structure.connectivity import Parts

RIGID_STIFFNESS = 10.0
"""Curvature that is given to rigid motions, eV/Å², so that no step contains them: the energy does
not change along them."""

STEP_CHANGE = 1e-6
"""Relative change of a step by constraints, above which the model predicts its energy and gradient
anew."""

HessianFunction = Callable[[Atoms], np.ndarray]
"""The Hessian of atoms by their positions, eV/Å², (3N, 3N)."""


class _AsePoint(NamedTuple):
    """Energy and gradient of the atoms; see `EvaluatedPoint`."""

    z: np.ndarray
    energy: float
    gradient: np.ndarray


class _AseSurface:
    """Energy and gradient by the coordinates of a chart; evaluating moves the atoms.

    Args:
        optimised: The atoms or the filter.
        optimizable: The same, as ASE's optimisers wrap it.
        chart: Free coordinates.
    """

    def __init__(self, optimised: Atoms | Filter, optimizable: Any, chart: Chart) -> None:
        self.chart, self.coordinates = chart, chart.coordinates
        self.n_gradients = 0
        self._optimised, self._optimizable = optimised, optimizable

    def at(self, z: np.ndarray) -> _AsePoint:
        """The surface at z, or where constraints lead on the way there."""
        start = self.place()
        here = self.chart.z(start)
        step = z - here
        try:
            self.move(start + self.chart.columns @ step)
        except (ValueError, RuntimeError):  # constraints that cannot be met so far away
            return _AsePoint(z, np.inf, np.zeros_like(z))
        made = self.chart.z(self.place()) - here
        changed = np.linalg.norm(made - step) > STEP_CHANGE * np.linalg.norm(step)
        self.n_gradients += 1
        return self.here()._replace(z=here + made if changed else z)

    def here(self) -> _AsePoint:
        """The surface where the atoms are."""
        # ASE 3.25 has the energy by its old name.
        value = getattr(self._optimizable, "get_value", None)
        energy = self._optimizable.get_potential_energy() if value is None else value()
        gradient = -self.chart.columns.T @ np.asarray(self._optimised.get_forces()).ravel()
        return _AsePoint(self.chart.z(self.place()), float(energy), gradient)

    def place(self) -> np.ndarray:
        """Coordinates q of the atoms or the filter, flat."""
        return np.array(self._optimised.get_positions(), dtype=float).ravel()

    def move(self, q: np.ndarray) -> None:
        """Set the coordinates q."""
        self._optimised.set_positions(q.reshape(-1, 3))


class SecondOrder(Optimizer):
    """Minimisation with a Hessian from the first step on; used as ASE's `BFGS`.

    The first Hessian is that of a valence force field, whatever the calculator. Where steps fail,
    the exact one is computed, if the calculator is a `PotentialCalculator`. A step that raises the
    energy is undone and another one tried at once, so that every step of the log is the best so
    far; `force_calls` counts the trial steps.

    Args:
        atoms: Atoms, with any constraints, or a filter of ASE.
        restart: File to keep the Hessian in, and to go on from if it exists.
        logfile: As for all optimisers of ASE.
        trajectory: As for all optimisers of ASE.
        append_trajectory: As for all optimisers of ASE.
        hessian: "exact" for the exact Hessian from the start, by positions and cell, with
            `PotentialCalculator`; or a function of the atoms that gives their Hessian by positions,
            eV/Å², (3N, 3N).
        noise: Differences of the energy that mean nothing, eV; where a smaller one is predicted,
            gradients decide. The rounding of energies if None.
        **kwargs: Passed on to ASE's `Optimizer`.

    Raises:
        TypeError: If `atoms` is something else.
        ValueError: If the restart file is of another structure, or `hessian` another word.
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
        """Go to a lower energy.

        Raises:
            RuntimeError: If no step leads there.
        """
        if self._surface is None or self._is_elsewhere():
            self._linearise(exact=self._hessian == "exact")
        while not self._descend():
            if self._steps_since_hessian == 0:
                raise RuntimeError(
                    "no step lowers the energy: what is left may be its rounding or noise (raise "
                    "fmax, or give noise), or forces are not its derivatives"
                )
            self._linearise(exact=self._is_ours())
        self._steps_since_hessian += 1
        self.dump(self._restart_data())

    def read(self) -> None:
        """Go on from the restart file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "WARNING: restart function is untested")
            data = self.load()
        if len(data["origin"]) != self.atoms.get_positions().size:
            raise ValueError(f"{self.restart} is of another structure: remove it, or name another")
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
        """The contents of the restart file."""
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
        """A new run in these coordinates, that knows no energy and no Hessian yet."""
        self._calls_before = self.force_calls
        self._surface = surface = _AseSurface(self.atoms, self.optimizable, chart)
        self._run = OptimizerRun(surface, Descend(), innermost(self.atoms).pbc, epsilon=0.0)
        size = chart.coordinates.count
        self._run.start_at(_AsePoint(np.zeros(size), 0.0, np.zeros(size)))

    def _descend(self) -> bool:
        """Try steps until one is accepted; where none is, the atoms are left where they were."""
        run, surface = self._run, cast(_AseSurface, self._surface)
        start = surface.place()
        # Atoms that a filter does not show may have been moved since the last step.
        run.move_to(surface.here())
        run.state = replace(run.state, energy_noise=self._energy_noise(run.state.energy))
        for _ in range(MAX_REJECTED_STEPS):
            if run.attempt().accepted:
                return True
            surface.move(start)
        return False

    def _linearise(self, exact: bool) -> None:
        """Coordinates, Hessian and springs of the present geometry."""
        atoms, chart = innermost(self.atoms), Chart.of(self.atoms)
        c = chart.coordinates
        by_joint = self._exact_hessian(c) if exact else self._first_hessian(c)
        if not np.isfinite(by_joint).all():
            raise ValueError("the Hessian is not finite")
        rigid = rigid_directions(c, c.positions, c.cell, Parts.whole(len(atoms), atoms.pbc))
        self._begin_run(chart)
        self._run.set_hessian(by_joint, RIGID_STIFFNESS * rigid @ rigid.T)
        self._steps_since_hessian, self._force_at_hessian = 0, self._largest_force()

    def _first_hessian(self, coordinates: Coordinates) -> np.ndarray:
        """Hessian of a valence force field, or from a function, by y, (3N + 6, 3N + 6)."""
        atoms = innermost(self.atoms)
        y = np.zeros(len(coordinates.basis))
        hessian = first_hessian(coordinates, y, atoms.numbers, atoms.pbc)
        if callable(self._hessian):
            given = np.asarray(self._hessian(atoms)).reshape(len(y) - 6, len(y) - 6)
            hessian[:-6, :-6] = (given + given.T) / 2
        return hessian

    def _exact_hessian(self, coordinates: Coordinates) -> np.ndarray:
        """The exact Hessian by y, in single precision, (3N + 6, 3N + 6)."""
        atoms = innermost(self.atoms)
        if not self._is_ours():
            raise ValueError('hessian="exact" needs PotentialCalculator: give a function instead')
        free = atoms.copy()
        free.set_constraint()
        potential = in_single_precision(atoms.calc.potential)
        pressure = getattr(self.atoms, "scalar_pressure", 0.0) / GPa
        surface = Surface(potential, free, coordinates, pressure)
        return surface.joint_hessian(np.zeros(coordinates.count))

    def _is_ours(self) -> bool:
        """Whether the calculator is one of this package, which gives exact Hessians."""
        return isinstance(innermost(self.atoms).calc, PotentialCalculator)

    def _is_elsewhere(self) -> bool:
        """Whether the Hessian was made where atoms clashed, and they have come apart since."""
        return self._force_at_hessian > CLASH_FORCE and self._largest_force() < CLASH_FORCE / 10

    def _largest_force(self) -> float:
        """Largest row of the forces that ASE sees, as in its criterion of convergence."""
        return float(np.linalg.norm(self.atoms.get_forces().reshape(-1, 3), axis=1).max())

    def _energy_noise(self, energy: float) -> float:
        """Differences of the energy that mean nothing, eV."""
        if self._noise is not None:
            return self._noise
        atoms = innermost(self.atoms)
        dtype = (
            atoms.calc.potential.dtype
            if isinstance(atoms.calc, PotentialCalculator)
            else torch.float64
        )
        # Energies relative to a reference are sums of larger ones.
        return ROUNDING_UNITS * torch.finfo(dtype).eps * max(abs(energy), float(len(atoms)))


def _name(file: Any) -> Any:
    # ASE 3.25 takes names where later versions take paths.
    return str(file) if isinstance(file, Path) else file
