"""Phonons of crystals held together by springs: exact, quick, and written without the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from torch import Tensor

from mace_functional.phonons import Diagnostics, Phonons

SPRINGS = ((3.0, 1.8, 0.25), (4.2, 0.35, 0.02))
"""Up to each distance, Å: stretching and transverse spring constants, eV/Å²."""


def salt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.6)


def silicon() -> Atoms:
    return bulk("Si", "diamond", a=5.43)


Springs = tuple[tuple[float, float, float], ...]


def bonds(
    atoms: Atoms, springs: Springs = SPRINGS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both ends of each bond, the cell of the second, and the force constants between them."""
    i, j, shifts, lengths, vectors = neighbor_list("ijSdD", atoms, springs[-1][0])
    kind = np.searchsorted([reach for reach, _, _ in springs], lengths)
    stretch, bend = np.array([constants for _, *constants in springs])[kind].T[..., None, None]
    along = vectors / lengths[:, None]
    along = along[:, :, None] * along[:, None, :]
    return i, j, shifts, -(bend * np.eye(3) + (stretch - bend) * along)


def force_constants(atoms: Atoms) -> np.ndarray:
    """Of a supercell, (N, N, 3, 3)."""
    i, j, _, blocks = bonds(atoms)
    found = np.zeros((len(atoms), len(atoms), 3, 3))
    np.add.at(found, (i, j), blocks)
    np.add.at(found, (i, i), -blocks)
    return found


def spring_phonons(
    atoms: Atoms, *, springs: Springs = SPRINGS, largest_force: float = 0.0
) -> Phonons:
    """Phonons of the crystal with these springs."""
    i, j, shifts, blocks = bonds(atoms, springs)
    return bloch_phonons(atoms, i, j, shifts, blocks, largest_force=largest_force)


def bloch_phonons(
    atoms: Atoms,
    i: np.ndarray,
    j: np.ndarray,
    shifts: np.ndarray,
    blocks: np.ndarray,
    *,
    largest_force: float = 0.0,
) -> Phonons:
    """Phonons from force constants between atoms i and atoms j in cells `shifts`."""
    masses = torch.as_tensor(atoms.get_masses())
    shift, block = torch.as_tensor(shifts).double(), torch.as_tensor(blocks)
    i, j = torch.as_tensor(i), torch.as_tensor(j)
    size = len(atoms)
    onsite = torch.zeros(size, 3, 3, dtype=torch.float64).index_add(0, i, -block)

    def dynamical_matrix(q: Tensor) -> Tensor:
        waves = torch.exp(2j * np.pi * (shift @ q))[:, None, None] * block
        pairs = torch.zeros(size * size, 3, 3, dtype=waves.dtype).index_add(0, i * size + j, waves)
        phi = pairs.view(size, size, 3, 3) + torch.diag_embed(onsite.movedim(0, -1)).movedim(
            (2, 3), (0, 1)
        )
        root = masses.sqrt()
        phi = phi / (root[:, None] * root)[..., None, None]
        return phi.transpose(1, 2).reshape(3 * size, 3 * size)

    return Phonons(dynamical_matrix, atoms, masses, Diagnostics(largest_force, None, 0.0, 0.0))


def chain(masses: tuple[float, ...], spring: float = 2.0, step: float = 1.5) -> Phonons:
    """Atoms in a row along x, joined by springs that only stretch."""
    size = len(masses)
    atoms = Atoms(
        ["X"] * size,
        [[step * k, 0, 0] for k in range(size)],
        cell=[step * size, 0, 0],
        pbc=[True, False, False],
    )
    atoms.set_masses(masses)
    k = np.arange(size)
    i, j = np.concatenate([k, k]), np.concatenate([(k + 1) % size, (k - 1) % size])
    shifts = np.zeros((2 * size, 3), dtype=int)
    shifts[size - 1, 0], shifts[size, 0] = 1, -1
    blocks = np.zeros((2 * size, 3, 3))
    blocks[:, 0, 0] = -spring
    return bloch_phonons(atoms, i, j, shifts, blocks)


def phonopy_of(atoms: Atoms, repeats: tuple[int, int, int] = (3, 3, 3)) -> Any:
    """The crystal with these springs in phonopy; the test is skipped if phonopy is missing."""
    phonopy = pytest.importorskip("phonopy")
    unit = pytest.importorskip("phonopy.structure.atoms").PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        positions=atoms.positions,
        masses=atoms.get_masses(),
    )
    found = phonopy.Phonopy(unit, np.diag(repeats), primitive_matrix=np.eye(3))
    found.force_constants = force_constants(
        Atoms(
            found.supercell.symbols,
            found.supercell.positions,
            cell=found.supercell.cell,
            pbc=True,
        )
    )
    return found
