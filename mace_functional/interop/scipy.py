"""Energy, gradient and Hessian products for `scipy.optimize.minimize`."""

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
    """Return the arguments of `scipy.optimize.minimize` for a structure.

    The neighbour list is updated as the atoms move. Hessian products at one geometry share one
    linearisation of the gradient; each costs less than a gradient.

    Args:
        potential: A potential, for example a model of `load_model`.
        atoms: The initial structure, periodic in any directions; it is not changed. The cell is
            fixed. Atoms that ASE's `FixAtoms` fixes are not among the variables.
        skin: Distance added to the cutoff in the neighbour search, Å. Results do not depend on it.

    Returns:
        A dictionary of arguments: `x0`, the coordinates of the k free atoms in Å, (3k,); `fun`, the
        function of `x` that returns the energy in eV and its gradient in eV/Å; `jac=True`, because
        `fun` returns the gradient too; and `hessp`, the function of `x` and `p` that returns the
        product of the Hessian with p. Arrays are float64.

    Raises:
        TypeError: If the arguments are of other classes, or swapped.
        ValueError: If the structure does not fit the potential (see `from_ase`), no atom is free,
            or a constraint fixes anything other than whole atoms.

    Example:
        >>> result = minimize(**minimize_arguments(model, atoms), method="trust-krylov")
        ... # doctest: +SKIP
        >>> atoms.positions = result.x.reshape(-1, 3)  # doctest: +SKIP
    """
    in_order("minimize_arguments(potential, atoms)", (potential, "Potential"), (atoms, "Atoms"))
    freedoms = freedom(atoms, "minimize_arguments")
    if not freedoms.by_atoms:
        raise ValueError(
            "minimize_arguments can only fix whole atoms, but a constraint fixes single "
            "directions or a centre of mass: use relax, which supports this"
        )
    structure = potential.structure(atoms, skin=skin)
    free = torch.as_tensor(
        atom_numbers(freedoms.atoms, len(atoms)), device=structure.positions.device
    )
    hessian: tuple[np.ndarray, HessianOperator] | None = None

    def with_free_rows(coordinates: np.ndarray, rows: torch.Tensor) -> torch.Tensor:
        """Return `rows` (N, 3) with the rows of the free atoms replaced by coordinates (3k,)."""
        free_rows = torch.as_tensor(np.array(coordinates)).to(rows).view(-1, 3)
        return rows.index_copy(0, free, free_rows)

    def free_rows_of(values: torch.Tensor) -> np.ndarray:
        """Return the rows of the free atoms, flat, (3k,)."""
        return values.detach()[free].flatten().cpu().double().numpy()

    def at(x: np.ndarray) -> Structure:
        """Move the structure to x and return it."""
        nonlocal structure
        structure = structure.at(with_free_rows(x, structure.positions), structure.cell)
        return structure

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the energy, eV, and its gradient, eV/Å, (3k,)."""
        s = at(x)
        gradient, energy = grad_and_value(potential.energy_fn(s.topology))(
            s.positions, s.cell, potential.params
        )
        return float(energy), free_rows_of(gradient)

    def product(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return the product of the Hessian at x with p, (3k,)."""
        nonlocal hessian
        if hessian is None or not np.array_equal(hessian[0], x):
            s = at(x)
            energy = potential.energy_fn(s.topology)
            operator = HessianOperator(energy, s.positions, s.cell, potential.params)
            hessian = np.array(x), operator
        return free_rows_of(hessian[1] @ with_free_rows(p, torch.zeros_like(structure.positions)))

    return {
        "x0": free_rows_of(structure.positions),
        "fun": value_and_gradient,
        "jac": True,
        "hessp": product,
    }
