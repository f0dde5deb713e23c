"""Grüneisen parameters against frequencies of strained, relaxed cells, and against phonopy's."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from pair_crystals import ions, relaxed, xenon
from torch import Tensor
from torch.func import jacfwd, jvp, vmap

import mace_functional as mf
from mace_functional.elasticity import ion_response
from mace_functional.expansion import gruneisen_fn, invariant_strains
from mace_functional.interop.phonopy import to_phonopy
from mace_functional.phonons import modes_at_q

gruneisen = partial(mf.gruneisen, chunk_size=None)
ON_LINES = (0.0, 0.0, 0.5), (1 / 3, 1 / 3, 0.0)
GENERAL = (0.13, -0.29, 0.41)
LOW = torch.tensor([[0.4, 0.3, -0.2], [0.3, -0.7, 0.5], [-0.2, 0.5, 0.9]], dtype=torch.float64)
UNIFORM = torch.eye(3, dtype=torch.float64)


def strained(potential: Any, atoms: Atoms, strain: Tensor, ions: str = "relaxed") -> Atoms:
    """Return a crystal under strain, its ions relaxed or clamped."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain.numpy()), scale_atoms=True)
    if ions == "relaxed":
        moved = mf.relax(potential, moved, relax_cell=False, fmax=1e-8).atoms
        moved.calc = None
    return moved


def omegas(potential: Any, atoms: Atoms, q: Any) -> Tensor:
    """Frequencies at several wave vectors, sqrt(eV/Å²/amu), (Q, 3N)."""
    phonons = mf.phonons_of(potential, atoms, method="replicas")
    return torch.stack([modes_at_q(phonons, q_i)[0].clamp(min=0).sqrt() for q_i in q])


def differences(potential: Any, atoms: Atoms, q: Any, strain: Tensor, ions: str) -> Tensor:
    """Return -d ln omega / d e along a strain, by central differences of fourth order."""
    step = 4e-4

    def log(k: int) -> Tensor:
        return omegas(potential, strained(potential, atoms, k * step * strain, ions), q).log()

    return -(8 * (log(1) - log(-1)) - (log(2) - log(-2))) / (12 * step)


@pytest.mark.parametrize("treatment", ["relaxed", "clamped"])
def test_parameters_are_differences_of_frequencies_of_relaxed_strained_cells(treatment):
    """A shear of the hexagonal plane moves the two atoms of the cell against each other."""
    atoms, q = relaxed("hcp"), [GENERAL, ON_LINES[0]]
    found = gruneisen(xenon(), atoms, [q[0]], ions=treatment)
    expected = differences(xenon(), atoms, q[:1], LOW, treatment)
    torch.testing.assert_close(
        (found.tensors * LOW).sum((-1, -2)), expected, rtol=0, atol=1e-4 * expected.abs().max()
    )


def test_relaxed_ions_matter():
    at = [GENERAL]
    both = [gruneisen(xenon(), relaxed("hcp"), at, ions=i).tensors for i in ("relaxed", "clamped")]
    assert (both[0] - both[1]).abs().max() > 0.01


@pytest.mark.parametrize("q", [*ON_LINES, GENERAL])
def test_parameters_of_uniform_strain_on_and_off_symmetry_lines(q):
    atoms = relaxed("salt")
    found = gruneisen(ions(), atoms, [q], strains="symmetric").parameters
    expected = differences(ions(), atoms, [q], UNIFORM / 3, "clamped")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tensors_of_symmetric_strains_are_projections():
    atoms = relaxed("hcp")
    every = gruneisen(xenon(), atoms, [GENERAL])
    symmetric = gruneisen(xenon(), atoms, [GENERAL], strains="symmetric")
    torch.testing.assert_close(every.parameters, symmetric.parameters)
    basis = invariant_strains(atoms)
    projected = torch.einsum("qmij,sij,skl->qmkl", every.tensors, basis, basis)
    torch.testing.assert_close(projected, symmetric.tensors)


def test_sum_over_a_degenerate_block_does_not_depend_on_the_eigenvectors():
    """Along a strain that splits a pair of modes, the two slopes have the sum of the tensors."""
    atoms, q = relaxed("salt"), (0.0, 0.0, 0.5)
    found = gruneisen(ions(), atoms, [q])
    gamma = (found.tensors[0] * LOW).sum((-1, -2))
    slopes = differences(ions(), atoms, [q], LOW, "relaxed")[0]
    values = found.eigenvalues[0]
    pairs = (values.diff() < 1e-8 * values[1:]).nonzero()[:, 0]
    assert len(pairs) >= 2
    for i in pairs:
        assert (slopes[i] - slopes[i + 1]).abs() > 1e-3
        torch.testing.assert_close(
            gamma[i : i + 2].sum(), slopes[i : i + 2].sum(), rtol=1e-4, atol=0
        )
    # Rotated crystals have rotated tensors, though their eigenvectors are others.
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    r = torch.as_tensor(np.linalg.solve(atoms.cell.array, turned.cell.array)).T
    other = gruneisen(ions(), turned, [q])
    for i in pairs:
        block = found.tensors[0, i : i + 2].sum(0)
        torch.testing.assert_close(other.tensors[0, i : i + 2].sum(0), r @ block @ r.T)


