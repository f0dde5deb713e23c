"""Harmonic thermodynamics: heat capacity, entropy and free energy of a set of vibrations.

Every quantity is a function of the occupation of a mode of quantum e = hbar omega, x = e / kT,

    n   = 1 / (exp(x) - 1)
    U   = sum e (1/2 + n)                       F = sum e/2 - kT log(1 + n)
    S   = k sum x n + log(1 + n)                C = k sum x^2 n (1 + n)

and with n = exp(-x) / (1 - exp(-x)) each is accurate, and can be differentiated, for every x > 0.

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

FROZEN = 1000.0
"""Above this hbar omega / kT, exp(-x) is zero to any precision and a mode holds no heat."""


class HarmonicThermo(NamedTuple):
    """Harmonic thermodynamics per cell or molecule; a tuple of tensors, and so a pytree.

    Attributes:
        temperatures: (T,) K, or a scalar, as given; the next four have its shape.
        heat_capacity: at constant volume, eV/K.
        entropy: eV/K.
        free_energy: Helmholtz's, with the zero-point energy, eV.
        internal_energy: with the zero-point energy, eV.
        zero_point_energy: scalar, eV.
        n_modes: number of modes in the sums, over all q points.
        n_imaginary: number of imaginary modes left out, over all q points.
        n_zero: number of modes of frequency exactly zero left out, over all q points.
        mass: of the vibrating atoms of the cell or molecule, amu; 0 if the modes do not tell.
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
        """The number of modes in the sums, and of those left out of them."""
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
        """Heat capacity per mass, J/(g K).

        Args:
            masses: Of the atoms of the cell or molecule, (N,) amu; `mass` if None.

        Raises:
            ValueError: If there are no masses, and bare frequencies have left `mass` unknown.
        """
        if masses is not None:
            total = torch.as_tensor(masses, dtype=torch.float64).sum().to(self.heat_capacity)
        elif is_concrete(self.mass) and self.mass == 0:
            raise ValueError(
                "bare frequencies do not tell the mass: give specific_heat_capacity the masses of "
                "the atoms, or harmonic_thermo the modes themselves"
            )
        else:
            total = self.mass
        return self.molar_heat_capacity / total

    def heat_capacity_per_atom(self, n_atoms: int) -> Tensor:
        """Heat capacity per atom, in k_B, of a cell or molecule of `n_atoms`; 3 when hot."""
        return self.heat_capacity / (K_B * n_atoms)


class WeightedFrequencies(NamedTuple):
    """Frequencies with all that their thermodynamics need.

    Attributes:
        frequencies: (M,), or (Q, M) for a mesh of q points; signed, in `unit`.
        unit: "cm-1", "THz" or "meV".
        weights: (Q,) of the q points; None for equal ones.
        drop: How many modes of smallest |frequency| are rigid motions; one number for each q point.
        mass: Of the vibrating atoms, amu; None if it is not known.
    """

    frequencies: Tensor
    unit: str
    weights: Tensor | None = None
    drop: int | Tensor = 0
    mass: Tensor | None = None


class HarmonicModes(Protocol):
    """Modes that know their unit, weights and rigid motions: `NormalModes` and `MeshModes`."""

    def weighted_frequencies(self) -> WeightedFrequencies:
        """What `harmonic_thermo` sums over."""


@positional_for_a_release("weights", "drop", "unit")
def harmonic_thermo(
    modes: HarmonicModes | Tensor | Sequence[float],
    temperatures: Tensor | Sequence[float] | float,
    *,
    weights: Tensor | Sequence[float] | None = None,
    drop: int | Sequence[int] | Tensor = 0,
    unit: str | None = None,
) -> HarmonicThermo:
    """Heat capacity, entropy and energies of harmonic vibrations, averaged over q points.

    Imaginary (negative) frequencies have no harmonic thermodynamics. They are left out of the
    sums and counted in `n_imaginary`, with a warning wherever values can be read, which is outside
    of `torch.func` transforms. A frequency of exactly zero, whose entropy is infinite, is left out
    and counted in `n_zero`. Any positive one counts in full, however small: take rigid motions
    out with `normal_modes`, or with `drop`. NaN stays NaN.

    Args:
        modes: What `gamma_modes`, `normal_modes` and `mesh_modes` return, which know their
            unit, weights and rigid motions; or bare frequencies, (M,), or (Q, M) for a mesh of q
            points, signed, in `unit`.
        temperatures: (T,) or a scalar, K; 0 gives the zero-point energy alone.
        weights: (Q,) weights of the q points, of any sum; None for equal ones.
        drop: how many modes of smallest |frequency| are rigid motions, to be left out and not
            counted: 3 for a crystal at Gamma. For a mesh, one number for each q point.
        unit: "cm-1", "THz" or "meV": of bare frequencies, which do not say what they are.

    Returns:
        HarmonicThermo, per cell or molecule.

    Raises:
        ValueError: shapes that do not fit, an unknown unit, temperatures or weights that are
            negative or not finite, or a `drop` that is negative, exceeds M or is one number for a
            mesh, or modes are given together with what they know.

    Warns:
        UserWarning: there are imaginary modes.
        DeprecationWarning: bare frequencies are given without a unit, and taken to be in cm-1.
    """
    known = getattr(modes, "weighted_frequencies", None)
    if known is not None:
        if weights is not None or unit is not None or not (isinstance(drop, int) and drop == 0):
            raise ValueError(
                f"{type(modes).__name__} knows its weights, rigid motions and unit: leave weights, "
                "drop and unit out, or give frequencies alone"
            )
        frequencies, unit, weights, drop, mass = known()
    else:
        frequencies, mass = cast("Tensor", modes), None
    if unit is None:
        unit = "cm-1"
        warnings.warn(
            "bare frequencies do not say what they are: give harmonic_thermo their unit, or the "
            "modes themselves. They are taken to be in cm-1, and will be refused",
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

    kept = _kept(frequencies, drop)
    imaginary = kept & (frequencies < 0)
    zero = kept & (frequencies == 0)
    vibrating = kept & ~imaginary & ~zero
    _warn_of_imaginary(imaginary.sum(), unit, frequencies)

    def total(per_mode: Tensor) -> Tensor:
        return (q_weights * per_mode).flatten(temperatures.ndim).sum(-1)

    energy = torch.where(vibrating, quantum * frequencies, 0.0)
    kt = (K_B * temperatures).reshape(*temperatures.shape, *[1] * frequencies.ndim)
    # Modes that hold no heat are masked before they are divided, so that T = 0 has derivatives.
    warm = vibrating & ~(energy >= FROZEN * kt)
    x = torch.where(warm, energy, 1.0) / torch.where(warm, kt, 1.0)
    n = torch.where(warm, torch.exp(-x) / -torch.expm1(-x), 0.0)
    zero_point = (q_weights * energy).sum() / 2
    return HarmonicThermo(
        temperatures=temperatures,
        heat_capacity=K_B * total((x * n) * (x * (1 + n))),
        entropy=K_B * total(x * n + torch.log1p(n)),
        free_energy=zero_point - total(kt * torch.log1p(n)),
        internal_energy=zero_point + total(energy * n),
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
    """Weights of sum one that broadcast against `frequencies`."""
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
    """Mask of the modes that are left when `drop` of smallest |frequency| are taken out."""
    counts = torch.as_tensor(drop, device=frequencies.device)
    n_modes = frequencies.shape[-1]
    if counts.shape != frequencies.shape[:-1] and not (isinstance(drop, int) and drop == 0):
        raise ValueError(
            "drop must be one integer for frequencies (M,), and one for each q point for (Q, M): "
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
