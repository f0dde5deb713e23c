"""Parts of a job by threads: order, errors, and what is refused."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from small_jobs import DiesOnce, Matrix, Raises, Sleeps, Squares

from mace_functional.autodiff.columns import chunked_map
from mace_functional.parallel.delivery import Pickled
from mace_functional.parallel.shared_parts import delivery_of, mapped, workers_of
from mace_functional.parallel.vectors import SharedMap, mapped_vectors


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def results(job, parts, executor):
    workers = workers_of(executor)
    return list(mapped(delivery_of(job, workers), parts, workers))


def test_results_come_in_the_order_of_the_parts(threads):
    seconds = [0.2, 0.0, 0.05, 0.0, 0.0]
    assert results(Sleeps(), seconds, threads) == seconds
    assert results(Sleeps(), [], threads) == []


def test_each_thread_prepares_a_job_once(threads, tmp_path):
    assert results(Squares(tmp_path), range(20), threads) == [n * n for n in range(20)]
    assert 1 <= len(list(tmp_path.iterdir())) <= 2


def test_worker_asks_for_a_job_that_it_does_not_have(tmp_path):
    sent = []

    class Slot:
        """A thread that gets jobs as a process does."""

        device, threads, in_memory = "cpu", None, False

        def submit(self, function, *args):
            sent.append(args[1] is not None)
            return executor.submit(function, *args)

        def release(self):
            pass

    with ThreadPoolExecutor(1) as executor:
        job, other = Squares(tmp_path), Squares(tmp_path, b"another job")
        for one in job, job, other, job:
            assert list(mapped(Pickled(one), range(3), [Slot()])) == [0, 1, 4]
    with_job = [False, True, False, False]
    assert sent == with_job + [False] * 3 + with_job * 2
    assert len(list(tmp_path.iterdir())) == 3


def test_exceptions_of_parts_are_raised_as_they_are(threads):
    with pytest.raises(FloatingPointError, match="3 is odd"):
        results(Raises(), [2, 3, 4], threads)
    assert results(Raises(), [2, 4], threads) == [2, 4]


def test_what_is_no_executor_or_cannot_be_sent_is_refused(threads, tmp_path):
    with pytest.raises(TypeError, match=r"get_executor\(\) of a client of Dask, not 4"):
        workers_of(4)
    local = Matrix(lambda: None)
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(ValueError, match="cannot be sent to processes"),
    ):
        results(local, [torch.ones(1)], executor)


def test_executor_that_breaks_is_an_error_that_says_what_to_do(tmp_path):
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(ChildProcessError, match="call again with a new executor"),
    ):
        results(DiesOnce(tmp_path, victim=1), range(3), executor)


@pytest.mark.parametrize("chunk_size", ["auto", None, 3, 100])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 40])
def test_vectors_are_mapped_in_the_chunks_of_one_process(chunk_size, n, threads):
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chunks = []

    def apply(v):
        chunks.append(len(v))
        return v @ matrix

    expected = chunked_map(apply, vectors, chunk_size=chunk_size)
    most = max(chunks, default=0)
    found = mapped_vectors(Matrix(matrix, most), vectors, threads, chunk_size=chunk_size)
    assert torch.equal(found, expected)


def test_later_calls_take_the_chunks_that_the_first_one_measured(threads):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    shared = SharedMap(Matrix(matrix), threads, memory_budget=None, device=torch.device("cpu"))
    for n in 40, 2, 40, 7:
        vectors = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        assert torch.equal(shared.map(vectors), chunked_map(lambda v: v @ matrix, vectors))


def test_vector_that_does_not_fit_the_memory_is_an_error(threads):
    with pytest.raises(MemoryError, match="one column needs"):
        mapped_vectors(Matrix(torch.ones(9, 9)), torch.ones(5, 9), threads, memory_budget=8)