def test_rigid_and_imaginary_modes_have_no_parameters():
    found = gruneisen(xenon(), relaxed("fcc"), [(0, 0, 0)])
    assert found.tensors.isnan().all()
    assert not found.n_imaginary
    wide = relaxed("fcc")
    wide.set_cell(1.2 * wide.cell.array, scale_atoms=True)
    with pytest.warns(UserWarning, match="imaginary modes, down to"):
        found = gruneisen(xenon(), wide, [GENERAL], strains="symmetric")
    assert found.n_imaginary == len(found.imaginary_modes) > 0
    assert torch.equal(found.parameters.isnan(), found.eigenvalues < 0)


def test_macroscopic_parameter_of_a_mesh_is_that_of_all_its_wave_vectors():
    atoms = relaxed("hcp")
    meshes = [mf.Mesh.of(atoms, (3, 3, 1), symmetry=s) for s in (True, False)]
    reduced, full = (gruneisen(xenon(), atoms, mesh) for mesh in meshes)
    assert len(full.q) > len(reduced.q)
    temperatures = [5.0, 50.0]
    torch.testing.assert_close(reduced.macroscopic(temperatures), full.macroscopic(temperatures))


def test_transform_composes():
    atoms, potential = relaxed("fcc"), xenon()
    s = mf.from_ase(atoms, potential)
    response = ion_response(potential.energy_fn(s.topology))(s.positions, s.cell, potential.params)
    modes = gruneisen_fn(mf.dynamical_matrix_fn(potential, s.topology))

    def parameters(cell: Tensor, epsilon: Tensor, q: Tensor) -> Tensor:
        found = modes(q, s.positions, cell, {"epsilon": epsilon}, s.masses, UNIFORM[None], response)
        return found.parameters[0] / 3

    q, epsilon = torch.tensor(GENERAL, dtype=torch.float64), torch.tensor(0.0200).double()
    found = parameters(s.cell, epsilon, q)
    torch.testing.assert_close(found, gruneisen(potential, atoms, q[None]).parameters[0])
    # A factor of the energy changes no Grüneisen parameter; the cell does.
    assert jacfwd(parameters, argnums=1)(s.cell, epsilon, q).abs().max() < 1e-9
    slope = jvp(lambda h: parameters(h, epsilon, q), (s.cell,), (s.cell,))[1]
    up, down = (parameters(s.cell * (1 + h), epsilon, q) for h in (1e-5, -1e-5))
    torch.testing.assert_close(slope, (up - down) / 2e-5, rtol=1e-6, atol=1e-6)
    mapped = vmap(lambda x: parameters(s.cell, epsilon, x))(q[None])
    torch.testing.assert_close(mapped[0], found)


def test_numbers_of_invariant_strains():
    counts = {"fcc": 1, "hcp": 2, "salt": 1}
    assert {name: len(invariant_strains(relaxed(name))) for name in counts} == counts
    box = Atoms("Xe", cell=[3, 4, 5], pbc=True)
    assert len(invariant_strains(box)) == 3
    box.pbc = (True, True, False)
    strains = invariant_strains(box)
    assert len(strains) == 2
    assert strains[:, 2].abs().max() == 0


def test_bad_input_is_refused():
    atoms = relaxed("fcc")
    with pytest.raises(ValueError, match="needs a crystal"):
        gruneisen(xenon(), Atoms("Xe2", [[0, 0, 0], [0, 0, 3.8]]), [GENERAL])
    with pytest.raises(ValueError, match="another structure"):
        gruneisen(xenon(), atoms, mf.Mesh.of(relaxed("hcp"), (2, 2, 2)))
    with pytest.raises(ValueError, match=r"must be \(Q, 3\)"):
        gruneisen(xenon(), atoms, GENERAL)
    with pytest.raises(ValueError, match="ions must be"):
        gruneisen(xenon(), atoms, [GENERAL], ions="free")
    with pytest.raises(ValueError, match="strains must be"):
        gruneisen(xenon(), atoms, [GENERAL], strains="some")
    with pytest.raises(TypeError, match="swapped"):
        gruneisen(atoms, xenon(), [GENERAL])
    with pytest.raises(ValueError, match="needs a mesh"):
        gruneisen(xenon(), atoms, [GENERAL]).macroscopic(300)


@pytest.mark.slow
def test_parameters_of_phonopy_from_three_volumes():
    """The oracle divides differences of D between two cells by the middle one's frequencies."""
    phonopy = pytest.importorskip("phonopy")
    atoms = relaxed("salt")
    cells = []
    for scale in (0, 1, -1):
        moved = strained(ions(), atoms, scale * 1e-3 * UNIFORM, "clamped")
        phonons = mf.phonons_of(ions(), moved, method="force-constants")
        cells.append(to_phonopy(phonons, (6, 6, 6)))
    parameters = phonopy.PhonopyGruneisen(*cells)
    parameters.set_mesh((3, 3, 3), is_gamma_center=True)
    q, _, _, _, gamma = parameters.get_mesh()
    found = gruneisen(ions(), atoms, q, strains="symmetric").parameters
    keep = ~found.isnan().any(1)
    torch.testing.assert_close(found[keep], torch.as_tensor(gamma)[keep], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_parameters_of_quartz_with_relaxed_ions(model):
    atoms = mf.relax(model, mf.example_structure("quartz"), symmetry=True, fmax=1e-7).atoms
    atoms.calc = None
    q = [GENERAL, (0.5, 0.0, 0.0)]
    found = gruneisen(model, atoms, q)
    expected = differences(model, atoms, q, LOW, "relaxed")
    torch.testing.assert_close((found.tensors * LOW).sum((-1, -2)), expected, rtol=0, atol=1e-4)
