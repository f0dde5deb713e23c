"""The public names, and where they are defined: each is imported when it is first used."""

from . import (
    anharmonic,
    certificate,
    derivatives,
    dispersion,
    elasticity,
    expansion,
    figures,
    interop,
    optimize,
    parallel,
    phonons,
    potential,
    screening,
    sparse,
    stochastic,
    structure,
    training,
    uncertainty,
    units,
    vibrations,
)
from .anharmonic import (
    ThermalConductivity,
    ThirdOrderForceConstants,
    thermal_conductivity,
    third_order_force_constants,
)
from .autodiff.compilation import compile_checked
from .certificate.certificate import Certificate
from .certificate.checking import check_potential
from .derivatives import forces, hessian, hvp, strained, stress, third
from .derivatives.hessian_operator import HessianOperator
from .dispersion.d3 import dispersion_fn
from .dispersion.d3_potential import D3
from .dispersion.pairs import D3Settings
from .elasticity.constants import ElasticConstants, elastic_constants
from .elasticity.tensor import elastic_tensor
from .expansion import gruneisen, quasi_harmonic, thermal_expansion
from .interop.ase import MaceCalculator, PotentialCalculator
from .mace.loading import load_model
from .mace.mace_torch.export import save_mace_torch
from .mace.model import MaceModel
from .mace.model_file import save_model
from .optimize.follow_mode import follow_mode
from .optimize.lowest_modes import lowest_modes
from .optimize.outcome import Outcome
from .optimize.relax import RelaxResult, relax
from .optimize.saddle import SaddleResult, find_saddle
from .optimize.stability import check_stability
from .parallel.processes import WorkerProcesses
from .phonons import (
    Mesh,
    Phonons,
    band_structure,
    density_of_states,
    dynamical_matrix_fn,
    force_constants,
    group_velocities,
    mesh_modes,
    mesh_sum_fn,
    mesh_thermo,
    mesh_thermo_fn,
    phonons_of,
)
from .potential import (
    FunctionPotential,
    Neighbourhood,
    Potential,
    SumPotential,
    energy_fn,
    from_ase,
)
from .screening.run import Screening, screen
from .screening.screen_settings import ScreenSettings
from .sparse.sparse_hessian import sparse_hessian
from .sparse.stored_hessian import SparseHessian
from .stochastic.spectral_density import StochasticDensityOfStates, stochastic_dos
from .stochastic.thermo import StochasticThermo, stochastic_thermo
from .structure.batching import batch
from .structure.examples import example_structure
from .structure.graph import Graph
from .structure.reading import (
    StructureError,
    StructureRecord,
    StructureWarning,
    read_structure,
    structure_record,
)
from .structure.structure import Structure
from .structure.symmetry_number import symmetry_number
from .training import finetune, labelled_by, read_labelled
from .vibrations.gamma import gamma_modes
from .vibrations.harmonic_modes import (
    NormalModes,
    frequencies,
    normal_modes,
    vibrational_frequencies,
)
from .vibrations.ideal_gas import IdealGasThermo, ideal_gas_thermo
from .vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

__version__: str

__all__ = [
    "D3",
    "Certificate",
    "D3Settings",
    "ElasticConstants",
    "FunctionPotential",
    "Graph",
    "HarmonicThermo",
    "HessianOperator",
    "IdealGasThermo",
    "MaceCalculator",
    "MaceModel",
    "Mesh",
    "Neighbourhood",
    "NormalModes",
    "Outcome",
    "Phonons",
    "Potential",
    "PotentialCalculator",
    "RelaxResult",
    "SaddleResult",
    "ScreenSettings",
    "Screening",
    "SparseHessian",
    "StochasticDensityOfStates",
    "StochasticThermo",
    "Structure",
    "StructureError",
    "StructureRecord",
    "StructureWarning",
    "SumPotential",
    "ThermalConductivity",
    "ThirdOrderForceConstants",
    "WorkerProcesses",
    "anharmonic",
    "band_structure",
    "batch",
    "certificate",
    "check_potential",
    "check_stability",
    "compile_checked",
    "density_of_states",
    "derivatives",
    "dispersion",
    "dispersion_fn",
    "dynamical_matrix_fn",
    "elastic_constants",
    "elastic_tensor",
    "elasticity",
    "energy_fn",
    "example_structure",
    "expansion",
    "figures",
    "find_saddle",
    "finetune",
    "follow_mode",
    "force_constants",
    "forces",
    "frequencies",
    "from_ase",
    "gamma_modes",
    "group_velocities",
    "gruneisen",
    "harmonic_thermo",
    "hessian",
    "hvp",
    "ideal_gas_thermo",
    "interop",
    "labelled_by",
    "load_model",
    "lowest_modes",
    "mesh_modes",
    "mesh_sum_fn",
    "mesh_thermo",
    "mesh_thermo_fn",
    "normal_modes",
    "optimize",
    "parallel",
    "phonons",
    "phonons_of",
    "potential",
    "quasi_harmonic",
    "read_labelled",
    "read_structure",
    "relax",
    "save_mace_torch",
    "save_model",
    "screen",
    "screening",
    "sparse",
    "sparse_hessian",
    "stochastic",
    "stochastic_dos",
    "stochastic_thermo",
    "strained",
    "stress",
    "structure",
    "structure_record",
    "symmetry_number",
    "thermal_conductivity",
    "thermal_expansion",
    "third",
    "third_order_force_constants",
    "training",
    "uncertainty",
    "units",
    "vibrational_frequencies",
    "vibrations",
]
