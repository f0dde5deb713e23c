"""Keys of results: a short digest of structure, model and settings together.

Results with the same key are equal. Names and places of structures and models do not count, and
neither do dates, versions and temperatures: thermodynamics come from the saved frequencies. The key
of a structure that is sampled by random vectors is that of its relaxed geometry. Its record has the
temperatures and options of the sampling, which is repeated for others.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.potential.protocol import HasParts, Potential, features_of
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import Source

LENGTH = 12
"""Number of hexadecimal digits: among a million keys, two are equal with a chance of 1 in 500."""


def potential_digest(potential: Potential) -> str:
    """Digest of all that the energies of a potential depend on.

    It is made of the class, the printed form, the settings and the parameters of the potential, or
    of each part of a sum.
    """
    parts = potential.potentials if isinstance(potential, HasParts) else (potential,)
    digest = sha256()
    for part in parts:
        known = [getattr(part, name, None) for name in ("settings", "head")]
        digest.update(repr((type(part).__name__, part, *known)).encode())
        paths, _ = pytree.tree_flatten_with_path(part.params)
        for path, tensor in sorted(paths, key=lambda leaf: pytree.keystr(leaf[0])):
            kind = f"{pytree.keystr(path)} {tuple(tensor.shape)} {tensor.dtype}"
            digest.update(kind.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def key_of(source: Source, potential: Potential, digest: str, settings: ScreenSettings) -> str:
    """The key of a structure.

    Args:
        source: The structure. For a file that cannot be read, name, path, bytes and reason count.
        potential: Potential, which determines the features of the structure that count.
        digest: Digest of the potential, from `potential_digest`.
        settings: Settings, whose `identity` counts.
    """
    n_atoms = 0 if source.atoms is None else len(source.atoms)
    key = sha256(f"{digest} {sorted(settings.identity(n_atoms).items())}".encode())
    key.update(_file(source) if source.atoms is None else _structure(source.atoms, potential))
    return key.hexdigest()[:LENGTH]


def _structure(atoms: Atoms, potential: Potential) -> bytes:
    held = [_described(constraint) for constraint in atoms.constraints]
    try:
        features = str({k: v.tolist() for k, v in features_of(potential, atoms).items()})
    except ValueError as error:  # the structure will fail with this
        features = str(error)
    arrays = atoms.positions, atoms.cell.array, atoms.get_masses()
    return b"".join(
        [
            repr((atoms.numbers.tolist(), atoms.pbc.tolist(), features, held)).encode(),
            *(np.asarray(array, dtype="<f8").tobytes() for array in arrays),
        ]
    )


def _described(constraint: Any) -> Any:
    """A constraint as a dictionary; its class for constraints of ASE without one."""
    try:
        return constraint.todict()
    except Exception:  # NotImplementedError, AttributeError and others
        return type(constraint).__name__


def _file(source: Source) -> bytes:
    """Path and bytes of a file that cannot be read: two files with equal bytes have two keys."""
    where = f"{source.name} {source.file} {source.failure}".encode(errors="surrogateescape")
    try:
        return where + Path(source.file).read_bytes()
    except OSError:
        return where
