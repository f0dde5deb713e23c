"""Lattice thermal conductivity of a crystal, with the modes that it is a sum of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mace_functional.anharmonic.third_order_constants import ThirdOrderForceConstants
from mace_functional.support.defaults import ConductivityMethod
from mace_functional.vibrations.result_text import result_text


@dataclass(frozen=True, eq=False)
class ThermalConductivity:
    """Lattice thermal conductivity over temperature, W/(m K), as phono3py computes it.

    Modes are those of the Q inequivalent wave vectors of the mesh, with M modes each.

    Attributes:
        temperatures: Temperatures, K, (T,).
        kappa: Conductivity, the sum of `populations` and `coherences`, (T, 3, 3).
        populations: Part of the Boltzmann equation, (T, 3, 3).
        coherences: Part of Wigner's equation beyond it, (T, 3, 3); zero unless asked for. phono3py
            counts pairs of degenerate modes here, which are nearly all of it in good conductors.
        relaxation_time: `populations` if each mode relaxes alone, (T, 3, 3). They are `populations`
            for the method "relaxation-time".
        method: Solution of the Boltzmann equation: "relaxation-time" or "direct".
        wigner: True if `coherences` were computed.
        boundary: Mean free path of boundary scattering, µm; None without it.
        mesh: Numbers of wave vectors along the reciprocal vectors of phono3py's primitive cell.
        q: Inequivalent wave vectors, in units of these vectors, (Q, 3).
        weights: Numbers of wave vectors that are equivalent to each, (Q,).
        mapping: Index of the equivalent one of `q` for each point of the mesh, (n1, n2, n3).
        frequencies: Frequencies, THz, negative for imaginary modes, (Q, M).
        velocities: Group velocities, km/s, (Q, M, 3).
        heat_capacities: Heat capacities, eV/K, (T, Q, M).
        linewidths: Full widths at half maximum by phonon-phonon scattering, THz, (T, Q, M).
        isotope_linewidths: Those by isotope scattering, (Q, M); None without it.
        mode_conductivities: Share of each mode, with all equivalent wave vectors, in `populations`,
            (T, Q, M, 3, 3).
        n_imaginary: Number of imaginary modes on the whole mesh; they conduct nothing.
        cell: Lattice vectors of phono3py's primitive cell as rows, Å, (3, 3).
        constants: The force constants.

    Source: Togo, Chaput, Tanaka, Phys. Rev. B 91, 094306 (2015), doi:10.1103/PhysRevB.91.094306.
    """

    temperatures: np.ndarray
    kappa: np.ndarray
    populations: np.ndarray
    coherences: np.ndarray
    relaxation_time: np.ndarray
    method: ConductivityMethod
    wigner: bool
    boundary: float | None
    mesh: tuple[int, int, int]
    q: np.ndarray
    weights: np.ndarray
    mapping: np.ndarray
    frequencies: np.ndarray
    velocities: np.ndarray
    heat_capacities: np.ndarray
    linewidths: np.ndarray
    isotope_linewidths: np.ndarray | None
    mode_conductivities: np.ndarray
    n_imaginary: int
    cell: np.ndarray
    constants: ThirdOrderForceConstants

    def __repr__(self) -> str:
        means = np.einsum("taa->t", self.kappa) / 3
        first, last = (f"{means[i]:.4g} W/(m K) at {self.temperatures[i]:g} K" for i in (0, -1))
        return result_text(
            self,
            f"{self.constants.atoms.get_chemical_formula()}, {self.method}"
            + ", Wigner" * self.wigner,
            first,
            last if len(means) > 1 else None,
            f"mesh {' x '.join(map(str, self.mesh))}, {len(self.q)} inequivalent",
            f"{self.n_imaginary} imaginary modes" if self.n_imaginary else None,
        )

    @property
    def volume(self) -> float:
        """Volume of phono3py's primitive cell, Å³."""
        return float(abs(np.linalg.det(self.cell)))

    def index_of(self, temperature: float) -> int:
        """Return the index of a temperature.

        Args:
            temperature: One of the temperatures, K.

        Raises:
            ValueError: If it is not one of them.
        """
        found = np.flatnonzero(np.isclose(self.temperatures, temperature))
        if not len(found):
            known = ", ".join(f"{t:g}" for t in self.temperatures)
            raise ValueError(f"there is no conductivity at {temperature:g} K, only at {known} K")
        return int(found[0])

    @property
    def total_linewidths(self) -> np.ndarray:
        """Linewidths by all scattering, THz, (T, Q, M).

        Boundaries at a distance L add |v| / (2 pi L).
        """
        total = self.linewidths.copy()
        if self.isotope_linewidths is not None:
            total += self.isotope_linewidths
        if self.boundary is not None:
            # km/s over µm is 1e-3 THz.
            speeds = np.linalg.norm(self.velocities, axis=-1)
            total += 1e-3 * speeds / (2 * math.pi * self.boundary)
        return total

    @property
    def lifetimes(self) -> np.ndarray:
        """Lifetimes, 1 / (2 pi linewidth), ps, (T, Q, M); zero for modes without a linewidth."""
        widths = 2 * math.pi * self.total_linewidths
        return np.divide(1, widths, out=np.zeros_like(widths), where=widths > 0)

    @property
    def mean_free_paths(self) -> np.ndarray:
        """Mean free paths |v| times lifetime, nm, (T, Q, M)."""
        speeds: np.ndarray = np.linalg.norm(self.velocities, axis=-1)
        return speeds * self.lifetimes  # km/s times ps is nm

    def cumulative_by_frequency(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Sum the shares of all modes up to each frequency.

        Args:
            temperature: One of the temperatures, K.

        Returns:
            Frequencies, THz, ascending, (K,), and the sums, W/(m K), (K, 3, 3), which end at
            `populations`.

        Raises:
            ValueError: If the temperature is not one of the result.
        """
        return self._cumulative(self.frequencies, self.index_of(temperature))

    def cumulative_by_mean_free_path(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Sum the shares of all modes up to each mean free path.

        A crystal of that size, or grains of it, would conduct about as much.

        Args:
            temperature: One of the temperatures, K.

        Returns:
            Mean free paths, nm, ascending, (K,), and the sums, W/(m K), (K, 3, 3), which end at
            `populations`.

        Raises:
            ValueError: If the temperature is not one of the result.
        """
        index = self.index_of(temperature)
        return self._cumulative(self.mean_free_paths[index], index)

    def _cumulative(self, values: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        order = values.ravel().argsort(kind="stable")
        shares = self.mode_conductivities[index].reshape(-1, 3, 3)[order]
        return values.ravel()[order], shares.cumsum(0)
