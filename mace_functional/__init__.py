"""Second derivatives of MACE interatomic potentials by composable function transforms.

A model and a structure give a pure function `E(positions, cell, params)`; everything else is a
transform of it.

    model = mf.load_model("embedded")
    s = mf.from_ase(atoms, model)
    E = mf.energy_fn(model, s.graph)
    H = mf.hessian(E)(s.positions, s.cell, model.params)
"""

from mace_functional.autodiff.compilation import compiled
from mace_functional.autodiff.forked import compute_with_one_thread_when_forked
from mace_functional.certificate.checking import check_potential
from mace_functional.certificate.table import Certificate
from mace_functional.derivatives import forces, hessian, hvp, strained, stress
from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.dispersion.d3 import dispersion_fn
from mace_functional.dispersion.d3_potential import D3
from mace_functional.dispersion.pairs import D3Settings
from mace_functional.interop.ase import MaceCalculator, PotentialCalculator
from mace_functional.mace.loading import load_model
from mace_functional.mace.model import MaceModel
from mace_functional.mace.model_file import save_model
from mace_functional.optimize.follow_mode import follow_mode
from mace_functional.optimize.lowest_modes import check_stability, lowest_modes
from mace_functional.optimize.relax import RelaxResult, relax
from mace_functional.optimize.saddle import SaddleResult, find_saddle
from mace_functional.phonons import (
    Mesh,
    Phonons,
    band_structure,
    density_of_states,
    dynamical_matrix_fn,
    force_constants,
    frequencies_on,
    group_velocities,
    mesh_thermo,
    phonons_of,
)
from mace_functional.potential import (
    FunctionPotential,
    Neighbourhood,
    Potential,
    SumPotential,
    energy_fn,
    from_ase,
)
from mace_functional.screening.run import Screening, screen
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.structure.batching import batch
from mace_functional.structure.examples import example_structure
from mace_functional.structure.graph import Graph
from mace_functional.structure.reading import (
    StructureError,
    StructureRecord,
    StructureWarning,
    read_structure,
    structure_record,
)
from mace_functional.structure.structure import Structure
from mace_functional.vibrations.gamma import gamma_modes
from mace_functional.vibrations.harmonic_modes import (
    NormalModes,
    frequencies,
    normal_modes,
    vibrational_frequencies,
)
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

compute_with_one_thread_when_forked()

__version__ = "0.1.0"

__all__ = [
    "D3",
    "Certificate",
    "D3Settings",
    "FunctionPotential",
    "Graph",
    "HarmonicThermo",
    "HessianOperator",
    "MaceCalculator",
    "MaceModel",
    "Mesh",
    "Neighbourhood",
    "NormalModes",
    "Phonons",
    "Potential",
    "PotentialCalculator",
    "RelaxResult",
    "SaddleResult",
    "ScreenSettings",
    "Screening",
    "Structure",
    "StructureError",
    "StructureRecord",
    "StructureWarning",
    "SumPotential",
    "band_structure",
    "batch",
    "check_potential",
    "check_stability",
    "compiled",
    "density_of_states",
    "dispersion_fn",
    "dynamical_matrix_fn",
    "energy_fn",
    "example_structure",
    "find_saddle",
    "follow_mode",
    "force_constants",
    "forces",
    "frequencies",
    "frequencies_on",
    "from_ase",
    "gamma_modes",
    "group_velocities",
    "harmonic_thermo",
    "hessian",
    "hvp",
    "load_model",
    "lowest_modes",
    "mesh_thermo",
    "normal_modes",
    "phonons_of",
    "read_structure",
    "relax",
    "save_model",
    "screen",
    "strained",
    "stress",
    "structure_record",
    "vibrational_frequencies",
]
