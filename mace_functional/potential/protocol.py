"""The interface of interatomic potentials.

A potential has parameters, makes structures from ASE Atoms, and returns the energy of a structure
as a pure function. `MaceModel`, `D3`, `FunctionPotential` and `SumPotential` are potentials, and so
is any class with the members of `Potential`.

A potential may have further members, which let the package do more with it or do it faster. Each of
the other protocols describes one set of them. The functions at the end return a default for
potentials without such members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.structure.structure import Structure

Energy = Callable[..., Tensor]
"""Energy in eV as a pure function `E(positions, cell, params)`."""


@runtime_checkable
class Potential(Protocol):
    """An interatomic potential.

    Attributes:
        params: Parameters, a pytree of tensors; empty if there are none.
        dtype: Floating-point type of positions, cell and parameters.
        device: Device of positions, cell and parameters.
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
        """Return the potential in another precision or on another device.

        Raises:
            ValueError: If the potential does not exist in this precision.
        """

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """Make the structure of an ASE Atoms object.

        Args:
            atoms: ASE Atoms, periodic in any directions.
            skin: Length that is added to the cutoff in the neighbour search, Å. The topology stays
                exact while atoms move by less than half of it.

        Raises:
            ValueError: If the potential cannot compute these atoms.
        """

    def energy_fn(self, topology: Any, *, per_atom: bool = False) -> Energy:
        """Return the energy as a pure function `E(positions, cell, params)`, in eV.

        Args:
            topology: Topology of a structure.
            per_atom: True to return the energies of the atoms (N,), not their sum.
        """


@runtime_checkable
class EdgePotential(Potential, Protocol):
    """A potential that depends on neighbours within a cutoff, in one or more layers.

    It computes on any `EdgeTopology`, also on replicas of a cell and on the stars of one. Its
    dynamical matrix and its force constants are therefore exact without a supercell.

    Attributes:
        cutoff: Largest length of an edge, Å.
        layers: Number of layers. An atom's energy depends on the atoms within this many edges.
        n_edge_features: Approximate count of numbers per edge that one layer keeps; used to
            estimate memory.
    """

    @property
    def cutoff(self) -> float: ...  # noqa: D102

    @property
    def layers(self) -> int: ...  # noqa: D102

    @property
    def n_edge_features(self) -> int: ...  # noqa: D102

    def atom_energies(self, topology: Any, positions: Tensor, cell: Tensor, params: Any) -> Tensor:
        """Compute the energies of the atoms in eV, in the order of `EdgeTopology.to_atoms`.

        Args:
            topology: An `EdgeTopology`.
            positions: Positions in Å, as `topology.edge_vectors` takes them.
            cell: Lattice vectors in Å as rows, (3, 3).
            params: Parameters, in the same pytree as those of the potential.
        """


@runtime_checkable
class HasReach(Potential, Protocol):
    """A potential without edges whose force constants have a finite range.

    Its force constants are computed exactly in a supercell that is larger than this range.

    Attributes:
        reach: Largest distance of two atoms whose force constants are not zero, Å. It is the cutoff
            for pair energies. If the energies of atoms depend on more than pairs, it is twice the
            largest distance within which they depend on other atoms.
    """

    @property
    def reach(self) -> float: ...  # noqa: D102


@runtime_checkable
class HasDynamicalMatrix(Protocol):
    """A potential that computes its dynamical matrix at any wave vector itself."""

    def dynamical_matrix_fn(self, topology: Any) -> Callable[..., Tensor]:
        """Return `D(q, positions, cell, params, masses)`, complex (3N, 3N), in eV/Å²/amu.

        q (3,) is in units of the reciprocal lattice vectors. The phase convention is
        `D_jk(q) = sum_R Phi(0j, Rk) exp(2 pi i q.R) / sqrt(m_j m_k)`.
        """


@runtime_checkable
class HasWaveHessian(Protocol):
    """An `EdgePotential` that multiplies Bloch waves by its Hessian without replicas."""

    def wave_hessian(
        self, topology: Any, q: Tensor, positions: Tensor, cell: Tensor, params: Any
    ) -> Callable[[Tensor], Tensor] | None:
        """Return the map from displacements (n, N, 3) in Å to `H(q) u`, complex, in eV/Å.

        `H_jk(q) = sum_R Phi(0j, Rk) exp(2 pi i q.R)`, with q (3,) in units of the reciprocal
        lattice vectors. None if it cannot, as under transforms: replicas are then used.
        """


@runtime_checkable
class HasParts(Protocol):
    """A potential that is a sum of potentials.

    Attributes:
        potentials: The terms of the sum.
    """

    @property
    def potentials(self) -> tuple[Potential, ...]: ...  # noqa: D102

    def parts_of(self, params: Any) -> tuple[Any, ...]:
        """Return the parameters of each term, from the parameters of the sum."""


@runtime_checkable
class Trainable(Potential, Protocol):
    """A potential whose parameters can be replaced, as by training.

    Attributes:
        weights: Names of the parameters that training changes; all others are constants. The name
            of a parameter is its path in the pytree, joined by dots.
    """

    @property
    def weights(self) -> tuple[str, ...]: ...  # noqa: D102

    def with_params(self, params: Any) -> Self:
        """Return the potential with other parameters of the same names and shapes."""


@runtime_checkable
class HasReferenceEnergies(Protocol):
    """A potential whose energy contains a constant for each atom of an element."""

    def with_shifted_references(self, shifts: Mapping[int, float]) -> Self:
        """Return the potential with shifts, eV, added to these constants, by atomic number."""


@runtime_checkable
class HasFeatures(Protocol):
    """A potential that reads more from ASE Atoms than elements, positions, cell and masses."""

    def features(self, atoms: Atoms) -> dict[str, Tensor]:
        """Read features such as a total charge: () for the structure, or (N,) for the atoms."""


@runtime_checkable
class HoldsPairs(Protocol):
    """A potential whose energy jumps where a pair of atoms crosses a cutoff.

    Attributes:
        energy_jump: Size of the jumps when the cell grows, eV per atom.
    """

    @property
    def energy_jump(self) -> float: ...  # noqa: D102

    def hold_pairs(self, structure: Structure) -> Structure:
        """Return the structure with a fixed list of pairs, so that its energy does not jump.

        The list holds the pairs that are within the cutoffs at the structure's positions. At these
        positions, energy and derivatives are not changed.
        """


def features_of(potential: Potential, atoms: Atoms) -> dict[str, Tensor]:
    """Return the features that a potential reads from ASE Atoms; {} if it reads none."""
    return potential.features(atoms) if isinstance(potential, HasFeatures) else {}


def is_mirror_symmetric(potential: Potential) -> bool:
    """True if reflections are known to leave the energy of a potential unchanged.

    This is the potential's attribute `mirror_symmetric`; False without one.
    """
    return bool(getattr(potential, "mirror_symmetric", False))


def energy_jump_of(potential: Potential) -> float:
    """Return the size of the energy jumps of pairs that cross a cutoff, eV per atom; 0 for none."""
    return float(getattr(potential, "energy_jump", 0.0))


def hold_pairs_of(potential: Potential, structure: Structure) -> Structure:
    """Return the structure with a fixed list of pairs, if the energy of the potential jumps."""
    return potential.hold_pairs(structure) if isinstance(potential, HoldsPairs) else structure
