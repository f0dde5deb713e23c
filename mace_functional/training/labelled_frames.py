"""Labelled structures from the frames of a file that ASE reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from mace_functional.structure.reading.errors import StructureError
from mace_functional.structure.reading.formats import format_of
from mace_functional.training.hessian_arrays import beside, read_hessians
from mace_functional.training.label_keys import (
    LabelKeys,
    found_keys,
    full_tensor,
    refuse_calculated,
)
from mace_functional.training.labelled_structure import Curvature, LabelledStructure

ISOLATED = "IsolatedAtom"
"""`config_type` of the frames of single atoms, whose energies are the reference energies."""

SAME_STRESS = 1e-4
"""Largest difference of a stress and the one from the virials, relative to the larger."""


def read_frames(path: Path) -> list[Atoms]:
    """Read all frames of a file.

    Raises:
        StructureError: If there is no such file, or it cannot be read, or holds no frame.
    """
    if not path.is_file():
        raise StructureError(f"there is no file {path}")
    try:
        if path.stat().st_size == 0:
            raise StructureError("it is empty")
        frames: Any = ase.io.read(
            str(path.absolute()), index=":", format=format_of(path), do_not_split_by_at_sign=True
        )
    except StructureError as error:
        raise StructureError(f"{path}: {error}") from error
    except Exception as error:  # the readers of ASE raise exceptions of any type
        reason = str(error) or type(error).__name__
        raise StructureError(f"{path}: structures cannot be read from it: {reason}") from error
    if not frames:
        raise StructureError(f"{path}: it holds no structure")
    return frames


def labelled_frames(
    path: Path,
    *,
    keys: LabelKeys,
    hessians: Path | None,
    config_type_weights: Mapping[str, float],
    keep_isolated_atoms: bool,
) -> list[LabelledStructure]:
    """Read the labelled structures of a file; see `read_labelled`."""
    frames = read_frames(path)
    file = beside(path) if hessians is None else hessians
    by_number = {} if file is None else read_hessians(file, frames)
    kept = {
        number: atoms
        for number, atoms in enumerate(frames)
        if keep_isolated_atoms or not is_isolated(atoms)
    }
    if not kept:
        raise StructureError(
            f"{path}: it has isolated atoms only: pass keep_isolated_atoms=True to train on them"
        )
    structures = []
    try:
        refuse_calculated(keys, list(kept.values()))
    except StructureError as error:
        raise StructureError(f"{path}: {error}") from error
    for number, atoms in kept.items():
        weight = atoms.info.get("config_weight", 1.0)
        kind = atoms.info.get("config_type", "Default")
        try:
            structures.append(
                LabelledStructure(
                    atoms,
                    **_labels(keys, atoms, by_number.get(number)),
                    weight=weight * config_type_weights.get(kind, 1.0),
                    name=str(atoms.info.get("name", f"{path.name}@{number}")),
                )
            )
        except (TypeError, ValueError) as error:
            raise StructureError(f"{path}, structure {number}: {error}") from error
    return structures


def is_isolated(atoms: Atoms) -> bool:
    """Return True for a frame of a single atom with the `config_type` of isolated atoms."""
    return len(atoms) == 1 and atoms.info.get("config_type") == ISOLATED


def _labels(keys: LabelKeys, atoms: Atoms, hessian: np.ndarray | None) -> dict[str, Any]:
    """Return the labels of a frame, as arguments of `LabelledStructure`."""
    labels = {
        "energy": keys.find("energy", atoms),
        "forces": keys.find("forces", atoms),
        "stress": _stress(keys, atoms),
        "curvature": _curvature(keys, atoms, hessian),
    }
    if all(label is None for label in labels.values()):
        raise StructureError(f"it has no label. {found_keys([atoms])}; pass the right keys")
    return labels


def _stress(keys: LabelKeys, atoms: Atoms) -> np.ndarray | None:
    """Return the stress of a frame, eV/Å³, from its stress or its virials."""
    stress, virials = keys.find("stress", atoms), keys.find("virials", atoms)
    if virials is None:
        return None if stress is None else full_tensor(stress)
    if atoms.cell.rank < 3:
        raise StructureError("it has virials, but no cell: leave them out")
    from_virials = -full_tensor(virials) / atoms.get_volume()
    if stress is None:
        return from_virials
    stress = full_tensor(stress)
    if abs(stress - from_virials).max() > SAME_STRESS * abs(stress).max() + 1e-8:
        raise StructureError(
            "its stress and its virials disagree, which are -volume times the stress: pass "
            "virials_key=None or stress_key=None"
        )
    return stress


def _curvature(keys: LabelKeys, atoms: Atoms, hessian: np.ndarray | None) -> Curvature | None:
    """Return the curvature of a frame, from the file of Hessians or its own key."""
    own = keys.find("hessian", atoms)
    if own is None:
        return None if hessian is None else Curvature.of_hessian(hessian)
    if hessian is not None:
        raise StructureError(
            f"it has a Hessian as {keys.hessian!r} and one in the npz file: remove one, or pass "
            "hessian_key=None"
        )
    size = 3 * len(atoms)
    numbers = np.asarray(own, dtype=float)
    if numbers.size != size * size:
        raise StructureError(
            f"{keys.hessian!r} has {numbers.size} numbers, but the Hessian of {len(atoms)} atoms "
            f"has {size} x {size}"
        )
    return Curvature.of_hessian(numbers.reshape(size, size))
