"""Checks of invariances of the energy: rigid motions, order of atoms, neighbour lists, images.

Each check builds the structure in another equivalent way, and compares energies and forces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation
from torch import Tensor

from mace_functional.certificate.comparison import (
    Comparison,
    Examination,
    NotApplicableError,
    compare,
    energy_rounding,
    largest,
    rms,
    rounding,
)
from mace_functional.certificate.subject import (
    SKIN,
    Subject,
    energy_and_forces,
    energy_and_forces_with,
)

ROTATION_BOUND = 1e-6
"""Bound of the change of forces under rotation, as a fraction of their size.

Models with coupling coefficients in single precision have errors of 4e-8 (MACE-DAC-1, 22 atoms).
"""

ENERGY_ROTATION_BOUND = 1e-8
"""Bound of the change of energies under rotation, as a fraction of their size.

Models with coupling coefficients in single precision have errors of 4e-10.
"""

MOVED = SKIN / 6
"""Largest displacement of atoms along x, y and z in "moved graph", Å; it is within the skin."""

MOVED_STRAIN = 1e-3
"""Largest strain in "moved graph", which moves neighbours at 12 Å by 0.012 Å."""


def same(
    found: tuple[Tensor, Tensor],
    expected: tuple[Tensor, Tensor],
    *,
    rotated: bool = False,
) -> Iterator[Comparison]:
    """Compare energies and forces that should differ only by rounding.

    The size of the energy is its magnitude plus the work of the forces over 1 Å.

    Args:
        found: Energy and forces of the equivalent structure.
        expected: Energy and forces of the original structure.
        rotated: True if the structure was rotated.
    """
    (e, f), (e0, f0) = found, expected
    dtype = e0.dtype
    size = rms(e0) + rms(f0) * f0.numel() ** 0.5
    relative = max(energy_rounding(dtype), ENERGY_ROTATION_BOUND if rotated else 0.0)
    error = largest(e - e0)
    yield Comparison("energy", error, relative * size, size, "eV")
    relative = max(rounding(dtype), ROTATION_BOUND if rotated else 0.0)
    # If contributions to a force nearly cancel, its rounding error is that of the energies.
    extra = energy_rounding(dtype) * size
    yield compare("forces", f, f0, unit="eV/Å", relative=relative, extra=extra)


def _expected(s: Subject) -> tuple[Tensor, Tensor]:
    """Return energy and forces of the original structure."""
    return energy_and_forces(s.potential, s.atoms)


def _translation(s: Subject) -> Iterator[Comparison]:
    moved = s.atoms.copy()
    moved.positions += s.random(2).uniform(1, 3, 3)
    yield from same(energy_and_forces(s.potential, moved), _expected(s))


def _rotation(s: Subject) -> Iterator[Comparison]:
    matrix = Rotation.random(random_state=s.random(3)).as_matrix()
    rotated = s.atoms.copy()
    rotated.set_cell(s.atoms.cell.array @ matrix.T)
    rotated.positions = s.atoms.positions @ matrix.T
    energy, forces = energy_and_forces(s.potential, rotated)
    forces = forces @ torch.as_tensor(matrix).to(forces)
    yield from same((energy, forces), _expected(s), rotated=True)


def _permutation(s: Subject) -> Iterator[Comparison]:
    if len(s.atoms) == 1:
        raise NotApplicableError("there is one atom")
    order = s.random(4).permutation(len(s.atoms))
    if (order == np.arange(len(order))).all():
        order = order[::-1]
    energy, forces = energy_and_forces(s.potential, s.atoms[order])
    yield from same((energy, forces[torch.as_tensor(np.argsort(order))]), _expected(s))


def _skin(s: Subject) -> Iterator[Comparison]:
    yield from same(energy_and_forces(s.potential, s.atoms, skin=SKIN), _expected(s))


def _moved_graph(s: Subject) -> Iterator[Comparison]:
    random = s.random(5)
    moved = s.atoms.copy()
    strain = np.eye(3) + MOVED_STRAIN * random.uniform(-1, 1, (3, 3))
    moved.set_cell(s.atoms.cell.array @ strain)
    steps = random.uniform(-MOVED, MOVED, moved.positions.shape)
    moved.positions = s.atoms.positions @ strain + steps
    new = s.potential.structure(moved)
    with_old = energy_and_forces_with(s.potential, s.structure.topology, new.positions, new.cell)
    yield from same(with_old, energy_and_forces(s.potential, moved))


def _images(s: Subject) -> Iterator[Comparison]:
    _must_be_periodic(s.atoms)
    moved = s.atoms.copy()
    cells = s.random(6).integers(-2, 3, moved.positions.shape) * moved.pbc
    cells[0] = moved.pbc  # at least one atom must move
    moved.positions += cells @ moved.cell.array
    yield from same(energy_and_forces(s.potential, moved), _expected(s))


def _supercell(s: Subject) -> Iterator[Comparison]:
    _must_be_periodic(s.atoms)
    lengths = np.where(s.atoms.pbc, s.atoms.cell.lengths(), np.inf)
    axis = int(np.argmin(lengths))
    matrix = np.diag([2 if k == axis else 1 for k in range(3)])
    offsets = [np.zeros(3, dtype=int), np.eye(3, dtype=int)[axis]]
    energy, forces = energy_and_forces(s.potential, supercell(s.atoms, matrix, offsets))
    e0, f0 = _expected(s)
    yield from same((energy, forces), (2 * e0, torch.cat([f0, f0])))


def supercell(atoms: Atoms, matrix: np.ndarray, offsets: Sequence[np.ndarray]) -> Atoms:
    """Return a supercell, with the atoms of one cell after those of the other.

    Args:
        atoms: The unit cell.
        matrix: Lattice vectors of the supercell in units of those of the unit cell, (3, 3).
        offsets: Lattice vectors of its cells, in units of those of the unit cell; the first is
            zero.
    """
    result = atoms.copy()
    for offset in offsets[1:]:
        copy = atoms.copy()
        copy.positions += offset @ atoms.cell.array
        result.extend(copy)
    result.set_cell(matrix @ atoms.cell.array)
    return result


def _must_be_periodic(atoms: Atoms) -> None:
    if not atoms.pbc.any():
        raise NotApplicableError("the structure is not periodic")


CHECKS = (
    Examination("translation", "E and F with those of the structure moved", _translation),
    Examination("rotation", "E and F with those of the structure turned", _rotation),
    Examination("permutation", "E and F with atoms in another order", _permutation),
    Examination("skin", f"E and F with a neighbour list {SKIN:g} Å longer", _skin),
    Examination("moved graph", "E and F of an old and a new neighbour list", _moved_graph),
    Examination("periodic images", "E and F with atoms moved to other cells", _images),
    Examination("supercell", "E and F of two cells with twice those of one", _supercell),
)
