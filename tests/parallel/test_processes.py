"""Own processes: the numbers of one process, and nothing is lost when one dies."""

from __future__ import annotations

import os
import time
from concurrent.futures import BrokenExecutor, CancelledError

import pytest
import torch
from ase.build import molecule
from small_jobs import DiesOnce, Squares, Threads

import mace_functional as mf
from mace_functional.parallel.shared_parts import delivery_of, mapped, workers_of


@pytest.fixture(scope="module")
def processes():
    with mf.WorkerProcesses(2) as executor:
        yield executor


def results(job, parts, executor):
    workers = workers_of(executor)
    return list(mapped(delivery_of(job, workers), parts, workers))


def test_two_processes_give_the_hessian_of_one_and_a_dead_one_is_replaced(
    processes, model, tmp_path
):
    methanol = molecule("CH3OH")
    one = mf.gamma_modes(model, methanol)
    two = mf.gamma_modes(model, methanol, executor=processes)
    assert torch.equal(two.frequencies, one.frequencies)
    assert torch.equal(two.modes, one.modes)
    (tmp_path / "jobs").mkdir()
    assert results(Squares(tmp_path / "jobs"), range(8), processes) == [n * n for n in range(8)]
    assert len(list((tmp_path / "jobs").iterdir())) == 2
    before = {pid for _, pid in results(Threads(), range(2), processes)}
    (tmp_path / "deaths").mkdir()
    job = DiesOnce(tmp_path / "deaths", victim=3)
    assert results(job, range(6), processes) == [n * n for n in range(6)]
    after = results(Threads(), range(8), processes)
    assert len(before & {pid for _, pid in after}) == 1
    assert {n for n, _ in after} == {1}


@pytest.mark.slow
def test_part_that_kills_every_worker_is_an_error(processes, tmp_path):
    with pytest.raises(ChildProcessError, match="died 2 times in the same part"):
        results(DiesOnce(tmp_path, victim=1, always=True), range(3), processes)
    assert processes.submit(pow, 3, 2).result() == 9


@pytest.mark.slow
def test_executor_of_the_standard_library_is_served_too(processes):
    assert list(processes.map(divmod, [7, 8], [2, 3])) == [(3, 1), (2, 2)]
    process = processes.submit(os.getpid)
    assert process.result() != os.getpid()
    busy = processes.submit(time.sleep, 60)
    started = time.monotonic()
    for worker in processes.processes:
        worker.release()
    with pytest.raises((BrokenExecutor, CancelledError)):
        busy.result()
    assert time.monotonic() - started < 50


def test_what_does_not_make_processes_is_refused():
    with pytest.raises(ValueError, match="workers must be a whole number"):
        mf.WorkerProcesses(0)
    with pytest.raises(ValueError, match="name a device for each process instead"):
        mf.WorkerProcesses(2, devices=["cpu", "cpu"])
    with pytest.raises(ValueError, match="not a device"):
        mf.WorkerProcesses(devices=["gpu one"])
    with pytest.raises(ValueError, match="at least one device"):
        mf.WorkerProcesses(devices=[])
    with pytest.raises(ValueError, match="threads must be"):
        mf.WorkerProcesses(1, threads=0)
    assert repr(mf.WorkerProcesses(devices=["cpu"])) == "WorkerProcesses(cpu)"
