"""Figures for papers, with one function for each kind of result.

axes            colours, sizes and labels of axes
spectrum        vibrational spectra
thermo_panels   spectrum and heat capacity
band_panels     band structures and densities of states
search_panels   relaxations and searches for saddle points
expansion_panels  thermal expansion, lattice parameters, Cp beside Cv
gruneisen_panels  Grüneisen parameters
conductivity_panels  thermal conductivity, its accumulation, linewidths
elastic_panels  Young's modulus over directions
check_panels    convergence of meshes, and certificates
training_panels  loss and errors of a training

Each function returns a `matplotlib.figure.Figure`, which a notebook shows and `savefig` writes.
"""

from mace_functional.figures.band_panels import band_figure, dos_figure
from mace_functional.figures.check_panels import certificate_figure, mesh_convergence_figure
from mace_functional.figures.conductivity_panels import conductivity_figure, linewidth_band_figure
from mace_functional.figures.elastic_panels import young_figure
from mace_functional.figures.expansion_panels import cp_figure, expansion_figure
from mace_functional.figures.gruneisen_panels import gruneisen_band_figure, gruneisen_figure
from mace_functional.figures.search_panels import relaxation_figure, saddle_figure
from mace_functional.figures.spectrum import spectrum_figure
from mace_functional.figures.thermo_panels import thermo_figure
from mace_functional.figures.training_panels import training_figure

__all__ = [
    "band_figure",
    "certificate_figure",
    "conductivity_figure",
    "cp_figure",
    "dos_figure",
    "expansion_figure",
    "gruneisen_band_figure",
    "gruneisen_figure",
    "linewidth_band_figure",
    "mesh_convergence_figure",
    "relaxation_figure",
    "saddle_figure",
    "spectrum_figure",
    "thermo_figure",
    "training_figure",
    "young_figure",
]
