"""The way down from a saddle point: along a mode until the energy has fallen, then a relaxation.

The energies of a relaxation never rise, so one that begins below the saddle point ends in a minimum
on that side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mace_functional.autodiff.concrete import refuse_transforms
from mace_functional.optimize.coordinates import free_coordinates
from mace_functional.optimize.relax import RelaxResult, relax
from mace_functional.optimize.surface import Surface
from mace_functional.support import validation
from mace_functional.support.defaults import FMAX, MAX_STEPS
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

LONGEST, SHORTEST = 0.1, 1e-3
"""First and last displacement to try, of the atom that moves most, Å."""

LEAST_FALL = 0.25
"""Fall of the energy over the one that gradient and curvature predict, below which a displacement
is too long."""


def follow_mode(
    potential: Potential,
    atoms: Atoms,
    mode: Tensor | np.ndarray,
    *,
    sign: int = 1,
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
    progress: bool = False,
) -> RelaxResult:
    """Leave a saddle point along a mode, and relax at fixed cell.

    The structure is displaced by 0.1 Å, as the atom goes that moves most, or by half of that, a
    quarter, ... until the energy falls by at least a quarter of what the slope and the exact
    curvature along the mode predict.

    Args:
        potential: A model from `load_model`, or any other potential.
        atoms: A stationary point; it is not changed. Constraints of ASE are kept, as by `relax`.
        mode: Cartesian direction, (N, 3), of any length: `Stability.mode`, `SaddleResult.mode`,
            an entry of `NormalModes.displacements`, or of `LowestModes.modes` over the square roots
            of the masses.
        sign: 1 to follow the mode, -1 to go the opposite way.
        fmax: Largest force on an atom to stop at, eV/Å.
        max_steps: Most gradients of the relaxation.
        progress: Show a line of progress.

    Returns:
        The relaxation; gradients and products of the way to its start are counted.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the mode is of another shape, not finite, zero or held by constraints, the
            sign is another number, or the energy does not fall along the mode.
    """
    in_order("follow_mode(potential, atoms, mode)", (potential, "Potential"), (atoms, "Atoms"))
    refuse_transforms("follow_mode", "energy_fn and its derivatives", potential.params, mode)
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, not {sign!r}")
    fmax = validation.positive("fmax", fmax, "eV/Å")
    max_steps = validation.count("max_steps", max_steps)
    s = potential.structure(atoms)
    surface = Surface(
        potential, atoms, free_coordinates(atoms, s.positions, s.cell, cell_freedom=False)
    )
    direction = sign * free_direction(mode, surface)
    here = surface.at(np.zeros(len(direction)))
    slope = float(here.gradient @ direction)
    curvature = float(direction @ surface.products(here.z)(direction))
    size = LONGEST
    while size >= SHORTEST:
        predicted = slope * size + 0.5 * curvature * size**2
        there = surface.at(size * direction)
        if predicted < 0 and there.energy < here.energy + LEAST_FALL * predicted:
            found = relax(
                potential,
                surface.atoms_at(there.z),
                relax_cell=False,
                fmax=fmax,
                max_steps=max_steps,
                progress=progress,
            )
            return replace(
                found,
                n_gradients=found.n_gradients + surface.n_gradients,
                n_hvps=found.n_hvps + surface.n_hvps,
            )
        size /= 2
    raise ValueError(
        f"the energy does not fall along this mode: its slope is {slope:.2g} eV/Å, its curvature "
        f"{curvature:.2g} eV/Å²; take an imaginary mode of a relaxed saddle point"
    )


def free_direction(mode: Tensor | np.ndarray, surface: Surface) -> np.ndarray:
    """A mode in free coordinates, (d,); of length one for the atom that moves most, in Å.

    Args:
        mode: Cartesian direction, (N, 3).
        surface: Gives the coordinates.

    Raises:
        ValueError: If the mode is of another shape, not finite, zero or held.
    """
    basis = surface.coordinates.basis
    array = np.asarray(mode.detach().cpu() if isinstance(mode, Tensor) else mode, dtype=float)
    if array.shape != (len(basis) // 3 - 2, 3) or not np.isfinite(array).all():
        raise ValueError(
            f"mode must be a finite displacement ({len(basis) // 3 - 2}, 3), not of shape "
            f"{array.shape}"
        )
    free = basis[:-6].T @ array.ravel()
    largest = np.linalg.norm((basis[:-6] @ free).reshape(-1, 3), axis=1).max()
    if not largest > 1e-6 * np.abs(array).max():
        raise ValueError(
            "the mode is zero, only translates, or moves nothing but atoms that are held"
        )
    return free / largest
