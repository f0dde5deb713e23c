"""`MaceModel`: the tensors and settings of a model, and the energies of structures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mace_functional.mace.energies import Mace
from mace_functional.mace.evaluation import (
    AtomEnergies,
    atom_energies,
    check_params,
    parameter_shapes,
)
from mace_functional.mace.features import features_of
from mace_functional.mace.irreps import Irreps
from mace_functional.mace.settings import MaceSettings
from mace_functional.mace.subnormal import without_subnormal
from mace_functional.mace.wave_hessian import wave_hessian
from mace_functional.potential.energy import edge_energy_fn
from mace_functional.structure.graph import Graph
from mace_functional.structure.structure import Structure
from mace_functional.support import validation

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Energy
    from mace_functional.structure.topology import EdgeTopology

MAX_LISTED_ELEMENTS = 20
"""Largest number of elements of a model that an error message lists."""


REFERENCES = "atomic_energies_fn.atomic_energies"
"""Name of the reference energies of the elements, eV, (heads, elements) or (elements,)."""

CONSTANTS = "radial_embedding.", "pair_repulsion_fn.", "atomic_energies_fn.", "scale_shift."
"""Beginnings of the names of parameters that are constants."""

CONSTANT_TENSORS = "r_max", "output_mask", "_w3j_", "U_matrix_"
"""Beginnings of the last parts of such names."""


@dataclass(frozen=True, eq=False)
class MaceModel:
    """A MACE model: its tensors, its settings, and the module that computes with them.

    Attributes:
        params: The floating-point tensors of the mace-torch state dict, under its names.
        settings: All settings that are not tensors.
        module: The module that computes the energy; call it through `energy_fn`.
        head: Name of the head whose energy is computed.
        n_subnormal: Number of weights that are subnormal numbers in this dtype and were set to
            zero; see `subnormal`.
    """

    params: dict[str, Tensor]
    settings: MaceSettings
    module: Mace
    head: str
    n_subnormal: int = 0

    def __getstate__(self) -> dict[str, Any]:
        # The cached function _evaluate cannot be pickled.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        s = self.settings
        return (
            f"MaceModel({len(s.interactions)} interactions, {s.products[0].irreps_out}, cutoff "
            f"{s.cutoff:g} Å, {len(s.atomic_numbers)} elements, head {self.head!r}, "
            f"{self.dtype}, {self.device}"
            + (f", {self.n_subnormal} subnormal weights set to zero" if self.n_subnormal else "")
            + ")"
        )

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Atomic numbers of the elements that the model knows."""
        return self.settings.atomic_numbers

    @property
    def cutoff(self) -> float:
        """Cutoff radius, Å."""
        return self.settings.cutoff

    @property
    def layers(self) -> int:
        """Number of interactions: an atom's energy depends on atoms within this many edges."""
        return len(self.settings.interactions)

    @property
    def n_edge_features(self) -> int:
        """Number of radial weights of an edge, averaged over the layers."""
        widths = [layer.radial_widths[-1] for layer in self.settings.interactions]
        return sum(widths) // len(widths)

    @property
    def mirror_symmetric(self) -> bool:
        """True if reflections leave the energy unchanged: harmonics of odd l have odd parity."""
        return all(ir.p == (-1) ** ir.l for _, ir in Irreps(self.settings.harmonics_irreps))

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the parameters that mace-torch trains; the others are constants.

        Reference energies, scale and shift are constants, and so are the radial basis, the pair
        repulsion, masks and coupling coefficients.
        """
        return tuple(k for k, p in self.params.items() if p.numel() and not _is_constant(k))

    def with_params(self, params: Mapping[str, Tensor]) -> MaceModel:
        """Return the model with other parameters, of the same names and shapes.

        Raises:
            KeyError: If names are missing or unknown.
            ValueError: If a parameter has another shape, dtype or device.
        """
        check_params(params, parameter_shapes(self), like=self.params["r_max"])
        return assemble(self.settings, params, self.head, self.dtype, self.device)

    def with_shifted_references(self, shifts: Mapping[int, float]) -> MaceModel:
        """Return the model with shifts, eV, added to the reference energies of its head.

        Args:
            shifts: Shifts by atomic number.

        Raises:
            ValueError: If the model does not know an element.
        """
        unknown = sorted(set(shifts) - set(self.atomic_numbers))
        if unknown:
            raise ValueError(f"the model does not know the elements {_symbols(unknown)}")
        energies = self.params[REFERENCES].clone()
        row = energies if energies.ndim == 1 else energies[self.settings.heads.index(self.head)]
        for z, shift in shifts.items():
            row[self.atomic_numbers.index(z)] += shift
        return self.with_params({**self.params, REFERENCES: energies})

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.params["r_max"].dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.params["r_max"].device

    def to(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> MaceModel:
        """Return the model in another precision or on another device.

        Args:
            dtype: `torch.float64` or `torch.float32`, or its name; None keeps the model's.
            device: Device of the tensors; None keeps the model's.

        Raises:
            ValueError: If the dtype is not one of these two.
        """
        dtype = self.dtype if dtype is None else validation.floating_type(dtype)
        device = self.device if device is None else device
        return assemble(self.settings, self.params, self.head, dtype, device, self.n_subnormal)

    def structure(self, atoms: Atoms, *, skin: float = 0.0) -> Structure:
        """Make the structure and neighbour graph of an ASE Atoms object; see `from_ase`."""
        if len(atoms) == 0:
            raise ValueError("the structure has no atoms")
        skin = validation.skin(skin)
        unknown = sorted({int(z) for z in atoms.numbers} - set(self.atomic_numbers))
        if unknown:
            known = self.atomic_numbers
            names = _symbols(known) if len(known) <= MAX_LISTED_ELEMENTS else f"{len(known)} others"
            raise ValueError(
                f"the model does not know the elements {_symbols(unknown)}; it was made for {names}"
            )
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        features = self.features(atoms)
        graph = Graph.of(atoms, self.atomic_numbers, self.cutoff, skin, features, like)
        return Structure.of(atoms, graph, like)

    def features(self, atoms: Atoms) -> dict[str, Tensor]:
        """Read the extra features that the model embeds, such as total charge and spin.

        Raises:
            ValueError: If a feature is missing or out of range.
        """
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        return features_of(atoms, self.settings.features, like)

    def energy_fn(self, topology: Graph, *, per_atom: bool = False) -> Energy:
        """Return the energy as a pure function `E(positions, cell, params)`; see `energy_fn`."""
        return edge_energy_fn(self, topology, per_atom=per_atom)

    def atom_energies(
        self,
        topology: EdgeTopology,
        positions: Tensor,
        cell: Tensor,
        params: Mapping[str, Tensor],
    ) -> Tensor:
        """Compute the energies of the atoms in eV, (atoms,), on any `EdgeTopology`.

        Raises:
            KeyError: If names in `params` are missing or unknown.
            ValueError: If a parameter has another shape, dtype or device.
        """
        return self._evaluate(params, topology, positions, cell)

    def wave_hessian(
        self,
        topology: Graph,
        q: Tensor,
        positions: Tensor,
        cell: Tensor,
        params: Mapping[str, Tensor],
    ) -> Callable[[Tensor], Tensor] | None:
        """Return the map from displacements to `H(q) u`; see `mace/wave_hessian.py`."""
        return wave_hessian(self, topology, q, positions, cell, params)

    @cached_property
    def _evaluate(self) -> AtomEnergies:
        return atom_energies(self)


def assemble(
    settings: MaceSettings,
    tensors: Mapping[str, Tensor],
    head: str,
    dtype: torch.dtype,
    device: str | torch.device,
    subnormal: int = 0,
) -> MaceModel:
    """Make a model from settings and copies of tensors, with subnormal weights set to zero.

    Args:
        settings: Settings of the model.
        tensors: Tensors to copy, under the names of mace-torch's state dict.
        head: Name of the head.
        dtype: Floating-point type of the copies.
        device: Device of the copies.
        subnormal: Number of weights that were set to zero before.
    """
    params = {}
    for key, tensor in tensors.items():
        params[key], rounded = without_subnormal(tensor.detach(), dtype, device)
        subnormal += rounded
    module = Mace(settings, settings.heads.index(head))
    _attach(module, params)
    module.read_constants()
    _assert_no_torchscript(module)
    return MaceModel(params, settings, module, head, subnormal)


def _attach(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Register tensors under their dotted names; submodules that are missing are made."""
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        parent = module
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.register_buffer(leaf, tensor)


def _assert_no_torchscript(module: nn.Module) -> None:
    """Raise AssertionError if the module holds TorchScript, which breaks nested transforms."""
    scripted = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    for name, part in module.named_modules():
        if isinstance(part, scripted) or any(isinstance(v, scripted) for v in vars(part).values()):
            raise AssertionError(f"TorchScript is reachable from {name or 'the model'}")


def _is_constant(name: str) -> bool:
    """True if mace-torch does not train the parameter of this name."""
    return name.startswith(CONSTANTS) or name.split(".")[-1].startswith(CONSTANT_TENSORS)


def _symbols(numbers: Sequence[int]) -> str:
    return " ".join(chemical_symbols[z] if z < len(chemical_symbols) else f"Z={z}" for z in numbers)
