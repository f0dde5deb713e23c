"""Wave vectors by many workers: the modes of one process, and checkpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

import mace_functional as mf
from mace_functional.phonons import converged_mesh_thermo


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module", params=["replicas", "force-constants"])
def phonons(request, model):
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.004, seed=1)
    return mf.phonons_of(model, atoms, method=request.param)


def same(one, other):
    return torch.equal(one.frequencies, other.frequencies) and torch.equal(
        one.eigenvectors, other.eigenvectors
    )


def test_force_constants_are_those_of_one_process(model, threads):
    quartz = mf.example_structure("quartz")
    one, two = (mf.force_constants(model, quartz, executor=e) for e in (None, threads))
    assert torch.equal(two.cells, one.cells)
    assert torch.equal(two.values, one.values)
    phonons = mf.phonons_of(model, quartz, method="force-constants", executor=threads)
    assert torch.equal(phonons.force_constants.values, one.values)


def test_bands_and_meshes_are_those_of_one_process(phonons, threads):
    mesh = mf.Mesh.of(phonons.atoms, (1, 2, 2))
    assert same(mf.mesh_modes(phonons, mesh), mf.mesh_modes(phonons, mesh, executor=threads))
    path = torch.tensor([[0, 0, 0], [0.1, 0, 0], [0, 0, 0]])
    bands = [mf.band_structure(phonons, path, executor=e) for e in (None, threads)]
    assert same(*bands)


@pytest.mark.filterwarnings("ignore:the heat capacity has an error")
def test_convergence_is_that_of_one_process(phonons, threads):
    options = {"tolerance": 100.0, "most_wave_vectors": 3}
    one = converged_mesh_thermo(phonons, 300.0, **options)
    two = converged_mesh_thermo(phonons, 300.0, executor=threads, **options)
    assert two.steps == one.steps


def test_gruneisen_tensors_are_those_of_one_process(model, threads):
    q = [[0.0, 0.0, 0.0], [0.1, 0.2, 0.0]]
    salt = bulk("NaCl", "rocksalt", a=5.64)
    options = {"strains": "symmetric", "ions": "clamped"}
    one, two = (mf.gruneisen(model, salt, q, executor=e, **options) for e in (None, threads))
    assert torch.equal(two.eigenvalues, one.eigenvalues)
    torch.testing.assert_close(two.tensors, one.tensors, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_sampled_heat_capacities_are_those_of_one_process(model, threads):
    salt = bulk("NaCl", "rocksalt", a=5.64).repeat(3)
    options = {"max_products": 60, "rel_error": 0.1, "chunk_size": 2}
    one, two = (
        mf.stochastic_thermo(model, salt, [300.0], executor=e, **options) for e in (None, threads)
    )
    assert one.n_vectors > 1
    assert torch.equal(two.heat_capacity, one.heat_capacity)
    assert torch.equal(two.entropy_error, one.entropy_error)


@pytest.mark.filterwarnings("ignore:the cell carries a stress")
def test_elastic_constants_are_those_of_one_process(model, threads):
    salt = bulk("NaCl", "rocksalt", a=5.64)
    one, two = (mf.elastic_constants(model, salt, executor=e) for e in (None, threads))
    assert torch.equal(two.stiffness, one.stiffness)
    assert two.n_products == one.n_products


def test_checkpoint_of_many_workers_continues_in_one(phonons, threads, tmp_path):
    mesh, path = mf.Mesh.of(phonons.atoms, (5, 1, 9)), tmp_path / "mesh.npz"
    if phonons.force_constants is None:
        mesh = mf.Mesh.of(phonons.atoms, (2, 1, 3))
    expected = mf.mesh_modes(phonons, mesh)
    broken = mesh.q.clone()
    broken[-1] = torch.nan
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match="finite"),
    ):
        mf.mesh_modes(phonons, replace(mesh, q=broken), checkpoint=path, executor=executor)
    arrays = dict(np.load(path))
    assert 0 < len(arrays["eigenvalues"]) < len(mesh.q)
    arrays["q"] = mesh.q.numpy()
    np.savez(path, **arrays)
    assert same(mf.mesh_modes(phonons, mesh, checkpoint=path, executor=threads), expected)


def test_phonons_that_cannot_be_sent_are_refused(phonons):
    local = replace(phonons, dynamical_matrix=lambda q: phonons.dynamical_matrix(q))
    mesh = mf.Mesh.of(phonons.atoms, (1, 1, 2))
    with (
        mf.WorkerProcesses(1) as executor,
        pytest.raises(ValueError, match="cannot be sent to processes"),
    ):
        mf.mesh_modes(local, mesh, executor=executor)
