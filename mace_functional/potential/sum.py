"""Sums of potentials, such as a MACE model and a dispersion correction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.potential.energy import with_periodicity
from mace_functional.potential.protocol import (
    Energy,
    Potential,
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
    """The topologies of the parts of a sum. A pytree.

    Attributes:
        parts: One for each potential.
    """

    parts: tuple[Topology, ...]

    def __repr__(self) -> str:
        return " + ".join(map(str, self.parts))

    @property
    def pbc(self) -> Tensor:
        """Periodic directions, (3,)."""
        return self.parts[0].pbc

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.parts[0].n_atoms

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Whether all parts hold at these positions."""
        return all(part.is_current(positions, cell) for part in self.parts)

    def rebuilt(self, positions: Tensor, cell: Tensor) -> SumTopology:
        """The topologies of the same atoms elsewhere."""
        return SumTopology(tuple(part.rebuilt(positions, cell) for part in self.parts))

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """The pairs of atoms that feel each other in any part."""
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

    Its parameters are a tuple with those of each part, its topologies have a part for each. What a
    part has alone, such as `atomic_numbers` of a MACE model, is found at `potentials[k]`.

    Args:
        *potentials: Two or more, of one dtype and on one device.

    Raises:
        ValueError: If there are none, or dtypes or devices differ.

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
        """The parts."""
        return self._potentials

    @property
    def params(self) -> tuple[Any, ...]:
        """The parameters of each part."""
        return tuple(p.params for p in self._potentials)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of all parts."""
        return self._potentials[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of all parts."""
        return self._potentials[0].device

    @property
    def mirror_symmetric(self) -> bool:
        """Whether reflections leave the energy of every part as it is."""
        return all(map(is_mirror_symmetric, self._potentials))

    @property
    def energy_jump(self) -> float:
        """Size of the jumps of the energy where pairs cross a cutoff, eV per atom."""
        return sum(map(energy_jump_of, self._potentials))

    def parts_of(self, params: Any) -> tuple[Any, ...]:
        """The parameters of each part, of those of the sum.

        Raises:
            ValueError: If they are not as many as the parts.
        """
        if not isinstance(params, (tuple, list)) or len(params) != len(self._potentials):
            raise ValueError(
                f"the parameters of a sum of {len(self._potentials)} potentials are a tuple with "
                f"those of each, such as potential.params, not {type(params).__name__}"
            )
        return tuple(params)

    def to(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> SumPotential:
        """The same sum in another precision or on another device."""
        dtype = None if dtype is None else floating_type(dtype)
        return SumPotential(*(p.to(dtype=dtype, device=device) for p in self._potentials))

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """The structure, with a topology for each part."""
        parts = [p.structure(atoms, skin=skin) for p in self._potentials]
        return replace(parts[0], topology=SumTopology(tuple(s.topology for s in parts)))

    def energy_fn(self, topology: SumTopology, *, per_atom: bool = False) -> Energy:
        """The sum of the energies as a pure function `E(positions, cell, params)`, in eV."""
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
        """What any part reads of atoms besides elements, positions, cell and masses."""
        return {k: v for p in self._potentials for k, v in features_of(p, atoms).items()}

    def hold_pairs(self, structure: Structure) -> Structure:
        """The same structure with an energy that does not jump."""
        held = (
            hold_pairs_of(p, replace(structure, topology=part)).topology
            for p, part in zip(self._potentials, structure.topology.parts, strict=True)
        )
        return replace(structure, topology=SumTopology(tuple(held)))
