"""Small mace-torch models with random weights, one for every setting that changes the energy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import mace_functional  # noqa: F401  # isort: skip  (before e3nn)
import numpy as np
import torch
from e3nn import o3
from mace import modules

ELEMENTS = (1, 6, 8, 14)


@contextmanager
def float64_default() -> Any:
    """mace-torch builds its tensors in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(seed: int = 0, scale_shift: bool = True, **changes: Any) -> torch.nn.Module:
    """A mace-torch model with random weights, in float64.

    Args:
        seed: Of the weights.
        scale_shift: ScaleShiftMACE or plain MACE.
        changes: Settings that differ from a small two-layer model; interaction classes by the name
            of their kind, such as "RealAgnosticDensity".
    """
    kinds = modules.interaction_classes
    heads = changes.get("heads") or ["Default"]
    settings: dict[str, Any] = {
        "r_max": 4.0,
        "num_bessel": 5,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticResidual",
        "interaction_cls_first": "RealAgnosticResidual",
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": "6x0e + 6x1o",
        "MLP_irreps": "4x0e",
        "atomic_energies": np.linspace(-3.0, -1.0, len(heads) * len(ELEMENTS)).reshape(
            len(heads), -1
        ),
        "avg_num_neighbors": 7.3,
        "atomic_numbers": list(ELEMENTS),
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [8, 8],
        "use_reduced_cg": False,
    }
    if scale_shift:
        settings |= {
            "atomic_inter_scale": [0.8 + 0.3 * k for k in range(len(heads))],
            "atomic_inter_shift": [0.1 - 0.2 * k for k in range(len(heads))],
        }
        if len(heads) == 1:
            settings |= {"atomic_inter_scale": 0.8, "atomic_inter_shift": 0.1}
    settings |= changes
    for key in ("interaction_cls", "interaction_cls_first"):
        settings[key] = kinds[f"{settings[key]}InteractionBlock"]
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if isinstance(settings.get(key), str):
            settings[key] = o3.Irreps(settings[key])
    with float64_default():
        torch.manual_seed(seed)
        cls = modules.ScaleShiftMACE if scale_shift else modules.MACE
        return cls(**settings).double()
