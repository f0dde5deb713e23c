"""Plan of the study: structures, models, and the folder in which results are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

import mace_functional as mf
from benchmarks.hessian import SHARED
from mace_functional.screening.sources import find_sources
from mace_functional.support.atomic_write import atomic_write
from mace_functional.vibrations.harmonic_modes import NormalModes

STRUCTURE_FOLDER = SHARED / "heatcapacity" / "structures"
RELAXED_FOLDER = SHARED / "heatcapacity" / "relaxed"
SMALL, DAC_1 = (SHARED / "weights" / f"{n}.model" for n in ("MACE-MP-0_small", "MACE-DAC-1"))
TEMPERATURE = 300.0
"""Temperature of the heat capacities, K."""

DISPERSION: dict[str, str | None] = {"no D3": None, "D3": "pbe"}
"""Labels in tables, with the functional of the D3 correction; None without it."""

FMAX = 1e-4
"""Largest force on an atom after a relaxation, eV/Å."""

MAX_STEPS = 1000
"""Largest number of gradients of a relaxation."""

Result = dict[str, Any]
"""Result for one structure, in types of JSON."""


@dataclass(frozen=True)
class Plan:
    """Structures, models, and the output folder of a study.

    Attributes:
        structures: Structures by name.
        models: Names or files of models, see `load_model`.
        output: Folder of the results. Results in it are not measured again.
        device: Device of the models: "cpu", "cuda", ...
        forces: Source of the forces for central differences: "mace_functional" or "mace-torch".
        say: Function that is called with the name of the next measurement.
    """

    structures: Mapping[str, Atoms]
    models: Sequence[str]
    output: Path
    device: str = "cpu"
    forces: str = "mace_functional"
    say: Callable[[str], object] = lambda line: None

    def kept(self, name: str, identity: Mapping[str, Any], measure: Callable[[], Result]) -> Result:
        """Read a result from its file; if there is none, measure it and write the file.

        Args:
            name: Name of the file in the output folder, without a suffix.
            identity: All data that the result depends on. A file with another identity is replaced.
            measure: Function that measures the result.

        Raises:
            ValueError: If the file is not a result of this study.
        """
        path = self.output / f"{name}.json"
        identity = json.loads(json.dumps(identity))
        if path.exists():
            try:
                stored = json.loads(path.read_text())
                if stored["identity"] == identity:
                    return stored["result"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path} is not a result of this study: remove it") from error
        self.say(name)
        result = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text(json.dumps({"identity": identity, "result": result}, indent=1))
        return result

    def one(
        self,
        part: str,
        measure: Callable[[Atoms, str], Result],
        name: str,
        atoms: Atoms,
        source: str,
        **settings: Any,
    ) -> Result:
        """Return the result for one structure and model, measured or from its file.

        Args:
            part: Part of the study; a folder in the output folder.
            measure: Function of the structure and the model that returns the result.
            name: Name of the structure.
            atoms: The structure.
            source: Name or file of the model.
            settings: Further settings that the result depends on.
        """
        label = model_label(source)
        header = {"structure": name, "model": label, "atoms": len(atoms)}
        return self.kept(
            f"{part}/{name}-{label}",
            {**identity_of(atoms, source), "device": self.device, **settings},
            lambda: {**header, **measure(atoms, source)},
        )

    def by_size(self) -> Iterator[tuple[str, str, Atoms]]:
        """Iterate over model, name and structure; model by model, small structures first."""
        for source in self.models:
            for name, atoms in sorted(self.structures.items(), key=lambda item: len(item[1])):
                yield source, name, atoms

    def relaxed(self, name: str, source: str) -> Atoms:
        """Relax positions and cell of a structure with a model, or read them from a file.

        Raises:
            RuntimeError: If the relaxation does not converge.
        """
        atoms = self.structures[name].copy()

        def measure() -> Result:
            result = mf.relax(load(source, self.device), atoms, fmax=FMAX, max_steps=MAX_STEPS)
            if not result.converged:
                raise RuntimeError(f"{name} could not be relaxed: {result.reason}")
            return {
                "positions": result.atoms.positions.tolist(),
                "cell": result.atoms.cell.tolist(),
                "largest_force": result.last.largest_force,
                "gradients": result.n_gradients,
            }

        identity = {**identity_of(atoms, source), "fmax": FMAX}
        geometry = self.kept(f"geometries/{name}-{model_label(source)}", identity, measure)
        atoms.set_cell(geometry["cell"])
        atoms.positions = geometry["positions"]
        return atoms


def default_structures(part: str) -> list[str]:
    """Return the default structures of a part: the folder with the data of the study.

    Raises:
        ValueError: If the folder is missing.
    """
    return _shared(RELAXED_FOLDER if part == "relaxed" else STRUCTURE_FOLDER)


def default_models(part: str) -> list[str]:
    """Return the default models of a part: one model, or two if the part compares models.

    Raises:
        ValueError: If a file is missing.
    """
    return _shared(SMALL, DAC_1) if part in ("reference", "relaxed") else _shared(SMALL)


def _shared(*paths: Path) -> list[str]:
    """Return existing paths as text; raise a ValueError if one is missing."""
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"{path} is missing: set MACE_FUNCTIONAL_SHARED to the folder of the study's data, "
                "or give structures and a model"
            )
    return [str(path) for path in paths]


def structures_of(names: Sequence[str]) -> dict[str, Atoms]:
    """Read structures by name: files, all files of folders, and example structures.

    Raises:
        ValueError: If there are no structures, or one cannot be read.
    """
    structures = {}
    for source in find_sources(names):
        if source.atoms is None:
            raise ValueError(source.failure)
        structures[source.name] = source.atoms
    return structures


@lru_cache(maxsize=2)
def load(
    source: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    dispersion: str | None = None,
) -> mf.Potential:
    """Load a model; the last two models stay in memory."""
    return mf.load_model(source, dtype=dtype, device=device, dispersion=dispersion)


def heat_capacity(modes: NormalModes) -> float:
    """Return the heat capacity at `TEMPERATURE` without imaginary modes, J/(g K)."""
    thermo = mf.harmonic_thermo(modes.frequencies[modes.frequencies > 0], TEMPERATURE, unit="cm-1")
    return float(thermo.specific_heat_capacity(modes.masses))


def model_label(source: str) -> str:
    """Return the name of a model in tables and file names."""
    return Path(source).stem


def identity_of(atoms: Atoms, source: str) -> Result:
    """Return digests that distinguish structures and models of the same name."""
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses())
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return {"structure": hashlib.sha256(content).hexdigest(), "model": _potential_digest(source)}


@lru_cache
def _potential_digest(source: str) -> str:
    """Return the digest of a model file, or the name of a model."""
    path = Path(source)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source
