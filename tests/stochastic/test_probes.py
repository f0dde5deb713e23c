"""Probing vectors: groups of coordinates, and how far atoms of equal colours are apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from mace_functional.stochastic.probes import colours, probes


def colours_of(atoms, count):
    return colours(atoms.positions, atoms.cell.array, np.array(atoms.pbc), count)


def test_probes_share_the_coordinates_among_them():
    colour = np.array([0, 1, 0, 2])
    vectors = probes(colour, 4, torch.Generator().manual_seed(0))
    assert vectors.shape == (9, 12)
    assert vectors.abs().sum(0).eq(1).all()
    for row in vectors:
        atoms, axes = np.divmod(row.nonzero().ravel().numpy(), 3)
        assert len(set(axes)) == 1
        assert len(set(colour[atoms])) == 1


def test_without_colours_one_vector_has_all_coordinates():
    vectors = probes(None, 5, torch.Generator().manual_seed(0))
    assert vectors.shape == (1, 15)
    assert vectors.abs().eq(1).all()


def test_nearest_neighbours_differ_in_colour_also_across_the_boundary():
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 2, 2)
    colour = colours_of(atoms, 6)
    first, second = neighbor_list("ij", atoms, 3.0)
    assert len(first) == 6 * len(atoms)
    assert (colour[first] == colour[second]).mean() < 0.02


def test_more_colours_keep_more_distance():
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (2, 2, 2)
    distances = atoms.get_all_distances(mic=True)
    costs = []
    for count in (1, 2, 4, 8):
        colour = colours_of(atoms, count)
        assert colour.max() + 1 == count
        same = (colour[:, None] == colour) & ~np.eye(len(atoms), dtype=bool)
        costs.append((distances[same] ** -6.0).sum())
    assert all(later < earlier / 2.5 for earlier, later in pairwise(costs))


def test_as_many_colours_as_atoms_give_each_its_own():
    assert colours_of(molecule("C6H6"), 99).tolist() == list(range(12))
