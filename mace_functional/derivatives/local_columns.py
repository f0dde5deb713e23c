r"""Columns of the second derivatives of a crystal, each in the neighbourhood of its atom.

In the stars of a crystal (`structure/stars.py`), the positions p of all points and the values s
that the copies receive are independent variables. A potential of n layers is a chain of functions
of each star: what the nodes send, `v_l(p, s_1, ..., s_l-1)` for l = 1, ..., n - 1, and the energy
E(p, s_1, ..., s_n-1). The crystal connects the stars by the map S, which reads the neighbours of
every node:

    p = S x,    s_l = S v_l,    with the gradients    sbar_l = dE/ds_l,    vbar_l = S^T sbar_l.

Displace one atom by dx. Within l edges from it, what is sent changes by

    dv_l = dv_l/dp S dx + sum_k<l dv_l/ds_k S dv_k,                        l = 1, ..., n - 1,

and within 2n - l edges, with H_l = d2<vbar_l, v_l>/d(p, s)2 and H_n = d2E/d(p, s)2, the gradients
change by

    d(pbar, sbar) = sum_l H_l S (dx, dv) + sum_l (dv_l/d(p, s))^T S^T dsbar_l,   l = n - 1, ..., 1.

The column `S^T dpbar` ends 2n edges away. All cells have the same linear maps. They are made once,
from the stars of one cell, and take the memory of one cell. A vector that they multiply has one
image of each node, whichever cell it is in: images are independent in all but S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from mace_functional.autodiff.columns import ChunkSize, chunk_that_fits
from mace_functional.autodiff.memory import BUDGET_FRACTION, MemoryMeter, free_memory
from mace_functional.potential.protocol import EdgePotential
from mace_functional.structure.graph import Graph
from mace_functional.structure.hops import Hops
from mace_functional.structure.stars import Stars

CPU_NODES = 352
"""Largest number of nodes in all vectors of a chunk on the CPU.

With MACE-MP-0 small, silicon (2 nodes) takes twice the time with 16 vectors at once that it takes
with 128. RSM0010 (22 nodes) takes the same time with 16 and 48 vectors.
"""

TOGETHER = 2**28
"""Memory of the values of all images of the atoms that share vectors, bytes.

