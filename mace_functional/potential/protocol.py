"""What the package asks of an interatomic potential.

A potential has parameters, makes a structure of atoms, and gives the energy of a topology as a pure
function. `MaceModel`, `D3`, `FunctionPotential` and `SumPotential` are potentials; any class with
these members is one, whatever its energy is made of.

Where a potential can do more, it has more members. A protocol below names each kind, and functions
of this module answer for the potentials without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.structure.structure import Structure

Energy = Callable[..., Tensor]
"""A function `E(positions, cell, params)`."""


@runtime_checkable
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
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Potential:
        """The same potential in another precision or on another device.

        Raises:
            ValueError: If the potential does not exist in this precision.
        """

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """The structure of an ASE Atoms object.

        Args:
            atoms: Periodic in any directions.
            skin: How much further than its cutoff the potential looks for neighbours, Å. The
                topology then holds while atoms move by less than half of it.

        Raises:
            ValueError: If the potential is not made for these atoms.
        """

    def energy_fn(self, topology: Any, *, per_atom: bool = False) -> Energy:
        """The energy as a pure function `E(positions, cell, params)`, in eV.

        Args:
            topology: Of a structure.
            per_atom: Return the energies of the atoms (N,) and not their sum.
        """


@runtime_checkable
class EdgePotential(Potential, Protocol):
    """A potential whose atoms feel neighbours within a cutoff, in a number of layers.

    It computes on any `EdgeTopology`, and so on replicas of a cell and on pieces of a crystal: its
    dynamical matrix and its force constants are exact without a supercell.

    Attributes:
        cutoff: Where edges end, Å.
        layers: How many times atoms receive from neighbours: an atom's energy depends on the atoms
            within that many steps along edges.
        n_edge_features: Numbers that one layer keeps of each edge, about; to estimate memory by.
    """

    @property
    def cutoff(self) -> float: ...  # noqa: D102

    @property
    def layers(self) -> int: ...  # noqa: D102

    @property
    def n_edge_features(self) -> int: ...  # noqa: D102

    def atom_energies(self, topology: Any, positions: Tensor, cell: Tensor, params: Any) -> Tensor:
        """Energies of the atoms in eV, in the order of `EdgeTopology.to_atoms`.

        Args:
            topology: An `EdgeTopology`.
            positions: Å, as its `edge_vectors` takes them.
            cell: Lattice vectors in Å as rows, (3, 3).
            params: Such as the potential's own.
        """


@runtime_checkable
class HasReach(Potential, Protocol):
    """A potential that says how far its force constants reach, without edges to tell.

    Its exact force constants come from a supercell in which images are out of reach.

    Attributes:
        reach: Atoms further apart than this have no force constants, Å. That is the cutoff of pair
            energies, and twice the distance within which atoms feel others where their energies
            depend on more than pairs.
    """

    @property
    def reach(self) -> float: ...  # noqa: D102


@runtime_checkable
class HasDynamicalMatrix(Protocol):
    """A potential that has a dynamical matrix of its own at any wave vector."""

    def dynamical_matrix_fn(self, topology: Any) -> Callable[..., Tensor]:
        """`D(q, positions, cell, params, masses)`, complex (3N, 3N) in eV/Å²/amu.

        With q (3,) in units of the reciprocal lattice vectors, and the phases
        `D_jk(q) = sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)`.
        """


@runtime_checkable
class HasParts(Protocol):
    """A potential that is the sum of others, each with a part of its parameters and topology.

    Attributes:
        potentials: The parts.
    """

    @property
    def potentials(self) -> tuple[Potential, ...]: ...  # noqa: D102

    def parts_of(self, params: Any) -> tuple[Any, ...]:
        """The parameters of each part, of those of the sum."""


@runtime_checkable
class HasFeatures(Protocol):
    """A potential that reads more of atoms than elements, positions, cell and masses."""

    def features(self, atoms: Atoms) -> dict[str, Tensor]:
        """What it reads, such as a total charge: () for the structure, or (N,) for the atoms."""


@runtime_checkable
class HoldsPairs(Protocol):
    """A potential whose energy jumps where a pair of atoms crosses a cutoff.

    Attributes:
        energy_jump: Size of the jumps while a cell grows, eV per atom.
    """

    @property
    def energy_jump(self) -> float: ...  # noqa: D102

    def hold_pairs(self, structure: Structure) -> Structure:
        """The same structure with an energy that does not jump.

        All pairs within the cutoffs at its positions and no others count, wherever they move. Its
        energy and derivatives at its positions are those of the potential.
        """


def features_of(potential: Potential, atoms: Atoms) -> dict[str, Tensor]:
    """What a potential reads of atoms besides elements, positions, cell and masses."""
    return potential.features(atoms) if isinstance(potential, HasFeatures) else {}


def is_mirror_symmetric(potential: Potential) -> bool:
    """Whether reflections are known to leave the energy as it is.

    A potential says so by an attribute `mirror_symmetric`. Without one nothing is assumed.
    """
    return bool(getattr(potential, "mirror_symmetric", False))


def energy_jump_of(potential: Potential) -> float:
    """Size of the jumps of the energy where pairs cross a cutoff, eV per atom; 0 for none."""
    return float(getattr(potential, "energy_jump", 0.0))


def hold_pairs_of(potential: Potential, structure: Structure) -> Structure:
    """The same structure with an energy that does not jump; itself if none does."""
    return potential.hold_pairs(structure) if isinstance(potential, HoldsPairs) else structure
