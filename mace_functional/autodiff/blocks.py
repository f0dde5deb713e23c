"""Slices of nodes, small enough that the tensors of one slice fit the cache."""

from __future__ import annotations

from math import ceil

import torch


def node_slices(
    start: int, nodes: int, floats_per_node: int, max_floats: int, device: torch.device
) -> list[slice]:
    """Return slices of nearly equal size that cover the nodes; one slice on a GPU.

    Args:
        start: First node.
        nodes: Number of nodes.
        floats_per_node: Numbers per node in the largest tensor.
        max_floats: Largest allowed number of numbers in a tensor of one slice.
        device: Device of the tensors.
    """
    count = max(1, ceil(nodes * floats_per_node / max_floats)) if device.type == "cpu" else 1
    step = max(1, ceil(nodes / count))
    return [slice(i, min(i + step, start + nodes)) for i in range(start, start + nodes, step)]
