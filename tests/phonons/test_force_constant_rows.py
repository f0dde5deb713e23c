"""Force constants of potentials that have no edges, but a reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from pair_potential import smooth_pairs

import mace_functional as mf


@dataclass(frozen=True, eq=False)
class WithoutEdges:
    """The pair potential as a library's model would be wrapped: only its energies are seen."""

    reach: float
    inner: mf.FunctionPotential

    params = property(lambda self: self.inner.params)
    dtype = property(lambda self: self.inner.dtype)
    device = property(lambda self: self.inner.device)

    def to(self, **options: object) -> WithoutEdges:
        return WithoutEdges(self.reach, self.inner.to(**options))

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> mf.Structure:
        return self.inner.structure(atoms, skin=skin)

    def energy_fn(self, topology: mf.Graph, *, per_atom: bool = False) -> object:
        return self.inner.energy_fn(topology, per_atom=per_atom)


def salt() -> Atoms:
    """Four atoms without symmetry, one of them far outside of the cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.0) * (2, 1, 1)
    atoms.rattle(0.05, seed=2)
    atoms.positions[1] += 3 * atoms.cell.array[0] - atoms.cell.array[2]
    return atoms


def slab() -> Atoms:
    return Atoms("OC", [[0, 0, 0], [1.2, 1.1, 1.0]], cell=[2.6, 2.9, 0], pbc=[True, True, False])


@pytest.mark.parametrize("make", [salt, slab])
@pytest.mark.parametrize("symmetry", [True, False])
def test_they_are_those_of_the_same_potential_with_edges(make, symmetry):
    atoms, inner = make(), smooth_pairs()
    wrapped = mf.phonons_of(WithoutEdges(5.0, inner), atoms, symmetry=symmetry)
    assert wrapped.force_constants is not None
    expected = mf.phonons_of(inner, atoms, symmetry=symmetry)
    for q in ([0.0, 0.0, 0.0], [0.31, -0.17, 0.0], [0.5, 0.0, 0.0]):
        found = wrapped.dynamical_matrix(q)
        torch.testing.assert_close(found, expected.dynamical_matrix(q), rtol=0, atol=1e-12)


def test_a_symmetric_crystal_needs_one_row_for_each_kind_of_atom():
    crystal = bulk("NaCl", "rocksalt", a=5.0)
    inner = smooth_pairs(mirror_symmetric=True)
    found = mf.force_constants(WithoutEdges(5.0, inner), crystal)
    expected = mf.force_constants(inner, crystal)
    q = torch.tensor([0.2, 0.3, -0.1], dtype=torch.float64)
    np.testing.assert_allclose(
        found.dynamical_matrix(q), expected.dynamical_matrix(q), rtol=0, atol=1e-12
    )


def test_a_reach_that_is_too_short_is_told():
    with pytest.raises(ValueError, match=r"beyond the reach of 3 Å"):
        mf.force_constants(WithoutEdges(3.0, smooth_pairs()), salt())


def test_a_sum_with_such_a_potential_has_force_constants(model):
    atoms = mf.example_structure("quartz")
    inner = smooth_pairs()
    both = mf.SumPotential(inner, WithoutEdges(5.0, inner))
    q = [0.1, 0.2, 0.3]
    found = mf.phonons_of(both, atoms).dynamical_matrix(q)
    expected = 2 * mf.phonons_of(inner, atoms).dynamical_matrix(q)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
