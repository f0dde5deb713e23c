"""Derivatives of an energy: forces, Hessian-vector products, Hessians, stress.

Everything here is a transform: it takes a function `E(positions, cell, params) -> scalar` and
returns a function of the same arguments. Nothing is known of MACE; any energy function of
positions (N, 3), followed by any other arguments, will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from mace_functional.columns import ChunkSize, map_columns
from mace_functional.concrete import is_concrete
from mace_functional.lattice import periodic_projector, volume_of

T = TypeVar("T")
PERIODIC = "pbc"
"""Attribute of an energy function that says in which directions its structure is periodic."""

Mode = Literal["auto", "fwd-rev", "rev-rev"]


def forces(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Forces `F = -dE/dx`.

    Args:
        energy: `E(positions, ...)` in eV.

    Returns:
        `F(positions, ...)` in eV/Å, (N, 3).
    """
    gradient = grad(energy)
    return lambda positions, *args: -gradient(positions, *args)


def hvp(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hessian-vector product `H v`, forward over reverse: about the cost of two gradients.

    To multiply many vectors at one geometry, use `HessianOperator`, which linearises only once: its
    products cost less than a gradient.

    Args:
        energy: `E(positions, cell, params)` in eV.

    Returns:
        `(positions, cell, params, v)` to `H v` in eV/Å² times the unit of `v`, (N, 3).

    Example:
        >>> Hv = hvp(lambda x, k: 0.5 * k * (x**2).sum())
        >>> Hv(torch.ones(2, 3), 3.0, torch.ones(2, 3))[0]
        tensor([3., 3., 3.])
    """
    gradient = grad(energy)

    def product(positions: Tensor, *args: object) -> Tensor:
        *rest, vector = args
        if not isinstance(vector, Tensor) or vector.shape != positions.shape:
            raise ValueError(f"the vector must have the positions' shape {tuple(positions.shape)}")
        return jvp(lambda x: gradient(x, *rest), (positions,), (vector,))[1]

    return product


def hessian(
    energy: Callable[..., Tensor],
    *,
    chunk_size: ChunkSize = "auto",
    mode: Mode = "auto",
    indices: Sequence[int] | Tensor | None = None,
    memory_budget: int | None = None,
    progress: bool = False,
) -> Callable[..., Tensor]:
    """Hessian `H[i, a, j, b] = d2E / dx_ia dx_jb`, column by column in chunks.

    Args:
        energy: `E(positions, cell, params)` in eV.
        chunk_size: Columns at once: a number, None for all, or "auto" to fit `memory_budget` by
            the measured size of the first column.
        mode: "fwd-rev" is `jacfwd(jacrev(E))`, the definition: every chunk computes the gradient
            anew and pushes its vectors forward through it. "rev-rev" linearises the gradient once
            and pulls every chunk back: faster where memory holds one linearised gradient, and what
            "auto" chooses.
        indices: Atoms of a partial Hessian; all if None.
        memory_budget: Bytes that "auto" may fill; half of the free memory if None.
        progress: Show a progress bar.

    Returns:
        `(positions, cell, params)` to the Hessian in eV/Å², (N, 3, N, 3); with `indices` the block
        (k, 3, k, 3) of these atoms. It is not symmetrised: its asymmetry measures the rounding.

    Raises:
        ValueError: If an option is unknown or an index out of range.

    Source: Goennheimer, Reuter, Margraf, J. Chem. Theory Comput. 21, 4742 (2025).
    """
    if mode not in ("auto", "fwd-rev", "rev-rev"):
        raise ValueError(f"mode must be 'auto', 'fwd-rev' or 'rev-rev', not {mode!r}")
    gradient = grad(energy)

    def full_or_partial(positions: Tensor, *args: object) -> Tensor:
        apply = _linearised(lambda x: gradient(x, *args), positions, mode)
        atoms = _atoms(indices, positions)
        columns = map_columns(
            apply,
            _unit_displacements(atoms, positions),
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            progress=progress,
        )
        rows = columns.index_select(1, atoms)
        return rows.reshape(len(atoms), 3, len(atoms), 3)

    return full_or_partial


def _linearised(
    gradient: Callable[[Tensor], Tensor], positions: Tensor, mode: Mode
) -> Callable[[Tensor], Tensor]:
    """`v -> H v`; by symmetry also the pull-back `v -> v H`."""
    if mode == "fwd-rev":
        return lambda v: jvp(gradient, (positions,), (v,))[1]
    pull_back = vjp(gradient, positions)[1]
    return lambda v: pull_back(v)[0]


def _atoms(indices: Sequence[int] | Tensor | None, positions: Tensor) -> Tensor:
    """Indices as a tensor of numbers from 0 to N - 1."""
    count = positions.shape[0]
    if indices is None:
        return torch.arange(count, device=positions.device)
    atoms = torch.as_tensor(indices, device=positions.device)
    if atoms.shape == (0,):
        return atoms.to(torch.int64)
    if atoms.ndim != 1 or atoms.is_floating_point() or atoms.dtype == torch.bool:
        raise ValueError("indices must be a sequence of atom numbers")
    if not (int(atoms.min()) >= -count and int(atoms.max()) < count):
        raise ValueError(f"indices must lie between 0 and {count - 1}")
    return atoms % count


def _unit_displacements(atoms: Tensor, positions: Tensor) -> Tensor:
    """Unit displacements of the given atoms along x, y and z, (3k, N, 3)."""
    every = torch.eye(positions.numel(), dtype=positions.dtype, device=positions.device)
    every = every.view(*positions.shape, *positions.shape)
    return every.index_select(0, atoms).reshape(-1, *positions.shape)


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
