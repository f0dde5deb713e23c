"""Energy functions of small random models at two structures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from ase import Atoms
from ase.build import molecule
from mace.modules import NonLinearBiasReadoutBlock
from models import build
from torch import Tensor

import mace_functional as mf

Function = Callable[..., Tensor]

MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "density-agnesi-zbl": {
        "interaction_cls": "RealAgnosticDensityResidual",
        "interaction_cls_first": "RealAgnosticDensity",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "attention-tanh": {"interaction_cls": "RealAgnosticAttResidual", "gate": torch.tanh},
    "nonlinear-two-heads": {
        "interaction_cls": "RealAgnosticResidualNonLinear",
        "interaction_cls_first": "RealAgnosticResidualNonLinear",
        "readout_cls": NonLinearBiasReadoutBlock,
        "apply_cutoff": False,
        "heads": ["a", "b"],
        "edge_irreps": "4x0e + 4x1o",
    },
    "gaussian-soft": {
        "radial_type": "gaussian",
        "distance_transform": "Soft",
        "scale_shift": False,
    },
    "chebyshev": {
        "radial_type": "chebyshev",
        "distance_transform": "Agnesi",
        "interaction_cls": "RealAgnostic",
        "interaction_cls_first": "RealAgnostic",
    },
    "correlation-3": {"correlation": 3, "hidden_irreps": "3x0e + 3x1o + 3x2e"},
    "embeddings": {
        "embedding_specs": {
            "total_charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 3},
            "total_spin": {"type": "categorical", "per": "graph", "num_classes": 4, "emb_dim": 3},
        },
        "use_embedding_readout": True,
    },
}
"""Together they run every operation of the engine."""


class Case(NamedTuple):
    """An energy function and its arguments."""

    energy: Function
    positions: Tensor
    cell: Tensor
    params: dict[str, Tensor]

    @property
    def arguments(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return self.positions, self.cell, self.params


@functools.cache
def mace_torch_module(name: str) -> torch.nn.Module:
    module = build(seed=1, avg_num_neighbors=3.0, **MODELS[name])
    generator = torch.Generator().manual_seed(2)
    for key, tensor in module.state_dict().items():
        if key.endswith(("bias", "beta")):  # mace-torch starts them from zero
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator).to(tensor))
    return module


@functools.cache
def load(name: str, dtype: torch.dtype = torch.float64) -> mf.MaceModel:
    head = "b" if "heads" in MODELS[name] else None
    return mf.load_model(mace_torch_module(name), dtype=dtype, head=head)


def crystal() -> Atoms:
    """Rattled SiC under pressure, so that the short-range repulsion acts."""
    atoms = Atoms(
        "SiC",
        positions=[[0, 0, 0], [1.0, 1.1, 0.9]],
        cell=[[0, 2.3, 2.1], [2.2, 0.1, 2.3], [2.1, 2.2, 0]],
        pbc=True,
        info={"charge": 1.0, "spin": 2.0},
    )
    atoms.rattle(0.05, seed=1)
    return atoms


def compressed_methanol() -> Atoms:
    atoms = molecule("CH3OH")
    atoms.info |= {"charge": -1.0, "spin": 3.0}
    atoms.positions *= 0.93
    atoms.rattle(0.05, seed=2)
    return atoms


STRUCTURES = {"crystal": crystal, "molecule": compressed_methanol}


def make_case(name: str, atoms: Atoms, dtype: torch.dtype = torch.float64, **options: Any) -> Case:
    model = load(name, dtype)
    s = mf.from_ase(atoms, model, **options)
    return Case(mf.energy_fn(model, s.graph), s.positions, s.cell, model.params)


@functools.cache
def case(name: str = "default", structure: str = "crystal") -> Case:
    return make_case(name, STRUCTURES[structure]())


def random_like(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)


def central_difference(function: Callable[[float], Tensor], step: float = 1e-3) -> Tensor:
    """Derivative at zero, with an error of fourth order in the step."""
    near, far = (function(k * step) - function(-k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)
