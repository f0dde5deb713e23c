r"""Gibbs energy of a crystal as a function of strain and temperature, from a few strained cells.

    G(e, T) = E(e) + p V(e) + F(e, T),        F = sum f(omega),

with relaxed ions, and sums that are averages over a mesh. E is interpolated from energies and
stresses of the cells and the stiffness of the first, the dynamical matrices from D and dD/de. F and
its derivatives are exact for the interpolated D: with eigenvalues lambda and g = df/dlambda,

    dF/ds    = sum_n g_n <n|D_s|n>
    d2F/dsdt = sum_n g_n <n|D_st|n> + sum_nm h_nm <n|D_s|m> <m|D_t|n>,

where h_nm = (g_n - g_m) / (lambda_n - lambda_m), or dg/dlambda where they are equal. No eigenvector
is differentiated, so degenerate modes need no care. dF/ds is -sum gamma u with the Grüneisen
parameters gamma and the energies u of the modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, hessian

from mace_functional.expansion.strain_interpolation import StrainInterpolation
from mace_functional.structure.lattice import volume_of
from mace_functional.vibrations.mode_functions import mode_functions

EQUAL_EIGENVALUES = 1e-6
"""Relative difference of two eigenvalues up to which they count as equal in h."""

LONGEST_STEP = 0.02
"""Largest step of the search for the minimum, in strain."""

LARGEST_STRAIN = 0.2
"""Strain at which the search for a minimum ends without result."""

FARTHEST_SECOND_CELL = 0.06
"""Largest strain that a prediction from strain zero is trusted to give."""

MAX_NEWTON_STEPS = 20
"""Number of steps after which the search for a minimum ends; it usually takes four."""

STRAIN_TOLERANCE = 1e-7
"""Length of the last step of a search for a minimum.

