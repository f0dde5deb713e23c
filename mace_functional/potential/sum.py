"""Sums of potentials, such as a MACE model and a dispersion correction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.potential.energy import with_periodicity
from mace_functional.potential.protocol import (
    Energy,
    HasReferenceEnergies,
    Potential,
    Trainable,
    energy_jump_of,
    features_of,
    hold_pairs_of,
    is_mirror_symmetric,
)
from mace_functional.structure.structure import Structure
from mace_functional.structure.topology import PairArrays, Topology
from mace_functional.support.validation import floating_type

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class SumTopology:
    """The topologies of the terms of a sum, one for each potential; a pytree.

    Attributes:
        parts: The topologies.
    """

    parts: tuple[Topology, ...]

    def __repr__(self) -> str:
        return " + ".join(map(str, self.parts))

    @property
    def pbc(self) -> Tensor:
        """Periodic directions, booleans (3,)."""
        return self.parts[0].pbc

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.parts[0].n_atoms

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """True if all topologies are valid at these positions."""
        return all(part.is_current(positions, cell) for part in self.parts)

    def rebuilt(self, positions: Tensor, cell: Tensor) -> SumTopology:
        """Return the topologies of the same atoms at other positions."""
        return SumTopology(tuple(part.rebuilt(positions, cell) for part in self.parts))

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """Return the pairs of atoms that interact in any of the topologies."""
        pairs = [part.pairs_within(positions, cell) for part in self.parts]
        i, j, s = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
        return i, j, s


pytree.register_pytree_node(
    SumTopology,
    lambda t: (list(t.parts), None),
    lambda parts, _: SumTopology(tuple(parts)),
    serialized_type_name="mace_functional.SumTopology",
)


class SumPotential:
    """The sum of potentials: `E(x, cell, (p_1, p_2, ...)) = E_1(x, cell, p_1) + E_2(...) + ...`.

    Its parameters are a tuple with the parameters of each term, and its topology holds the topology
    of each term. For members that only one term has, such as `atomic_numbers` of a MACE model, use
    `potentials[k]`.

    Args:
        *potentials: The terms, of one dtype and on one device.

    Raises:
        ValueError: If there are no terms, or their dtypes or devices differ.

    Example:
        >>> import mace_functional as mf
        >>> mace = mf.load_model("embedded")
        >>> both = mf.SumPotential(mace, mace)
        >>> s = both.structure(mf.example_structure("quartz"))
        >>> E = both.energy_fn(s.topology)(s.positions, s.cell, both.params)
        >>> one = mace.energy_fn(s.topology.parts[0])(s.positions, s.cell, mace.params)
        >>> bool(E == 2 * one)
        True
    """

    def __init__(self, *potentials: Potential) -> None:
        kinds = {(p.dtype, torch.device(p.device)) for p in potentials}
        if len(kinds) != 1:
            found = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(
                "a sum takes potentials of one dtype and on one device, not "
                + (f"{found}: use to(dtype=..., device=...)" if found else "none")
            )
        self._potentials = potentials

    def __repr__(self) -> str:
        return " + ".join(map(str, self._potentials))

    @property
    def potentials(self) -> tuple[Potential, ...]:
        """The terms of the sum."""
        return self._potentials

    @property
    def params(self) -> tuple[Any, ...]:
        """Parameters of each term, a tuple."""
        return tuple(p.params for p in self._potentials)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of all terms."""
        return self._potentials[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of all terms."""
        return self._potentials[0].device

    @property
    def mirror_symmetric(self) -> bool:
        """True if reflections leave the energy of every term unchanged."""
        return all(map(is_mirror_symmetric, self._potentials))

    @property
    def energy_jump(self) -> float:
        """Size of the energy jumps of pairs that cross a cutoff, eV per atom; 0 for none."""
        return sum(map(energy_jump_of, self._potentials))

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights of each term that has some: the index of the term, and its name."""
        terms = enumerate(self._potentials)
        return tuple(
            f"{k}.{name}" for k, p in terms if isinstance(p, Trainable) for name in p.weights
        )

    def with_params(self, params: tuple[Any, ...]) -> SumPotential:
        """Return the sum with other parameters; those of terms that are not trained are ignored."""
        pairs = zip(self._potentials, self.parts_of(params), strict=True)
        return SumPotential(
            *(p.with_params(part) if isinstance(p, Trainable) else p for p, part in pairs)
        )

    def with_shifted_references(self, shifts: Mapping[int, float]) -> SumPotential:
        """Return the sum with shifts of the first term's constants for the elements that has some.

        Args:
            shifts: Shifts in eV, by atomic number.

        Raises:
            TypeError: If no term has such constants.
        """
        for k, p in enumerate(self._potentials):
            if isinstance(p, HasReferenceEnergies):
                shifted = p.with_shifted_references(shifts)
                return SumPotential(*self._potentials[:k], shifted, *self._potentials[k + 1 :])
        raise TypeError("no term of the sum has reference energies of elements")

    def parts_of(self, params: Any) -> tuple[Any, ...]:
        """Return the parameters of each term, from the parameters of the sum.

        Raises:
            ValueError: If the parameters are not a tuple with one entry for each term.
        """
        if not isinstance(params, (tuple, list)) or len(params) != len(self._potentials):
            raise ValueError(
                f"the parameters of a sum of {len(self._potentials)} potentials must be a tuple "
                f"with those of each, such as potential.params, not {type(params).__name__}"
            )
        return tuple(params)

    def to(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> SumPotential:
        """Return the sum in another precision or on another device."""
        dtype = None if dtype is None else floating_type(dtype)
        return SumPotential(*(p.to(dtype=dtype, device=device) for p in self._potentials))

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """Make the structure of an ASE Atoms object, with a topology for each term."""
        parts = [p.structure(atoms, skin=skin) for p in self._potentials]
        return replace(parts[0], topology=SumTopology(tuple(s.topology for s in parts)))

    def energy_fn(self, topology: SumTopology, *, per_atom: bool = False) -> Energy:
        """Return the sum of the energies as a pure function `E(positions, cell, params)`, in eV."""
        energies = [
            p.energy_fn(part, per_atom=per_atom)
            for p, part in zip(self._potentials, topology.parts, strict=True)
        ]

        def energy(positions: Tensor, cell: Tensor, params: Any) -> Tensor:
            first, *others = (
                e(positions, cell, p) for e, p in zip(energies, self.parts_of(params), strict=True)
            )
            return sum(others, first)

        return with_periodicity(energy, topology)

    def features(self, atoms: Atoms) -> dict[str, Tensor]:
        """Read the features of all terms from ASE Atoms, such as a total charge."""
        return {k: v for p in self._potentials for k, v in features_of(p, atoms).items()}

    def hold_pairs(self, structure: Structure) -> Structure:
        """Return the structure with fixed lists of pairs, so that its energy does not jump."""
        topologies = (
            hold_pairs_of(p, replace(structure, topology=part)).topology
            for p, part in zip(self._potentials, structure.topology.parts, strict=True)
        )
        return replace(structure, topology=SumTopology(tuple(topologies)))
