"""Small mace-torch models with random weights, and rattled structures of their elements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest import mock

import e3nn
import numpy as np
import torch
from mace import modules
from ase import Atoms
from e3nn import o3
from e3nn.math import _normalize_activation
from mace.modules import symmetric_contraction
from mace.tools.compile import disable_e3nn_codegen

ELEMENTS = (1, 6, 8, 14)

TOTAL_CHARGE = {
    "total_charge": {
        "type": "categorical",
        "per": "graph",
        "num_classes": 5,
        "offset": 2,
        "emb_dim": 4,
    }
}
"""Embedding of charges from -2 to 2, for `build(embedding_specs=...)`."""


@contextmanager
def float64_default() -> Any:
    """mace-torch builds its tensors in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def unoptimised() -> Any:
    """Modules of e3nn without TorchScript, and with the contractions as they are written."""
    before = e3nn.get_optimization_defaults()
    with disable_e3nn_codegen():
        e3nn.set_optimization_defaults(optimize_einsums=False)
        try:
            yield
        finally:
            e3nn.set_optimization_defaults(**before)


norm_of_activation = cache(_normalize_activation.moment)
coupling = cache(symmetric_contraction.U_matrix_real)


@contextmanager
def remembered() -> Iterator[None]:
    """What e3nn and mace-torch compute anew for every module: the same numbers each time."""
    with (
        mock.patch.object(_normalize_activation, "moment", norm_of_activation),
        mock.patch.object(
            symmetric_contraction,
            "U_matrix_real",
            lambda **settings: [coupling(**settings)[-1].clone()],
        ),
    ):
        yield


def build(
    seed: int = 0, scale_shift: bool = True, scripted: bool = False, **changes: Any
) -> torch.nn.Module:
    """A mace-torch model with random weights, in float64.

    Args:
        seed: Of the weights.
        scale_shift: ScaleShiftMACE or plain MACE.
        scripted: With e3nn's TorchScript, as in most checkpoints; without it, models are made and
            run in half the time and give the same numbers.
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
    with float64_default(), remembered(), nullcontext() if scripted else unoptimised():
        torch.manual_seed(seed)
        cls = modules.ScaleShiftMACE if scale_shift else modules.MACE
        model = cls(**settings).double()
    _leave_neutral_values(model)
    return model


def _leave_neutral_values(model: torch.nn.Module) -> None:
    """Move the parameters that mace-torch starts at zero, at one or next to zero."""
    for name, weight in model.named_parameters():
        *_, block, leaf = name.split(".")
        with torch.no_grad():
            if leaf == "alpha":
                weight.fill_(3.0)
            elif leaf == "beta":
                weight.fill_(0.7)
            elif block in ("source_embedding", "target_embedding"):
                weight.normal_()
            elif weight.requires_grad and (leaf == "bias" or weight.std() == 0):
                weight.add_(0.3 * torch.randn_like(weight))


def molecule() -> Atoms:
    """A squeezed and rattled molecule of all four elements, some bonds within the ZBL repulsion."""
    atoms = Atoms(
        "SiOCH5",
        [
            [0.0, 0.0, 0.0],
            [1.5, 0.1, 0.0],
            [2.1, 1.3, 0.2],
            [-0.5, 1.2, 0.3],
            [-0.6, -0.7, 1.1],
            [-0.4, -0.6, -1.2],
            [3.1, 1.2, 0.4],
            [1.8, 1.8, -0.7],
        ],
    )
    atoms.positions *= 0.9
    atoms.rattle(0.08, seed=3)
    return atoms


def crystal() -> Atoms:
    """A rattled triclinic crystal, so small that atoms see many images of themselves."""
    atoms = Atoms(
        "SiOCH",
        scaled_positions=[
            [0.0, 0.0, 0.0],
            [0.48, 0.45, 0.03],
            [0.1, 0.52, 0.47],
            [0.55, 0.08, 0.5],
        ],
        cell=[[3.1, 0.2, -0.1], [0.7, 2.9, 0.3], [-0.4, 0.5, 3.3]],
        pbc=True,
    )
    atoms.rattle(0.08, seed=4)
    return atoms
