"""Ideal gas of molecules: entropy, enthalpy and Gibbs energy from a rigid rotor with vibrations.

Translation, rotation, vibration and spin contribute independently. For a molecule of mass m at
temperature T and pressure p, with the spin multiplicity g,

    S_translation = k [ln((m k T / (2 pi hbar^2))^(3/2) k T / p) + 5/2],     U_translation = 3/2 k T
    S_spin        = k ln g
    H = U + k T,        G = H - T S,        Cp = Cv + k

`rigid_rotor` has the contributions of rotation, `thermodynamics` those of vibrations, and
`soft_modes` those of vibrations that are nearly free rotations.

Source: McQuarrie, *Statistical Mechanics* (1976), chapters 5, 6 and 8.

>>> from ase.build import molecule
>>> water = ideal_gas_thermo([1595.0, 3657.0, 3756.0], molecule("H2O"), 298.15, unit="cm-1")
>>> water.symmetry_number, water.molar_entropy
(tensor(2), tensor(188.9653, dtype=torch.float64))
"""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete, refuse_transforms
from mace_functional.structure.symmetry_number import symmetry_number as found_symmetry_number
from mace_functional.support.defaults import MOLECULE_TOLERANCE
from mace_functional.support.validation import (
    HOTTEST,
    count,
    finite,
    gas_pressure,
    in_order,
    positive,
)
from mace_functional.units import (
    ANGULAR_FREQUENCY,
    BAR,
    EV_PER_MOLECULE,
    HBAR,
    K_B,
    frequency_factor,
)
from mace_functional.vibrations.gamma import gamma_modes
from mace_functional.vibrations.harmonic_modes import LARGEST_FORCE, NormalModes
from mace_functional.vibrations.result_text import html_table, result_text, values_text
from mace_functional.vibrations.rigid_rotor import (
    HBAR_SQUARED,
    moments_of_inertia,
    quantum_correction,
    rotational_entropy,
    top_of,
)
from mace_functional.vibrations.soft_modes import interpolated_thermo
from mace_functional.vibrations.thermodynamics import harmonic_thermo

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

CALL = "ideal_gas_thermo(potential, atoms, temperatures)"

SAME_MASS = 1e-5
"""Relative difference up to which masses are equal; rounding in single precision is smaller."""

MAX_CORRECTION = 0.1
"""Error of the Gibbs energy, in k T, by classical rotation, above which a warning is given.

Of H2 it is above this below 290 K, of methane below 19 K.
"""


