"""First derivatives of an energy: forces, stress, and the energy as a function of strain.

The functions of this module are transforms: they take a function `E(positions, cell, params)` that
returns a scalar, and return a function. They work with any energy function of positions (N, 3) and
cell (3, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad

from mace_functional.structure.lattice import PERIODIC, periodic_projector, positive_volume_of

T = TypeVar("T")


def forces(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the forces `F = -dE/dx` of an energy function, as a function of its arguments.

    Args:
        energy: Energy function `E(positions, ...)`, in eV.

    Returns:
        `F(positions, ...)` in eV/Å, (N, 3).
    """
    gradient = grad(energy)
    return lambda positions, *args: -gradient(positions, *args)


def strained(function: Callable[..., T], *, positions: int = 0) -> Callable[..., T]:
    """Turn a function f(x, cell) into a function of strain e, `f(x (1 + e), cell (1 + e))`.

    Args:
        function: Energy `E(positions, cell, ...)`, or another function with the positions and the
            cell as successive arguments.
        positions: Index of the argument that holds the positions, from 0. For a dynamical matrix
            `D(q, positions, cell, ...)` it is 1; q in units of the reciprocal lattice vectors does
            not change under strain.

    Returns:
        A function of the strain e, (3, 3), and then the arguments of `function`. The strain is
        symmetrised, so the derivatives of an energy by it are stresses and elastic constants times
        the volume. The function raises ValueError if positions and cell are not (N, 3) and (3, 3).

    Example:
        >>> def size(x, cell):
        ...     return x.norm() + cell.norm()
        >>> strained(size)(0.1 * torch.eye(3), torch.ones(3, 3), torch.ones(3, 3))
        tensor(6.6000)
    """

    def function_of_strain(strain: Tensor, *args: Any) -> T:
        x_cell = args[positions : positions + 2]
        if not _are_positions_and_cell(x_cell):
            raise ValueError(_misplaced_message(args, positions))
        x, cell = x_cell
        e = 0.5 * (strain + strain.transpose(-1, -2))
        return function(*args[:positions], x + x @ e, cell + cell @ e, *args[positions + 2 :])

    return function_of_strain


def _are_positions_and_cell(values: Sequence[Any]) -> bool:
    if len(values) != 2 or not all(isinstance(value, Tensor) for value in values):
        return False
    x, cell = values
    return x.ndim == 2 and x.shape[1] == 3 and cell.shape == (3, 3)


def _misplaced_message(args: Sequence[Any], positions: int) -> str:
    """Describe arguments that do not hold positions and cell at the expected indices."""
    shapes = [str(tuple(a.shape)) if isinstance(a, Tensor) else type(a).__name__ for a in args]
    matches = [i for i in range(len(args)) if _are_positions_and_cell(args[i : i + 2])]
    hint = f"; use strained(function, positions={matches[0]})" if matches else ""
    return (
        f"positions (N, 3) and cell (3, 3) must be the arguments {positions} and {positions + 1} "
        f"of the function, whose arguments are {', '.join(shapes)}{hint}"
    )


def stress(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the stress `sigma = (1 / V) dE/de`, e the strain; positive under tension, as in ASE.

    V is the volume of the cell. A slab or a rod can be strained only along its periodic directions:
    the result is `P sigma P` with the projector P onto them, and zero along the other directions.
    `V sigma` does not depend on the thickness of the vacuum. For a slab, `sigma` times the length
    of the cell along the normal is the surface stress in eV/Å².

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV. Energy functions of `energy_fn`
            know their periodic directions; any other is taken as periodic in three directions.

    Returns:
        `(positions, cell, params)` to the stress in eV/Å³, (3, 3) symmetric. It raises ValueError
        for a cell without a volume.

    Raises:
        ValueError: If the structure has no periodic direction, and therefore no stress.
    """
    pbc = getattr(energy, PERIODIC, (True, True, True))
    if not any(pbc):
        raise ValueError(
            "the structure is periodic in no direction and has no stress, whatever its cell"
        )
    de_dstrain = grad(strained(energy))

    def sigma(positions: Tensor, cell: Tensor, *args: object) -> Tensor:
        volume = positive_volume_of(cell)
        virial = de_dstrain(torch.zeros_like(cell), positions, cell, *args)
        if not all(pbc):
            p = periodic_projector(cell, pbc)
            virial = p @ virial @ p
            virial = 0.5 * (virial + virial.transpose(-1, -2))
        return virial / volume

    return sigma
