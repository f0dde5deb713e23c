"""Derivatives of squared frequencies by strain against those of whole dynamical matrices."""

from __future__ import annotations

import pytest
import torch
from pair_crystals import ions, relaxed, xenon

import mace_functional as mf
from mace_functional.expansion.deformable import DeformableCrystal
from mace_functional.expansion.mode_slopes import mode_slopes_fn
from mace_functional.phonons.modes import degenerate_blocks

GENERAL, REAL, GAMMA = [0.13, 0.29, -0.37], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]
STRAINS = torch.tensor(
    [
        [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.3, 0.2, -0.1], [0.2, -0.5, 0.4], [-0.1, 0.4, 0.2]],
        [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]],
    ],
    dtype=torch.float64,
)


def both(potential, atoms, q, treatment):
    """Return slopes of modes, and diagonals of dD/de, summed over blocks of degenerate modes."""
    crystal = DeformableCrystal.of(potential, atoms, ions=treatment, what="a test", chunk_size=None)
    q = torch.tensor(q, dtype=torch.float64)
    d = crystal.strained_matrix(q, STRAINS)
    values, e = torch.linalg.eigh(d.matrix)
    expected = torch.einsum("im,sij,jm->sm", e.conj(), d.slopes, e).real
    found = crystal.strained_matrix.mode_slopes(q, e, STRAINS)
    blocks = degenerate_blocks(values)
    return [torch.zeros_like(x).index_add(1, blocks, x) for x in (found, expected)]


@pytest.mark.parametrize("treatment", ["relaxed", "clamped"])
@pytest.mark.parametrize("q", [GENERAL, REAL, GAMMA])
def test_slopes_are_expectation_values_of_strained_matrices(q, treatment):
    found, expected = both(xenon(), relaxed("hcp"), q, treatment)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * expected.abs().max())


def test_slopes_of_a_sum_are_sums():
    potential = mf.SumPotential(ions(), xenon())
    found, expected = both(potential, relaxed("salt"), GENERAL, "clamped")
    alone = both(ions(), relaxed("salt"), GENERAL, "clamped")[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * expected.abs().max())
    assert (found - alone).abs().max() > 1e-3 * alone.abs().max()


def test_slopes_of_mace(model):
    atoms = mf.example_structure("quartz")
    atoms = atoms[:2]  # a fragment in the cell of quartz has no symmetry
    crystal = mf.from_ase(atoms, model)
    q = torch.tensor(GENERAL, dtype=torch.float64)
    args = (crystal.positions, crystal.cell, model.params, crystal.masses)
    matrix = mf.dynamical_matrix_fn(model, crystal.topology)
    e = torch.linalg.eigh(matrix(q, *args))[1]
    found = mode_slopes_fn(model, crystal.topology)(q, e, *args, STRAINS[1:2])
    step = 1e-4

    def strained(k):
        f = torch.eye(3, dtype=torch.float64) + k * step * STRAINS[1]
        d = matrix(q, args[0] @ f, args[1] @ f, *args[2:])
        return torch.einsum("im,ij,jm->m", e.conj(), d, e).real

    expected = (8 * (strained(1) - strained(-1)) - strained(2) + strained(-2)) / (12 * step)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6 * expected.abs().max())
