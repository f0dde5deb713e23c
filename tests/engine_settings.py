"""Every setting of a MACE model that the engine supports."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from mace.modules import NonLinearBiasReadoutBlock

L2 = "6x0e + 6x1o + 6x2e"


def blocks(first: str, later: str | None = None) -> dict[str, str]:
    """Interaction blocks of the first and of the later layers."""
    return {"interaction_cls_first": first, "interaction_cls": later or first}


def embedding(**specs: dict[str, object]) -> dict[str, object]:
    return {"embedding_specs": {name: {"emb_dim": 3, **spec} for name, spec in specs.items()}}


CHARGE = {"type": "categorical", "per": "graph", "num_classes": 21, "offset": 10}


SPIN = {"type": "categorical", "per": "graph", "num_classes": 8}


CONTINUOUS = {"type": "continuous", "per": "graph", "in_dim": 1}


PARTIAL_CHARGES = {"type": "continuous", "per": "node", "in_dim": 1, "use_bias": False}


OXIDATION_STATES = {"type": "categorical", "per": "node", "num_classes": 9, "offset": 4}


MODELS = {
    # Interaction blocks, first and later.
    "residual": {},
    "unscaled": {"scale_shift": False},
    "agnostic": blocks("RealAgnostic"),
    "agnostic then residual": blocks("RealAgnostic", "RealAgnosticResidual"),
    "density": blocks("RealAgnosticDensity"),
    "density then density residual": blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    "density residual": blocks("RealAgnosticDensityResidual"),
    "attention": blocks("RealAgnosticAttResidual"),
    "density then attention": blocks("RealAgnosticDensity", "RealAgnosticAttResidual"),
    "non-linear": blocks("RealAgnosticResidualNonLinear"),
    "agnostic then non-linear": blocks("RealAgnostic", "RealAgnosticResidualNonLinear"),
    "non-linear, L=0": blocks("RealAgnosticResidualNonLinear") | {"hidden_irreps": "6x0e"},
    # Envelope on the radial weights and not on the basis.
    "late cutoff, residual": {"apply_cutoff": False},
    "late cutoff, agnostic": {"apply_cutoff": False, **blocks("RealAgnostic")},
    "late cutoff, density": {
        "apply_cutoff": False,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "late cutoff, attention": {"apply_cutoff": False, **blocks("RealAgnosticAttResidual")},
    "late cutoff, non-linear": {"apply_cutoff": False, **blocks("RealAgnosticResidualNonLinear")},
    # Radial functions.
    "sixth-power cutoff": {"num_polynomial_cutoff": 6},
    "Gaussian basis": {"radial_type": "gaussian"},
    "Agnesi": {"distance_transform": "Agnesi"},
    "Soft": {"distance_transform": "Soft"},
    "Gaussian basis, Soft, late cutoff": {
        "radial_type": "gaussian",
        "distance_transform": "Soft",
        "apply_cutoff": False,
    },
    "Agnesi, density, late cutoff": {
        "distance_transform": "Agnesi",
        "apply_cutoff": False,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "linear radial network": {"radial_MLP": []},
    "deep radial network": {"radial_MLP": [4, 6, 5, 3]},
    # Screened nuclear repulsion.
    "ZBL": {"pair_repulsion": True},
    "ZBL, unscaled": {"pair_repulsion": True, "scale_shift": False},
    "ZBL, Agnesi, sixth-power cutoff": {
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "num_polynomial_cutoff": 6,
    },
    "ZBL, two heads": {"pair_repulsion": True, "heads": ["PBE", "r2SCAN"]},
    # Heads, with their own atomic energies, scale and shift.
    "two heads, linear readout": {"heads": ["PBE", "r2SCAN"], "num_interactions": 1},
    "two heads, non-linear readout": {"heads": ["PBE", "r2SCAN"]},
    "two heads, readout with biases": {
        "heads": ["PBE", "r2SCAN"],
        "readout_cls": NonLinearBiasReadoutBlock,
    },
    "three heads, unscaled": {"heads": ["a", "b", "c"], "scale_shift": False},
    "two heads, density, all irreps kept": {
        "heads": ["PBE", "r2SCAN"],
        "keep_last_layer_irreps": True,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    # Layers, body order and irreps.
    "one layer": {"num_interactions": 1},
    "one agnostic layer": {"num_interactions": 1, **blocks("RealAgnostic"), "correlation": 3},
    "three layers": {"num_interactions": 3},
    "three layers, density, L=2": {
        "num_interactions": 3,
        "hidden_irreps": L2,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "two-body products": {"correlation": 1},
    "four-body products": {"correlation": 3},
    "body order by layer": {"correlation": [3, 1]},
    "body order by layer, three layers": {"correlation": [1, 3, 2], "num_interactions": 3},
    "harmonics to l=1": {"max_ell": 1},
    "harmonics to l=3, L=0": {"max_ell": 3, "correlation": 3, "hidden_irreps": "6x0e"},
    "harmonics to l=3, L=1": {"max_ell": 3, "correlation": 3},
    "harmonics to l=3, L=2": {"max_ell": 3, "hidden_irreps": L2},
    "harmonics to l=4, L=2": {"max_ell": 4, "hidden_irreps": L2},
    "L=0": {"hidden_irreps": "6x0e"},
    "L=1 without vectors of odd parity": {"hidden_irreps": "6x0e + 6x1e"},
    "pseudoscalars and pseudovectors": {"hidden_irreps": "6x0e + 6x0o + 6x1o + 6x1e"},
    "SO(3)": {"use_so3": True, "hidden_irreps": "6x0e + 6x1e"},
    "SO(3), L=2, four-body products": {
        "use_so3": True,
        "hidden_irreps": "6x0e + 6x1e + 6x2e",
        "correlation": 3,
    },
    "reduced Clebsch-Gordan basis": {
        "use_reduced_cg": True,
        "correlation": 3,
        "max_ell": 3,
        "hidden_irreps": L2,
    },
    "narrow edges": {"edge_irreps": "4x0e + 4x1o"},
    "narrow edges from the first layer": {
        "edge_irreps": "4x0e + 4x1o",
        "use_edge_irreps_first": True,
    },
    "narrow edges, attention": {
        "edge_irreps": "4x0e + 4x1o",
        "use_edge_irreps_first": True,
        **blocks("RealAgnosticAttResidual"),
    },
    "narrow edges, non-linear, late cutoff": {
        "edge_irreps": "4x0e + 4x1o",
        "use_edge_irreps_first": True,
        "apply_cutoff": False,
        **blocks("RealAgnosticResidualNonLinear"),
    },
    # Products and readouts.
    "element-agnostic product": {"use_agnostic_product": True},
    "element-agnostic product, agnostic block": {
        "use_agnostic_product": True,
        **blocks("RealAgnostic", "RealAgnosticResidual"),
    },
    "last readout only": {"use_last_readout_only": True},
    "last readout only, three layers, unscaled": {
        "use_last_readout_only": True,
        "num_interactions": 3,
        "scale_shift": False,
    },
    "all irreps kept in the last layer": {"keep_last_layer_irreps": True, "hidden_irreps": L2},
    "readout with biases": {"readout_cls": NonLinearBiasReadoutBlock},
    "readout with biases, all irreps kept": {
        "readout_cls": NonLinearBiasReadoutBlock,
        "keep_last_layer_irreps": True,
    },
    "tanh in the readout": {"gate": torch.tanh},
    "abs in the readout": {"gate": torch.abs},
    "no activation in the readout": {"gate": None},
    # Extra features.
    "total charge and spin": embedding(total_charge=CHARGE, total_spin=SPIN),
    "total charge as a real number": embedding(total_charge=CONTINUOUS),
    "atomic charges": embedding(charges=PARTIAL_CHARGES),
    "oxidation states, total spin": embedding(charges=OXIDATION_STATES, total_spin=SPIN),
    "readout of the embedding": {
        "use_embedding_readout": True,
        **embedding(total_charge=CHARGE, total_spin=SPIN),
    },
    "readout of the embedding, two heads": {
        "use_embedding_readout": True,
        "heads": ["PBE", "r2SCAN"],
        **embedding(total_charge=CHARGE, charges=PARTIAL_CHARGES),
    },
    "readout of the embedding, unscaled": {
        "use_embedding_readout": True,
        "scale_shift": False,
        **embedding(total_charge=CONTINUOUS, total_spin=SPIN),
    },
    # As foundation models combine them.
    "as MACE-MPA-0": {
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "correlation": 3,
        "max_ell": 3,
        **blocks("RealAgnosticDensity", "RealAgnosticDensityResidual"),
    },
    "as MACE-MH-1": {
        "heads": ["omat", "omol"],
        "apply_cutoff": False,
        "distance_transform": "Agnesi",
        "correlation": 3,
        "max_ell": 3,
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "readout_cls": NonLinearBiasReadoutBlock,
        "edge_irreps": "4x0e + 4x1o + 4x2e",
        "hidden_irreps": L2,
        **blocks("RealAgnosticResidualNonLinear"),
    },
    "as MACE-OMOL": {
        "heads": ["omol"],
        "apply_cutoff": False,
        "edge_irreps": "4x0e + 4x1o",
        "use_embedding_readout": True,
        "use_last_readout_only": True,
        "readout_cls": NonLinearBiasReadoutBlock,
        **embedding(total_charge=CHARGE, total_spin=SPIN),
        **blocks("RealAgnosticResidualNonLinear"),
    },
}


EVERY_VALUE = (
    "residual",
    "agnostic then residual",
    "density then attention",
    "non-linear, L=0",
    "late cutoff, density",
    "Gaussian basis, Soft, late cutoff",
    "linear radial network",
    "ZBL, Agnesi, sixth-power cutoff",
    "two heads, readout with biases",
    "three heads, unscaled",
    "body order by layer, three layers",
    "SO(3)",
    "reduced Clebsch-Gordan basis",
    "last readout only, three layers, unscaled",
    "all irreps kept in the last layer",
    "tanh in the readout",
    "abs in the readout",
    "no activation in the readout",
    "readout of the embedding, two heads",
    "as MACE-MH-1",
    "as MACE-OMOL",
)
"""Together they take every value that a setting has."""


def with_features(atoms: Atoms) -> Atoms:
    """The atoms with values for all features that the models above embed."""
    atoms.info.update(charge=-2, spin=3)
    charges = [(-1.0) ** k * (k % 4) for k in range(len(atoms))]
    atoms.set_array("charges", np.array(charges))
    return atoms
