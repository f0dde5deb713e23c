"""Topology of D3: the pairs of atoms of a structure, and the data of its elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.units import Bohr
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.dispersion.images import PairImages, in_rows
from mace_functional.dispersion.reference import (
    Damping,
    ReferenceSystems,
    damping_of,
    reference_of,
)
from mace_functional.structure import neighbours
from mace_functional.structure.arrays import as_array
from mace_functional.structure.remaining_skin import ROUNDING, remaining_skin
from mace_functional.structure.topology import PairArrays
from mace_functional.support.validation import FARTHEST, functional_name, pair_cutoff

if TYPE_CHECKING:
    from ase import Atoms

CUTOFF = 60 * Bohr
"""Default cutoff of the pair energies, Å, that of s-dftd3."""

CN_CUTOFF = 40 * Bohr
"""Default cutoff of the coordination numbers, Å, that of s-dftd3."""


@dataclass(frozen=True)
class D3Settings:
    """Functional and cutoffs of a D3 correction.

    Attributes:
        functional: Functional of the training data: "pbe", "revpbe", "r2scan", "b3lyp", ...;
            stored in lower case.
        cutoff: Cutoff of the pair energies, Å.
        cn_cutoff: Cutoff of the coordination numbers, Å.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If the functional is unknown or none, or a cutoff is not positive.
        TypeError: If the functional is not a string.
    """

    functional: str = "pbe"
    cutoff: float = CUTOFF
    cn_cutoff: float = CN_CUTOFF

    def __post_init__(self) -> None:
        for cutoff in "cutoff", "cn_cutoff":
            object.__setattr__(self, cutoff, pair_cutoff(cutoff, getattr(self, cutoff)))
        name = functional_name(self.functional)
        if name is None:
            raise ValueError("a D3 correction needs the name of a functional, such as 'pbe'")
        object.__setattr__(self, "functional", name)
        damping_of(name)


@dataclass(frozen=True, eq=False)
class D3Pairs:
    """Pairs and element data of a structure, a `Topology`: a pytree whose leaves are tensors.

    Attributes:
        pairs: Pairs within the cutoff of the pair energies and its skin.
        cn_pairs: Pairs within the cutoff of the coordination numbers and its skin.
        reference: Data of the elements.
        pbc: Periodic directions, (3,).
        reference_positions: Positions of the neighbour search, Å, (N, 3).
        reference_cell: Cell of the neighbour search, Å, (3, 3).
        damping: Damping parameters of the functional; static.
        settings: Functional and cutoffs; static.
        skins: Length added to each cutoff in the search, Å; static.
    """

    pairs: PairImages
    cn_pairs: PairImages
    reference: ReferenceSystems
    pbc: Tensor
    reference_positions: Tensor
    reference_cell: Tensor
    damping: Damping
    settings: D3Settings
    skins: tuple[float, float]

    def __repr__(self) -> str:
        return f"D3Pairs({self.n_atoms} atoms, {self.settings.functional})"

    @classmethod
    def of(
        cls, settings: D3Settings, atoms: Atoms, skins: tuple[float, float], like: Tensor
    ) -> D3Pairs:
        """Find the pairs of a structure.

        Args:
            settings: Functional and cutoffs.
            atoms: Periodic in any directions.
            skins: Length added to each cutoff, Å.
            like: Tensor with the dtype and device to use.

        Raises:
            ValueError: If D3 does not know an element, or the geometry is bad; see `search`.
        """
        reference = reference_of(atoms.numbers, like)
        reaches = settings.cutoff + skins[0], settings.cn_cutoff + skins[1]
        x, cell, pbc = atoms.positions.copy(), atoms.cell.array.copy(), np.array(atoms.pbc)
        pairs, cn_pairs = _find(x, cell, pbc, reaches, like)
        return cls(
            pairs,
            cn_pairs,
            reference,
            pbc=torch.as_tensor(pbc, device=like.device),
            reference_positions=torch.as_tensor(x).to(like),
            reference_cell=torch.as_tensor(cell).to(like),
            damping=damping_of(settings.functional),
            settings=settings,
            skins=skins,
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.reference.kinds)

    @property
    def reaches(self) -> tuple[tuple[float, float], ...]:
        """Each cutoff with its skin, Å."""
        cutoffs = self.settings.cutoff, self.settings.cn_cutoff
        return tuple(zip(cutoffs, self.skins, strict=True))

    def is_current(self, positions: Tensor, cell: Tensor) -> bool:
        """Return True if all pairs within the cutoffs at these positions are listed."""
        return remaining_skin(self, positions, cell, self.reaches) > -ROUNDING

    def rebuilt(self, positions: Tensor, cell: Tensor) -> D3Pairs:
        """Return the pairs of the same atoms at other positions, Å, (N, 3), and cell, (3, 3)."""
        geometry = as_array(positions), as_array(cell), self.pbc.cpu().numpy()
        reaches = tuple(cutoff + skin for cutoff, skin in self.reaches)
        pairs, cn_pairs = _find(*geometry, reaches, self.reference.c6)
        return replace(
            self,
            pairs=pairs,
            cn_pairs=cn_pairs,
            reference_positions=positions.detach().clone(),
            reference_cell=cell.detach().clone(),
        )

    def held(self, positions: Tensor, cell: Tensor) -> D3Pairs:
        """Return the pairs that are within the cutoffs at these positions, as a fixed list.

        The cutoffs become the largest possible ones, which no pair crosses. The energy on this
        topology is therefore continuous.

        Args:
            positions: Positions in Å, (N, 3).
            cell: Lattice vectors in Å, (3, 3).
        """
        exact = replace(self, skins=(0.0, 0.0)).rebuilt(positions, cell)
        settings = replace(self.settings, cutoff=FARTHEST, cn_cutoff=FARTHEST)
        return replace(exact, settings=settings)

    def pairs_within(self, positions: Tensor, cell: Tensor) -> PairArrays:
        """Return the pairs closer than the cutoffs."""
        x, h = as_array(positions), as_array(cell)
        found = []
        for images, (cutoff, _) in zip((self.pairs, self.cn_pairs), self.reaches, strict=True):
            row, slot = np.nonzero(images.mask.cpu().numpy())
            i, j = (atom.cpu().numpy()[row] for atom in (images.first, images.second))
            s = images.unit_shifts.cpu().numpy()[:, row, slot].T
            found.append(neighbours.closer_than(cutoff, (i, j, s), x, h))
        i, j, s = (np.concatenate(columns) for columns in zip(*found, strict=True))
        return i, j, s


_STATIC = ("damping", "settings", "skins")
_LEAVES = tuple(f.name for f in fields(D3Pairs) if f.name not in _STATIC)


def _flatten(graph: D3Pairs) -> tuple[list[Any], tuple[Any, ...]]:
    return [getattr(graph, k) for k in _LEAVES], tuple(getattr(graph, k) for k in _STATIC)


pytree.register_pytree_node(
    D3Pairs,
    _flatten,
    lambda leaves, static: D3Pairs(*leaves, *static),
    serialized_type_name="mace_functional.D3Pairs",
)


def _find(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    reaches: Sequence[float],
    like: Tensor,
) -> tuple[PairImages, ...]:
    """Find the pairs within each of several distances."""
    first, second, shifts = neighbours.search(positions, cell, pbc, max(reaches))
    distances = np.linalg.norm(positions[first] - positions[second] + shifts @ cell, axis=1)
    return tuple(
        in_rows((first[near], second[near], shifts[near]), len(positions), like)
        for near in (distances <= reach for reach in reaches)
    )
