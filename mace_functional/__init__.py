"""Second derivatives of MACE interatomic potentials by composable function transforms.

A model and a structure give a pure function `E(positions, cell, params)`; everything else is a
transform of it.

    model = mf.load_model("small")
    s = mf.from_ase(atoms, model)
    E = mf.energy_fn(model, s.graph)
    H = mf.hessian(E)(s.positions, s.cell, model.params)
"""

# Loaded first: mace-torch has to be imported before e3nn.
from mace_functional.model import Model, load_model  # isort: skip
from mace_functional.batching import batch
from mace_functional.compilation import compiled
from mace_functional.derivatives import forces, hessian, hvp, strained, stress
from mace_functional.energy import energy_fn
from mace_functional.gamma import gamma_modes
from mace_functional.graph import Graph, Structure, from_ase
from mace_functional.hessian_operator import HessianOperator
from mace_functional.interop.ase import MaceCalculator
from mace_functional.thermo import HarmonicThermo, harmonic_thermo
from mace_functional.vibrations import NormalModes, frequencies, normal_modes

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "HarmonicThermo",
    "HessianOperator",
    "MaceCalculator",
    "Model",
    "NormalModes",
    "Structure",
    "batch",
    "compiled",
    "energy_fn",
    "forces",
    "frequencies",
    "from_ase",
    "gamma_modes",
    "harmonic_thermo",
    "hessian",
    "hvp",
    "load_model",
    "normal_modes",
    "strained",
    "stress",
]
