"""Rigid rotor: moments of inertia, rotational constants and entropies of a molecule that rotates.

With the moments of inertia I of a molecule and its symmetry number sigma, the rotational
temperatures are Theta = hbar^2 / (2 I k), and at temperatures far above them

    linear       S = k [ln(T / (sigma Theta)) + 1],                               U = k T
    nonlinear    S = k [ln(sqrt(pi T^3 / (Theta_A Theta_B Theta_C)) / sigma) + 3/2],  U = 3/2 k T

This is the classical limit. An atom does not rotate. The first correction by the levels is

    linear       ln q = ln q_classical + Theta / (3 T)
    nonlinear    ln q = ln q_classical + [2 (A + B + C) - A B / C - B C / A - C A / B] / (12 T)

with the rotational temperatures A, B and C. It lowers the Gibbs energy by k T times this, and the
enthalpy as much, so that the entropy is not changed.

Source: McQuarrie, *Statistical Mechanics* (1976), chapters 6 and 8; for the correction Stripp,
Kirkwood, J. Chem. Phys. 1951, 19, 1131.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mace_functional.units import ANGULAR_FREQUENCY, HBAR, K_B

HBAR_SQUARED = (HBAR * ANGULAR_FREQUENCY) ** 2
"""Square of the reduced Planck constant, eV amu Å²."""

ALIKE = 3e-3
"""Relative difference of two moments of inertia up to which a top counts as symmetric.

Methane and benzene, relaxed to 1e-3 eV/Å with the embedded model after random displacements of 0.05
Å, have 4e-5 and 2e-6.
"""


def moments_of_inertia(masses: Tensor, positions: Tensor, *, linear: bool = False) -> Tensor:
    """Compute the principal moments of inertia about the centre of mass, amu Å², ascending, (3,).

    Args:
        masses: Masses in amu, (N,).
        positions: Positions in Å, (N, 3), of a molecule in one piece.
        linear: Take the molecule as linear: the atoms are moved to its long axis, so that one
            moment is exactly zero, and the two others are equal.

    >>> moments_of_inertia(torch.ones(2), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    tensor([0., 2., 2.])
    """
    r = positions - masses @ positions / masses.sum()
    squares = torch.einsum("i,ia,ib->ab", masses, r, r)
    if linear:
        moment = torch.linalg.eigvalsh(squares)[-1]
        return torch.stack([torch.zeros_like(moment), moment, moment])
    identity = torch.eye(3, dtype=r.dtype, device=r.device)
    moments: Tensor = torch.linalg.eigvalsh(squares.trace() * identity - squares)
    return moments


def top_of(moments: list[float]) -> str:
    """Return the name of a rotating molecule as a top.

    Args:
        moments: Principal moments of inertia, ascending, amu Å², (3,).

    Returns:
        "atom", "linear", "spherical top", "prolate symmetric top", "oblate symmetric top" or
        "asymmetric top".

    >>> top_of([0.0, 2.0, 2.0]), top_of([1.0, 2.0, 3.0])
    ('linear', 'asymmetric top')
    """
    a, b, c = moments
    if c == 0:
        return "atom"
    if a == 0:
        return "linear"
    lower, upper = b - a <= ALIKE * b, c - b <= ALIKE * c
    if lower and upper:
        return "spherical top"
    if upper:
        return "prolate symmetric top"
    return "oblate symmetric top" if lower else "asymmetric top"


def rotational_temperatures(moments: Tensor) -> Tensor:
    """Return the rotational temperatures hbar^2 / (2 I k) of moments of inertia I in amu Å², K."""
    return HBAR_SQUARED / (2 * K_B * moments)


def quantum_correction(moments: Tensor) -> Tensor:
    """Return T times the first correction of ln q by the rotational levels, K, a scalar.

    Args:
        moments: Moments of inertia in amu Å² of the axes that rotate, (2,) or (3,).
    """
    a, b, *rest = rotational_temperatures(moments)
    if not rest:
        return b / 3
    c = rest[0]
    return (2 * (a + b + c) - a * b / c - b * c / a - c * a / b) / 12


def rotational_entropy(temperatures: Tensor, moments: Tensor, symmetry_number: Tensor) -> Tensor:
    """Compute the entropy of rotation in the classical limit, eV/K, in the shape of temperatures.

    Args:
        temperatures: Temperatures in K, above zero.
        moments: Moments of inertia in amu Å² of the axes that rotate: none for an atom, (0,), two
            for a linear molecule, (2,), three for any other, (3,).
        symmetry_number: Number of rotations that map the molecule onto itself.
    """
    n = len(moments)
    if n == 0:
        return torch.zeros_like(temperatures)
    # A linear molecule has two equal moments, so that the square root is that of a square.
    reduced = temperatures[..., None] / rotational_temperatures(moments)
    volume = math.pi ** (1 / 2) if n == 3 else 1.0
    return K_B * (reduced.log().sum(-1) / 2 + n / 2 + torch.log(volume / symmetry_number))
