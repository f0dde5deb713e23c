"""Second derivatives of an energy by the positions: Hessian-vector products and Hessians.

The functions of this module are transforms: they take a function `E(positions, cell, params)` that
returns a scalar, and return a function. They work with any energy function of positions (N, 3) and
any further arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import ChunkSize, chunked_vmap
from mace_functional.autodiff.forward_mode import jvp

Mode = Literal["auto", "fwd-rev", "rev-rev"]


def hvp(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the Hessian-vector product `H v` as a function; it costs about two gradients.

    The product is computed forward over reverse. To multiply many vectors at one geometry, use
    `HessianOperator`: it linearises the gradient once, and its products cost less than a gradient.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.

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
    """Return the Hessian `d2E / dx_ia dx_jb` of an energy function, as a function of its arguments.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.
        chunk_size: Columns per chunk: a number, None for all, or "auto" for as many as fit
            `memory_budget`, by the measured memory of the first columns.
        mode: "fwd-rev" is `jacfwd(jacrev(E))`: it computes the gradient again for every chunk, and
            pushes the vectors of the chunk forward through it. "rev-rev" linearises the gradient
            once and pulls the vectors of every chunk back through it. It is faster, and needs the
            memory of one linearised gradient. "auto" is "rev-rev".
        indices: Atoms of a partial Hessian; None for all atoms.
        memory_budget: Bytes that "auto" may fill; None for half of the free memory.
        progress: Show a progress bar.

    Returns:
        `(positions, cell, params)` to the Hessian H[i, a, j, b] in eV/Å², (N, 3, N, 3); with
        `indices`, the block (k, 3, k, 3) of these atoms. The result is not symmetrised, so its
        asymmetry shows the rounding error.

    Raises:
        ValueError: If an option is unknown or an index is out of range.

    Source: Goennheimer, Reuter, Margraf, J. Chem. Theory Comput. 21, 4742 (2025).
    """
    if mode not in ("auto", "fwd-rev", "rev-rev"):
        raise ValueError(f"mode must be 'auto', 'fwd-rev' or 'rev-rev', not {mode!r}")
    gradient = grad(energy)

    def full_or_partial(positions: Tensor, *args: object) -> Tensor:
        apply = _linearised(lambda x: gradient(x, *args), positions, mode)
        atoms = atom_indices(indices, positions)
        columns = chunked_vmap(
            apply,
            unit_displacements(atoms, positions),
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
    """Return the function `v -> H v`; the pull-back `v -> v H` is the same by symmetry."""
    if mode == "fwd-rev":
        return lambda v: jvp(gradient, (positions,), (v,))[1]
    pull_back = vjp(gradient, positions)[1]
    return lambda v: pull_back(v)[0]


def atom_indices(indices: Sequence[int] | Tensor | None, positions: Tensor) -> Tensor:
    """Return indices of atoms as a tensor of integers from 0 to N - 1."""
    count = positions.shape[0]
    if indices is None:
        return torch.arange(count, device=positions.device)
    atoms = torch.as_tensor(indices)
    if atoms.shape == (0,):
        return atoms.to(positions.device, torch.int64)
    if atoms.ndim != 1 or atoms.is_floating_point() or atoms.dtype == torch.bool:
        raise ValueError("indices must be a sequence of atom numbers")
    if not (int(atoms.min()) >= -count and int(atoms.max()) < count):
        raise ValueError(f"indices must lie between 0 and {count - 1}")
    return (atoms % count).to(positions.device, non_blocking=True)


def unit_displacements(atoms: Tensor, positions: Tensor) -> Tensor:
    """Return the unit displacements of k atoms along x, y and z, (3k, N, 3)."""
    identity = torch.eye(positions.numel(), dtype=positions.dtype, device=positions.device)
    identity = identity.view(*positions.shape, *positions.shape)
    return identity.index_select(0, atoms).reshape(-1, *positions.shape)
