"""Extra features that a model embeds, such as total charge and spin, read from ASE Atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.mace.settings import FeatureSettings

FEATURES = {"total_charge": ("charge", 0.0), "total_spin": ("spin", 1.0)}
"""Key in `atoms.info` of a feature, and its default value, by the name of the feature."""


def features_of(atoms: Atoms, specs: Sequence[FeatureSettings], like: Tensor) -> dict[str, Tensor]:
    """Read the extra features that a model embeds, such as total charge and spin.

    Args:
        atoms: ASE Atoms with features of the structure in `atoms.info`, and features of the atoms
            in `atoms.arrays`.
        specs: The features that the model embeds.
        like: A tensor whose dtype and device the features get.

    Returns:
        Features by name: a number for a feature of the structure, (N,) for a feature of the atoms.

    Raises:
        ValueError: If a feature is missing or out of range.
    """
    features = {}
    for s in specs:
        key, default = FEATURES.get(s.name, (s.name, None))
        source = atoms.info if s.per == "graph" else atoms.arrays
        value = source.get(key, source.get(s.name, default))
        if value is None:
            where = "info" if s.per == "graph" else "arrays"
            raise ValueError(
                f"the model needs the feature {s.name!r}: set atoms.{where}[{s.name!r}]"
            )
        tensor = torch.as_tensor(np.array(value), dtype=like.dtype, device=like.device)
        if s.per == "graph":
            if tensor.numel() != 1:
                raise ValueError(f"{s.name} must be one number, not {value}")
            tensor = tensor.reshape(())
        if s.type == "categorical":
            low, high = -s.offset, s.num_classes - 1 - s.offset
            if not bool(((tensor >= low) & (tensor <= high)).all()):
                raise ValueError(f"{s.name} must lie between {low} and {high}, not {value}")
        features[s.name] = tensor
    return features
