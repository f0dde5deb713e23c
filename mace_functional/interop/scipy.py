"""The potential energy surface for `scipy.optimize.minimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.func import grad_and_value

from mace_functional.derivatives.hessian_operator import HessianOperator
from mace_functional.structure.selection import atom_numbers, freedom
from mace_functional.structure.structure import Structure
from mace_functional.support.defaults import SKIN
from mace_functional.support.validation import in_order

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential


def minimize_arguments(potential: Potential, atoms: Atoms, *, skin: float = SKIN) -> dict[str, Any]:
    """Arguments of `scipy.optimize.minimize`: start, energy with gradient, Hessian products.

    The neighbour list follows the atoms. The products at one geometry share one linearisation of
    the gradient, and each costs less than a gradient.

    Args:
        potential: Such as a model of `load_model`.
        atoms: Where to start, periodic in any directions; the cell stays. Atoms that ASE's
            `FixAtoms` holds stay too, and are no variables. It is not changed.
        skin: Added to the cutoff in the neighbour search, Å; results do not depend on it.

    Returns:
        The arguments `x0`, Å, the (3k,) coordinates of the free atoms; `fun`, `x` to the energy in
        eV and its gradient in eV/Å; `jac=True`, which says so; and `hessp`, `x, p` to the product
        of the Hessian with p. All in float64 arrays.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential (see `from_ase`), no atom is free,
            or a constraint holds something else than whole atoms.

    Example:
        >>> found = minimize(**minimize_arguments(model, atoms), method="trust-krylov")
        ... # doctest: +SKIP
        >>> atoms.positions = found.x.reshape(-1, 3)  # doctest: +SKIP
    """
    in_order("minimize_arguments(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    left = freedom(atoms, "minimize_arguments")
    if not left.by_atoms:
        raise ValueError(
            "scipy's variables are coordinates of whole atoms, and constraints hold some "
            "directions only or a centre of mass: take relax, which keeps them"
        )
    structure = potential.structure(atoms, skin=skin)
    free = torch.as_tensor(atom_numbers(left.atoms, len(atoms)), device=structure.positions.device)
    hessian: tuple[np.ndarray, HessianOperator] | None = None

    def to_free(coordinates: np.ndarray, rest: torch.Tensor) -> torch.Tensor:
        """All of the rest, with the coordinates of the free atoms in it."""
        rows = torch.as_tensor(np.array(coordinates)).to(rest).view(-1, 3)
        return rest.index_copy(0, free, rows)

    def of_free(values: torch.Tensor) -> np.ndarray:
        return values.detach()[free].flatten().cpu().double().numpy()

    def at(x: np.ndarray) -> Structure:
        nonlocal structure
        structure = structure.at(to_free(x, structure.positions), structure.cell)
        return structure

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        s = at(x)
        gradient, energy = grad_and_value(potential.energy_fn(s.topology))(
            s.positions, s.cell, potential.params
        )
        return float(energy), of_free(gradient)

    def product(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        nonlocal hessian
        if hessian is None or not np.array_equal(hessian[0], x):
            s = at(x)
            energy = potential.energy_fn(s.topology)
            operator = HessianOperator(energy, s.positions, s.cell, potential.params)
            hessian = np.array(x), operator
        return of_free(hessian[1] @ to_free(p, torch.zeros_like(structure.positions)))

    return {
        "x0": of_free(structure.positions),
        "fun": value_and_gradient,
        "jac": True,
        "hessp": product,
    }
