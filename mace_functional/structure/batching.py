"""Batches of structures of different sizes, padded to one shape for a single `vmap`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.structure import neighbours
from mace_functional.structure.arrays import to_tensors
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import Species
from mace_functional.structure.structure import Structure


def batch(structures: Sequence[Structure]) -> Structure:
    """Pad structures to one shape and stack them.

    One `vmap` over (graph, positions, cell) of the result evaluates all of them. Padding atoms have
    atomic number 0, mass 1, position 0, the features of the first atom, and no energy.

    Args:
        structures: Structures of one model, of any size, composition and periodicity.

    Returns:
        A structure whose tensors have a leading dimension; `graph.atom_mask` is False for padding.

    Raises:
        ValueError: If `structures` is empty, or they were made for different models, different
            skins or a sum of potentials.

    Example:
        >>> b = mf.batch([s1, s2])                                          # doctest: +SKIP
        >>> energy = lambda g, x, c: mf.energy_fn(model, g)(x, c, model.params)  # doctest: +SKIP
        >>> torch.vmap(energy)(b.graph, b.positions, b.cell)                # doctest: +SKIP
    """
    if not structures:
        raise ValueError("batch needs at least one structure")
    graphs = [s.graph for s in structures]
    first = graphs[0]
    if not all(isinstance(g, Graph) for g in graphs):
        raise ValueError(
            "structures of sums of potentials, such as a model with dispersion, cannot be batched: "
            "batch structures of the model, and compute dispersion for each structure by itself"
        )
    for g in graphs:
        if (g.cutoff, g.skin, set(g.features)) != (first.cutoff, first.skin, set(first.features)):
            raise ValueError(
                "the structures were made for different models or with different skins"
            )
    species = _union([g.species for g in graphs])
    width = max(g.senders.shape[1] for g in graphs)
    size = max(len(s.positions) for s in structures)
    padded = [_pad(s, species, width, size) for s in structures]
    leaves = [pytree.tree_flatten(p)[0] for p in padded]
    spec = pytree.tree_structure(padded[0])
    stacked = [torch.stack(column) for column in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(stacked, spec)


def _union(species: Sequence[Species]) -> Species:
    """Return the smallest composition that contains each of several ones."""
    counts: dict[tuple[int, int], int] = {}
    for composition in species:
        for element, number, count in zip(*composition, strict=True):
            counts[element, number] = max(counts.get((element, number), 0), count)
    elements = sorted(counts)
    if any(len(set(column)) < len(elements) for column in zip(*elements, strict=True)):
        raise ValueError("the structures were made for models with different elements")
    return Species(
        elements=tuple(e for e, _ in elements),
        numbers=tuple(z for _, z in elements),
        counts=tuple(counts[key] for key in elements),
    )


def _pad(structure: Structure, species: Species, width: int, size: int) -> Structure:
    """Pad a structure to more atoms, elements and neighbours."""
    old = structure.graph
    receiver, slot = old.edge_mask.nonzero(as_tuple=True)
    edges = (
        old.order[receiver].cpu().numpy(),
        old.order[old.senders[receiver, slot]].cpu().numpy(),
        old.unit_shifts[receiver, slot].cpu().numpy(),
    )
    kinds = np.searchsorted(species.elements, old.by_atom(old.species.elements))
    arrays = neighbours.pack(edges, kinds, species.counts, width, size)
    extra = size - len(structure.positions)

    def grow(values: Tensor, fill: Any) -> Tensor:
        padding = torch.as_tensor(fill).to(values).expand(extra, *values.shape[1:])
        return torch.cat([values, padding])

    graph = replace(
        old,
        **to_tensors(arrays, structure.positions),
        features={k: grow(v, v[0]) if v.ndim else v for k, v in old.features.items()},
        reference_positions=grow(old.reference_positions, 0),
        species=species,
    )
    return Structure(
        positions=grow(structure.positions, 0),
        cell=structure.cell,
        masses=grow(structure.masses, 1),
        numbers=grow(structure.numbers, 0),
        topology=graph,
    )
