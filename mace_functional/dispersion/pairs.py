"""What D3 has to know of a structure: pairs of atoms, and data of the elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from ase.units import Bohr
from torch import Tensor

from mace_functional.autodiff.torch_internals import pytree
from mace_functional.dispersion.images import Images, in_rows
from mace_functional.dispersion.reference import Damping, Reference, damping_of, reference_of
from mace_functional.structure import neighbours
from mace_functional.support.validation import FARTHEST, pair_cutoff

CUTOFF = 60 * Bohr
"""Where pairs end in s-dftd3, Å."""

CN_CUTOFF = 40 * Bohr
"""Where coordination numbers end there, Å."""


def functional_name(dispersion: str | bool | None) -> str | None:
    """The functional of a D3 correction, in small letters, or None for no correction.

    >>> functional_name("PBE"), functional_name("none"), functional_name(False)
    ('pbe', None, None)

    Args:
        dispersion: Name of a functional; None, False or "none" for no correction.

    Raises:
        ValueError: If it is True, which names no functional.
        TypeError: If it is of another type.
    """
    if dispersion is None or dispersion is False:
        return None
    if dispersion is True:
        raise ValueError(
            "dispersion=True does not say which D3 correction: name the functional of the data "
            "that the model was fitted to, such as dispersion='pbe' for models of MACE-MP"
        )
    if not isinstance(dispersion, str):
        raise TypeError(
            "dispersion must be the name of a functional, such as 'pbe', or None, not "
            f"{type(dispersion).__name__}"
        )
    name = dispersion.strip().lower()
    return None if name == "none" else name


@dataclass(frozen=True)
class D3Settings:
    """Which D3 correction.

    Attributes:
        functional: What the potential was trained on: "pbe", "revpbe", "r2scan", "b3lyp", ...;
            kept in small letters.
        cutoff: Where pairs end, Å.
        cn_cutoff: Where coordination numbers end, Å.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If the functional is unknown or none, or a cutoff is not positive.
        TypeError: If the functional is no name.
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
class D3Graph:
    """Pairs and data of a structure: a pytree whose leaves are tensors.

    Attributes:
        pairs: Within the cutoff and the skin.
        counted: Those that make coordination numbers.
        reference: Data of the elements.
        damping: Parameters of the functional; static.
        settings: Static.
        skins: What the search added to the cutoffs, Å; static.
    """

    pairs: Images
    counted: Images
    reference: Reference
    damping: Damping
    settings: D3Settings
    skins: tuple[float, float]

    @classmethod
    def of(
        cls,
        settings: D3Settings,
        numbers: np.ndarray,
        geometry: tuple[np.ndarray, np.ndarray, np.ndarray],
        skins: tuple[float, float],
        like: Tensor,
    ) -> D3Graph:
        """Find the pairs of a structure.

        Args:
            settings: The correction.
            numbers: Atomic numbers, (N,).
            geometry: Positions (N, 3) and cell (3, 3) in Å, and periodic directions (3,).
            skins: Added to the cutoffs, Å.
            like: Gives dtype and device.

        Raises:
            ValueError: If D3 does not know an element, or the geometry is bad; see `search`.
        """
        reference = reference_of(numbers, like)
        reaches = settings.cutoff + skins[0], settings.cn_cutoff + skins[1]
        pairs, counted = _find(*geometry, reaches, like)
        return cls(pairs, counted, reference, damping_of(settings.functional), settings, skins)

    def rebuilt(self, geometry: tuple[np.ndarray, np.ndarray, np.ndarray]) -> D3Graph:
        """The same for the same atoms elsewhere; positions and cell in Å, periodic directions."""
        reaches = tuple(cutoff + skin for cutoff, skin in self.reaches)
        pairs, counted = _find(*geometry, reaches, self.reference.c6)
        return replace(self, pairs=pairs, counted=counted)

    def held(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> D3Graph:
        """The pairs within the cutoffs here and no others, wherever they move: nothing jumps.

        The cutoffs become the largest ones that there are, which no pair crosses.

        Args:
            positions: Å, (N, 3).
            cell: Lattice vectors in Å, (3, 3).
            pbc: Periodic directions, (3,).
        """
        x, a, periodic = (
            t.detach().cpu().numpy() for t in (positions.double(), cell.double(), pbc)
        )
        exact = replace(self, skins=(0.0, 0.0)).rebuilt((x, a, periodic))
        wide = replace(self.settings, cutoff=FARTHEST, cn_cutoff=FARTHEST)
        return replace(exact, settings=wide)

    @property
    def reaches(self) -> tuple[tuple[float, float], ...]:
        """Each cutoff with its skin, Å."""
        cutoffs = self.settings.cutoff, self.settings.cn_cutoff
        return tuple(zip(cutoffs, self.skins, strict=True))


_STATIC = ("damping", "settings", "skins")
_LEAVES = tuple(f.name for f in fields(D3Graph) if f.name not in _STATIC)


def _flatten(graph: D3Graph) -> tuple[list[Any], tuple[Any, ...]]:
    return [getattr(graph, k) for k in _LEAVES], tuple(getattr(graph, k) for k in _STATIC)


pytree.register_pytree_node(
    D3Graph,
    _flatten,
    lambda leaves, static: D3Graph(*leaves, *static),
    serialized_type_name="mace_functional.D3Graph",
)


def _find(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    reaches: Sequence[float],
    like: Tensor,
) -> tuple[Images, ...]:
    """The pairs within each distance."""
    first, second, shifts = neighbours.search(positions, cell, pbc, max(reaches))
    distances = np.linalg.norm(positions[first] - positions[second] + shifts @ cell, axis=1)
    return tuple(
        in_rows((first[near], second[near], shifts[near]), len(positions), like)
        for near in (distances <= reach for reach in reaches)
    )
