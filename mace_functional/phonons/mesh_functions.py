r"""Sums over the modes of a crystal on a mesh of wave vectors, as pure functions.

    F(positions, cell, params, masses) = sum_q w_q sum_nu f(omega_nu(q))

Frequencies come from dynamical matrices, whose gradients in reverse mode take the memory of a few
products of the Hessian (`edge_matrix`). So gradients of free energies or heat capacities take no
more memory on a fine mesh than at one wave vector.

Rigid motions at Gamma are left out by projection, not by a threshold, so that nothing depends on
the rounding errors of their frequencies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_functional.autodiff.concrete import is_concrete, is_followed, raw_values
from mace_functional.autodiff.torch_internals import temporarily_clear_interpreter_stack
from mace_functional.phonons.dynamical_matrix import dynamical_matrix_fn
from mace_functional.phonons.mesh import Mesh
from mace_functional.phonons.modes import is_gamma, vibrations_at_gamma
from mace_functional.potential.protocol import Potential
from mace_functional.structure.connectivity import parts_of
from mace_functional.support.validation import in_order
from mace_functional.units import frequency_factor
from mace_functional.vibrations.harmonic_modes import frequencies
from mace_functional.vibrations.thermodynamics import HarmonicThermo, harmonic_thermo

ModeFunction = Callable[[Tensor], Tensor]
"""Function of the signed frequencies of modes (M,), mode by mode, to values (..., M)."""


def mesh_sum_fn(
    potential: Potential,
    topology: Any,
    mesh: Mesh,
    function: ModeFunction,
    *,
    unit: str = "cm-1",
    **columns: Any,
) -> Callable[..., Tensor]:
    r"""Return a sum over the modes of a crystal as a pure function of structure and parameters.

        F(positions, cell, params, masses) = sum_q w_q sum_nu f(omega_nu(q))

    Rigid motions at Gamma, three translations and for a chain the rotation about its axis, are left
    out. The function composes with every transform. Reverse mode takes the memory of a few products
    of the Hessian, and one product for each mode on which F depends. Second derivatives exist where
    no modes are degenerate.

    A mesh that is reduced by the space group takes modes at equivalent wave vectors as equal. That
    is exact for derivatives by weights, which keep the symmetry. Derivatives by positions, cell and
    masses, and by constants such as coupling coefficients, need `Mesh.of(atoms, size,
    symmetry=False)`, with one of each pair q and -q.

    Args:
        potential: A potential with a dynamical matrix; see `dynamical_matrix_fn`.
        topology: Topology of the crystal.
        mesh: Mesh of `Mesh.of` for the crystal.
        function: Function f of the signed frequencies at a wave vector, (M,), to one value for each
            mode, (M,), or several, (..., M). Frequencies of imaginary modes are negative.
        unit: Unit of the frequencies: "cm-1", "THz" or "meV".
        **columns: Options of `dynamical_matrix_fn`.

    Returns:
        A function `(positions, cell, params, masses)` that returns F for one cell, a scalar, or of
        the leading dimensions (...) of `function`.

    Raises:
        TypeError: If the arguments are of other classes, or swapped, or the potential has no
            dynamical matrix.
        ValueError: If the mesh has another number of atoms. The function raises it if values are
            not finite, the crystal has several parts that nothing connects, or positions, cell or
            masses are differentiated or mapped and the mesh is reduced by the space group.

    >>> import mace_functional as mf
    >>> atoms = mf.example_structure("quartz")
    >>> model = mf.load_model("embedded")
    >>> s, mesh = mf.from_ase(atoms, model), mf.Mesh.of(atoms, (1, 1, 1))
    >>> highest = mf.mesh_sum_fn(model, s.topology, mesh, lambda w: w[-1:], unit="THz")
    >>> highest(s.positions, s.cell, model.params, s.masses)
    tensor(35.5670, dtype=torch.float64)
    """
    spectra = _Spectra("mesh_sum_fn", potential, topology, mesh, unit, columns)
    points, weights = mesh.q.tolist(), mesh.weights.tolist()

    def mesh_sum(positions: Tensor, cell: Tensor, params: Any, masses: Tensor) -> Tensor:
        total: Any = 0.0
        found = spectra(positions, cell, params, masses)
        for q, weight, omega in zip(points, weights, found, strict=True):
            values = function(omega).sum(-1)
            _check_finite(values, omega, q, unit)
            total = total + weight * values
        result: Tensor = total
        return result

    return mesh_sum


def mesh_thermo_fn(
    potential: Potential,
    topology: Any,
    mesh: Mesh,
    temperatures: Sequence[float] | Tensor | float,
    **columns: Any,
) -> Callable[..., HarmonicThermo]:
    """Return the harmonic thermodynamics of a crystal as a pure function.

    It is `mesh_thermo` as a function `(positions, cell, params, masses)` that composes with every
    transform: `grad` of its free energy or heat capacity by parameters takes the memory of a few
    products of the Hessian; see `mesh_sum_fn`, which describes meshes and rigid motions.

    Args:
        potential: A potential with a dynamical matrix; see `dynamical_matrix_fn`.
        topology: Topology of the crystal.
        mesh: Mesh of `Mesh.of` for the crystal.
        temperatures: Temperatures in K, (T,) or a scalar.
        **columns: Options of `dynamical_matrix_fn`.

    Returns:
        A function to the thermodynamics of one cell.

    Raises:
        TypeError: See `mesh_sum_fn`.
        ValueError: See `mesh_sum_fn` and `harmonic_thermo`.

    Warns:
        UserWarning: The function warns of imaginary modes, which are left out, also inside of
            transforms.
    """
    spectra = _Spectra("mesh_thermo_fn", potential, topology, mesh, "cm-1", columns)

    def thermo(positions: Tensor, cell: Tensor, params: Any, masses: Tensor) -> HarmonicThermo:
        found = spectra(positions, cell, params, masses)
        n_modes = 3 * len(masses)
        rigid = [n_modes - len(omega) for omega in found]
        padded = [
            torch.cat([omega, omega.new_zeros(n)]) for omega, n in zip(found, rigid, strict=True)
        ]
        omegas = torch.stack(padded)
        if not is_concrete(omegas):
            _warn_of_imaginary(omegas)
        return harmonic_thermo(
            omegas,
            temperatures,
            weights=mesh.weights.to(omegas),
            drop=torch.tensor(rigid, device=omegas.device),
            unit="cm-1",
        )._replace(mass=masses.sum())

    return thermo


class _Spectra:
    """Signed frequencies at the wave vectors of a mesh, without rigid motions."""

    def __init__(
        self,
        name: str,
        potential: Potential,
        topology: Any,
        mesh: Mesh,
        unit: str,
        columns: dict[str, Any],
    ) -> None:
        kinds = (potential, "Potential"), (topology, "Topology"), (mesh, "Mesh")
        in_order(f"{name}(potential, topology, mesh)", *kinds)
        frequency_factor(unit)
        self._matrix = dynamical_matrix_fn(potential, topology, **columns)
        if mesh.permutations.shape[1] != topology.n_atoms:
            raise ValueError(
                f"the mesh was made for {mesh.permutations.shape[1]} atoms, and the topology has "
                f"{topology.n_atoms}: make a new one with Mesh.of"
            )
        self._topology, self._mesh, self._unit = topology, mesh, unit
        self._q, self._is_gamma = mesh.q.numpy(), is_gamma(mesh.q).tolist()

    def __call__(
        self, positions: Tensor, cell: Tensor, params: Any, masses: Tensor
    ) -> list[Tensor]:
        """Return the frequencies at each wave vector, ascending, (M,)."""
        self._check_symmetry(positions, cell, masses)
        axis = self._axis(positions, cell)
        found = []
        for q, gamma in zip(self._q, self._is_gamma, strict=True):
            d = self._matrix(q, positions, cell, params, masses)
            if gamma:
                rotations = 0 if axis is None else 1
                options: dict[str, Any] = {"rotations": rotations, "axis": axis}
                found.append(vibrations_at_gamma(d, masses, positions, unit=self._unit, **options))
            else:
                found.append(frequencies(d, unit=self._unit))
        return found

    def _axis(self, positions: Tensor, cell: Tensor) -> Tensor | None:
        """Return the axis of a chain; None for slabs and crystals.

        Raises:
            ValueError: If there are parts that nothing connects.
        """
        at = raw_values(positions, first=True), raw_values(cell, first=True)
        with temporarily_clear_interpreter_stack():
            parts = parts_of(self._topology, *at)
        translations = parts.translations[0]
        rank = np.linalg.matrix_rank(translations) if len(translations) else 0
        in_phase = [bool(parts.in_phase(q)[0]) for q in self._q]
        if parts.count > 1 or rank == 0 or in_phase != self._is_gamma:
            raise ValueError(
                "the crystal has parts that no interactions connect. Each has rigid motions of its "
                "own, which sums as pure functions do not leave out; see mesh_thermo"
            )
        return None if rank > 1 else torch.as_tensor(translations[0]).to(cell) @ cell

    def _check_symmetry(self, positions: Tensor, cell: Tensor, masses: Tensor) -> None:
        if len(self._mesh.rotations) > 1 and any(map(is_followed, (positions, cell, masses))):
            raise ValueError(
                "positions, cell or masses are differentiated or mapped, and the mesh is reduced "
                "by the space group, which holds for one structure: use Mesh.of(..., "
                "symmetry=False)"
            )


def _check_finite(values: Tensor, omega: Tensor, q: list[float], unit: str) -> None:
    """Raise an error if values of a function are not finite, also inside of transforms."""
    if _has_no_values(values) or raw_values(values).isfinite().all():
        return
    lowest = float(raw_values(omega).min())
    raise ValueError(
        f"the function of the modes is not finite at q = {q}, where frequencies go down to "
        f"{lowest:.4g} {unit}: give imaginary modes, whose frequencies are negative, a finite value"
    )


def _warn_of_imaginary(omegas: Tensor) -> None:
    """Warn of imaginary modes inside of transforms, where `harmonic_thermo` does not."""
    if _has_no_values(omegas):
        return
    values = raw_values(omegas)
    count = int((values < 0).sum())
    if count:
        warnings.warn(
            f"{count} imaginary modes, down to {values.min():.4g} cm-1, are left out of the "
            "harmonic sums: the structure is no minimum of the energy",
            stacklevel=3,
        )


def _has_no_values(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() or tensor.is_meta
