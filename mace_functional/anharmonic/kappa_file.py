"""Thermal conductivity as a file of phono3py (kappa-*.hdf5), for its programs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from mace_functional.anharmonic.conductivity_result import ThermalConductivity
from mace_functional.support.atomic_write import atomic_write

TO_WATTS = 100.0**2 * 1.602176634e-19 / 1e-30 / 1e12 / (2 * math.pi)
"""Factor from eV THz Å² / (K Å³) to W/(m K), with lifetimes of 1 / (2 pi linewidth)."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Elements of a tensor in phono3py's order."""


def write_kappa(path: str | os.PathLike[str], result: ThermalConductivity) -> None:
    """Write a conductivity with its modes as a file of phono3py, which its programs read.

    `phono3py-kdeplot FILE` reads it. `phono3py-kaccum FILE` also needs the crystal: a copy of
    phono3py_params.yaml of `write_phono3py`, as phono3py.yaml in the same folder.

    Args:
        path: The file. phono3py calls it kappa-m, the mesh, and .hdf5.
        result: Result of `conductivity_of` or `thermal_conductivity`.
    """
    import h5py

    arrays = {
        "temperature": result.temperatures,
        "mesh": np.array(result.mesh),
        "frequency": result.frequencies,
        "group_velocity": 10 * result.velocities,  # km/s is 10 THz Å
        "heat_capacity": result.heat_capacities,
        "kappa": _voigt(result.populations),
        "mode_kappa": _voigt(result.mode_conductivities) * np.prod(result.mesh),
        "gamma": result.linewidths / 2,
        "qpoint": result.q,
        "weight": result.weights,
        "kappa_unit_conversion": np.array(TO_WATTS / result.volume),
    }
    if result.isotope_linewidths is not None:
        arrays["gamma_isotope"] = result.isotope_linewidths / 2
    if result.boundary is not None:
        arrays["boundary_mfp"] = np.array(result.boundary)
    if result.method == "direct":
        arrays["kappa_RTA"] = _voigt(result.relaxation_time)
    if result.wigner:
        arrays["kappa"] = _voigt(result.kappa)
        arrays["kappa_intra"] = _voigt(result.populations)
        arrays["kappa_inter"] = _voigt(result.coherences)
    with atomic_write(Path(path)) as partial, h5py.File(partial, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)


def _voigt(tensors: np.ndarray) -> np.ndarray:
    """Return the six elements of symmetric tensors in phono3py's order."""
    return np.stack([tensors[..., i, j] for i, j in VOIGT], -1)
