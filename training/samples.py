"""Training samples with the teacher's results, and batches of them as one graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import mace_functional as mf
from mace_functional.structure import neighbours
from mace_functional.structure.arrays import to_tensors
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species

ELEMENTS = (1, 6, 7, 8, 11, 13, 14, 17, 30)
"""Atomic numbers of the elements of the student: H, C, N, O, Na, Al, Si, Cl, Zn."""

CUTOFF = 4.5
"""Cutoff radius of the student, Å; that of the teacher is 6."""

EDGES = 2500
"""Largest number of edges of a batch, padding included."""


@dataclass(frozen=True)
class Sample:
    """One configuration with the teacher's results.

    Attributes:
        numbers: Atomic numbers, (N,).
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3); zero for a molecule.
        energy: Energy, eV.
        forces: Forces, eV/Å, (N, 3).
        stress: Stress dE/d(strain) / volume, eV/Å³, (3, 3); zero for a molecule.
        directions: Random directions v, (D, N, 3).
        curvatures: Hessian products H v, eV/Å², (D, N, 3).
        origin: Name of the structure from which it was generated.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    energy: float
    forces: np.ndarray
    stress: np.ndarray
    directions: np.ndarray
    curvatures: np.ndarray
    origin: str

    @cached_property
    def edges(self) -> Edges:
        """All pairs within the cutoff."""
        pbc = np.array([self.cell.any()] * 3)
        receiver, sender, shifts = neighbours.search(self.positions, self.cell, pbc, CUTOFF)
        x = self.positions
        return Edges(receiver, sender, x[receiver] - x[sender] + shifts @ self.cell)

    @cached_property
    def width(self) -> int:
        """Largest number of neighbours of an atom."""
        return int(np.bincount(self.edges.receiver, minlength=1).max(initial=1))


class Edges(NamedTuple):
    """Receiver, sender and edge vector in Å of every pair."""

    receiver: np.ndarray
    sender: np.ndarray
    vector: np.ndarray


class Batch(NamedTuple):
    """Several samples as one graph, and the teacher's results for them.

    Attributes:
        graph: The graph of all samples, without edges between them.
        vectors: Edge vectors r, Å, (nodes, K, 3); they replace positions and cells.
        sample: Index of the sample of each atom, (atoms,).
        sizes: Number of atoms of each sample, (samples,).
        volumes: Volume of each sample, Å³, (samples,); infinite for molecules.
        directions: Direction v of each sample, (atoms, 3).
        labels: Results of the teacher.
    """

    graph: Graph
    vectors: Tensor
    sample: Tensor
    sizes: Tensor
    volumes: Tensor
    directions: Tensor
    labels: Results


class Results(NamedTuple):
    """Results of the teacher or the student for a batch.

    Attributes:
        energies: Energies, eV, (samples,).
        forces: Forces, eV/Å, (atoms, 3).
        stresses: Stresses, eV/Å³, (samples, 3, 3).
        curvatures: Hessian products H v with the directions of the batch, eV/Å², (atoms, 3).
    """

    energies: Tensor
    forces: Tensor
    stresses: Tensor
    curvatures: Tensor


def batches(
    samples: Sequence[Sample], model: mf.MaceModel, rng: np.random.Generator
) -> Iterator[Batch]:
    """Yield all samples once, in batches of random order, each with one random direction.

    Samples of a batch have similar numbers of neighbours, so that there is little padding.
    """
    by_width = sorted(samples, key=lambda s: s.width * rng.uniform(0.8, 1.2))
    groups: list[list[Sample]] = [[]]
    for sample in by_width:
        group = [*groups[-1], sample]
        edges = max(s.width for s in group) * sum(len(s.numbers) for s in group)
        if edges > EDGES and groups[-1]:
            groups.append([sample])
        else:
            groups[-1] = group
    for k in rng.permutation(len(groups)):
        yield _batch(groups[k], model, rng)


def _batch(samples: Sequence[Sample], model: mf.MaceModel, rng: np.random.Generator) -> Batch:
    direction = [int(rng.integers(len(s.directions))) for s in samples]
    graph = _union(samples, model)

    def tensor(values: object) -> Tensor:
        return torch.as_tensor(np.array(values), dtype=model.dtype)

    def of_direction(name: str) -> Tensor:
        pairs = zip(samples, direction, strict=True)
        return tensor(np.concatenate([getattr(s, name)[k] for s, k in pairs]))

    sizes = [len(s.numbers) for s in samples]
    return Batch(
        graph=graph,
        vectors=graph.unit_shifts,
        sample=torch.as_tensor(np.repeat(np.arange(len(samples)), sizes)),
        sizes=tensor(sizes),
        volumes=tensor([abs(np.linalg.det(s.cell)) or np.inf for s in samples]),
        directions=of_direction("directions"),
        labels=Results(
            energies=tensor([s.energy for s in samples]),
            forces=tensor(np.concatenate([s.forces for s in samples])),
            stresses=tensor([s.stress for s in samples]),
            curvatures=of_direction("curvatures"),
        ),
    )


def _union(samples: Sequence[Sample], model: mf.MaceModel) -> Graph:
    """Return one graph of all samples.

    All its atoms are at the origin of a cell of 1 Å, so that its unit shifts are the edge vectors.
    """
    sizes = [len(s.numbers) for s in samples]
    pairs = list(zip((s.edges for s in samples), np.cumsum([0, *sizes[:-1]]), strict=True))
    receiver = np.concatenate([e.receiver + start for e, start in pairs])
    sender = np.concatenate([e.sender + start for e, start in pairs])
    vectors = np.concatenate([e.vector for e, _ in pairs])
    rows = [model.atomic_numbers.index(z) for s in samples for z in s.numbers.tolist()]
    present, kinds = np.unique(rows, return_inverse=True)
    counts = tuple(int(n) for n in np.bincount(kinds))
    arrays = neighbours.pack((receiver, sender, vectors), kinds, counts, None, sum(sizes))
    arrays["unit_shifts"] = np.where(arrays["edge_mask"][..., None], arrays["unit_shifts"], 1.0)
    origin = torch.zeros(sum(sizes), 3, dtype=model.dtype)
    return Graph(
        **to_tensors(arrays, origin),
        pbc=torch.tensor([False] * 3),
        features={},
        reference_positions=origin,
        reference_cell=torch.eye(3, dtype=model.dtype),
        species=Species(
            elements=tuple(int(e) for e in present),
            numbers=tuple(int(model.atomic_numbers[e]) for e in present),
            counts=counts,
        ),
        cutoff=CUTOFF,
        skin=0.0,
    )
