"""Keys of labels in the frames of a file, in mace-torch's convention.

mace-torch finds energies, stresses and virials in `atoms.info` and forces in `atoms.arrays`, under
names that begin with `REF_`. ASE keeps `energy`, `forces` and `stress` as results of a calculator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mace_functional.structure.reading.errors import StructureError

CALCULATED = ("energy", "forces", "stress")
"""Labels that a calculator of ASE may have as results, under these names."""


@dataclass(frozen=True)
class LabelKeys:
    """Keys of the labels in a file; None for labels that are not read.

    The keys "energy", "forces" and "stress" stand for the results of the calculator.
    """

    energy: str | None
    forces: str | None
    stress: str | None
    virials: str | None
    hessian: str | None

    def find(self, label: str, atoms: Atoms) -> Any:
        """Return a label of a frame, or None; mace-torch's weight of zero takes it away.

        Args:
            label: Name of an attribute.
            atoms: The frame.

        Raises:
            StructureError: If the frame has a weight of this label other than 0 and 1.
        """
        key = getattr(self, label)
        if key is None:
            return None
        value = atoms.arrays.get(key) if label in ("forces", "hessian") else None
        value = atoms.info.get(key) if value is None and label != "forces" else value
        if value is None and key == label and key in CALCULATED:
            value = _results(atoms).get(key)
        weight = atoms.info.get(f"config_{label}_weight", 1.0)
        if value is None or weight == 1:
            return value
        if weight == 0:
            return None
        raise StructureError(
            f"it has config_{label}_weight={weight}: weights of single labels may be 0 or 1, so "
            "weight all labels of the structure by config_weight"
        )


def refuse_calculated(keys: LabelKeys, frames: Sequence[Atoms]) -> None:
    """Raise if a label is found nowhere but among results of calculators, which were not asked for.

    Args:
        keys: Keys of the labels.
        frames: All frames of the file.

    Raises:
        StructureError: With the keys of the file, and what to pass.
    """
    for label in CALCULATED:
        key = getattr(keys, label)
        calculated = sum(label in _results(atoms) for atoms in frames)
        if key in (None, label) or not calculated or any(_has(atoms, key) for atoms in frames):
            continue
        if label == "stress" and any(_has(atoms, keys.virials) for atoms in frames):
            continue
        raise StructureError(
            f"none of its structures has {key!r}, but {calculated} of {len(frames)} have "
            f"{label!r}, which ASE takes for the result of a calculator, and any program may have "
            f"written it last: pass {label}_key={label!r} if these are the labels, "
            f"{label}_key=None to train without, or the right key. {found_keys(frames)}"
        )


def found_keys(frames: Sequence[Atoms]) -> str:
    """Return a sentence with the keys of frames, for errors."""
    info = sorted({str(key) for atoms in frames for key in atoms.info})
    arrays = sorted({key for atoms in frames for key in atoms.arrays} - {"numbers", "positions"})
    results = sorted({key for atoms in frames for key in _results(atoms)})
    parts = (("info", info), ("arrays", arrays), ("results of a calculator", results))
    return "It has " + "; ".join(f"{name}: {', '.join(keys) or 'none'}" for name, keys in parts)


def full_tensor(values: Any) -> np.ndarray:
    """Return a stress or virial as a tensor, (3, 3).

    Args:
        values: (3, 3), nine numbers, or six numbers in the order xx, yy, zz, yz, xz, xy.

    Raises:
        StructureError: If the shape is another one.
    """
    t = np.asarray(values, dtype=float)
    if t.shape == (6,):
        return t[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    if t.shape in ((3, 3), (9,)):
        return t.reshape(3, 3)
    raise StructureError(f"a stress is (3, 3), nine numbers or six, not an array of {t.shape}")


def _results(atoms: Atoms) -> dict[str, Any]:
    """Return what the calculator of a frame holds, without computing anything."""
    results = getattr(atoms.calc, "results", {})
    return {key: value for key, value in results.items() if value is not None}


def _has(atoms: Atoms, key: str | None) -> bool:
    return key is not None and (key in atoms.info or key in atoms.arrays)
