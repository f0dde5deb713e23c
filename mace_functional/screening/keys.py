"""What a result belongs to: a short digest of structure, model and settings together.

Results of the same key are the same, whatever structure and model are called and wherever they are.
Temperatures are no part of it: thermodynamics come from the frequencies that are kept.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mace_functional.mace.model import Model
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import Source
from mace_functional.structure.graph import features_of

LENGTH = 12
"""Hexadecimal digits: among a million keys, two are equal with a chance of 1 in 500."""


def model_digest(model: Model) -> str:
    """Digest of all that its energies depend on: tensors, settings, head and dispersion."""
    digest = sha256(repr((model.settings, model.head, model.dispersion)).encode())
    for name, tensor in sorted(model.params.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def key_of(source: Source, model: Model, digest: str, settings: ScreenSettings) -> str:
    """The key of a structure.

    Args:
        source: The structure, or the file that cannot be read: then its name, place, bytes and
            reason count.
        model: Says which features of the structure it embeds.
        digest: Its `model_digest`.
        settings: Their `identity` counts.
    """
    key = sha256(f"{digest} {sorted(settings.identity().items())}".encode())
    key.update(_file(source) if source.atoms is None else _structure(source.atoms, model))
    return key.hexdigest()[:LENGTH]


def _structure(atoms: Atoms, model: Model) -> bytes:
    held = [_described(constraint) for constraint in atoms.constraints]
    try:
        features = str({k: v.tolist() for k, v in features_of(atoms, model).items()})
    except ValueError as error:  # which is what the structure will fail with
        features = str(error)
    arrays = atoms.positions, atoms.cell.array, atoms.get_masses()
    return b"".join(
        [
            repr((atoms.numbers.tolist(), atoms.pbc.tolist(), features, held)).encode(),
            *(np.asarray(array, dtype="<f8").tobytes() for array in arrays),
        ]
    )


def _described(constraint: Any) -> Any:
    """A constraint in words; those of ASE that cannot say what they are, by their kind."""
    try:
        return constraint.todict()
    except Exception:  # NotImplementedError, AttributeError and others
        return type(constraint).__name__


def _file(source: Source) -> bytes:
    """A file that cannot be read: where it is, and its bytes. Two of the same bytes are two."""
    where = f"{source.name} {source.file} {source.failure}".encode(errors="surrogateescape")
    try:
        return where + Path(source.file).read_bytes()
    except OSError:
        return where
