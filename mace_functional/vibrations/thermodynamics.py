"""Harmonic thermodynamics: heat capacity, entropy and free energy of a set of vibrations.

All quantities follow from the occupation n of each mode of quantum e = hbar omega, with x = e / kT:

    n   = 1 / (exp(x) - 1)
    U   = sum e (1/2 + n)                       F = sum e/2 - kT log(1 + n)
    S   = k sum x n + log(1 + n)                C = k sum x^2 n (1 + n)

In the form n = exp(-x) / (1 - exp(-x)) they are accurate and differentiable for every x > 0.

Source: Dove, *Introduction to Lattice Dynamics* (1993), chapter 5.

>>> water = torch.tensor([1595.0, 3657.0, 3756.0], dtype=torch.float64)
>>> harmonic_thermo(water, [300.0, 1000.0], unit="cm-1").molar_heat_capacity
tensor([0.2320, 7.7657], dtype=torch.float64)
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete
from mace_functional.support.renamed import positional_for_a_release
from mace_functional.units import EV_PER_MOLECULE, K_B, vibrational_quantum
from mace_functional.vibrations.result_text import html_table, result_text, values_text

MAX_QUANTUM_OVER_KT = 1000.0
"""Largest hbar omega / kT of a mode that is excited.

Above, exp(-x) underflows in any precision, and the mode contributes only zero-point energy.
"""


class HarmonicThermo(NamedTuple):
    """Harmonic thermodynamics per cell or molecule; a tuple of tensors, and so a pytree.

    Attributes:
        temperatures: Temperatures in K as given, (T,) or a scalar; the next four have its shape.
        heat_capacity: Heat capacity at constant volume, eV/K.
        entropy: Entropy, eV/K.
        free_energy: Helmholtz free energy with the zero-point energy, eV.
        internal_energy: Internal energy with the zero-point energy, eV.
        zero_point_energy: Zero-point energy, eV, a scalar.
        n_modes: Number of modes in the sums, over all q points.
        n_imaginary: Number of imaginary modes that are left out, over all q points.
        n_zero: Number of modes of frequency exactly zero that are left out, over all q points.
        mass: Mass of the vibrating atoms of the cell or molecule, amu; 0 if it is unknown.
    """

    temperatures: Tensor
    heat_capacity: Tensor
    entropy: Tensor
    free_energy: Tensor
    internal_energy: Tensor
    zero_point_energy: Tensor
    n_modes: Tensor
    n_imaginary: Tensor
    n_zero: Tensor
    mass: Tensor

    def __repr__(self) -> str:
        return result_text(
            self,
            f"{values_text(self.temperatures, 'K', 'g')}: heat capacity "
            f"{values_text(self.molar_heat_capacity, 'J/(mol K)', '.2f')}",
            f"entropy {values_text(self.molar_entropy, 'J/(mol K)', '.2f')}",
            f"zero-point energy {values_text(self.zero_point_energy, 'eV', '.4f')}",
            self._left_out(),
        )

    def _repr_html_(self) -> str:
        if not is_concrete(self.heat_capacity):
            return f"<p>{html.escape(repr(self))}</p>"
        columns = {
            "T (K)": (self.temperatures, "g"),
            "Cv (J/(mol K))": (self.molar_heat_capacity, ".3f"),
            "Cv (J/(g K))": (self.molar_heat_capacity / self.mass, ".4f"),
            "S (J/(mol K))": (self.molar_entropy, ".3f"),
            "F (eV)": (self.free_energy, ".5f"),
            "U (eV)": (self.internal_energy, ".5f"),
        }
        if self.mass == 0:
            del columns["Cv (J/(g K))"]
        cells = {
            name: [f"{x:{digits}}" for x in values.detach().reshape(-1).tolist()]
            for name, (values, digits) in columns.items()
        }
        return html_table(f"Harmonic thermodynamics; {self._left_out()}", cells)

    def _left_out(self) -> str:
        """Describe how many modes are in the sums, and how many are left out."""
        if not is_concrete(self.n_imaginary):
            return "under a transform"
        count, imaginary = int(self.n_modes), int(self.n_imaginary)
        return f"{count} modes" + f", {imaginary} imaginary ones left out" * (imaginary > 0)

    @property
    def molar_heat_capacity(self) -> Tensor:
        """Heat capacity per mole of cells or molecules, J/(mol K)."""
        return EV_PER_MOLECULE * self.heat_capacity

    @property
    def molar_entropy(self) -> Tensor:
        """Entropy per mole of cells or molecules, J/(mol K)."""
        return EV_PER_MOLECULE * self.entropy

    def specific_heat_capacity(self, masses: Tensor | Sequence[float] | None = None) -> Tensor:
        """Return the heat capacity per mass, J/(g K).

        Args:
            masses: Masses of the atoms of the cell or molecule in amu, (N,); None for `mass`.

        Raises:
            ValueError: If no masses are given and `mass` is unknown, as for bare frequencies.
        """
        if masses is not None:
            total = torch.as_tensor(masses, dtype=torch.float64).sum().to(self.heat_capacity)
        elif is_concrete(self.mass) and self.mass == 0:
            raise ValueError(
                "bare frequencies have no mass: give specific_heat_capacity the masses of the "
                "atoms, or harmonic_thermo the modes themselves"
            )
        else:
            total = self.mass
        return self.molar_heat_capacity / total

    def heat_capacity_per_atom(self, n_atoms: int) -> Tensor:
        """Return the heat capacity per atom in k_B, for `n_atoms` per cell; 3 at high T."""
        return self.heat_capacity / (K_B * n_atoms)


class WeightedFrequencies(NamedTuple):
    """Frequencies with the data that their thermodynamics need.

    Attributes:
        frequencies: Signed frequencies in `unit`, (M,), or (Q, M) for a mesh of q points.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        weights: Weights of the q points, (Q,); None for equal weights.
        drop: Number of rigid motions, the modes of smallest |frequency|, at each q point.
        mass: Mass of the vibrating atoms, amu; None if it is unknown.
    """

    frequencies: Tensor
    unit: str
    weights: Tensor | None = None
    drop: int | Tensor = 0
    mass: Tensor | None = None


class HarmonicModes(Protocol):
    """Modes with unit, weights and rigid motions, such as `NormalModes` and `MeshModes`."""

    def weighted_frequencies(self) -> WeightedFrequencies:
        """Return the frequencies that `harmonic_thermo` sums over."""


@positional_for_a_release("weights", "drop", "unit")
def harmonic_thermo(
    modes: HarmonicModes | Tensor | Sequence[float],
    temperatures: Tensor | Sequence[float] | float,
    *,
    weights: Tensor | Sequence[float] | None = None,
    drop: int | Sequence[int] | Tensor = 0,
    unit: str | None = None,
) -> HarmonicThermo:
    """Compute heat capacity, entropy and energies of harmonic vibrations, averaged over q points.

    Imaginary (negative) frequencies have no harmonic thermodynamics. They are left out of the sums
    and counted in `n_imaginary`, with a warning outside of `torch.func` transforms. A frequency of
    exactly zero has an infinite entropy; it is left out and counted in `n_zero`. Every positive
    frequency is included, however small: remove rigid motions with `normal_modes`, or with `drop`.
    NaN stays NaN.

    Args:
        modes: Modes of `gamma_modes`, `normal_modes` or `mesh_modes`; or bare signed frequencies in
            `unit`, (M,), or (Q, M) for a mesh of q points.
        temperatures: Temperatures in K, (T,) or a scalar; 0 gives the zero-point energy alone.
        weights: Weights of the q points, of any sum, (Q,); None for equal weights.
        drop: Number of modes of smallest |frequency| that are rigid motions, such as 3 for a
            crystal at Gamma; for a mesh, one number for each q point. They are left out and not
            counted.
        unit: Unit of bare frequencies: "cm-1", "THz" or "meV".

    Returns:
        Thermodynamics per cell or molecule.

    Raises:
        ValueError: If shapes do not fit, the unit is unknown, temperatures or weights are negative
            or not finite, `drop` is negative, exceeds M or is one number for a mesh, or modes are
            given together with `weights`, `drop` or `unit`.

    Warns:
        UserWarning: There are imaginary modes.
        DeprecationWarning: Bare frequencies have no unit; they are taken as cm-1.
    """
    weighted_frequencies = getattr(modes, "weighted_frequencies", None)
    if weighted_frequencies is not None:
        if weights is not None or unit is not None or not (isinstance(drop, int) and drop == 0):
            raise ValueError(
                f"{type(modes).__name__} has its own weights, rigid motions and unit: leave "
                "weights, drop and unit out, or give bare frequencies"
            )
        frequencies, unit, weights, drop, mass = weighted_frequencies()
    else:
        frequencies, mass = cast("Tensor", modes), None
    if unit is None:
        unit = "cm-1"
        warnings.warn(
            "bare frequencies have no unit: give harmonic_thermo their unit, or the modes "
            "themselves. They are taken as cm-1; a later release will raise an error",
            DeprecationWarning,
            stacklevel=3,
        )
    quantum = vibrational_quantum(unit)
    if not isinstance(frequencies, Tensor):
        frequencies = torch.as_tensor(frequencies, dtype=torch.float64)
    if frequencies.ndim not in (1, 2):
        raise ValueError(f"frequencies must be (M,) or (Q, M), not {tuple(frequencies.shape)}")
    temperatures = _like(frequencies, temperatures)
    _check_not_negative("temperatures", temperatures)
    q_weights = _normalised(weights, frequencies)

    counted = _kept(frequencies, drop)
    imaginary = counted & (frequencies < 0)
    zero = counted & (frequencies == 0)
    vibrating = counted & ~imaginary & ~zero
    _warn_of_imaginary(imaginary.sum(), unit, frequencies)

    def total(per_mode: Tensor) -> Tensor:
        return (q_weights * per_mode).flatten(temperatures.ndim).sum(-1)

    e = torch.where(vibrating, quantum * frequencies, 0.0)
    kt = (K_B * temperatures).reshape(*temperatures.shape, *[1] * frequencies.ndim)
    # Modes that are not excited are masked before the division, so that T = 0 has derivatives.
    excited = vibrating & ~(e >= MAX_QUANTUM_OVER_KT * kt)
    x = torch.where(excited, e, 1.0) / torch.where(excited, kt, 1.0)
    n = torch.where(excited, torch.exp(-x) / -torch.expm1(-x), 0.0)
    zero_point = (q_weights * e).sum() / 2
    return HarmonicThermo(
        temperatures=temperatures,
        heat_capacity=K_B * total((x * n) * (x * (1 + n))),
        entropy=K_B * total(x * n + torch.log1p(n)),
        free_energy=zero_point - total(kt * torch.log1p(n)),
        internal_energy=zero_point + total(e * n),
        zero_point_energy=zero_point,
        n_modes=vibrating.sum(),
        n_imaginary=imaginary.sum(),
        n_zero=zero.sum(),
        mass=torch.zeros_like(zero_point) if mass is None else mass.to(zero_point),
    )


def _like(frequencies: Tensor, values: Tensor | Sequence[float] | float) -> Tensor:
    return torch.as_tensor(values, dtype=frequencies.dtype, device=frequencies.device)


def _check_not_negative(name: str, values: Tensor) -> None:
    if is_concrete(values) and not ((values >= 0) & values.isfinite()).all():
        raise ValueError(f"{name} must be finite and not negative, got {values.tolist()}")


def _normalised(weights: Tensor | Sequence[float] | None, frequencies: Tensor) -> Tensor:
    """Return weights of sum one that broadcast against `frequencies`."""
    if frequencies.ndim == 1:
        if weights is not None:
            raise ValueError("weights belong to q points: give frequencies as (Q, M)")
        return frequencies.new_ones(())
    n_q = len(frequencies)
    if weights is None:
        return frequencies.new_full((n_q, 1), 1 / n_q)
    weights = _like(frequencies, weights)
    if weights.shape != (n_q,):
        raise ValueError(f"{n_q} q points need weights ({n_q},), not {tuple(weights.shape)}")
    _check_not_negative("weights", weights)
    return (weights / weights.sum())[:, None]


def _kept(frequencies: Tensor, drop: int | Sequence[int] | Tensor) -> Tensor:
    """Return a mask of all modes except the `drop` modes of smallest |frequency|."""
    counts = torch.as_tensor(drop, device=frequencies.device)
    n_modes = frequencies.shape[-1]
    if counts.shape != frequencies.shape[:-1] and not (isinstance(drop, int) and drop == 0):
        raise ValueError(
            "drop must be one integer for frequencies (M,), and one per q point for (Q, M): "
            f"got {drop!r} for frequencies {tuple(frequencies.shape)}"
        )
    bad = is_concrete(counts) and bool(((counts < 0) | (counts > n_modes)).any())
    if counts.is_floating_point() or bad:
        raise ValueError(f"drop must count 0 to {n_modes} modes, got {drop!r}")
    rank = frequencies.abs().argsort(-1).argsort(-1)
    return rank >= counts[..., None]


def _warn_of_imaginary(n_imaginary: Tensor, unit: str, frequencies: Tensor) -> None:
    if is_concrete(frequencies) and n_imaginary > 0:
        warnings.warn(
            f"{int(n_imaginary)} imaginary modes, down to {frequencies.min():.4g} {unit}, are left "
            "out of the harmonic sums: the structure is no minimum of the energy",
            stacklevel=4,
        )
