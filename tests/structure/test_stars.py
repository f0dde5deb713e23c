"""Stars of a crystal, and the images that edges reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from crystals import carbide
from pair_potential import smooth_pairs

import mace_functional as mf
from mace_functional.structure.hops import Hops
from mace_functional.structure.stars import Stars


def cube() -> mf.Structure:
    """One atom with its six nearest neighbours."""
    return smooth_pairs().structure(Atoms("C", cell=[4, 4, 4], pbc=True))


def test_atoms_reached_by_edges_of_a_simple_cubic_lattice_fill_octahedra():
    hops = Hops.around([0], cube().topology, 4)
    n = np.arange(5)
    assert hops.counts == ((2 * n + 1) * (2 * n**2 + 2 * n + 3) // 3).tolist()
    np.testing.assert_array_equal(
        np.abs(hops.cells).sum(1), np.repeat(n, np.diff(hops.counts, prepend=0))
    )


def test_neighbours_are_one_edge_away():
    graph = mf.from_ase(carbide(), mf.load_model("embedded")).graph
    hops = Hops.around([1], graph, 2)
    images = np.arange(hops.counts[1])
    ends, node = hops.ends(images), hops.node[images]
    mask = graph.edge_mask.numpy()[node]
    assert ((ends < hops.counts[2]) == mask).all()
    senders, shifts = graph.senders.numpy()[node], graph.unit_shifts.numpy()[node]
    ends, cells = ends[mask], np.broadcast_to(hops.cells[images][:, None], shifts.shape)
    np.testing.assert_array_equal(hops.node[ends], senders[mask])
    np.testing.assert_array_equal(hops.cells[ends], (cells - shifts)[mask])


def test_rows_hold_every_image_once():
    graph = mf.from_ase(carbide(), mf.load_model("embedded")).graph
    hops = Hops.around([0], graph, 2)
    rows = hops.by_node(hops.counts[1], 2)
    kept = np.sort(rows[rows < len(hops.node)])
    np.testing.assert_array_equal(kept, np.arange(hops.counts[1]))
    for node, column in enumerate(rows.T):
        assert (hops.node[column[column < len(hops.node)]] == node).all()


def test_stars_of_a_crystal_have_its_energy():
    model = mf.load_model("embedded")
    s = mf.from_ase(carbide(), model)
    stars = Stars.of(s.graph)
    points = stars.points_of_crystal(s.positions, s.cell)
    found = model.atom_energies(stars, points, s.cell, model.params)
    expected = mf.energy_fn(model, s.graph, per_atom=True)(s.positions, s.cell, model.params)
    torch.testing.assert_close(found[s.graph.inverse], expected)


def test_a_star_knows_nothing_of_others():
    """A displaced copy changes the energy of its own star alone."""
    model = mf.load_model("embedded")
    s = mf.from_ase(carbide(), model)
    stars = Stars.of(s.graph)
    points = stars.points_of_crystal(s.positions, s.cell)
    model.atom_energies(stars, points, s.cell, model.params)
    received = [v.index_select(0, stars.origin) for v in stars.given]

    def energies(points: torch.Tensor) -> torch.Tensor:
        fixed = replace(stars, received=received, given=[])
        return model.atom_energies(fixed, points, s.cell, model.params)

    jacobian = torch.func.jacrev(energies)(points).abs().sum(-1)
    copies = stars.senders[0][s.graph.edge_mask[0]]
    assert jacobian[0, copies].min() > 0
    assert not jacobian[1, copies].any()
