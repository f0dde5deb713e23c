"""An optimiser for ASE that begins with a Hessian: for atoms with constraints, and for filters.

Steps are those of `optimize.minimiser`, in the coordinates of `ase_coordinates`. The first Hessian
is that of a valence force field (`optimize.first_hessian`) or, on request, the exact one of MACE by
positions and strain. It lacks the second derivatives of what filters make of positions and strain,
and is a first guess: gradients correct it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from ase import Atoms
from ase.filters import Filter, UnitCellFilter
from ase.optimize.optimize import Optimizer
from ase.units import GPa

from mace_functional.interop.ase import PotentialCalculator
from mace_functional.interop.ase_coordinates import Chart, innermost
from mace_functional.optimize.bond_stretch import BondStretch
from mace_functional.optimize.coordinates import Coordinates, rigid_directions
from mace_functional.optimize.first_hessian import first_hessian
from mace_functional.optimize.minimiser import FIRST_RADIUS, LARGEST_RADIUS, ROUNDING, Minimiser
from mace_functional.optimize.relaxation import FAR, REFUSALS
from mace_functional.optimize.surface import Surface
from mace_functional.optimize.trust_region import Springs
from mace_functional.structure.connectivity import Parts

RIGID = 10.0
"""Curvature along rigid motions, eV/Å²: they change no energy, and no step should go there."""

BENT = 1e-6
"""Relative change of a step by constraints, above which it is another one."""

HessianFunction = Callable[[Atoms], np.ndarray]
"""The Hessian of atoms by their positions, eV/Å², (3N, 3N)."""


class SecondOrder(Optimizer):
    """Minimisation with a Hessian from the first step on; used as ASE's `BFGS`.

    The first Hessian is that of a valence force field, whatever the calculator; where steps fail,
    `PotentialCalculator` gives the exact one. A step that raises the energy is taken back and
    another one tried at once, so that every step of the log, and the last one above all, is the
    best so far; `force_calls` counts the tries.

    Args:
        atoms: Atoms, with any constraints, or a filter of ASE.
        restart: File to keep the Hessian in, and to go on from if it exists.
        logfile: As for all optimisers of ASE.
        trajectory: As for all optimisers of ASE.
        append_trajectory: As for all optimisers of ASE.
        hessian: "exact" for the exact Hessian from the start, by positions and cell, with
            `PotentialCalculator`; or a function of the atoms that gives their Hessian by positions,
            eV/Å², (3N, 3N).
        noise: Differences of the energy below it mean nothing, eV; gradients decide there. Rounding
            if None.
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
        self.force_calls = 0
        self._hessian, self._noise = hessian, noise
        self._chart: Chart | None = None
        self._springs: BondStretch
        self._minimiser: Minimiser
        self._since_hessian, self._force_at_hessian = 0, 0.0
        super().__init__(
            atoms=cast(Any, atoms),
            restart=_name(restart),
            logfile=_name(logfile),
            trajectory=_name(trajectory),
            append_trajectory=append_trajectory,
            **kwargs,
        )

    def step(self) -> None:
        """Go to a lower energy.

        Raises:
            RuntimeError: If no step leads there.
        """
        if self._chart is None or self._is_elsewhere():
            self._linearise(exact=self._hessian == "exact")
        while not self._descend():
            if self._since_hessian == 0:
                raise RuntimeError(
                    "no step lowers the energy: what is left may be its rounding or noise (raise "
                    "fmax, or give noise), or forces are not its derivatives"
                )
            self._linearise(exact=self._is_ours())
        self._since_hessian += 1
        self.dump(self._state())

    def read(self) -> None:
        """Go on from the restart file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "WARNING: restart function is untested")
            state = self.load()
        if len(state["origin"]) != self.atoms.get_positions().size:
            raise ValueError(f"{self.restart} is of another structure: remove it, or name another")
        if isinstance(self.atoms, UnitCellFilter):
            self.atoms.orig_cell = state["orig_cell"]
        coordinates = Coordinates(
            torch.as_tensor(state["positions"]),
            torch.as_tensor(state["cell"]),
            state["basis"],
            state["strain_length"],
        )
        self._chart = Chart(state["origin"], state["columns"], coordinates)
        self._springs = BondStretch(**{k: np.asarray(v) for k, v in state["springs"].items()})
        self._minimiser = self._minimiser_with(state["hessian"])
        self._minimiser.radius = state["radius"]
        self._since_hessian = state["since_hessian"]
        self._force_at_hessian = state["force_at_hessian"]

    def _state(self) -> dict[str, Any]:
        """What the restart file holds."""
        chart = cast(Chart, self._chart)
        return {
            "hessian": self._minimiser.hessian,
            "radius": self._minimiser.radius,
            "since_hessian": self._since_hessian,
            "force_at_hessian": self._force_at_hessian,
            "origin": chart.origin,
            "columns": chart.columns,
            "basis": chart.coordinates.basis,
            "strain_length": chart.coordinates.strain_length,
            "positions": chart.coordinates.positions.numpy(),
            "cell": chart.coordinates.cell.numpy(),
            "orig_cell": np.array(getattr(self.atoms, "orig_cell", np.zeros((3, 3)))),
            "springs": vars(self._springs),
        }

    def _descend(self) -> bool:
        """Try steps until one is accepted; where none is, the atoms are left where they were."""
        start, minimiser, chart = self._place(), self._minimiser, cast(Chart, self._chart)
        # Atoms that a filter does not show may have been moved since the last step.
        minimiser.z = chart.z(start)
        minimiser.energy, minimiser.gradient = self._energy_and_gradient(chart)
        minimiser.epsilon = self._energy_noise() / ROUNDING / max(abs(minimiser.energy), 1e-300)
        springs = self._springs_here(chart)
        for _ in range(REFUSALS):
            step = minimiser.propose(springs) - minimiser.z
            try:
                self._move(start + chart.columns @ step)
            except (ValueError, RuntimeError):  # constraints that cannot be met so far away
                accepted = minimiser.take(np.inf, np.zeros_like(step))
            else:
                made = chart.z(self._place()) - minimiser.z
                bent = np.linalg.norm(made - step) > BENT * np.linalg.norm(step)
                energy, gradient = self._energy_and_gradient(chart)
                self.force_calls += 1
                accepted = minimiser.take(energy, gradient, made if bent else None)
            if accepted:
                return True
            self._move(start)
        return False

    def _linearise(self, exact: bool) -> None:
        """Coordinates, Hessian and springs of the present geometry."""
        atoms = innermost(self.atoms)
        self._chart = chart = Chart.of(self.atoms)
        coordinates, basis = chart.coordinates, chart.coordinates.basis
        by_joint = self._exact_hessian(coordinates) if exact else self._first_hessian(coordinates)
        if not np.isfinite(by_joint).all():
            raise ValueError("the Hessian is not finite")
        free = rigid_directions(
            coordinates, coordinates.positions, coordinates.cell, Parts.whole(len(atoms), atoms.pbc)
        )
        hessian = basis.T @ by_joint @ basis + RIGID * free @ free.T
        self._springs = BondStretch.of(coordinates, np.zeros(len(basis)), by_joint, atoms.pbc)
        self._minimiser = self._minimiser_with(hessian)
        self._since_hessian, self._force_at_hessian = 0, self._largest_force()

    def _minimiser_with(self, hessian: np.ndarray) -> Minimiser:
        """A minimiser that knows the Hessian, and not yet where it is."""
        root = len(innermost(self.atoms)) ** 0.5
        return Minimiser(
            z=np.zeros(len(hessian)),
            energy=0.0,
            gradient=np.zeros(len(hessian)),
            hessian=hessian,
            radius=FIRST_RADIUS * root,
            largest_radius=LARGEST_RADIUS * root,
            epsilon=0.0,
        )

    def _first_hessian(self, coordinates: Coordinates) -> np.ndarray:
        """That of a valence force field, or of a function, by y, (3N + 6, 3N + 6)."""
        atoms = innermost(self.atoms)
        y = np.zeros(len(coordinates.basis))
        hessian = first_hessian(coordinates, y, atoms.numbers, atoms.pbc)
        if callable(self._hessian):
            given = np.asarray(self._hessian(atoms)).reshape(len(y) - 6, len(y) - 6)
            hessian[:-6, :-6] = (given + given.T) / 2
        return hessian

    def _exact_hessian(self, coordinates: Coordinates) -> np.ndarray:
        """By y, (3N + 6, 3N + 6)."""
        atoms = innermost(self.atoms)
        if not self._is_ours():
            raise ValueError('hessian="exact" needs PotentialCalculator: give a function instead')
        free = atoms.copy()
        free.set_constraint()
        rough = atoms.calc.potential.to(dtype=torch.float32)
        pressure = getattr(self.atoms, "scalar_pressure", 0.0) / GPa
        surface = Surface(rough, free, coordinates, pressure)
        return surface.joint_hessian(np.zeros(coordinates.count))

    def _springs_here(self, chart: Chart) -> Springs:
        """The springs at rest in the present geometry, as a function of a step."""
        basis = chart.coordinates.basis
        return self._springs.here(basis @ self._minimiser.z, basis)

    def _is_ours(self) -> bool:
        """Whether the calculator has the Hessian of a MACE model, by positions and cell."""
        return isinstance(innermost(self.atoms).calc, PotentialCalculator)

    def _is_elsewhere(self) -> bool:
        """Whether the Hessian is of another place, far from here or from all structures."""
        return self._force_at_hessian > FAR and self._largest_force() < FAR / 10

    def _largest_force(self) -> float:
        """On any row that ASE sees, as in its criterion of convergence."""
        return float(np.linalg.norm(self.atoms.get_forces().reshape(-1, 3), axis=1).max())

    def _place(self) -> np.ndarray:
        """Coordinates q."""
        return np.array(self.atoms.get_positions(), dtype=float).ravel()

    def _move(self, q: np.ndarray) -> None:
        self.atoms.set_positions(q.reshape(-1, 3))

    def _energy_and_gradient(self, chart: Chart) -> tuple[float, np.ndarray]:
        """Energy, and gradient by z."""
        # ASE 3.25 has the energy by its old name.
        value = getattr(self.optimizable, "get_value", None)
        energy = self.optimizable.get_potential_energy() if value is None else value()
        return float(energy), -chart.columns.T @ np.asarray(self.atoms.get_forces()).ravel()

    def _energy_noise(self) -> float:
        """Differences of the energy that mean nothing, eV."""
        if self._noise is not None:
            return self._noise
        atoms = innermost(self.atoms)
        ours = isinstance(atoms.calc, PotentialCalculator)
        dtype = atoms.calc.potential.dtype if ours else torch.float64
        # Energies relative to a reference are sums of larger ones.
        size = max(abs(self._minimiser.energy), float(len(atoms)))
        return ROUNDING * torch.finfo(dtype).eps * size


def _name(file: Any) -> Any:
    # ASE 3.25 takes names where later versions take paths.
    return str(file) if isinstance(file, Path) else file
