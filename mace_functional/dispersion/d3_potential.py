"""D3 dispersion as a potential of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mace_functional.autodiff.memory import tune_allocator
from mace_functional.dispersion.bloch_sums import d3_force_constants_at
from mace_functional.dispersion.d3 import d3_energies
from mace_functional.dispersion.pairs import CUTOFF, D3Pairs, D3Settings
from mace_functional.potential.energy import check_shapes, with_periodicity
from mace_functional.structure.structure import Structure
from mace_functional.support import validation

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Energy

ENERGY_JUMP = 5e-7
"""eV per atom. Size of the jumps of the energy as pairs cross a cutoff of 60 Bohr while a cell
grows: an upper bound, ten times what was seen. Dispersion beyond r falls off as r^-3."""

SHORT = 6.0
"""Å. A strain moves atoms at larger distances further. The skins of the cutoffs are as much larger
than that which is asked for as the cutoffs are larger than this, the cutoff of common models."""


class D3:
    """Grimme's D3 correction with rational damping, to be added to a potential.

    `SumPotential(potential, D3("pbe"))` is what `load_model(..., dispersion="pbe")` returns. It
    depends on no parameters. Formulas and sources are in `dispersion/d3.py`.

    Args:
        settings: Functional of the data that the potential was fitted to, such as "pbe", or all
            settings.
        dtype: Of positions and cell.
        device: Where they are.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If the functional is unknown.
    """

    mirror_symmetric = True
    """Reflections leave the energy as it is."""

    def __init__(
        self,
        settings: D3Settings | str = "pbe",
        *,
        dtype: str | torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.settings = D3Settings(settings) if isinstance(settings, str) else settings
        self.dtype = validation.floating_type(dtype)
        self.device = validation.compute_device(device)
        self.params: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"D3({self.settings.functional})"

    @property
    def energy_jump(self) -> float:
        """Size of the jumps of the energy where pairs cross a cutoff, eV per atom."""
        return ENERGY_JUMP * (CUTOFF / self.settings.cutoff) ** 3

    def to(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> D3:
        """The same in another precision or on another device."""
        return D3(
            self.settings,
            dtype=self.dtype if dtype is None else dtype,
            device=self.device if device is None else device,
        )

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """The structure, and its pairs within the cutoffs and the skins.

        Raises:
            ValueError: If there are no atoms, D3 does not know an element, or the geometry is bad;
                see `from_ase`.
        """
        if len(atoms) == 0:
            raise ValueError("the structure has no atoms")
        skin, like = validation.skin(skin), torch.empty(0, dtype=self.dtype, device=self.device)
        s = self.settings
        first, second = (skin * max(1.0, c / SHORT) for c in (s.cutoff, s.cn_cutoff))
        pairs = D3Pairs.of(s, atoms, (first, second), like)
        return Structure.of(atoms, pairs, like)

    def energy_fn(self, topology: D3Pairs, *, per_atom: bool = False) -> Energy:
        """`E(positions, cell, params)` in eV; it depends on no parameter."""
        if not torch.compiler.is_compiling():
            tune_allocator()
        of_atoms = d3_energies(topology)

        def energy(positions: Tensor, cell: Tensor, params: Any = None) -> Tensor:
            check_shapes(topology, positions, cell)
            energies = of_atoms(positions, cell)
            return energies if per_atom else energies.sum()

        return with_periodicity(energy, topology)

    def dynamical_matrix_fn(self, topology: D3Pairs) -> Callable[..., Tensor]:
        """`D(q, positions, cell, params, masses)` in closed form, over all images."""
        force_constants = d3_force_constants_at(topology)

        def matrix(q: Tensor, positions: Tensor, cell: Tensor, params: Any, masses: Tensor) -> Any:
            root = masses.rsqrt().repeat_interleave(3)
            return root[:, None] * force_constants(q, positions, cell) * root

        return matrix

    def hold_pairs(self, structure: Structure) -> Structure:
        """The same structure with the pairs within the cutoffs, wherever they move."""
        held = structure.topology.held(structure.positions, structure.cell)
        return replace(structure, topology=held)
