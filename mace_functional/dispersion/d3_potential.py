"""D3 dispersion as a potential."""

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
"""Size of the energy discontinuities at a cutoff of 60 Bohr while a cell grows, eV per atom.

It is an upper bound, ten times the observed value. The energy of all pairs beyond a distance r is
proportional to r^-3.
"""

MODEL_CUTOFF = 6.0
"""Cutoff of common models, Å, to which the requested skin refers.

A strain moves atoms in proportion to their distance. The skins of D3 are therefore scaled by the
ratio of its cutoffs to this one.
"""


class D3:
    """Grimme's D3 correction with rational damping, which is added to a potential.

    `load_model(..., dispersion="pbe")` returns `SumPotential(potential, D3("pbe"))`. D3 has no
    parameters. Formulas and sources are in `dispersion/d3.py`.

    Args:
        settings: Functional of the training data of the potential, such as "pbe", or all settings.
        dtype: Dtype of positions and cell, or its name.
        device: Device of positions and cell.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If the functional is unknown.
    """

    mirror_symmetric = True
    """True, because the energy is invariant under reflections."""

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
        """Size of the energy discontinuities when pairs cross the cutoff, eV per atom."""
        return ENERGY_JUMP * (CUTOFF / self.settings.cutoff) ** 3

    def to(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> D3:
        """Return the potential in another precision or on another device."""
        return D3(
            self.settings,
            dtype=self.dtype if dtype is None else dtype,
            device=self.device if device is None else device,
        )

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """Return the structure, with its pairs within the cutoffs and the skins.

        Raises:
            ValueError: If there are no atoms, D3 does not know an element, or the geometry is bad;
                see `from_ase`.
        """
        if len(atoms) == 0:
            raise ValueError("the structure has no atoms")
        skin, like = validation.skin(skin), torch.empty(0, dtype=self.dtype, device=self.device)
        s = self.settings
        skin_pairs, skin_cn = (skin * max(1.0, c / MODEL_CUTOFF) for c in (s.cutoff, s.cn_cutoff))
        pairs = D3Pairs.of(s, atoms, (skin_pairs, skin_cn), like)
        return Structure.of(atoms, pairs, like)

    def energy_fn(self, topology: D3Pairs, *, per_atom: bool = False) -> Energy:
        """Return `E(positions, cell, params)` in eV; `params` is ignored."""
        if not torch.compiler.is_compiling():
            tune_allocator()
        atomic_energies = d3_energies(topology)

        def energy(positions: Tensor, cell: Tensor, params: Any = None) -> Tensor:
            check_shapes(topology, positions, cell)
            energies = atomic_energies(positions, cell)
            return energies if per_atom else energies.sum()

        return with_periodicity(energy, topology)

    def dynamical_matrix_fn(self, topology: D3Pairs) -> Callable[..., Tensor]:
        """Return `D(q, positions, cell, params, masses)` in closed form, over all images."""
        force_constants = d3_force_constants_at(topology)

        def matrix(q: Tensor, positions: Tensor, cell: Tensor, params: Any, masses: Tensor) -> Any:
            inverse_root = masses.rsqrt().repeat_interleave(3)
            return inverse_root[:, None] * force_constants(q, positions, cell) * inverse_root

        return matrix

    def hold_pairs(self, structure: Structure) -> Structure:
        """Return the structure with a fixed list of pairs, those within the cutoffs now."""
        fixed = structure.topology.held(structure.positions, structure.cell)
        return replace(structure, topology=fixed)
