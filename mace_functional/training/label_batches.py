"""Batches of labelled structures, as tensors of which one `vmap` computes the losses.

Structures of one batch are padded to one shape, so they are grouped by size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.potential.protocol import Potential
from mace_functional.structure.batching import batch
from mace_functional.structure.graph import Graph
from mace_functional.structure.structure import Structure
from mace_functional.training.labelled_structure import LabelledStructure
from mace_functional.training.losses import LossTerms, LossWeights, huber
from mace_functional.training.predictions import predictions_fn

CALL = 350
"""Number of edges that take as long as the calls of one more batch.

A training step with a product takes 30 ms and 0.08 ms for each edge (embedded model, float32, AMD
EPYC): 55 ms for 9 atoms with 36 edges each, and 26 ms for each of 16 such structures at once.
"""

MOST_EDGES = 6000
"""Largest number of edges of a batch of several structures.

A training step with a product takes up to 0.17 MB for each edge (MACE-MP-0 small, float32).
"""


@dataclass(frozen=True, eq=False)
class Example:
    """A labelled structure, made for a potential.

    Attributes:
        labelled: The structure and its labels.
        structure: The structure for the potential.
    """

    labelled: LabelledStructure
    structure: Structure

    @classmethod
    def of(cls, labelled: LabelledStructure, potential: Potential) -> Example:
        """Search the neighbours of a labelled structure.

        Raises:
            ValueError: If the potential cannot compute the structure; the error has its name.
        """
        try:
            return cls(labelled, potential.structure(labelled.atoms))
        except ValueError as error:
            name = labelled.name or labelled.atoms.get_chemical_formula()
            raise ValueError(f"{name}: {error}") from error

    @property
    def kinds(self) -> tuple[bool, bool]:
        """True for a stress, and for curvature, among the labels."""
        return self.labelled.stress is not None, self.labelled.curvature is not None

    @property
    def size(self) -> tuple[int, int]:
        """Number of nodes, and largest number of edges of a node; (N, 1) without a graph."""
        graph = self.structure.topology
        if not isinstance(graph, Graph):
            return len(self.labelled.atoms), 1
        nodes, width = graph.senders.shape
        return nodes, width


class LabelBatch:
    """Structures with their labels as tensors, stacked along a first dimension.

    Args:
        examples: The structures; several are padded to one shape.
        directions: For each structure a direction v of its Hessian product and the product itself,
            (N, 3) each; None for those without curvature.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        directions: Sequence[tuple[np.ndarray, np.ndarray] | None],
    ) -> None:
        structures = [e.structure for e in examples]
        several = len(structures) > 1
        self.structure: Structure = batch(structures) if several else _stacked(structures[0])
        self.atoms: tuple[int, ...] = tuple(len(e.labelled.atoms) for e in examples)
        labels = [e.labelled for e in examples]
        n = self.structure.positions.shape[1]
        self.stress = any(k.stress is not None for k in labels)
        self.product = any(d is not None for d in directions)
        vectors = [np.zeros((1, 3)) if d is None else d[0] for d in directions]
        products = [None if d is None else d[1] for d in directions]
        self._labels = {
            "energy": self._numbers([k.energy for k in labels], ()),
            "forces": self._numbers([k.forces for k in labels], (n, 3)),
            "stress": self._numbers([k.stress for k in labels], (3, 3)),
            "product": self._numbers(products, (n, 3)),
        }
        self._vectors = self._numbers(vectors, (n, 3))[0]
        self._sizes = self._tensor(self.atoms)
        self._weights = self._tensor([k.weight for k in labels])

    def squares(self, potential: Potential, params: Any, loss: LossWeights) -> LossTerms:
        """Return the weighted sums of squared errors of all labels, a number for each term.

        Args:
            potential: The potential.
            params: Its parameters, by which the result can be differentiated.
            loss: Thresholds of the errors; terms of weight zero are not computed.
        """
        has_stress = self.stress and loss.stress > 0
        has_product = self.product and loss.products > 0

        def of_one(
            topology: Any, x: Tensor, cell: Tensor, v: Tensor, size: Tensor, labels: Any
        ) -> tuple[Tensor, ...]:
            function = potential.energy_fn(topology)
            predict = predictions_fn(function, stress=has_stress, product=has_product)
            found = predict(x, cell, params, *([v] if has_product else []))
            out = []
            for (name, (label, mask)), threshold in zip(
                labels.items(), loss.thresholds, strict=True
            ):
                error = mask * (found[name] - label) if name in found else torch.zeros_like(size)
                per_label = error / size if name == "energy" else error
                out.append(huber(per_label, threshold).sum())
            return tuple(out)

        s = self.structure
        args = s.topology, s.positions, s.cell, self._vectors, self._sizes, self._labels
        if len(self.atoms) > 1:
            sums = vmap(of_one)(*args)
        else:
            sums = tuple(t[None] for t in of_one(*pytree.tree_map(lambda t: t[0], args)))
        return LossTerms(*(self._weights @ t for t in sums))

    def _numbers(self, values: Sequence[Any], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return labels padded to a shape, and a mask that is 0 for padding and missing labels."""
        labels, mask = np.zeros((2, len(values), *shape))
        for k, value in enumerate(values):
            if value is not None:
                part = (k, *map(slice, np.shape(value)))
                labels[part], mask[part] = value, 1
        return self._tensor(labels), self._tensor(mask)

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(self.structure.positions)


def counts_of(examples: Sequence[Example], *, weighted: bool = False) -> LossTerms:
    """Return the number of labels of each kind, as in the means of the loss.

    Args:
        examples: The structures.
        weighted: True to count each label with the weight of its structure.
    """
    numbers = [0.0, 0.0, 0.0, 0.0]
    for labelled in (e.labelled for e in examples):
        components = 3 * len(labelled.atoms)
        weight = labelled.weight if weighted else 1.0
        labels = labelled.energy, labelled.forces, labelled.stress, labelled.curvature
        for k, (label, n) in enumerate(zip(labels, (1, components, 9, components), strict=True)):
            numbers[k] += 0 if label is None else weight * n
    return LossTerms(*(torch.tensor(n, dtype=torch.float64) for n in numbers))


def batches_of(
    examples: Sequence[Example],
    rng: np.random.Generator,
    *,
    products: bool,
    chosen: Sequence[int] | None = None,
) -> list[LabelBatch]:
    """Group structures of similar size to batches, each with one random direction.

    Args:
        examples: The structures.
        rng: Generator of the directions.
        products: True for Hessian products of the structures that have curvature.
        chosen: Numbers of the structures to group, with the directions that they have among all;
            None for all.
    """
    directions = [_direction(e.labelled, rng) if products else None for e in examples]
    numbers = range(len(examples)) if chosen is None else chosen
    order = sorted(numbers, key=lambda k: (examples[k].kinds, examples[k].size))
    groups: list[list[int]] = []
    for k in order:
        if groups and _joins([examples[i] for i in groups[-1]], examples[k]):
            groups[-1].append(k)
        else:
            groups.append([k])
    return [LabelBatch([examples[k] for k in g], [directions[k] for k in g]) for g in groups]


def _direction(
    labelled: LabelledStructure, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a random sum of the directions of the curvature, and that of its products.

    The signs are random. The sum is scaled so that the mean of |v|^2 is 3N, as for independent
    components of unit variance.
    """
    curvature = labelled.curvature
    if curvature is None:
        return None
    signs = rng.choice([-1.0, 1.0], len(curvature.directions))
    scale = np.sqrt(3 * len(labelled.atoms) / np.square(curvature.directions).sum())
    v, products = (
        np.tensordot(scale * signs, t, 1) for t in (curvature.directions, curvature.products)
    )
    return v, products


def _joins(group: Sequence[Example], one: Example) -> bool:
    """True if a structure is cheaper in a batch with others than alone."""
    together = [*group, one]
    if not all(isinstance(e.structure.topology, Graph) for e in together):
        return False
    if one.kinds != group[0].kinds:
        return False
    species: dict[int, int] = {}
    for e in together:
        graph = e.structure.topology
        for z, count in zip(graph.species.numbers, graph.species.counts, strict=True):
            species[z] = max(species.get(z, 0), count)
    width = max(e.size[1] for e in together)
    padded = len(together) * sum(species.values()) * width
    apart = sum(n * k for n, k in (e.size for e in together))
    return padded <= min(MOST_EDGES, apart + CALL * (len(together) - 1))


def _stacked(structure: Structure) -> Structure:
    """Return a structure whose tensors have a leading dimension of one."""
    stacked: Structure = pytree.tree_map(lambda t: t[None], structure)
    return stacked
