"""Blocks of nodes that are treated at once, so that what is made for them fits the cache."""

from __future__ import annotations

from math import ceil

import torch


def blocks(start: int, nodes: int, numbers: int, cached: int, device: torch.device) -> list[slice]:
    """Slices of nearly equal size; a single one where there is no such cache to fit.

    Args:
        start: First node.
        nodes: How many nodes there are.
        numbers: How many numbers the largest tensor has for each node.
        cached: How many numbers a tensor of a block may have.
        device: Where the tensors are.
    """
    count = max(1, ceil(nodes * numbers / cached)) if device.type == "cpu" else 1
    step = max(1, ceil(nodes / count))
    return [slice(i, min(i + step, start + nodes)) for i in range(start, start + nodes, step)]
