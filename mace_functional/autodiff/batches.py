"""Batches within batches, and the points of a batch joined to one point.

Nested `vmap`s give a tensor one batch dimension for each level, if it depends on that level. Levels
along which the point of an operation varies, such as the structures of a batch, are joined: their
points become one point, whose tensors are those of the points one after the other, along the first
dimension. All other levels hold vectors for the same points, such as the columns of a Hessian. They
become one batch of vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from mace_functional.autodiff.torch_internals import (
    TransformType,
    get_interpreter_stack,
    get_unwrapped,
    is_batchedtensor,
    maybe_get_level,
)

Places = Sequence[int | None]
"""Batch dimensions of one tensor, for each level from the outermost; None if it has none there.

Each is counted without the batch dimensions of the levels before.
"""


@dataclass(frozen=True)
class NestedBatch:
    """Levels of batches within batches, from the outermost.

    Attributes:
        sizes: Size of each level.
        joined: For each level, True if its points are joined.
    """

    sizes: tuple[int, ...]
    joined: tuple[bool, ...]

    @classmethod
    def of(
        cls, tensors: Sequence[Tensor | None], dims: Sequence[Places], joined: Sequence[bool]
    ) -> NestedBatch:
        """Read the sizes off tensors, whose batch dimensions are listed level by level."""
        sizes = []
        for level, places in enumerate(dims):
            i = next(i for i, dim in enumerate(places) if dim is not None)
            tensor = tensors[i]
            assert tensor is not None
            present = [dims[k][i] is not None for k in range(level)]
            front = in_front(tensor, [dims[k][i] for k in range(level + 1)])
            sizes.append(front.shape[sum(present)])
        return cls(tuple(sizes), tuple(joined))

    @property
    def count(self) -> int:
        """Number of points that are joined."""
        return prod(self.sizes[k] for k in self._joined_levels)

    @property
    def points(self) -> NestedBatch:
        """The levels whose points are joined."""
        return NestedBatch(
            tuple(self.sizes[k] for k in self._joined_levels), (True,) * sum(self.joined)
        )

    @property
    def has_vectors(self) -> bool:
        """True if some level holds vectors."""
        return not all(self.joined)

    @property
    def _joined_levels(self) -> list[int]:
        return [k for k, joined in enumerate(self.joined) if joined]

    @property
    def _vector_levels(self) -> list[int]:
        return [k for k, joined in enumerate(self.joined) if not joined]

    def point(self, tensor: Tensor, places: Places) -> Tensor:
        """Return a tensor of the joined point, (count first, ...), from one without vectors."""
        return self.stacked(tensor, places).flatten(0, 1)

    def stacked(self, tensor: Tensor, places: Places) -> Tensor:
        """Return the tensors of all points along a new first dimension, (count, ...)."""
        levels = self._joined_levels
        shape = [self.sizes[k] for k in levels]
        front = _expanded(in_front(tensor, places), [places[k] for k in levels], shape)
        return front.reshape(self.count, *front.shape[len(shape) :])

    def vectors(self, tensor: Tensor, places: Places) -> tuple[Tensor, int | None]:
        """Return vectors at the joined point, and their batch dimension, the last but one.

        The batch dimension is None if the tensor has none at the levels of vectors, and the first
        if a vector has a single dimension.
        """
        if all(places[k] is None for k in self._vector_levels):
            return self.point(tensor, places), None
        front = _expanded(in_front(tensor, places), places, self.sizes)
        points, inner = self._joined_levels, self._vector_levels
        own = range(len(self.sizes), front.ndim)
        first, *others = (front.shape[k] for k in own)
        count, n = self.count, prod(self.sizes[k] for k in inner)
        if not others:
            return front.permute(*inner, *points, *own).reshape(n, count * first), 0
        whole = front.permute(*points, *own[:-1], *inner, own[-1])
        return whole.reshape(count * first, *others[:-1], n, others[-1]), len(others)

    def restored(self, tensor: Tensor) -> Tensor:
        """Return a result of the joined point with the dimensions of all levels in front.

        The result is (count first, ...), with the batch of vectors, if there is one, before that.
        """
        order = self._vector_levels + self._joined_levels
        batched = int(self.has_vectors)
        whole = tensor.unflatten(batched, (*self.points.sizes, -1))
        if batched:
            whole = whole.unflatten(0, [self.sizes[k] for k in self._vector_levels])
        return whole.permute(
            *(order.index(k) for k in range(len(order))), *range(len(order), whole.ndim)
        )


def only_vmap_is_active() -> bool:
    """True if all active transforms are `vmap`."""
    return all(i.key() == TransformType.Vmap for i in get_interpreter_stack() or ())


def batch_levels(tensors: Iterable[Tensor | None]) -> set[int]:
    """Return the levels at which tensors have a batch dimension, where only `vmap` is active."""
    levels = set()
    for tensor in tensors:
        while tensor is not None and is_batchedtensor(tensor):
            levels.add(maybe_get_level(tensor))
            tensor = get_unwrapped(tensor)
    return levels


def in_front(tensor: Tensor, places: Places) -> Tensor:
    """Move the batch dimensions of a tensor to the front, those of outer levels first."""
    moved = 0
    for place in places:
        if place is not None:
            tensor = tensor.movedim(place + moved, moved)
            moved += 1
    return tensor


def _expanded(front: Tensor, places: Places, sizes: Sequence[int]) -> Tensor:
    """Insert dimensions of levels that a tensor lacks, and expand it to their sizes."""
    for level, place in enumerate(places):
        if place is None:
            front = front.unsqueeze(level)
    return front.expand(*sizes, *front.shape[len(sizes) :])
