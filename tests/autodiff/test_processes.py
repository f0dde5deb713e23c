"""Processes that are started after a computation compute too, and give the same numbers."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import multiprocessing, sys
    import torch
    import mace_functional as mf

    def largest_entry():
        model = mf.load_model("embedded")
        s = mf.from_ase(mf.example_structure("ethanol"), model)
        energy = mf.energy_fn(model, s.graph)
        hessian = mf.hessian(energy, indices=[0])(s.positions, s.cell, model.params)
        return float(hessian.abs().max())

    def work(queue):
        queue.put((largest_entry(), torch.get_num_threads()))

    if __name__ == "__main__":
        torch.set_num_threads(2)
        # What OpenMP shares among its threads.
        (torch.ones(2000, 2000) @ torch.ones(2000, 2000)).exp().sum()
        here = largest_entry()
        context = multiprocessing.get_context(sys.argv[1])
        queue = context.Queue()
        child = context.Process(target=work, args=(queue,))
        child.start()
        there, threads = queue.get(timeout=200)
        child.join(10)
        assert abs(there - here) < 1e-10 * abs(here), (there, here)
        print("same number with", threads)
"""


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in ("spawn", "forkserver"))]
)
def test_a_process_started_after_a_computation_gives_the_same_hessian(method, tmp_path):
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("Windows forks no processes")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, str(program), method],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "same number" in done.stdout
    if method == "fork":
        assert done.stdout.strip() == "same number with 1"
