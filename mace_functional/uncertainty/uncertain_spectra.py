"""Error bars of frequencies and of thermodynamics, from a normal distribution of weights.

The structure is relaxed for the mean weights. With other weights its minimum is elsewhere, so a
property `f(y(w), w)` has two terms in its gradient: that at a fixed structure, and that by the
response of the minimum y (`minimum_response`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from ase import Atoms
from torch import Tensor
from torch.func import jacrev

from mace_functional.phonons import Mesh, dynamical_matrix_fn
from mace_functional.phonons.modes import is_gamma, vibrations_at_gamma
from mace_functional.potential.protocol import Trainable
from mace_functional.structure.arrays import as_array
from mace_functional.structure.connectivity import parts_of
from mace_functional.structure.structure import Structure
from mace_functional.support.validation import in_order
from mace_functional.uncertainty.minimum_response import minimum_fn
from mace_functional.uncertainty.weight_posterior import WeightPosterior
from mace_functional.vibrations.harmonic_modes import frequencies
from mace_functional.vibrations.rigid import rigid_motions_of
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

Response = Literal["nothing", "ions", "cell"]
"""Parts of the structure that follow the minimum when the weights change."""

Property = Callable[[Tensor, Tensor, Any], Tensor]
"""Function of positions, cell and parameters."""

SUMS = "heat_capacity", "entropy", "free_energy", "internal_energy", "zero_point_energy"
"""The quantities of `HarmonicThermo` that have error bars."""


class UncertainFrequencies(NamedTuple):
    """Frequencies with their standard deviations.

    Attributes:
        frequencies: Signed frequencies, cm-1, ascending, (M,), without rigid motions at Gamma.
        spread: Their standard deviations, cm-1, (M,).
    """

    frequencies: Tensor
    spread: Tensor


class UncertainThermo(NamedTuple):
    """Thermodynamics with their standard deviations.

    Attributes:
        thermo: Thermodynamics of one cell.
        spread: Standard deviations of heat capacity, entropy and energies, with the same methods
            and units, such as `spread.specific_heat_capacity()`.
    """

    thermo: HarmonicThermo
    spread: HarmonicThermo


def uncertain_frequencies(
    potential: Trainable,
    atoms: Atoms,
    posterior: WeightPosterior,
    *,
    q: Sequence[float] = (0.0, 0.0, 0.0),
    response: Response = "ions",
    **columns: Any,
) -> UncertainFrequencies:
    """Compute frequencies at a wave vector with the standard deviations that weights give them.

    Each mode takes one product of the Hessian and its gradient.

    Args:
        potential: The potential, for whose weights the posterior was made.
        atoms: The relaxed structure.
        posterior: Distribution of the weights.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        response: What follows the minimum when the weights change.
        **columns: Options of `dynamical_matrix_fn`.

    Returns:
        Frequencies and standard deviations.

    Raises:
        TypeError: If arguments are of other classes.
        ValueError: If the posterior was made for other weights, the response is unknown, or a
            molecule has several parts.
    """
    in_order("uncertain_frequencies(potential, atoms, ...)", *_kinds(potential, atoms))
    s = potential.structure(atoms)
    at_minimum = _at_minimum(potential, s, response)
    function = at_minimum(_frequencies_fn(potential, s, q, columns))
    return UncertainFrequencies(*posterior.spread(function, potential.params))


def uncertain_thermo(
    potential: Trainable,
    atoms: Atoms,
    posterior: WeightPosterior,
    temperatures: Sequence[float] | Tensor | float,
    *,
    mesh: Sequence[int] = (1, 1, 1),
    response: Response = "ions",
    **columns: Any,
) -> UncertainThermo:
    """Compute thermodynamics of a crystal with the standard deviations that weights give them.

    Each mode takes one product of the Hessian and its gradient, for all temperatures together.

    Args:
        potential: The potential, for whose weights the posterior was made.
        atoms: The relaxed crystal.
        posterior: Distribution of the weights.
        temperatures: Temperatures in K, (T,) or a scalar.
        mesh: Mesh of wave vectors.
        response: What follows the minimum when the weights change.
        **columns: Options of `dynamical_matrix_fn`.

    Returns:
        Thermodynamics of one cell, and their standard deviations.

    Raises:
        TypeError: If arguments are of other classes.
        ValueError: If the posterior was made for other weights, the response is unknown, or the
            structure is not periodic.

    Warns:
        UserWarning: There are imaginary modes.
    """
    in_order("uncertain_thermo(potential, atoms, ...)", *_kinds(potential, atoms))
    s = potential.structure(atoms)
    points = Mesh.of(atoms, mesh, symmetry=response == "nothing")
    at_minimum = _at_minimum(potential, s, response)
    omegas = torch.zeros(len(points.q), 3 * len(atoms), dtype=s.positions.dtype)
    spreads = omegas.new_zeros(*omegas.shape, posterior.factor.shape[1])
    rigid = []
    for k, q in enumerate(points.q.tolist()):
        function = at_minimum(_frequencies_fn(potential, s, q, columns))
        found, gradients = posterior.gradients(function, potential.params)
        n = len(found)
        omegas[k, :n], spreads[k, :n] = found.cpu(), (gradients @ posterior.factor).cpu()
        rigid.append(omegas.shape[1] - n)
    options: dict[str, Any] = {
        "weights": points.weights.to(omegas),
        "drop": torch.tensor(rigid),
        "unit": "cm-1",
    }

    def sums(frequencies: Tensor) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of imaginary modes, which are warned of below
            found = harmonic_thermo(frequencies, temperatures, **options)
        return {name: getattr(found, name) for name in SUMS}

    thermo = harmonic_thermo(omegas, temperatures, **options)._replace(mass=s.masses.sum().cpu())
    slopes = jacrev(sums)(omegas)
    spread = {
        name: torch.tensordot(slope, spreads, 2).norm(dim=-1) for name, slope in slopes.items()
    }
    return UncertainThermo(thermo, thermo._replace(**spread))


def _kinds(potential: Any, atoms: Any) -> tuple[tuple[Any, str], tuple[Any, str]]:
    return (potential, "Trainable"), (atoms, "Atoms")


def _frequencies_fn(
    potential: Trainable, s: Structure, q: Sequence[float], columns: dict[str, Any]
) -> Property:
    """Return the frequencies at a wave vector, cm-1, as a function of x, cell and parameters."""
    matrix = dynamical_matrix_fn(potential, s.topology, **columns)
    at_gamma = bool(is_gamma(torch.tensor([list(q)], dtype=torch.float64))[0])
    rotations, axis = _rotations(s) if at_gamma else (0, None)

    def of(x: Tensor, cell: Tensor, params: Any) -> Tensor:
        d = matrix(list(q), x, cell, params, s.masses)
        if not at_gamma:
            return frequencies(d)
        return vibrations_at_gamma(d, s.masses, x, rotations=rotations, axis=axis)

    return of


def _at_minimum(
    potential: Trainable, structure: Structure, response: Response
) -> Callable[[Property], Callable[[Any], Tensor]]:
    """Return a transform from a property to its values at the minimum that follows the weights."""
    if response not in get_args(Response):
        raise ValueError(f"response must be 'nothing', 'ions' or 'cell', not {response!r}")
    if response == "nothing":
        return lambda f: lambda params: f(structure.positions, structure.cell, params)
    minimum = minimum_fn(potential, structure, cell=response == "cell")
    return lambda f: lambda params: f(*minimum(params), params)


def _rotations(structure: Structure) -> tuple[int, Tensor | None]:
    """Return the number of rigid rotations of a structure, and the axis of a single one."""
    x, cell = structure.positions, structure.cell
    parts = parts_of(structure.topology, x, cell)
    masses = as_array(structure.masses)
    motions = rigid_motions_of(as_array(x), masses, as_array(cell), parts)
    if motions.count != 3 + motions.n_rotations:
        raise ValueError(
            "the structure has several parts that nothing connects: each has rigid motions of its "
            "own, which error bars of frequencies do not treat; compute one part"
        )
    if motions.n_rotations != 1:
        return motions.n_rotations, None
    (translation, *_), *_ = parts.translations
    return 1, torch.as_tensor(translation @ as_array(cell)).to(x)