class IdealGasThermo(NamedTuple):
    """Thermodynamics of an ideal gas, per molecule; a tuple of tensors, and so a pytree.

    Attributes:
        temperatures: Temperatures in K as given, (T,) or a scalar; the next ten have its shape.
        pressure: Pressure in bar.
        entropy: Entropy, eV/K, the sum of the four entropies below.
        enthalpy: Enthalpy with the potential energy and the zero-point energy, eV.
        gibbs_energy: Gibbs energy with the potential energy and the zero-point energy, eV.
        internal_energy: Internal energy with the potential energy and the zero-point energy, eV.
        heat_capacity: Heat capacity at constant volume, eV/K.
        heat_capacity_p: Heat capacity at constant pressure, eV/K.
        translational_entropy: Entropy of translation, eV/K.
        rotational_entropy: Entropy of rotation, eV/K.
        vibrational_entropy: Entropy of the vibrations, eV/K.
        electronic_entropy: Entropy of the spin, eV/K, a scalar.
        zero_point_energy: Zero-point energy, eV, a scalar.
        potential_energy: Energy of the structure without vibrations, eV, a scalar.
        moments_of_inertia: Principal moments of inertia, ascending, amu Å², (3,); the first is zero
            for a linear molecule, and all are zero for an atom.
        symmetry_number: Number of rotations that map the molecule onto itself, a scalar.
        rotor_cutoff: Wavenumber at which modes count half as vibrations and half as rotors, cm-1, a
            scalar; zero if all modes are vibrations.
        n_imaginary: Number of imaginary modes that are left out: 1 for a transition state.
        mass: Mass of the molecule, amu, a scalar.
    """

    temperatures: Tensor
    pressure: Tensor
    entropy: Tensor
    enthalpy: Tensor
    gibbs_energy: Tensor
    internal_energy: Tensor
    heat_capacity: Tensor
    heat_capacity_p: Tensor
    translational_entropy: Tensor
    rotational_entropy: Tensor
    vibrational_entropy: Tensor
    electronic_entropy: Tensor
    zero_point_energy: Tensor
    potential_energy: Tensor
    moments_of_inertia: Tensor
    symmetry_number: Tensor
    rotor_cutoff: Tensor
    n_imaginary: Tensor
    mass: Tensor

    def __repr__(self) -> str:
        return result_text(
            self,
            f"{values_text(self.temperatures, 'K', 'g')}, {values_text(self.pressure, 'bar', 'g')}",
            f"G {values_text(self.gibbs_energy, 'eV', '.4f')}",
            f"H {values_text(self.enthalpy, 'eV', '.4f')}",
            f"S {values_text(self.molar_entropy, 'J/(mol K)', '.2f')}",
            self._molecule(),
        )

    def _repr_html_(self) -> str:
        if not is_concrete(self.entropy):
            return f"<p>{html.escape(repr(self))}</p>"
        columns = {
            "T (K)": (self.temperatures, "g"),
            "Cp (J/(mol K))": (self.molar_heat_capacity_p, ".3f"),
            "S (J/(mol K))": (self.molar_entropy, ".3f"),
            "H (eV)": (self.enthalpy, ".5f"),
            "G (eV)": (self.gibbs_energy, ".5f"),
        }
        cells = {
            name: [f"{x:{digits}}" for x in values.detach().reshape(-1).tolist()]
            for name, (values, digits) in columns.items()
        }
        pressure = values_text(self.pressure, "bar", "g")
        return html_table(f"Ideal gas at {pressure}; {self._molecule()}", cells)

    def _molecule(self) -> str:
        """Describe the molecule as a rotor."""
        if not is_concrete(self.n_imaginary) or not is_concrete(self.moments_of_inertia):
            return "under a transform"
        if self.mass.ndim:
            return f"{tuple(self.mass.shape)} results of vmap"
        text = f"{self.top}, symmetry number {int(self.symmetry_number)}"
        if self.rotor_cutoff > 0:
            text += f", modes below about {float(self.rotor_cutoff):g} cm-1 as rotors"
        return text + ", imaginary mode left out" * (int(self.n_imaginary) > 0)

    @property
    def top(self) -> str:
        """Kind of the molecule as a rotor, such as "linear" or "spherical top"; see `top_of`."""
        return top_of(self.moments_of_inertia.tolist())

    @property
    def rotational_constants(self) -> Tensor:
        """Rotational constants hbar / (4 pi c I) of the axes that rotate, descending, cm-1."""
        moments = self.moments_of_inertia[self.moments_of_inertia > 0]
        per_energy = frequency_factor("cm-1") / (HBAR * ANGULAR_FREQUENCY)
        return per_energy * HBAR_SQUARED / (2 * moments)

    @property
    def molar_entropy(self) -> Tensor:
        """Entropy per mole, J/(mol K)."""
        return EV_PER_MOLECULE * self.entropy

    @property
    def molar_heat_capacity(self) -> Tensor:
        """Heat capacity at constant volume per mole, J/(mol K)."""
        return EV_PER_MOLECULE * self.heat_capacity

    @property
    def molar_heat_capacity_p(self) -> Tensor:
        """Heat capacity at constant pressure per mole, J/(mol K)."""
        return EV_PER_MOLECULE * self.heat_capacity_p


