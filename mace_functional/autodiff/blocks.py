"""Blocks of nodes that are treated at once, so that what is made for them fits the cache."""

from __future__ import annotations

from math import ceil

import torch


def node_slices(
    start: int, nodes: int, floats_per_node: int, max_floats: int, device: torch.device
) -> list[slice]:
    """Slices of nearly equal size that cover the nodes; a single one on devices but the CPU.

    Args:
        start: First node.
        nodes: How many nodes there are.
        floats_per_node: How many numbers the largest tensor has for each node.
        max_floats: How many numbers a tensor of a block may have.
        device: Where the tensors are.
    """
    count = max(1, ceil(nodes * floats_per_node / max_floats)) if device.type == "cpu" else 1
    step = max(1, ceil(nodes / count))
    return [slice(i, min(i + step, start + nodes)) for i in range(start, start + nodes, step)]
