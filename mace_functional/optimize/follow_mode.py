"""Relaxation from a saddle point: a displacement along a mode, then `relax`.

The energy never rises in a relaxation. A relaxation that starts below the saddle point on one side
therefore ends in a minimum on that side.
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

FIRST_DISPLACEMENT = 0.1
"""First displacement that is tried, Å, of the atom that moves most."""

MIN_DISPLACEMENT = 1e-3
"""Smallest displacement that is tried, Å, of the atom that moves most."""

MIN_FALL = 0.25
"""Smallest ratio of the computed to the predicted fall of the energy.

The prediction uses gradient and curvature along the mode. Below, the displacement is halved.
"""


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

    The structure is displaced so that the atom that moves most moves by 0.1 Å. The displacement is
    halved until the energy falls by at least a quarter of the value that the slope and the exact
    curvature along the mode predict.

    Args:
        potential: A potential, such as a model of `load_model`.
        atoms: A stationary point; it is not changed. Constraints of ASE are kept, as by `relax`.
        mode: Cartesian direction of any length, (N, 3): `Stability.mode`, `SaddleResult.mode`, an
            entry of `NormalModes.displacements`, or an entry of `LowestModes.modes` divided by the
            square roots of the masses.
        sign: 1 to follow the mode, -1 for the opposite direction.
        fmax: Largest force on an atom at the end, eV/Å.
        max_steps: Largest number of gradients of the relaxation.
        progress: Show a line of progress.

    Returns:
        The relaxation. Its numbers of gradients and products include those before its start.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the mode has another shape, is not finite, zero or fixed by constraints, the
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
    start = surface.at(np.zeros(len(direction)))
    slope = float(start.gradient @ direction)
    curvature = float(direction @ surface.products(start.z)(direction))
    size = FIRST_DISPLACEMENT
    while size >= MIN_DISPLACEMENT:
        predicted = slope * size + 0.5 * curvature * size**2
        displaced = surface.at(size * direction)
        if predicted < 0 and displaced.energy < start.energy + MIN_FALL * predicted:
            result = relax(
                potential,
                surface.atoms_at(displaced.z),
                relax_cell=False,
                fmax=fmax,
                max_steps=max_steps,
                progress=progress,
            )
            return replace(
                result,
                n_gradients=result.n_gradients + surface.n_gradients,
                n_hvps=result.n_hvps + surface.n_hvps,
            )
        size /= 2
    raise ValueError(
        f"the energy does not fall along this mode: its slope is {slope:.2g} eV/Å, its curvature "
        f"{curvature:.2g} eV/Å²; take an imaginary mode of a relaxed saddle point"
    )


def free_direction(mode: Tensor | np.ndarray, surface: Surface) -> np.ndarray:
    """Convert a mode to free coordinates, (d,); the atom that moves most moves by 1 Å.

    Args:
        mode: Cartesian direction, (N, 3).
        surface: Surface that defines the free coordinates.

    Raises:
        ValueError: If the mode has another shape, is not finite, zero or fixed by constraints.
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
            "the mode is zero, a translation, or moves only atoms that constraints fix"
        )
    return free / largest