Newton's method converges quadratically, so the strain is more accurate. Rounding errors of the
interpolation are about 1e-9.
"""


@dataclass(frozen=True, eq=False)
class StrainedCell:
    """A crystal at one strain of its cell, with relaxed ions.

    Attributes:
        strain: Coefficients of the strain in the basis of the symmetric strains, (S,).
        energy: Energy, eV.
        slopes: Derivatives of the energy by the coefficients, eV, (S,).
        matrices: Dynamical matrix and its derivatives by the coefficients at each wave vector,
            eV/Å²/amu, complex (1 + S, M, M), without rigid motions.
    """

    strain: Tensor
    energy: float
    slopes: Tensor
    matrices: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class FreeEnergyPoint:
    """Gibbs energy and its derivatives at a strain and a temperature.

    Attributes:
        strain: Coefficients of the strain, (S,).
        energy: Energy without vibrations, eV.
        gibbs_energy: Gibbs energy G, eV.
        slopes: Derivatives dG/ds, eV, (S,).
        curvature: Second derivatives d2G/dsdt, eV, (S, S).
        entropy: Entropy, eV/K.
        entropy_slopes: Derivatives of the entropy by the coefficients, eV/K, (S,).
        heat_capacity: Heat capacity at constant strain, eV/K.
        n_imaginary: Number of imaginary modes, over all wave vectors; they are left out.
    """

    strain: Tensor
    energy: float
    gibbs_energy: float
    slopes: Tensor
    curvature: Tensor
    entropy: float
    entropy_slopes: Tensor
    heat_capacity: float
    n_imaginary: int


class GibbsEnergy:
    """Gibbs energy by strain and temperature, interpolated between strained cells.

    Args:
        cells: The cells; the first one has strain zero.
        stiffness: Second derivatives of the energy at strain zero, eV, (S, S).
        strains: Basis of the symmetric strains, (S, 3, 3).
        cell: Lattice vectors at strain zero in Å as rows, (3, 3).
        weights: Weights of the wave vectors, with sum 1, (Q,).
        pressure: Pressure, eV/Å³.
        last_slopes: False to leave out the slopes of the last cell, to estimate the error.

    Attributes:
        no_strain: Coefficients of no strain, (S,).
    """

    def __init__(
        self,
        cells: Sequence[StrainedCell],
        stiffness: Tensor,
        strains: Tensor,
        cell: Tensor,
        weights: Tensor,
        pressure: float,
        *,
        last_slopes: bool = True,
    ) -> None:
        others = torch.stack([c.strain for c in cells])[1:]
        self._of_energy = StrainInterpolation(others, 2, last_slopes=last_slopes)
        self._of_matrices = StrainInterpolation(others, 1, last_slopes=last_slopes)
        # Differences from the first cell: large numbers would leave large rounding errors.
        self._energy = cells[0].energy
        energies = torch.tensor([c.energy - self._energy for c in cells], dtype=torch.float64)
        slopes = torch.stack([c.slopes for c in cells])
        self._energies = torch.cat(
            [energies[:1], slopes[0], stiffness.flatten(), energies[1:], slopes[1:].flatten()]
        )
        of_all_q = list(zip(*(c.matrices for c in cells), strict=True))
        self._matrices = [of_q[0][0] for of_q in of_all_q]
        self._differences = [
            torch.cat(
                [torch.zeros_like(d)[None], first[1:]]
                + [m[:1] - d for m in rest]
                + [m[1:] for m in rest]
            )
            for d, (first, *rest) in zip(self._matrices, of_all_q, strict=True)
        ]
        self._strains, self._cell, self._stiffness = strains, cell, stiffness
        self.no_strain = torch.zeros(len(strains), dtype=torch.float64)
        self._weights, self._pressure = weights.tolist(), pressure

    def volume(self, strain: Tensor) -> Tensor:
        """Return the volume at a strain, Å³; differentiable."""
        return volume_of(self._cell + self._cell @ torch.tensordot(strain, self._strains, 1))

    def at(self, strain: Tensor, temperature: float) -> FreeEnergyPoint:
        """Compute the Gibbs energy and its derivatives.

        Args:
            strain: Coefficients of the strain, (S,).
            temperature: Temperature, K.
        """
        w0, w1, w2 = self._of_energy.weights(strain)
        energy = self._energy + float(w0 @ self._energies)
        gibbs = energy + self._pressure * float(self.volume(strain))
        slopes = w1 @ self._energies + self._pressure * grad(self.volume)(strain)
        curvature = w2 @ self._energies + self._pressure * hessian(self.volume)(strain)
        entropy = heat_capacity = 0.0
        entropy_slopes, n_imaginary = torch.zeros_like(slopes), 0

        w0, w1, w2 = (w.to(self._matrices[0]) for w in self._of_matrices.weights(strain))
        for weight, d0, data in zip(self._weights, self._matrices, self._differences, strict=True):
            values, n = torch.linalg.eigh(d0 + torch.tensordot(w0, data, 1))
            d1 = n.mH @ torch.tensordot(w1, data, 1) @ n
            d2 = (n.conj() * (torch.tensordot(w2, data, 1) @ n)).sum(-2).real
            f = mode_functions(values, temperature)
            safe = torch.where(values > 0, values, 1.0)
            g = f.energy / (2 * safe)
            dg = -(f.energy + temperature * f.heat_capacity) / (4 * safe**2)
            h = _divided_differences(values, g, dg).to(d1.dtype)
            diagonal = d1.diagonal(dim1=1, dim2=2).real
            gibbs += weight * float(f.free_energy.sum())
            slopes = slopes + weight * diagonal @ g
            pairs = torch.einsum("nm,snm,tmn->st", h, d1, d1).real
            curvature = curvature + weight * (d2 @ g + pairs)
            entropy += weight * float(f.entropy.sum())
            entropy_slopes = entropy_slopes - weight * diagonal @ (f.heat_capacity / (2 * safe))
            heat_capacity += weight * float(f.heat_capacity.sum())
            n_imaginary += int((values < 0).sum())
        return FreeEnergyPoint(
            strain=strain,
            energy=energy,
            gibbs_energy=gibbs,
            slopes=slopes,
            curvature=0.5 * (curvature + curvature.mT),
            entropy=entropy,
            entropy_slopes=entropy_slopes,
            heat_capacity=heat_capacity,
            n_imaginary=n_imaginary,
        )

    def first_order(self, temperature: float) -> Tensor:
        """Return the strain that the slopes at strain zero predict, (S,), of limited length.

        Args:
            temperature: Temperature, K.
        """
        point = self.at(self.no_strain, temperature)
        strain = -torch.linalg.solve(self._stiffness, point.slopes)
        return strain * min(1.0, FARTHEST_SECOND_CELL / float(strain.norm()))

    def minimum(self, start: Tensor, temperature: float) -> FreeEnergyPoint | None:
        """Find the minimum of the Gibbs energy at a temperature by Newton's method.

        Args:
            start: Coefficients of the first strain, (S,).
            temperature: Temperature, K.

        Returns:
            The minimum; None if there is none near the start.
        """
        strain = start
        for _ in range(MAX_NEWTON_STEPS):
            point = self.at(strain, temperature)
            curvatures, axes = torch.linalg.eigh(point.curvature)
            # Along directions of negative curvature, the step leads downhill.
            step = -axes @ ((axes.mT @ point.slopes) / curvatures.abs())
            length = float(step.norm())
            strain = strain + step * min(1.0, LONGEST_STEP / max(length, LONGEST_STEP))
            if not float(strain.norm()) < LARGEST_STRAIN:
                return None
            if length < STRAIN_TOLERANCE:
                return self.at(strain, temperature) if bool(curvatures[0] > 0) else None
        return None


def _divided_differences(values: Tensor, g: Tensor, dg: Tensor) -> Tensor:
    """Return `(g_n - g_m) / (values_n - values_m)`, or the mean derivative where equal, (M, M)."""
    difference = values[:, None] - values
    size = torch.maximum(values.abs()[:, None], values.abs())
    equal = difference.abs() <= EQUAL_EIGENVALUES * size
    quotient = (g[:, None] - g) / torch.where(equal, 1.0, difference)
    return torch.where(equal, 0.5 * (dg[:, None] + dg), quotient)
