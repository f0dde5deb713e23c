"""Dispersion corrections, pure functions to be added to the energy of a potential."""

from mace_functional.dispersion.d3 import dispersion_fn

__all__ = ["dispersion_fn"]
