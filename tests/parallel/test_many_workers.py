"""Processes and Dask: the results of one process to the last digit, whoever is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from ase.build import bulk
from small_jobs import Threads

import mace_functional as mf
from mace_functional.parallel.dask_workers import dask_executor
from mace_functional.parallel.shared_parts import delivery_of, mapped, workers_of
from mace_functional.phonons import mesh as mesh_module
from mace_functional.phonons import modes_at_q, solved_modes

pytestmark = pytest.mark.slow


def executors(kind):
    if kind == "own processes":
        return mf.WorkerProcesses(2)
    if kind == "processes of the standard library":
        return ProcessPoolExecutor(2, get_context("spawn"))
    if kind == "forked processes":
        return ProcessPoolExecutor(2, get_context("fork"))
    pytest.importorskip("distributed")
    return dask_executor("local", workers=2)


KINDS = ["own processes", "processes of the standard library", "forked processes", "dask"]


@pytest.fixture(scope="module", params=KINDS)
def two(request):
    with executors(request.param) as executor:
        yield executor


@pytest.fixture(scope="module")
def potential(model):
    """A sum with dispersion, whose parts are of different kinds."""
    pytest.importorskip("tad_dftd3")
    return mf.SumPotential(model, mf.D3("pbe"))


def test_hessians_are_equal_to_the_last_digit(two, model, potential):
    ethanol = mf.example_structure("ethanol")
    for each in model, potential:
        for options in {}, {"indices": [0, 2, 5]}, {"chunk_size": 5}:
            one = mf.gamma_modes(each, ethanol, **options)
            many = mf.gamma_modes(each, ethanol, executor=two, **options)
            assert torch.equal(many.frequencies, one.frequencies)
            assert torch.equal(many.modes, one.modes)


def test_products_are_equal_to_the_last_digit(two, model):
    quartz = mf.example_structure("quartz")
    for options in {}, {"mass_weighted": False, "chunk_size": 4}:
        one = mf.HessianOperator.from_potential(model, quartz, **options)
        many = mf.HessianOperator.from_potential(model, quartz, executor=two, **options)
        vectors = torch.randn(27, 7, generator=torch.Generator().manual_seed(0), dtype=one.dtype)
        assert torch.equal(many @ vectors, one @ vectors)
        assert torch.equal(many.dense(), one.dense())
        torch.testing.assert_close(many @ vectors[:, 0], one @ vectors[:, 0])


@pytest.mark.parametrize("method", ["replicas", "force-constants"])
def test_modes_on_a_mesh_are_equal_to_the_last_digit(method, two, model):
    quartz = mf.example_structure("quartz")
    phonons = mf.phonons_of(model, quartz, method=method)
    mesh = mf.Mesh.of(quartz, (2, 2, 2))
    one, many = mf.mesh_modes(phonons, mesh), mf.mesh_modes(phonons, mesh, executor=two)
    assert torch.equal(many.eigenvalues, one.eigenvalues)
    assert torch.equal(many.eigenvectors, one.eigenvectors)


def test_thermal_expansion_is_equal_to_the_last_digit(two, model):
    salt = mf.relax(model, bulk("NaCl", "rocksalt", a=5.64), relax_cell=True, fmax=1e-4).atoms
    one, many = (
        mf.thermal_expansion(model, salt, [100.0, 300.0], mesh=(2, 2, 2), executor=executor)
        for executor in (None, two)
    )
    assert torch.equal(many.expansion, one.expansion)
    assert torch.equal(many.cp, one.cp)


@pytest.mark.parametrize("kind", ["own processes", "dask"])
def test_killed_worker_loses_nothing(kind, model, tmp_path, monkeypatch):
    quartz = mf.example_structure("quartz")
    phonons = mf.phonons_of(model, quartz, method="replicas")
    mesh = mf.Mesh.of(quartz, (3, 3, 2), symmetry=False)
    one = mf.mesh_modes(phonons, mesh)
    found = []
    with executors(kind) as executor:
        workers = workers_of(executor)
        pids = {pid for _, pid in mapped(delivery_of(Threads(), workers), range(8), workers)}
        victim = next(iter(pids))
        parts = solved_modes.solved_modes(phonons, mesh.q, eigenvectors=True, executor=executor)
        for i, modes in enumerate(parts):
            found.append(modes)
            if i == 1:
                os.kill(victim, signal.SIGKILL)
    assert not _alive(victim)
    assert torch.equal(torch.stack([values for values, _ in found]), one.eigenvalues)
    assert torch.equal(torch.stack([vectors for _, vectors in found]), one.eigenvectors)


def test_interrupt_ends_the_work_and_keeps_the_checkpoint(model, tmp_path, monkeypatch):
    monkeypatch.setattr(mesh_module, "SAVE_INTERVAL", 0.0)
    quartz, path = mf.example_structure("quartz"), tmp_path / "mesh.npz"
    phonons = mf.phonons_of(model, quartz, method="replicas")
    mesh = mf.Mesh.of(quartz, (9, 9, 9), symmetry=False)

    def interrupt():
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with mf.WorkerProcesses(2) as executor:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            mf.mesh_modes(phonons, mesh, checkpoint=path, executor=executor)
        assert all(not process.futures for process in executor.processes)
    kept = np.load(path)["eigenvalues"]
    assert 0 < len(kept) < len(mesh.q)
    for q, values in list(zip(mesh.q, kept, strict=False))[-2:]:
        np.testing.assert_array_equal(modes_at_q(phonons, q)[0], values)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
