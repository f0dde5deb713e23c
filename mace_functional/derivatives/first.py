"""First derivatives of an energy: forces, stress, and the energy as a function of strain.

Everything here is a transform: it takes a function `E(positions, cell, params) -> scalar` and
returns a function of the same arguments. Any energy function of positions (N, 3) and cell will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad

from mace_functional.autodiff.concrete import is_concrete
from mace_functional.structure.lattice import PERIODIC, periodic_projector, volume_of

T = TypeVar("T")


def forces(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Forces `F = -dE/dx`.

    Args:
        energy: `E(positions, ...)` in eV.

    Returns:
        `F(positions, ...)` in eV/Å, (N, 3).
    """
    gradient = grad(energy)
    return lambda positions, *args: -gradient(positions, *args)


def strained(function: Callable[..., T], *, positions: int = 0) -> Callable[..., T]:
    """A function of positions and cell as a function of strain, `f((1 + e) x, (1 + e) cell)`.

    Args:
        function: An energy `E(positions, cell, ...)`, or another function in which the cell follows
            the positions.
        positions: Which argument of the function the positions are, from 0. A dynamical matrix
            `D(q, positions, cell, ...)` takes `positions=1`: q in units of the reciprocal lattice
            vectors stays the same under strain.

    Returns:
        `(strain, ...)`, with the arguments of the function after the strain (3, 3), which is
        symmetrised: derivatives of an energy are stresses and elastic constants times the volume.
        It raises ValueError if the arguments in the places of positions and cell are not (N, 3) and
        (3, 3).

    Example:
        >>> def size(x, cell):
        ...     return x.norm() + cell.norm()
        >>> strained(size)(0.1 * torch.eye(3), torch.ones(3, 3), torch.ones(3, 3))
        tensor(6.6000)
    """

    def of_strain(strain: Tensor, *args: Any) -> T:
        given = args[positions : positions + 2]
        if not _are_positions_and_cell(given):
            raise ValueError(_misplaced(args, positions))
        x, cell = given
        symmetric = 0.5 * (strain + strain.transpose(-1, -2))
        moved = (x + x @ symmetric, cell + cell @ symmetric)
        return function(*args[:positions], *moved, *args[positions + 2 :])

    return of_strain


def _are_positions_and_cell(given: Sequence[Any]) -> bool:
    if len(given) != 2 or not all(isinstance(value, Tensor) for value in given):
        return False
    x, cell = given
    return x.ndim == 2 and x.shape[1] == 3 and cell.shape == (3, 3)


def _misplaced(args: Sequence[Any], positions: int) -> str:
    """What is wrong with arguments in which positions and cell are in other places."""
    shapes = [str(tuple(a.shape)) if isinstance(a, Tensor) else type(a).__name__ for a in args]
    found = [i for i in range(len(args)) if _are_positions_and_cell(args[i : i + 2])]
    hint = f"; strained(function, positions={found[0]}) finds them" if found else ""
    return (
        f"positions (N, 3) and cell (3, 3) must be the arguments {positions} and {positions + 1} "
        f"of the function, whose arguments are {', '.join(shapes)}{hint}"
    )


def stress(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Stress `sigma = (1 / V) dE/de` with the strain e; positive under tension, as in ASE.

    V is the volume of the cell as it is given. Of a slab or a rod only the periodic directions have
    a lattice to be strained: with the projector P onto them it is `P sigma P`, and zero along the
    others. `V sigma` does not depend on how much vacuum the cell holds; for a slab, `sigma` times
    the length of the cell along the normal is the surface stress in eV/Å².

    Args:
        energy: `E(positions, cell, params)` in eV. One of `energy_fn` knows its periodic
            directions; any other is taken for that of a crystal, periodic in three.

    Returns:
        `(positions, cell, params)` to the stress in eV/Å³, (3, 3) symmetric. It raises ValueError
        for a cell without a volume.

    Raises:
        ValueError: If the energy is of a structure without a periodic direction, which has no
            stress whatever cell it is given.
    """
    pbc = getattr(energy, PERIODIC, (True, True, True))
    if not any(pbc):
        raise ValueError(
            "the structure is periodic in no direction, so that its cell, if any, has no meaning "
            "and it has no stress"
        )
    of_strain = grad(strained(energy))

    def sigma(positions: Tensor, cell: Tensor, *args: object) -> Tensor:
        volume = volume_of(cell)
        if is_concrete(volume) and not float(volume) > 0:
            raise ValueError(
                "the cell has no volume, and a stress is per volume: give it a lattice vector "
                "along each direction, however long along those that are not periodic"
            )
        virial = of_strain(torch.zeros_like(cell), positions, cell, *args)
        if not all(pbc):
            inside = periodic_projector(cell, pbc)
            virial = inside @ virial @ inside
            virial = 0.5 * (virial + virial.transpose(-1, -2))
        return virial / volume

    return sigma
