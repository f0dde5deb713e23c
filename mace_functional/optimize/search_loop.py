"""Loop of a relaxation or a search for a saddle point.

It makes steps until the search ends. At the start and after each accepted step it writes a frame of
the trajectory and a checkpoint, and calls the callback.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.io.trajectory import Trajectory
from rich.console import Console
from rich.text import Text

from mace_functional.optimize.bond_springs import BondSprings
from mace_functional.optimize.optimizer_run import OptimizerRun
from mace_functional.optimize.outcome import Ending
from mace_functional.optimize.search_checkpoint import (
    hessian_arrays,
    hessian_of,
    matrix_arrays,
    matrix_of,
    read_checkpoint,
    write_checkpoint,
)
from mace_functional.optimize.surface import Point, Surface, in_single_precision
from mace_functional.optimize.trust_region_state import Strategy
from mace_functional.potential.protocol import Potential, energy_jump_of
from mace_functional.structure.contacts import REPORTED

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SAME_ENERGY = 1e-5
"""Largest relative difference between the energy of a checkpoint and the recomputed one.

Above, the checkpoint belongs to another potential. The value is well above the rounding of single
precision, 6e-8.
"""

StepT = TypeVar("StepT", bound="DataclassInstance")


@dataclass(frozen=True)
class LoopOptions(Generic[StepT]):
    """Files and reports of the loop.

    Attributes:
        trajectory: File of ASE's format for the structures; None for none.
        checkpoint: File from which the search continues if it exists, and that is written; None for
            none.
        callback: Function of the structure and the step; None for none.
        progress: True to show a line of progress.
    """

    trajectory: str | os.PathLike[str] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    callback: Callable[[Atoms, StepT], object] | None = None
    progress: bool = False


class Search(OptimizerRun[Point], ABC, Generic[StepT]):
    """Relaxation or search for a saddle point, step by step.

    Args:
        surface: Energy, gradient and Hessian by free coordinates.
        strategy: Strategy that proposes and judges steps.
        atoms: Initial structure.
        settings: Settings that a checkpoint must share; they are written as JSON.

    Attributes:
        history: One entry for every gradient.
        resumed: True if the search continues from a checkpoint.
    """

    doing: ClassVar[str]
    """First word of the line of progress."""

    surface: Surface
    history: list[StepT]

    def __init__(
        self, surface: Surface, strategy: Strategy, atoms: Atoms, settings: list[Any]
    ) -> None:
        potential = surface.potential
        super().__init__(
            surface,
            strategy,
            atoms.pbc,
            torch.finfo(potential.dtype).eps,
            len(atoms) * energy_jump_of(potential),
        )
        self.history = []
        self.resumed = False
        self.start_atoms = atoms
        self._settings = settings
        self._gradients_before = 0
        self._exact_at = np.zeros(0)

    @abstractmethod
    def begin(self) -> None:
        """Evaluate the initial structure, and set the first Hessian."""

    @abstractmethod
    def step(self) -> bool:
        """Evaluate a trial step, and append it to the history; return True if it was accepted."""

    @abstractmethod
    def ending(self, fmax: float, max_steps: int) -> Ending | None:
        """Return the reason to end, or None to continue.

        Args:
            fmax: Largest force on an atom at the end, eV/Å.
            max_steps: Largest number of gradients.
        """

    @abstractmethod
    def describe(self) -> str:
        """Describe the last step for the line of progress."""

    @abstractmethod
    def memory(self) -> dict[str, Any]:
        """Return arrays and numbers of this kind of search for a checkpoint, by name."""

    @abstractmethod
    def recall(self, memory: Mapping[str, np.ndarray]) -> None:
        """Restore the state and the history of this kind of search from a checkpoint."""

    @cached_property
    def float32_potential(self) -> Potential:
        """The potential in single precision, for Hessians that gradients update later."""
        return in_single_precision(self.surface.potential)

    @property
    def new_gradients(self) -> int:
        """Number of gradients since the start, or since the continuation from a checkpoint."""
        return self.surface.n_gradients - self._gradients_before

    @property
    def is_exact(self) -> bool:
        """True if the exact Hessian of the current geometry has been computed."""
        return np.array_equal(self._exact_at, self.state.z)

    def atoms(self) -> Atoms:
        """Return the current structure, with its energy, forces and stress."""
        return self.surface.atoms_at(self.point.z, self.point.results)

    def start_at(self, point: Point) -> None:
        """Start at a point.

        Raises:
            ValueError: If its energy or its gradient is not finite.
        """
        if not (np.isfinite(point.energy) and np.isfinite(point.gradient).all()):
            raise ValueError(
                "the energy or the forces of the first structure are not finite: look for atoms on "
                "top of each other, a structure far from those that the potential was made for, or "
                "float32 if float64 is needed"
            )
        super().start_at(point)

    def limit_of_steps(self, max_steps: int) -> str:
        """Return advice for a search that `max_steps` gradients did not converge."""
        return f"{max_steps} gradients were not enough: raise max_steps{self.clash()}"

    def clash(self) -> str:
        """Return a remark if atoms have come too close, after a semicolon; else an empty text."""
        ratio = self.surface.smallest_ratio
        if ratio >= REPORTED:
            return ""
        return f"; atoms have come as close as {ratio:.2f} of the sum of their covalent radii"

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        write_checkpoint(
            path,
            self.identity(),
            {
                "z": self.state.z,
                "energy": self.state.energy,
                "gradient": self.state.gradient,
                "radius": self.state.radius,
                **hessian_arrays(self.state.hessian),
                **{f"springs_{f.name}": getattr(self.springs, f.name) for f in fields(BondSprings)},
                **matrix_arrays("basis", self.surface.coordinates.basis),
                "history": np.array([astuple(step) for step in self.history], dtype=float),
                "counts": (self.surface.n_gradients, self.surface.n_hvps),
                "since_hessian": (self.rejected, self.trials, self.accepted),
                "exact_at": self._exact_at,
                **self.memory(),
            },
        )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: If it belongs to another search.
        """
        data = read_checkpoint(path, self.identity(), self.surface.coordinates.basis)
        # Another machine may choose another basis of the same space; z refers to that of the file.
        self.surface.coordinates = replace(self.surface.coordinates, basis=matrix_of("basis", data))
        self.surface.n_gradients, self.surface.n_hvps = map(int, data["counts"])
        self._gradients_before = self.surface.n_gradients
        self.start_at(self.surface.at(data["z"]))
        if abs(self.point.energy - data["energy"]) > SAME_ENERGY * abs(data["energy"]):
            raise ValueError(
                f"{path} belongs to another potential: remove it, or name another file"
            )
        self.state = replace(
            self.state,
            energy=float(data["energy"]),
            gradient=data["gradient"],
            radius=float(data["radius"]),
            hessian=hessian_of(data),
        )
        self.springs = BondSprings(
            **{f.name: data[f"springs_{f.name}"] for f in fields(BondSprings)}
        )
        self.rejected, self.trials, self.accepted = map(int, data["since_hessian"])
        self._exact_at = data["exact_at"]
        self.recall(data)
        self.resumed = True

    def identity(self) -> dict[str, np.ndarray]:
        """Return arrays that distinguish the checkpoints of different searches, by name."""
        return {
            "settings": np.array(json.dumps(self._settings)),
            "elements": self.start_atoms.numbers,
            "positions": self.start_atoms.positions,
            "cell": self.start_atoms.cell.array,
        }