It holds 200 atoms of MOF-5 with the embedded model. Half of the memory costs a fifth of the time.
"""

LinearMap = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Column(NamedTuple):
    """Changes of the gradients of a crystal for displacements of one atom.

    Attributes:
        values: Changes, eV/Å² times the displacements' unit, (displacements, images, 3).
        atom: Number of the atom of each image, (images,).
        cells: Cell of each image, (images, 3).
    """

    values: np.ndarray
    atom: np.ndarray
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class _Layer:
    """Linear maps of one layer of the stars.

    Attributes:
        reads: Numbers of the calls of `Stars.sent` whose values s the layer reads.
        sends: Numbers of the calls whose values v it gives; empty for the last layer.
        curvature: Map from tangents (p, s) to the changes `H_l (p, s)` and the tangents of v.
        transpose: Map from cotangents of v, or of the energy, to those of p and s.
    """

    reads: list[int]
    sends: list[int]
    curvature: LinearMap
    transpose: LinearMap


class LocalColumns:
    """Columns of the second derivatives of a crystal, by the linear maps of the stars of one cell.

    Args:
        potential: A potential with edges.
        graph: Graph of one cell, with concrete values.
        positions: Positions in Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        params: Parameters of the potential.
        chunk_size: Vectors at once: a number, None for all, or "auto" for as many as fit the cache
            of a CPU or the memory of a GPU.
        memory_budget: Bytes that "auto" may fill; None for a fraction of the free memory.

    Raises:
        MemoryError: If a single vector does not fit the budget.
    """

    def __init__(
        self,
        potential: EdgePotential,
        graph: Graph,
        positions: Tensor,
        cell: Tensor,
        params: Any,
        *,
        chunk_size: ChunkSize = "auto",
        memory_budget: int | None = None,
    ) -> None:
        self.graph, self.stars = graph, Stars.of(graph)

        def evaluate(points: Tensor, received: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            """Return the energy, and the values that the nodes send in each call."""
            stars = replace(self.stars, received=received, given=[])
            energy = potential.atom_energies(stars, points, cell, params).sum()
            return energy, stars.given

        points = self.stars.points_of_crystal(positions, cell)
        meter = MemoryMeter()
        with nullcontext() if memory_budget is None else meter:
            self.sent = [v.detach() for v in evaluate(points, ())[1]]
            self.layers = self._linearised(evaluate, points)
            self._multiply_zeros(points)
        if chunk_size == "auto":
            device = points.device
            if memory_budget is None:
                budget = int(BUDGET_FRACTION * free_memory(device))
            else:
                budget = memory_budget - meter.live
            with MemoryMeter() as meter:
                self._multiply_zeros(points)
            most = max(1, CPU_NODES // len(graph.senders))
            chunk_size = chunk_that_fits(meter.peak, device, budget, most_on_cpu=most)
        self.chunk_size = chunk_size

    @property
    def n_layers(self) -> int:
        """Number of layers n; columns end 2n edges away."""
        return len(self.layers)

    def _linearised(
        self, evaluate: Callable[..., tuple[Tensor, list[Tensor]]], points: Tensor
    ) -> list[_Layer]:
        origin = self.stars.origin
        received = [v.index_select(0, origin) for v in self.sent]
        levels = _levels(evaluate, points, received)
        n = 1 + max(levels, default=0)
        sbar = [torch.zeros_like(s) for s in received]
        layers = []
        for level in range(n, 0, -1):
            reads = [call for call, k in enumerate(levels) if 0 < k < level]
            sends = [call for call, k in enumerate(levels) if k == level < n]
            function = _of_layer(evaluate, received, reads, sends)
            x = (points, *(received[call] for call in reads))
            transpose = vjp(function, *x)[1]
            if sends:
                pairs = [(torch.zeros_like(self.sent[call]), sbar[call]) for call in sends]
                vbar = tuple(zeros.index_add(0, origin, s) for zeros, s in pairs)
                curvature = vjp(_gradient(function, len(x)), *x, *vbar)[1]
            else:
                vbar = (points.new_ones(()),)
                gradient = grad(lambda *x, f=function: f(*x)[0], argnums=tuple(range(len(x))))
                curvature = vjp(gradient, *x)[1]
            layers.append(_Layer(reads, sends, curvature, transpose))
            for call, s in zip(reads, transpose(vbar)[1:], strict=True):
                sbar[call] = sbar[call] + s
        return layers[::-1]

    def _multiply_zeros(self, points: Tensor) -> None:
        """Multiply one vector by the map that needs most memory. It leaves behind what it keeps."""
        layer, copies = self.layers[-1], len(self.stars.origin)
        sent = (self.sent[call] for call in layer.reads)
        zeros = [torch.zeros_like(points), *(v.new_zeros(copies, *v.shape[1:]) for v in sent)]
        _mapped(layer.curvature, [z[:, None] for z in zeros])

    def columns(self, atoms: Sequence[int], displacements: Tensor) -> list[Column]:
        """Compute for each of some atoms the changes of the gradients of all coupled images.

        Atoms share vectors: a vector holds one image of every node, and each image may belong to
        another displaced atom. Atoms that are far from each other fill vectors best.

        Args:
            atoms: Numbers of the atoms, at least one. They are displaced one at a time, in the home
                cell.
            displacements: Displacements of each atom, (atoms, n, 3).
        """
        images = Hops.around(atoms[:1], self.graph, 2 * self.n_layers).counts[-1]
        floats = 2 * (3 + sum(s[0].numel() for s in self.sent)) * displacements.shape[1] * images
        memory = floats * displacements.element_size() * len(atoms)
        n_batches = min(len(atoms), -(-memory // TOGETHER))
        columns: list[Any] = [None] * len(atoms)
        for start in range(n_batches):
            batch = slice(start, None, n_batches)
            columns[batch] = self._together(atoms[batch], displacements[batch])
        return columns

    def _together(self, atoms: Sequence[int], displacements: Tensor) -> list[Column]:
        n, count = self.n_layers, displacements.shape[1]
        hops = Hops.around(atoms, self.graph, 2 * n)

        def zeros(shape: Sequence[int]) -> _OnImages:
            images = len(hops.node) + 1
            return _OnImages(displacements.new_zeros(images, count, *shape))

        dx, dpbar = zeros((3,)), zeros((3,))
        dx.values[: len(atoms)] = displacements
        calls = {call: self.sent[call].shape[1:] for layer in self.layers for call in layer.sends}
        dv, dsbar = ({call: zeros(shape) for call, shape in calls.items()} for _ in range(2))
        for level, layer in enumerate(self.layers, 1):
            for nodes, copies in self._vectors(hops, hops.counts[level], count):
                points = torch.cat([copies, nodes])
                tangents = [dx.take(points), *(dv[call].take(copies) for call in layer.reads)]
                by_p, *others = _mapped(layer.curvature, tangents)
                by_s, sent = others[: len(layer.reads)], others[len(layer.reads) :]
                dpbar.add(points, by_p)
                for call, s in zip(layer.reads, by_s, strict=True):
                    dsbar[call].add(copies, s)
                for call, v in zip(layer.sends, sent, strict=True):
                    dv[call].add(nodes, v)
        for level in range(n - 1, 0, -1):
            layer = self.layers[level - 1]
            for nodes, copies in self._vectors(hops, hops.counts[2 * n - level], count):
                cotangents = [dsbar[call].take(nodes) for call in layer.sends]
                by_p, *by_s = _mapped(layer.transpose, cotangents)
                dpbar.add(torch.cat([copies, nodes]), by_p)
                for call, s in zip(layer.reads, by_s, strict=True):
                    dsbar[call].add(copies, s)
        values = dpbar.values[:-1].transpose(0, 1).cpu().numpy()
        atom = self.graph.order.cpu().numpy()[hops.node]
        own = [np.flatnonzero(hops.centre == k) for k in range(len(atoms))]
        return [Column(values[:, k], atom[k], hops.cells[k]) for k in own]

    def _vectors(self, hops: Hops, count: int, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of the nodes and of the copies of a chunk of vectors.

        Args:
            hops: The images.
            count: Number of images whose stars are multiplied.
            n: Number of displacements, which become that many vectors each.
        """
        rows = hops.by_node(count, len(self.graph.senders))
        size = len(rows) if self.chunk_size is None else max(1, int(self.chunk_size) // n)
        edge, device = self.stars.edge.cpu().numpy(), self.graph.senders.device
        for start in range(0, len(rows), size):
            nodes = rows[start : start + size]
            copies = hops.ends(nodes).reshape(len(nodes), -1)[:, edge]
            yield tuple(torch.tensor(i.T, device=device) for i in (nodes, copies))  # type: ignore[misc]


class _OnImages:
    """Values of all images, and last of one that stands for none, whose values are zero.

    Attributes:
        values: (images + 1, displacements, ...).
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def take(self, images: Tensor) -> Tensor:
        """Return the values of images (points, rows), (points, rows displacements, ...)."""
        taken = self.values.index_select(0, images.reshape(-1))
        return taken.view(len(images), -1, *taken.shape[2:])

    def add(self, images: Tensor, batch: Tensor) -> None:
        """Add values (rows displacements, points, ...) to those of images (points, rows)."""
        displacements = self.values.shape[1]
        rows = batch.movedim(0, 1).unflatten(1, (-1, displacements)).flatten(0, 1)
        self.values.index_add_(0, images.reshape(-1), rows)
        self.values[-1] = 0


def _mapped(apply: LinearMap, vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Multiply a batch of vectors, whose batch dimension is the second, by a linear map."""
    return vmap(lambda *v: apply(v), in_dims=1)(*vectors)


def _of_layer(
    evaluate: Callable[..., tuple[Tensor, list[Tensor]]],
    received: Sequence[Tensor],
    reads: Sequence[int],
    sends: Sequence[int],
) -> Callable[..., tuple[Tensor, ...]]:
    """Return what a layer sends, or the energy, as a function of points and received values."""

    def function(points: Tensor, *s: Tensor) -> tuple[Tensor, ...]:
        values = dict(enumerate(received)) | dict(zip(reads, s, strict=True))
        energy, given = evaluate(points, list(values.values()))
        return tuple(given[call] for call in sends) if sends else (energy,)

    return function


def _gradient(function: Callable[..., tuple[Tensor, ...]], k: int) -> Callable[..., Any]:
    """Return the gradient of `<vbar, v(x)>` by k variables x, as a function of x and vbar."""
    return lambda *args: vjp(function, *args[:k])[1](tuple(args[k:]))


def _levels(
    evaluate: Callable[..., tuple[Tensor, list[Tensor]]], points: Tensor, received: list[Tensor]
) -> list[int]:
    """Return the number of edges over which each sent value depends on positions: its layer."""
    by_points = _depend(lambda x: evaluate(x, received)[1], points)
    levels = [0] * len(received)
    for call, (s, depends) in enumerate(zip(received, by_points, strict=True)):
        # Earlier calls have their layers already, and none depends on later ones.
        levels[call] = max(levels[call], int(depends))
        if not levels[call]:
            continue

        def sent(s: Tensor, call: int = call) -> list[Tensor]:
            return evaluate(points, [*received[:call], s, *received[call + 1 :]])[1]

        for later, depends_on_s in enumerate(_depend(sent, s)):
            if depends_on_s:
                levels[later] = max(levels[later], 1 + levels[call])
    return levels


def _depend(function: Callable[[Tensor], list[Tensor]], x: Tensor) -> list[bool]:
    """Return for each result of a function whether it depends on x."""
    depend: list[bool] = []

    def noted(x: Tensor) -> list[Tensor]:
        results = function(x)
        depend[:] = [result.requires_grad for result in results]
        return [x, *results]

    vjp(noted, x)
    return depend
