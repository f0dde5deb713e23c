"""Figures of spectra, heat capacities and band structures.

plots  the figures
"""

from mace_functional.figures.plots import band_figure, thermo_figure

__all__ = ["band_figure", "thermo_figure"]
