"""A structure to be computed, and the checkpoints in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ase import Atoms

from mace_functional.potential.protocol import Potential
from mace_functional.screening.record import Record
from mace_functional.screening.screen_settings import ScreenSettings

SAMPLED = 100
"""A third of the number of products of a structure that is sampled by random vectors. 848 to 2 862
atoms take 90 to 120 products for a heat capacity at 300 K, and 310 with the entropy."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Task:
    """A structure to be computed.

    Attributes:
        key: Key of the result.
        name: Name of the structure.
        file: File that the structure was read from.
        atoms: The structure.
        folder: Folder for the files of the structure; absolute.
        settings: Settings of the screening.
        device: Device to compute on.
        memory_budget: Bytes for second derivatives; half of what is free if None.
        findings: Remarks on the file, from reading it.
        potential: Potential to compute with, on the device; if None, the model that the settings
            name.
        temperatures: Temperatures of thermodynamics that are sampled by random vectors, K.
        earlier: Record in the folder that lacks one part; None to compute everything.
        relaxed: The structure that the earlier record is for.
    """

    key: str
    name: str
    file: str
    atoms: Atoms
    folder: Path
    settings: ScreenSettings
    device: str = "cpu"
    memory_budget: int | None = None
    findings: tuple[str, ...] = ()
    potential: Potential | None = None
    temperatures: tuple[float, ...] = ()
    earlier: Record | None = None
    relaxed: Atoms | None = None

    @property
    def is_sampled(self) -> bool:
        """True if random vectors take the place of the Hessian."""
        return self.settings.is_sampled(len(self.atoms))

    @property
    def cost(self) -> float:
        """Relative cost, without a unit: a Hessian has 3N columns of N atoms each."""
        n_atoms = len(self.atoms)
        return float(n_atoms * (min(n_atoms, SAMPLED) if self.is_sampled else n_atoms))

    def failed(self, reason: str) -> Record:
        """Write the record of a failure to the folder, and return it."""
        record = Record(self.key, self.name, self.file, reason, list(self.findings))
        self.folder.mkdir(parents=True, exist_ok=True)
        record.save(self.folder)
        return record


def resume_from(folder: Path, checkpoints: str, compute: Callable[[], T]) -> T:
    """Compute from the checkpoints that match a pattern; if that fails, once more without them."""
    resumed = any(folder.glob(checkpoints))
    try:
        return compute()
    except MemoryError:
        raise
    except Exception:
        if not resumed:
            raise
        remove_checkpoints(folder, checkpoints)
        return compute()


def remove_checkpoints(folder: Path, checkpoints: str) -> None:
    """Remove the checkpoints that match a pattern."""
    for path in folder.glob(checkpoints):
        path.unlink(missing_ok=True)
