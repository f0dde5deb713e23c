"""Lowest modes of a sparse matrix, against all modes of the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers import assert_close
from layered_springs import diamond, layered_springs, ribbon, sheet
from scipy.sparse import csc_array

import mace_functional as mf
from mace_functional.sparse.shift_invert import lowest_by_inversion


def pair_of_molecules() -> Atoms:
    """Two molecules that do not interact: twelve rigid motions."""
    atoms = molecule("C6H6")
    other = atoms.copy()
    other.positions += [0.0, 0.0, 8.0]
    both = atoms + other
    both.rattle(0.02, seed=3)
    return both


STRUCTURES = {
    "crystal": lambda: diamond(3, 3, 2, rattle=0.02),
    "layer": lambda: sheet(3, 4),
    "chain": ribbon,
    "two molecules": pair_of_molecules,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_modes_equal_the_lowest_of_gamma_modes(name: str) -> None:
    """Rattled structures have imaginary modes, which come first."""
    potential, atoms = layered_springs(), STRUCTURES[name]()
    all_modes = mf.gamma_modes(potential, atoms)
    result = mf.sparse_hessian(potential, atoms)
    assert result.rigid.shape[1] == all_modes.n_rigid
    lowest = result.lowest_modes(8)
    assert lowest.converged
    squares = all_modes.frequencies.sign() * all_modes.frequencies**2
    found = lowest.frequencies_in("cm-1")
    assert_close((found.sign() * found**2), squares[:8], 1e-9)
    assert lowest.residuals.max() < 1e-9
    modes = lowest.modes.flatten(1).numpy()
    assert_close(modes @ modes.T, np.eye(8), 1e-10)
    assert np.abs(modes @ result.rigid).max() < 1e-10


def test_no_mode_below_the_first_shift_is_missed() -> None:
    """One eigenvalue is far below zero, further from the shift than many others are above it."""
    values = np.concatenate([[-30.0], np.linspace(0.1, 40.0, 59)])
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0]
    found = lowest_by_inversion(csc_array((q * values) @ q.T), np.zeros((60, 0)), 3)
    assert_close(found.values, values[:3], 1e-10)


def test_numbers_of_modes_are_checked() -> None:
    result = mf.sparse_hessian(layered_springs(), ribbon(4))
    with pytest.raises(ValueError, match="k must be a number of modes from 1 to 5, not 6"):
        result.lowest_modes(6)
