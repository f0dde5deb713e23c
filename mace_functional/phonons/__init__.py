"""Phonons: lattice vibrations at any wave vector.

phonons              phonons of a structure: dynamical matrix and diagnostics
dynamical_matrix     dynamical matrix D(q) as a pure function, from the primitive cell
edge_matrix          D(q) of a potential with edges, and its gradients in bounded memory
replica_hessian      products with the Hessian at a wave vector, on replicas of the cell
cell_matrix          D(q) of one structure, as a function of q that can be pickled
force_constants      force constants in real space, exact to their full range
force_constant_rows  force constants of displaced atoms, from neighbourhoods and supercells
wave_vector          conversion and checks of wave vectors

modes                frequencies and eigenvectors at a wave vector
solved_modes         modes at many wave vectors, also by many workers
bands                band structures along paths
mesh                 meshes reduced by symmetry, and the modes on them
mesh_sums            thermodynamics on a mesh, and its convergence
mesh_functions       sums over the modes on a mesh, as pure functions
dos                  densities of states
velocities           group velocities
displacements        mean square displacements, participation ratios
acoustic             heat capacity of the acoustic branches, which Gamma alone leaves out
animation            modes as moving pictures
"""

from mace_functional.phonons.acoustic import AcousticBranches, acoustic_branches
from mace_functional.phonons.animation import animate
from mace_functional.phonons.bands import BandStructure, band_structure
from mace_functional.phonons.displacements import mean_square_displacements, participation_ratios
from mace_functional.phonons.dos import DensityOfStates, density_of_states
from mace_functional.phonons.dynamical_matrix import dynamical_matrix_fn
from mace_functional.phonons.force_constants import ForceConstants, force_constants
from mace_functional.phonons.mesh import Mesh, MeshModes, mesh_modes, mesh_size
from mace_functional.phonons.mesh_functions import mesh_sum_fn, mesh_thermo_fn
from mace_functional.phonons.mesh_sums import (
    ConvergedThermo,
    MeshThermo,
    converged_mesh_thermo,
    mesh_convergence,
    mesh_thermo,
)
from mace_functional.phonons.modes import modes_at_q
from mace_functional.phonons.phonons import Diagnostics, Phonons, phonons_of
from mace_functional.phonons.velocities import group_velocities
from mace_functional.support.renamed import with_old_names
from mace_functional.vibrations.imaginary import ImaginaryMode

__all__ = [
    "AcousticBranches",
    "BandStructure",
    "ConvergedThermo",
    "DensityOfStates",
    "Diagnostics",
    "ForceConstants",
    "ImaginaryMode",
    "Mesh",
    "MeshModes",
    "MeshThermo",
    "Phonons",
    "acoustic_branches",
    "animate",
    "band_structure",
    "converged_mesh_thermo",
    "density_of_states",
    "dynamical_matrix_fn",
    "force_constants",
    "group_velocities",
    "mean_square_displacements",
    "mesh_convergence",
    "mesh_modes",
    "mesh_size",
    "mesh_sum_fn",
    "mesh_thermo",
    "mesh_thermo_fn",
    "modes_at_q",
    "participation_ratios",
    "phonons_of",
]


def _present(name: str) -> object:
    try:
        return globals()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


__getattr__ = with_old_names(__name__, _present)
