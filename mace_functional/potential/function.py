"""Potentials made from a user's function of the neighbours.

Example: a Lennard-Jones potential that goes to zero smoothly at its cutoff.

    >>> import mace_functional as mf
    >>> def lennard_jones(near, params):
    ...     s6 = (params["sigma"] / near.distances) ** 6
    ...     smooth = (1 - (near.distances / 8.0) ** 2) ** 4
    ...     return near.sum(2 * params["epsilon"] * (s6**2 - s6) * smooth)
    >>> argon = mf.FunctionPotential(
    ...     lennard_jones, cutoff=8.0, params={"sigma": 3.4, "epsilon": 0.0104}
    ... )
    >>> from ase import Atoms
    >>> s = argon.structure(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]))
    >>> round(float(argon.energy_fn(s.topology)(s.positions, s.cell, argon.params)), 5)
    -0.00374

Everything in the package works with it as with a MACE model: forces, Hessians, exact force
constants, phonons at any wave vector, relaxation, saddle points, the ASE calculator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.potential.energy import edge_energy_fn
from mace_functional.potential.parameters import named_leaves
from mace_functional.potential.protocol import Energy
from mace_functional.structure.graph import Graph
from mace_functional.structure.species import gather
from mace_functional.structure.structure import Structure
from mace_functional.structure.topology import EdgeTopology
from mace_functional.support import validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

EVERY_ELEMENT = tuple(range(len(chemical_symbols)))
"""Element table of a `FunctionPotential`: row z belongs to atomic number z."""

EDGE_FEATURES = 16
"""Assumed count of numbers per edge that a function keeps; used to estimate memory."""


class Neighbourhood:
    """Vectors, distances and elements of the neighbours of all nodes, K edges for each node.

    A node is an atom. For phonons, nodes may be copies of an atom in other cells of the crystal; a
    user's function need not distinguish them.

    Attributes:
        vectors: Vectors from neighbours to nodes, `x_i - x_j`, Å, (nodes, K, 3).
        distances: Lengths of the vectors, Å, (nodes, K).
        mask: True for edges within the cutoff, (nodes, K). Other edges are longer or only padding;
            their vectors have no meaning, and are never zero.
        numbers: Atomic numbers of the nodes, (nodes,).
    """

    def __init__(self, topology: EdgeTopology, positions: Tensor, cell: Tensor, cutoff: float):
        self._topology = topology
        self.vectors = topology.edge_vectors(positions, cell)
        self.distances = self.vectors.square().sum(-1).sqrt()
        self.mask = topology.edge_mask & (self.distances < cutoff)
        self.numbers = _numbers(topology.species, like=topology.senders)

    @property
    def neighbour_numbers(self) -> Tensor:
        """Atomic numbers of the neighbours, (nodes, K)."""
        numbers = _numbers(self._topology.sender_species, like=self._topology.senders)
        return gather(numbers, self._topology.senders)

    def sum(self, values: Tensor) -> Tensor:
        """Sum values of the edges (nodes, K, ...) over the neighbours, (nodes, ...)."""
        mask = self.mask.reshape(*self.mask.shape, *[1] * (values.ndim - 2))
        return torch.where(mask, values, torch.zeros_like(values)).sum(1)

    def of_neighbours(self, values: Tensor) -> Tensor:
        """Gather values of the nodes (nodes, ...) for the neighbours, (nodes, K, ...).

        Each nested use lengthens the reach of the potential by one edge. Count them in `layers`.
        """
        rows = values.reshape(len(values), -1)
        gathered = gather(self._topology.sent(rows), self._topology.senders)
        return gathered.reshape(*self.mask.shape, *values.shape[1:])


AtomEnergies = Callable[[Neighbourhood, Any], Tensor]
"""Energies of the nodes, eV, (nodes,), as a function of neighbourhood and parameters."""


class FunctionPotential:
    """A potential made from a function of the distances and directions to the neighbours.

    The function and its first two derivatives must go to zero at the cutoff. Otherwise the energy
    or its derivatives jump when a neighbour crosses the cutoff.

    Args:
        energies: Pure torch function `energies(near, params)` of a `Neighbourhood` and the
            parameters. It returns the energies of the nodes in eV, (nodes,).
        cutoff: Largest distance of neighbours, Å.
        params: Parameters, a pytree of tensors or numbers; None for none.
        elements: Symbols or atomic numbers of the allowed elements; None for all.
        layers: Largest number of edges between an atom and the atoms that its energy depends on: 1,
            plus 1 for every nested use of `Neighbourhood.of_neighbours` with values that depend on
            neighbours.
        mirror_symmetric: True if reflections leave the energy unchanged, as for any function of
            distances and angles. Only half of the force constants must then be computed.
        dtype: Floating-point type of positions, cell and parameters.
        device: Device of positions, cell and parameters.

    Raises:
        ValueError: If the cutoff or the number of layers is not positive, or an element is unknown.
    """

    def __init__(
        self,
        energies: AtomEnergies,
        *,
        cutoff: float,
        params: Any = None,
        elements: Sequence[str | int] | None = None,
        layers: int = 1,
        mirror_symmetric: bool = False,
        dtype: str | torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.energies = energies
        self.cutoff = validation.pair_cutoff("cutoff", cutoff)
        self.layers = validation.count("layers", layers, 1)
        self.mirror_symmetric = mirror_symmetric
        self.elements = None if elements is None else tuple(map(_atomic_number, elements))
        self.dtype = validation.floating_type(dtype)
        self.device = validation.compute_device(device)
        self.params = pytree.tree_map(self._tensor, {} if params is None else params)
        self.n_edge_features = EDGE_FEATURES

    def __repr__(self) -> str:
        name = getattr(self.energies, "__name__", type(self.energies).__name__)
        return f"FunctionPotential({name}, cutoff {self.cutoff:g} Å, {self.dtype}, {self.device})"

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of all parameters: training changes each of them."""
        return tuple(named_leaves(self.params))

    def with_params(self, params: Any) -> FunctionPotential:
        """Return the potential with other parameters, a pytree of the same structure."""
        return self._changed(params, self.dtype, self.device)

    def to(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> FunctionPotential:
        """Return the potential in another precision or on another device."""
        return self._changed(
            self.params,
            self.dtype if dtype is None else dtype,
            self.device if device is None else device,
        )

    def _changed(
        self, params: Any, dtype: str | torch.dtype, device: str | torch.device
    ) -> FunctionPotential:
        return FunctionPotential(
            self.energies,
            cutoff=self.cutoff,
            params=params,
            elements=self.elements,
            layers=self.layers,
            mirror_symmetric=self.mirror_symmetric,
            dtype=dtype,
            device=device,
        )

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """Make the structure of an ASE Atoms object, with its neighbours.

        Raises:
            ValueError: If the structure has no atoms, an element is not allowed, or the geometry is
                not valid; see `from_ase`.
        """
        if len(atoms) == 0:
            raise ValueError("the structure has no atoms")
        unknown = sorted(set(atoms.numbers.tolist()) - set(self.elements or EVERY_ELEMENT))
        if unknown:
            symbols = " ".join(chemical_symbols[z] for z in unknown)
            raise ValueError(f"the potential is not made for the elements {symbols}")
        skin, like = validation.skin(skin), torch.empty(0, dtype=self.dtype, device=self.device)
        graph = Graph.of(atoms, EVERY_ELEMENT, self.cutoff, skin, {}, like)
        return Structure.of(atoms, graph, like)

    def energy_fn(self, topology: Graph, *, per_atom: bool = False) -> Energy:
        """Return the energy as a pure function `E(positions, cell, params)`, in eV."""
        return edge_energy_fn(self, topology, per_atom=per_atom)

    def atom_energies(
        self, topology: EdgeTopology, positions: Tensor, cell: Tensor, params: Any
    ) -> Tensor:
        """Compute the energies of the atoms in eV, (N,).

        Raises:
            ValueError: If the function does not return a number for each node.
        """
        near = Neighbourhood(topology, positions, cell, self.cutoff)
        energies = self.energies(near, params)
        if energies.shape != near.numbers.shape:
            raise ValueError(
                "the function must return an energy for each node, "
                f"{tuple(near.numbers.shape)}, not {tuple(energies.shape)}"
            )
        return topology.to_atoms(energies)


def _numbers(species: Any, like: Tensor) -> Tensor:
    """Return the atomic numbers of nodes, (nodes,)."""
    return species.atomic_numbers(torch.int64, like.device)


def _atomic_number(element: str | int) -> int:
    number = atomic_numbers.get(element) if isinstance(element, str) else int(element)
    if number is None or not 0 < number < len(chemical_symbols):
        raise ValueError(f"there is no element {element!r}")
    return number
