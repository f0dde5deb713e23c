"""Wave vectors: what every function of q asks of them."""

from __future__ import annotations

from torch import Tensor

from mace_functional.concrete import is_concrete


def check_wave_vector(q: Tensor, pbc: Tensor) -> None:
    """Refuse what is no wave vector of a crystal; values are looked at where they can be.

    Args:
        q: In units of the reciprocal lattice vectors.
        pbc: Periodic directions of the crystal, (3,).

    Raises:
        ValueError: If the shape is not (3,), or q has a component along a direction that is not
            periodic.
    """
    if q.shape != (3,):
        raise ValueError(f"q must have the shape (3,), not {tuple(q.shape)}; use vmap for many")
    if is_concrete(q) and bool((q.detach()[~pbc] != 0).any()):
        raise ValueError(
            f"q = {q.tolist()} has a component along a direction that is not periodic "
            f"(pbc {pbc.tolist()}): there are no waves along it"
        )
