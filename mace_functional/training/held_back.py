"""Structures that are held back from a data set, chosen at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mace_functional.training.labelled_structure import LabelledStructure


def held_back(
    data: Sequence[LabelledStructure], fraction: float, rng: np.random.Generator
) -> tuple[list[LabelledStructure], list[LabelledStructure]]:
    """Hold back a fraction of the structures, at least one and never all.

    Args:
        data: Labelled structures.
        fraction: Fraction to hold back; 0 for none.
        rng: Generator of the choice.

    Returns:
        The structures that are left and those that are held back, both in the order of the data.
    """
    n = min(round(fraction * len(data)) or int(fraction > 0), len(data) - 1)
    chosen = set(rng.choice(len(data), max(n, 0), replace=False).tolist()) if data else set()
    left = [labelled for k, labelled in enumerate(data) if k not in chosen]
    return left, [data[k] for k in sorted(chosen)]
