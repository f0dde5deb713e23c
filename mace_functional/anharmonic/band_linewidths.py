"""Linewidths of phonons along the path of a band structure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mace_functional.anharmonic.conductivity_result import ThermalConductivity
from mace_functional.phonons.bands import BandStructure
from mace_functional.vibrations.result_text import result_text

ON_MESH = 1e-6
"""Largest distance of a wave vector from a point of the mesh, in steps of the mesh."""


@dataclass(frozen=True, eq=False)
class BandLinewidths:
    """Linewidths at the P wave vectors of a path that are points of a mesh.

    Attributes:
        distance: Length of the path up to each point, as in the band structure, 1/Å, (P,).
        q: Wave vectors in units of the reciprocal vectors of phono3py's primitive cell, (P, 3).
        frequencies: Frequencies, THz, (P, M).
        linewidths: Full widths at half maximum by all scattering, THz, (T, P, M).
        temperatures: Temperatures, K, (T,).
    """

    distance: np.ndarray
    q: np.ndarray
    frequencies: np.ndarray
    linewidths: np.ndarray
    temperatures: np.ndarray

    def __repr__(self) -> str:
        kelvin = ", ".join(f"{t:g}" for t in self.temperatures)
        return result_text(self, f"{len(self.q)} wave vectors", f"{kelvin} K")


def linewidths_along(result: ThermalConductivity, bands: BandStructure) -> BandLinewidths:
    """Return the linewidths along a path, at those of its wave vectors that the mesh has.

    Linewidths are sums over the mesh, and are known at its points only. Nothing is interpolated.

    Args:
        result: Result of `thermal_conductivity` or `conductivity_of`.
        bands: Result of `band_structure` for the same crystal, `result.constants.atoms`, along a
            path with named corners.

    Returns:
        The linewidths. There are none on a line that has no points of the mesh.

    Raises:
        ValueError: If the path has no corners.
    """
    if not bands.labels:
        raise ValueError(
            "the path has no corners: give band_structure their names, or labelled wave vectors"
        )
    # From the reciprocal vectors of the unit cell to those of the primitive cell.
    to_primitive = result.constants.atoms.cell.reciprocal().array @ result.cell.T
    q = bands.q.numpy(force=True) @ to_primitive
    lengths = bands.distance.numpy(force=True)
    size = np.array(result.mesh)
    points: list[np.ndarray] = []
    distances: list[float] = []
    for (first, _), (last, _) in pairwise(bands.labels):
        if last in bands.starts:
            continue  # the path jumps
        for t in _on_mesh(q[first], q[last], size):
            distance = float((1 - t) * lengths[first] + t * lengths[last])
            point = (1 - t) * q[first] + t * q[last]
            is_same = distances and math.isclose(distance, distances[-1], abs_tol=1e-9)
            if not (is_same and np.allclose(point, points[-1])):
                points.append(point)
                distances.append(distance)
    found = np.reshape(points, (-1, 3))
    index = result.mapping[tuple((np.rint(found * size).astype(int) % size).T)]
    return BandLinewidths(
        distance=np.array(distances),
        q=found,
        frequencies=result.frequencies[index],
        linewidths=result.total_linewidths[:, index],
        temperatures=result.temperatures,
    )


def _on_mesh(start: np.ndarray, end: np.ndarray, size: np.ndarray) -> list[float]:
    """Return the positions, from 0 to 1, of the points of a mesh on a line."""
    a, step = start * size, (end - start) * size
    axis = int(abs(step).argmax())
    if abs(step[axis]) < ON_MESH:
        return []
    low, high = sorted((a[axis], a[axis] + step[axis]))
    whole = np.arange(math.ceil(low - ON_MESH), math.floor(high + ON_MESH) + 1)
    positions = np.sort((whole - a[axis]) / step[axis])
    points = a + positions[:, None] * step
    return [float(t) for t in positions[abs(points - np.rint(points)).max(1) < ON_MESH]]
