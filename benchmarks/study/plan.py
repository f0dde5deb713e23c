"""What is studied, on which models, and the folder that keeps what was found."""

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
"""K."""

DISPERSION: dict[str, str | None] = {"no D3": None, "D3": "pbe"}
"""What it is called in tables to the functional of the correction."""

FMAX = 1e-4
"""Largest force to relax to, eV/Å."""

MAX_STEPS = 1000
"""Most gradients of a relaxation."""

Result = dict[str, Any]
"""What was found for one structure, as JSON has it."""


@dataclass(frozen=True)
class Plan:
    """Structures, models, and where results go.

    Attributes:
        structures: By name.
        models: Names or files, see `load_model`.
        output: A folder. What is in there already is not measured again.
        device: "cpu", "cuda", ...
        forces: Whose are taken for differences: "mace_functional" or "mace-torch".
        say: Called with a line on what is measured next.
    """

    structures: Mapping[str, Atoms]
    models: Sequence[str]
    output: Path
    device: str = "cpu"
    forces: str = "mace_functional"
    say: Callable[[str], object] = lambda line: None

    def kept(self, name: str, identity: Mapping[str, Any], measure: Callable[[], Result]) -> Result:
        """A result from its file, or measured and kept there.

        Args:
            name: Of the file in the output folder, without a suffix.
            identity: What the result depends on; a file with another one is replaced.
            measure: What finds it.

        Raises:
            ValueError: If the file is something else.
        """
        path = self.output / f"{name}.json"
        identity = json.loads(json.dumps(identity))
        if path.exists():
            try:
                found = json.loads(path.read_text())
                if found["identity"] == identity:
                    return found["result"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path} is no result of this study: remove it") from error
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
        """The result for one structure and model.

        Args:
            part: Of the study, a folder of the output.
            measure: Structure and model to what is found.
            name: Of the structure.
            atoms: The structure.
            source: The model.
            settings: What else the result depends on.
        """
        label = model_label(source)
        what = {"structure": name, "model": label, "atoms": len(atoms)}
        return self.kept(
            f"{part}/{name}-{label}",
            {**identity_of(atoms, source), "device": self.device, **settings},
            lambda: {**what, **measure(atoms, source)},
        )

    def by_size(self) -> Iterator[tuple[str, str, Atoms]]:
        """Model, name and structure: all structures with the first model, small ones first."""
        for source in self.models:
            for name, atoms in sorted(self.structures.items(), key=lambda item: len(item[1])):
                yield source, name, atoms

    def relaxed(self, name: str, source: str) -> Atoms:
        """A structure, relaxed with a model: positions, and the cell along periodic directions.

        Raises:
            RuntimeError: If the relaxation does not converge.
        """
        atoms = self.structures[name].copy()

        def measure() -> Result:
            found = mf.relax(load(source, self.device), atoms, fmax=FMAX, max_steps=MAX_STEPS)
            if not found.converged:
                raise RuntimeError(f"{name} could not be relaxed: {found.reason}")
            return {
                "positions": found.atoms.positions.tolist(),
                "cell": found.atoms.cell.tolist(),
                "largest_force": found.last.largest_force,
                "gradients": found.n_gradients,
            }

        identity = {**identity_of(atoms, source), "fmax": FMAX}
        found = self.kept(f"geometries/{name}-{model_label(source)}", identity, measure)
        atoms.set_cell(found["cell"])
        atoms.positions = found["positions"]
        return atoms


def default_structures(part: str) -> list[str]:
    """Files of the study, where none are named.

    Raises:
        ValueError: If they are not there.
    """
    return _shared(RELAXED_FOLDER if part == "relaxed" else STRUCTURE_FOLDER)


def default_models(part: str) -> list[str]:
    """Models of a part, where none are named: two of them where models are compared.

    Raises:
        ValueError: If they are not there.
    """
    return _shared(SMALL, DAC_1) if part in ("reference", "relaxed") else _shared(SMALL)


def _shared(*paths: Path) -> list[str]:
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"{path} is missing: set MACE_FUNCTIONAL_SHARED to the folder of the study's data, "
                "or name structures and a model"
            )
    return [str(path) for path in paths]


def structures_of(names: Sequence[str]) -> dict[str, Atoms]:
    """Structures of files, of all files in folders, or those that come with the package.

    Raises:
        ValueError: If there are none, or one cannot be read.
    """
    found = {}
    for source in find_sources(names):
        if source.atoms is None:
            raise ValueError(source.failure)
        found[source.name] = source.atoms
    return found


@lru_cache(maxsize=2)
def load(
    source: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    dispersion: str | None = None,
) -> mf.Potential:
    """The model; the last two are kept in memory."""
    return mf.load_model(source, dtype=dtype, device=device, dispersion=dispersion)


def heat_capacity(modes: NormalModes) -> float:
    """At the temperature of the study, J/(g K); imaginary modes are left out."""
    thermo = mf.harmonic_thermo(modes.frequencies[modes.frequencies > 0], TEMPERATURE, unit="cm-1")
    return float(thermo.specific_heat_capacity(modes.masses))


def model_label(source: str) -> str:
    """What a model is called in tables and files."""
    return Path(source).stem


def identity_of(atoms: Atoms, source: str) -> Result:
    """What tells structures and models apart that are called the same."""
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses())
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return {"structure": hashlib.sha256(content).hexdigest(), "model": _potential_digest(source)}


@lru_cache
def _potential_digest(source: str) -> str:
    path = Path(source)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source