def ideal_gas_thermo(
    potential: Potential | NormalModes | Tensor | Sequence[float],
    atoms: Atoms,
    temperatures: Tensor | Sequence[float] | float,
    *,
    pressure: Tensor | float = 1.0,
    symmetry_number: int | None = None,
    multiplicity: int = 1,
    rotor_cutoff: float | None = None,
    rotor_energies: bool = False,
    transition_state: bool = False,
    tolerance: float = MOLECULE_TOLERANCE,
    energy: Tensor | float | None = None,
    unit: str | None = None,
) -> IdealGasThermo:
    """Compute entropy, enthalpy, Gibbs energy and heat capacities of an ideal gas of a molecule.

    The molecule is a rigid rotor in the classical limit, with harmonic vibrations (see the module).
    With `rotor_cutoff`, the entropy of soft vibrations is interpolated to that of free rotors, by
    the method of Grimme (see `soft_modes`).

    The result is differentiable with respect to temperatures, pressure, energy and bare
    frequencies.

    Args:
        potential: A potential, whose Hessian and energy are computed; or modes of `gamma_modes`; or
            bare signed frequencies in `unit` without rigid motions, (3N - 6,), for a linear
            molecule (3N - 5,), for an atom (0,).
        atoms: The molecule, relaxed, in one piece and not periodic. Masses of isotopes count, also
            in the symmetry number.
        temperatures: Temperatures in K, above zero, (T,) or a scalar.
        pressure: Pressure in bar, a scalar, or one for each temperature.
        symmetry_number: Number of rotations that map the molecule onto itself; None to find it from
            the structure, see `structure.symmetry_number`.
        multiplicity: Spin multiplicity 2 S + 1 of the electrons: 1 for a closed shell, 2 for a
            radical, 3 for O2.
        rotor_cutoff: Wavenumber in cm-1 at which a mode counts half as vibration and half as rotor;
            100 in the work of Grimme. None to treat all modes as harmonic.
        rotor_energies: Interpolate energies and heat capacities too, as Li et al. do.
        transition_state: The structure is a first-order saddle point: its imaginary mode, the
            reaction coordinate, is left out.
        tolerance: Largest distance of an atom from the image of another one for the symmetry
            number, Å.
        energy: Energy of the structure without vibrations, eV; None for that of the potential, and
            zero for modes and bare frequencies.
        unit: Unit of bare frequencies: "cm-1", "THz" or "meV".

    Returns:
        Thermodynamics per molecule.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure is periodic, has held atoms or is several molecules; there are
            imaginary modes, or not exactly one for a transition state; a frequency is zero; the
            number of frequencies or the masses do not fit the molecule; or an argument is out of
            range.

    Warns:
        UserWarning: The structure is not relaxed; a rotation is not classical at a temperature; the
            multiplicity does not fit the number of electrons; or a slightly larger tolerance would
            find a higher symmetry number.

    Source: Grimme, Chem. Eur. J. 2012, 18, 9955; Li et al., J. Phys. Chem. C 2015, 119, 1840.
    """
    in_order(
        CALL, *(((potential, "Potential"),) if not _are_modes(potential) else ()), (atoms, "Atoms")
    )
    refuse_periodic(atoms)
    multiplicity = count("multiplicity", multiplicity)
    if rotor_cutoff is not None:
        rotor_cutoff = positive("rotor_cutoff", rotor_cutoff, "cm-1")
    elif rotor_energies:
        raise ValueError("rotor_energies needs rotor_cutoff, such as rotor_cutoff=100")
    if not _are_modes(potential):
        refuse_transforms(
            "ideal_gas_thermo of a potential",
            "the modes of gamma_modes, computed before",
            (cast("Potential", potential).params, temperatures, pressure, energy),
        )
    frequencies, unit, rotations = _vibrations(potential, atoms, unit)
    f = frequencies.double()
    imaginary = f < 0
    _check_frequencies(f, unit, transition_state)
    t = torch.as_tensor(temperatures, dtype=torch.float64, device=f.device)
    p = torch.as_tensor(pressure, dtype=torch.float64, device=f.device)
    _check_conditions(t, p)
    _warn_of_spin(atoms, multiplicity)

    masses = torch.as_tensor(atoms.get_masses(), dtype=torch.float64, device=f.device)
    positions = torch.as_tensor(atoms.positions, dtype=torch.float64, device=f.device)
    moments = moments_of_inertia(masses, positions, linear=rotations == 2)
    if symmetry_number is None:
        sigma = found_symmetry_number(atoms, tolerance=tolerance, linear=rotations == 2)
    else:
        sigma = count("symmetry_number", symmetry_number)
    rotating = moments[3 - rotations :]
    _warn_of_levels(t, rotating)

    kt = K_B * t
    harmonic = torch.where(imaginary, 0.0, f)  # frequencies of zero are left out of sums
    if rotor_cutoff is None:
        vibration = harmonic_thermo(harmonic, t, unit=unit)
    else:
        vibration = interpolated_thermo(
            harmonic, t, cutoff=rotor_cutoff, unit=unit, energies=rotor_energies
        )
    if energy is None and not _are_modes(potential):
        energy = _energy_of(cast("Potential", potential), atoms)
    e = torch.as_tensor(0.0 if energy is None else energy, dtype=torch.float64, device=f.device)
    inverse_wavelength_squared = masses.sum() * kt / (2 * math.pi * HBAR_SQUARED)
    volume = kt / (BAR * p)
    s_translation = K_B * (1.5 * inverse_wavelength_squared.log() + volume.log() + 2.5)
    s_rotation = rotational_entropy(t, rotating, torch.as_tensor(float(sigma)).to(t))
    s_spin = K_B * torch.as_tensor(float(multiplicity)).to(t).log()
    classical = (3 + rotations) / 2
    entropy = s_translation + s_rotation + vibration.entropy + s_spin
    internal_energy = e + vibration.internal_energy + classical * kt
    heat_capacity = vibration.heat_capacity + classical * K_B
    enthalpy = internal_energy + kt
    return IdealGasThermo(
        temperatures=t,
        pressure=p,
        entropy=entropy,
        enthalpy=enthalpy,
        gibbs_energy=enthalpy - t * entropy,
        internal_energy=internal_energy,
        heat_capacity=heat_capacity,
        heat_capacity_p=heat_capacity + K_B,
        translational_entropy=s_translation,
        rotational_entropy=s_rotation,
        vibrational_entropy=vibration.entropy,
        electronic_entropy=s_spin,
        zero_point_energy=vibration.zero_point_energy,
        potential_energy=e,
        moments_of_inertia=moments,
        symmetry_number=torch.as_tensor(sigma, device=f.device),
        rotor_cutoff=torch.as_tensor(rotor_cutoff or 0.0, dtype=torch.float64, device=f.device),
        n_imaginary=imaginary.sum(),
        mass=masses.sum(),
    )


