"""The model of ours as a module of mace-torch."""

from __future__ import annotations

import numpy as np
import torch
from mace import modules
from e3nn import o3
from models import float64_default

import mace_functional as mf


def in_mace_torch(model: mf.MaceModel) -> torch.nn.Module:
    """mace-torch's own module of the same settings, with the tensors loaded by name."""
    s = model.settings
    kinds = [modules.interaction_classes[f"{i.kind}InteractionBlock"] for i in s.interactions]
    with float64_default():
        module = modules.ScaleShiftMACE(
            r_max=s.cutoff,
            num_bessel=s.radial.size,
            num_polynomial_cutoff=s.radial.cutoff_power,
            max_ell=o3.Irreps(s.harmonics_irreps).lmax,
            interaction_cls=kinds[-1],
            interaction_cls_first=kinds[0],
            num_interactions=len(s.interactions),
            num_elements=len(s.atomic_numbers),
            hidden_irreps=o3.Irreps(s.products[0].irreps_out),
            MLP_irreps=o3.Irreps(s.readouts[-1].hidden_irreps),
            atomic_energies=np.zeros(model.params["atomic_energies_fn.atomic_energies"].shape),
            avg_num_neighbors=s.interactions[0].avg_num_neighbors,
            atomic_numbers=list(s.atomic_numbers),
            correlation=[p.correlations[0] for p in s.products],
            gate=torch.nn.functional.silu,
            radial_MLP=list(s.interactions[0].radial_widths[1:-1]),
            atomic_inter_scale=0.0,
            atomic_inter_shift=0.0,
        )
    missing, unknown = module.load_state_dict(model.params, strict=False)
    assert unknown == []
    assert not any(module.state_dict()[name].is_floating_point() for name in missing)
    return module
