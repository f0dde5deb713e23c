"""Dispersion corrections, pure functions to be added to the energy of a potential."""