def refuse_periodic(atoms: Atoms) -> None:
    """Raise an error if a structure is periodic or has no atoms, and so is no molecule of a gas.

    Raises:
        ValueError: If it is.
    """
    if atoms.pbc.any():
        raise ValueError(
            f"an ideal gas is one of molecules, and this structure is periodic along "
            f"{int(atoms.pbc.sum())} directions: for a crystal call harmonic_thermo or "
            "mesh_thermo; for a molecule in a box, put it in one piece and set atoms.pbc = False"
        )
    if len(atoms) == 0:
        raise ValueError("there are no atoms: an ideal gas is one of molecules")


def _are_modes(potential: Any) -> bool:
    """Return True for modes and for bare frequencies, False for a potential."""
    return hasattr(potential, "weighted_frequencies") or isinstance(
        potential, Tensor | np.ndarray | list | tuple
    )


def _vibrations(potential: Any, atoms: Atoms, unit: str | None) -> tuple[Tensor, str, int]:
    """Return the frequencies, their unit, and the number of rotations of the molecule."""
    if not _are_modes(potential):
        if unit is not None:
            raise ValueError("unit is that of bare frequencies: leave it out with a potential")
        potential = gamma_modes(potential, atoms)
    if not hasattr(potential, "weighted_frequencies"):
        return _bare(potential, atoms, unit)
    if unit is not None:
        raise ValueError("modes have their own unit: leave unit out, or give bare frequencies")
    modes = potential
    if not isinstance(modes, NormalModes):
        raise ValueError(
            f"{type(modes).__name__} are modes of a crystal: give those of gamma_modes"
        )
    if modes.n_parts > 1:
        raise ValueError(
            f"the structure is {modes.n_parts} molecules that do not interact: compute the "
            "thermodynamics of each alone, and add them"
        )
    n_rigid, n_modes = 3 + modes.n_rotations, len(modes.frequencies)
    if modes.n_rigid != n_rigid or n_modes + n_rigid != 3 * len(atoms):
        raise ValueError(
            f"{n_modes} modes with {modes.n_rigid} rigid motions are not those of a free molecule "
            f"of {len(atoms)} atoms: leave no atom out, and hold none (atoms.set_constraint())"
        )
    masses = torch.as_tensor(atoms.get_masses()).to(modes.masses)
    same = (modes.masses[modes.indices.argsort()] / masses - 1).abs() < SAME_MASS
    if is_concrete(same) and not bool(same.all()):
        raise ValueError(
            "the masses of the modes are not those of the atoms: compute the modes of these "
            "isotopes, gamma_modes(potential, atoms)"
        )
    if modes.largest_force is not None and modes.largest_force > LARGEST_FORCE:
        warnings.warn(
            f"the largest force is {modes.largest_force:.3g} eV/Å: the molecule is not relaxed, "
            "and its harmonic frequencies mean little; relax it first",
            stacklevel=3,
        )
    return modes.frequencies, modes.unit, modes.n_rotations