class ProgressLine:
    """Line of progress of a search, with the counts of gradients and products at each refresh.

    Args:
        search: The search; its line is complete after its first step.
    """

    def __init__(self, search: Search[Any]) -> None:
        self._search = search

    def __rich__(self) -> Text:
        """Return the present line; rich calls this whenever the spinner turns."""
        search, surface = self._search, self._search.surface
        counts = f"{surface.n_gradients} gradients, {surface.n_hvps} Hessian-vector products"
        last_step = f", {search.describe()}" if search.history else ""
        return Text(f"{search.doing}: {counts}{last_step}")


def run_to_end(
    search: Search[StepT], fmax: float, max_steps: int, options: LoopOptions[StepT]
) -> Ending:
    """Make steps until the search ends.

    Args:
        search: Search that has not begun.
        fmax: Largest force on an atom at the end, eV/Å.
        max_steps: Largest number of gradients.
        options: Files and reports.

    Returns:
        The outcome, with details.

    Raises:
        ValueError: If the initial structure is invalid, or the checkpoint belongs to another
            search.
    """
    path = None if options.checkpoint is None else Path(options.checkpoint)
    with ExitStack() as stack:
        console = Console(stderr=True, quiet=not options.progress)
        stack.enter_context(console.status(ProgressLine(search)))
        if path is not None and path.exists():
            search.load(path)
        else:
            search.begin()
        frames = None
        if options.trajectory is not None:
            name, mode = os.fspath(options.trajectory), "a" if search.resumed else "w"
            frames = stack.enter_context(Trajectory(name, mode))
        accepted, ending = not search.resumed, None
        while ending is None:
            if accepted:
                if frames is not None:
                    frames.write(search.atoms())
                if path is not None:
                    search.save(path)
                if options.callback is not None:
                    options.callback(search.atoms(), search.history[-1])
            ending = search.ending(fmax, max_steps)
            accepted = ending is None and search.step()
    return ending
