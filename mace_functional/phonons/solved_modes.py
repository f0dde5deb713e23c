"""Modes at many wave vectors, one after the other or by many workers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mace_functional.parallel.shared_parts import computed
from mace_functional.phonons.modes import modes_at_q

if TYPE_CHECKING:
    from mace_functional.phonons.phonons import Phonons

WAVE_VECTORS_OF_A_PART = 16
"""Wave vectors that a worker solves at once if D(q) comes from force constants alone.

Each takes only milliseconds in small cells. Matrices that are computed anew take far longer than
the way to a worker, and go there one by one.
"""

Solved = tuple[Tensor, Tensor | None]
"""Eigenvalues (3N,), and eigenvectors (3N, N, 3), or None if they are not kept."""


def solved_modes(
    phonons: Phonons, q: Tensor, *, eigenvectors: bool, executor: Executor | None
) -> Generator[Solved]:
    """Compute the modes at wave vectors, and yield them in their order; see `modes_at_q`.

    Args:
        phonons: Phonons of `phonons_of`.
        q: Wave vectors in units of the reciprocal lattice vectors, (Q, 3).
        eigenvectors: True to yield the eigenvectors too.
        executor: Executor whose workers share the wave vectors; None to compute in this process.

    Raises:
        TypeError: If it is no executor.
        ValueError: If a wave vector does not fit the crystal, or the phonons cannot be sent to
            processes.
        ChildProcessError: If the executor is broken, no process can start, or workers die again and
            again.
    """
    if executor is None:
        for q_i in q:
            modes = modes_at_q(phonons, q_i)
            yield modes if eigenvectors else (modes[0], None)
        return
    device = phonons.masses.device
    job = _Modes(_with_rigid_motions(phonons), eigenvectors, memory_budget=None)
    is_cheap = phonons.force_constants is not None and not phonons.long_range
    size = WAVE_VECTORS_OF_A_PART if is_cheap else 1
    parts = (part.clone() for part in q.split(size)) if len(q) else ()
    for solved in computed(job, parts, executor, device):
        for values, vectors in solved:
            yield values.to(device), None if vectors is None else vectors.to(device)


def _with_rigid_motions(phonons: Phonons) -> Phonons:
    """Compute the rigid motions, which the phonons keep, so that workers need not do so."""
    _ = phonons.rigid
    return phonons


@dataclass(frozen=True, eq=False)
class _Modes:
    """The job: modes at some wave vectors."""

    phonons: Phonons
    eigenvectors: bool
    memory_budget: int | None

    def begun(self, device: str | None) -> Callable[[Tensor], list[Solved]]:
        """Return the function from wave vectors (n, 3) to their modes, on the CPU."""
        phonons = self.phonons.on(device, self.memory_budget)

        def solve(q: Tensor) -> list[Solved]:
            found = (modes_at_q(phonons, q_i) for q_i in q)
            return [
                (values.cpu(), vectors.cpu() if self.eigenvectors else None)
                for values, vectors in found
            ]

        return solve