def _bare(frequencies: Any, atoms: Atoms, unit: str | None) -> tuple[Tensor, str, int]:
    """Return bare frequencies, their unit, and the number of rotations that their number means."""
    if unit is None:
        raise ValueError('bare frequencies need their unit: unit="cm-1", "THz" or "meV"')
    if not isinstance(frequencies, Tensor):
        frequencies = torch.as_tensor(frequencies, dtype=torch.float64)
    n_atoms = len(atoms)
    counts = {1: {0: 0}, 2: {1: 2}}.get(n_atoms, {3 * n_atoms - 6: 3, 3 * n_atoms - 5: 2})
    if frequencies.ndim != 1 or len(frequencies) not in counts:
        needed = " or ".join(f"({n},)" for n in counts)
        raise ValueError(
            f"a molecule of {n_atoms} atoms has frequencies {needed}, without translations and "
            f"rotations, not {tuple(frequencies.shape)}"
        )
    rotations = counts[len(frequencies)]
    if rotations == 3:
        widths = np.linalg.svd(atoms.positions - atoms.positions.mean(0))[1]
        if widths[1] < 1e-6 * widths[0]:
            raise ValueError(
                f"the atoms are on a line, and a linear molecule of {n_atoms} atoms has "
                f"frequencies ({3 * n_atoms - 5},), not ({len(frequencies)},)"
            )
    return frequencies, unit, rotations


def _check_frequencies(f: Tensor, unit: str, transition_state: bool) -> None:
    """Raise an error for imaginary modes, except that of a transition state, and for zeros."""
    if not is_concrete(f):
        return
    n_imaginary = int((f < 0).sum())
    if transition_state and n_imaginary != 1:
        raise ValueError(
            f"a transition state has one imaginary mode, and this structure has {n_imaginary}: "
            "search for it with find_saddle"
        )
    if n_imaginary and not transition_state:
        raise ValueError(
            f"{n_imaginary} imaginary modes, down to {float(f.min()):.4g} {unit}: the structure is "
            "no minimum of the energy, and has no Gibbs energy. Relax it further, from atoms moved "
            "along the mode; for a first-order saddle point give transition_state=True"
        )
    if not bool((f.isfinite() & (f != 0)).all()):
        raise ValueError(
            "a frequency is zero or not finite: a free motion has no harmonic entropy; give the "
            "frequencies without translations and rotations"
        )


def _check_conditions(t: Tensor, p: Tensor) -> None:
    """Raise an error for temperatures and pressures that are out of range."""
    if is_concrete(t) and not (t.numel() and bool(((t > 0) & (t <= HOTTEST)).all())):
        raise ValueError(
            f"temperatures of a gas must lie above 0 K, up to {HOTTEST:g} K: {t.tolist()}"
        )
    if is_concrete(p):
        for value in p.reshape(-1).tolist():
            gas_pressure("pressure", value)
    if p.ndim and p.shape != t.shape:
        raise ValueError(
            f"pressure must be a scalar or have the shape of temperatures {tuple(t.shape)}, not "
            f"{tuple(p.shape)}"
        )


def _warn_of_spin(atoms: Atoms, multiplicity: int) -> None:
    """Warn if electrons cannot have a multiplicity: an odd number has an even one."""
    charge = round(finite("atoms.info['charge']", atoms.info.get("charge", 0.0)))
    electrons = int(atoms.numbers.sum()) - charge
    if electrons % 2 == multiplicity % 2:
        warnings.warn(
            f"{electrons} electrons cannot have the multiplicity {multiplicity}: give another "
            f"multiplicity, or the charge of an ion as atoms.info['charge'] (now {charge})",
            stacklevel=3,
        )


def _warn_of_levels(t: Tensor, rotating: Tensor) -> None:
    """Warn if a temperature is so low that rotations are not classical."""
    if not is_concrete(t) or not len(rotating):
        return
    coldest, correction = float(t.min()), float(quantum_correction(rotating))
    if correction > MAX_CORRECTION * coldest:
        warnings.warn(
            f"at {coldest:g} K the rotation of this molecule is not classical: its Gibbs energy is "
            f"too high by about {1e3 * K_B * correction:.2g} meV",
            stacklevel=3,
        )


def _energy_of(potential: Potential, atoms: Atoms) -> Tensor:
    """Return the energy of a structure, eV."""
    s = potential.structure(atoms)
    energy: Tensor = potential.energy_fn(s.topology)(s.positions, s.cell, potential.params)
    return energy.detach()
