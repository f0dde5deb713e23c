"""What the package asks of an interatomic potential.

A potential has parameters, makes a structure of atoms, and gives the energy of a topology as a pure
function. `Model` is one; any class with these members is one, whatever its energy is made of.
`docs/certificate.md` has a Lennard-Jones potential in forty lines.

Where a potential can do more, it has one more method, and a protocol below names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms


class AtomicStructure(Protocol):
    """A structure as a potential sees it.

    Attributes:
        positions: Å, (N, 3).
        cell: Lattice vectors in Å as rows, (3, 3).
        masses: amu, (N,).
        topology: What `Potential.energy_fn` needs besides, such as a neighbour list.
    """

    @property
    def positions(self) -> Tensor: ...  # noqa: D102

    @property
    def cell(self) -> Tensor: ...  # noqa: D102

    @property
    def masses(self) -> Tensor: ...  # noqa: D102

    @property
    def topology(self) -> Any: ...  # noqa: D102


class Potential(Protocol):
    """An interatomic potential.

    Attributes:
        params: A pytree of tensors; empty if there are none.
        dtype: Floating-point type of positions, cell and parameters.
        device: Where they are.
    """

    @property
    def params(self) -> Any: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def to(
        self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Potential:
        """The same potential in another precision or on another device.

        Raises:
            ValueError: If the potential does not exist in this precision.
        """

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> AtomicStructure:
        """The structure of an ASE Atoms object.

        Args:
            atoms: Periodic in any directions.
            skin: How much further than its cutoff the potential looks for neighbours, Å. The
                topology then holds while atoms move by less than half of it.

        Raises:
            ValueError: If the potential is not made for these atoms.
        """

    def energy_fn(self, topology: Any, *, per_atom: bool = False) -> Callable[..., Tensor]:
        """The energy as a pure function `E(positions, cell, params)`, in eV.

        Args:
            topology: Of a structure.
            per_atom: Return the energies of the atoms (N,) and not their sum.
        """


@runtime_checkable
class HasDynamicalMatrix(Protocol):
    """A potential that gives the dynamical matrix at any wave vector."""

    def dynamical_matrix_fn(self, topology: Any) -> Callable[..., Tensor]:
        """`D(q, positions, cell, params, masses)`, complex (3N, 3N) in eV/Å²/amu.

        With q (3,) in units of the reciprocal lattice vectors, and the phases
        `D_jk(q) = sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)`.
        """


@runtime_checkable
class HasDispersion(Protocol):
    """A potential that may be the sum of another one and of a dispersion correction."""

    def split_dispersion(self) -> tuple[Potential, Potential] | None:
        """The potential without its dispersion, and the dispersion; None if it has none."""


@runtime_checkable
class HoldsPairs(Protocol):
    """A potential whose energy jumps where a pair of atoms crosses a cutoff."""

    def hold_pairs(self, structure: Any) -> AtomicStructure:
        """The same structure with an energy that does not jump.

        All pairs within the cutoffs at its positions and no others count, wherever they move. Its
        energy and derivatives at its positions are those of the potential.
        """
