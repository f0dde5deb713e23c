"""Terms of a potential, each with its topology and parameters."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeGuard, TypeVar

from mace_functional.potential.protocol import EdgePotential, HasParts, HasReach, Potential

P = TypeVar("P", bound=Potential)


class Part(NamedTuple, Generic[P]):
    """A term of a potential, with its topology and parameters."""

    potential: P
    topology: Any
    params: Any

    @property
    def is_finite(self) -> bool:
        """True if the range of the force constants is known to be finite."""
        return isinstance(self.potential, (EdgePotential, HasReach))


def has_edges(part: Part[Any]) -> TypeGuard[Part[EdgePotential]]:
    """Return True if a term depends on neighbours within a cutoff, in layers."""
    return isinstance(part.potential, EdgePotential)


def parts_of_potential(potential: Potential, topology: Any, params: Any) -> list[Part[Potential]]:
    """Return the terms of a potential, and of the sums in it; or the potential as the only one."""
    if not isinstance(potential, HasParts):
        return [Part(potential, topology, params)]
    terms = zip(potential.potentials, topology.parts, potential.parts_of(params), strict=True)
    return [part for term in terms for part in parts_of_potential(*term)]
