r"""Elastic tensors, internal strain and response of the ions, as function transforms.

A symmetric strain e of the cell and displacements u of the ions give the energy

    E(e, u) = E(x (1 + e) + u, h (1 + e)),

with positions x and lattice vectors h as rows. Let V be the volume, H = d2E/du du the Hessian, and
H+ its inverse without the three translations. At a structure without forces,

    clamped ions       C0 = (1/V) d2E/de de
    internal strain    L  = d2E/du de, minus the forces that a strain gives clamped ions
    response           du/de = -H+ L, so that the forces stay zero
    relaxed ions       C  = C0 - (1/V) L^T H+ L.

Under a stress, C is the second derivative of the energy, and two other tensors are in use; see
`coefficients`.

For a slab or a rod, only strains along the periodic directions deform the lattice: e = P e P with
the projector P onto them.

Source: Born, Huang, Dynamical Theory of Crystal Lattices, chapters III and V; for H+ and L Wu,
Vanderbilt, Hamann, Phys. Rev. B 72, 035105 (2005), doi:10.1103/PhysRevB.72.035105.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.func import grad, vjp

from mace_functional.autodiff.columns import ChunkSize, chunked_vmap
from mace_functional.derivatives import hessian
from mace_functional.elasticity.coefficients import (
    Coefficients,
    check_coefficients,
    under_stress,
)
from mace_functional.elasticity.voigt import expand, from_voigt, unit_strains
from mace_functional.structure.lattice import PERIODIC, periodic_projector, positive_volume_of

Ions = Literal["relaxed", "clamped"]
"""Ions follow a strain to where forces vanish, or keep their fractional coordinates."""


class StrainDerivatives(NamedTuple):
    """Derivatives of an energy by strain, all at clamped ions.

    Attributes:
        virial: First derivative dE/de, eV, (3, 3).
        second: Second derivative by the Voigt components of the strain, eV, (6, 6).
        mixed: Derivative by displacements and Voigt components, eV/Å, (N, 3, 6).
        projector: Projector onto the periodic directions, (3, 3).
    """

    virial: Tensor
    second: Tensor
    mixed: Tensor
    projector: Tensor


def strain_derivatives(
    energy: Callable[..., Tensor], *, pbc: Sequence[bool] | None = None, **options: Any
) -> Callable[..., StrainDerivatives]:
    """Return first and second derivatives of an energy by strain, as a function of its arguments.

    The gradient by strain and displacements is linearised once; six vectors are pulled back.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.
        pbc: True for each periodic direction; None for those that the energy function knows.
        **options: `chunk_size` and `memory_budget`; see `hessian`.

    Returns:
        `(positions, cell, params)` to the derivatives.

    Raises:
        ValueError: If the structure has no periodic direction.
    """
    periodic = getattr(energy, PERIODIC, (True, True, True)) if pbc is None else pbc
    if not any(periodic):
        raise ValueError(
            "the structure is periodic in no direction: a molecule has no strain and no elastic "
            "constants, whatever its cell"
        )

    def derivatives(positions: Tensor, cell: Tensor, *args: Any) -> StrainDerivatives:
        projector = periodic_projector(cell, periodic)
        strains = projector @ unit_strains(cell) @ projector

        def deformed(components: Tensor, displacements: Tensor) -> Tensor:
            e = torch.einsum("k,kij->ij", components, strains)
            return energy(positions + positions @ e + displacements, cell + cell @ e, *args)

        zero = torch.zeros(6, dtype=cell.dtype, device=cell.device), torch.zeros_like(positions)
        linearised: Any = vjp(grad(deformed, argnums=(0, 1)), *zero)
        (virial, _), pull_back = linearised

        def column(component: Tensor) -> Tensor:
            by_strain, by_positions = pull_back((component, zero[1]))
            return torch.cat([by_strain, by_positions.reshape(-1)])

        identity = torch.eye(6, dtype=cell.dtype, device=cell.device)
        columns = chunked_vmap(column, identity, **options).mT
        second = 0.5 * (columns[:6] + columns[:6].mT)
        mixed = columns[6:].reshape(*positions.shape, 6)
        return StrainDerivatives(expand(virial), second, mixed, projector)

    return derivatives


def internal_strain(
    energy: Callable[..., Tensor],
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
) -> Callable[..., Tensor]:
    """Return the internal-strain tensor `L = d2E / du de` as a function of the energy's arguments.

    -L is the force on each ion per unit of strain, where the ions keep their fractional
    coordinates.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.
        chunk_size: Strains at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.

    Returns:
        `(positions, cell, params)` to the tensor L[i, a, j, k] in eV/Å, symmetric in the strain's
        indices j and k, (N, 3, 3, 3).

    Raises:
        ValueError: If the structure has no periodic direction.

    Source: Wu, Vanderbilt, Hamann, Phys. Rev. B 72, 035105 (2005).
    """
    by_strain = strain_derivatives(energy, chunk_size=chunk_size, memory_budget=memory_budget)
    return lambda *args: expand(by_strain(*args).mixed)


def ion_response(
    energy: Callable[..., Tensor],
    *,
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
) -> Callable[..., Tensor]:
    """Return the response of the ions to strain, `du/de = -H+ L`, as a function.

    Under a small strain e the ions move from x to `x (1 + e) + du/de : e`: then their forces stay
    zero. H is solved as a dense matrix, with a positive constant added for the translations, which
    L does not contain.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV.
        chunk_size: Columns of the Hessian at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.

    Returns:
        `(positions, cell, params)` to the response du[i, a]/de[j, k] in Å, symmetric in j and k,
        (N, 3, 3, 3). The mean displacement of the ions is zero.

    Raises:
        ValueError: If the structure has no periodic direction.

    Source: Wu, Vanderbilt, Hamann, Phys. Rev. B 72, 035105 (2005).
    """
    options: dict[str, Any] = {"chunk_size": chunk_size, "memory_budget": memory_budget}
    by_strain, by_positions = strain_derivatives(energy, **options), hessian(energy, **options)
    return lambda *args: expand(-solve_hessian(by_positions(*args), by_strain(*args).mixed))


def elastic_tensor(
    energy: Callable[..., Tensor],
    *,
    ions: Ions = "relaxed",
    coefficients: Coefficients = "birch",
    chunk_size: ChunkSize = "auto",
    memory_budget: int | None = None,
) -> Callable[..., Tensor]:
    """Return the elastic tensor as a function of positions, cell and parameters.

    `C = (1/V) (d2E/de de - L^T H+ L)` for relaxed ions, `C0 = (1/V) d2E/de de` for clamped ones,
    with the internal strain L and the inverse H+ of the Hessian without translations. The result
    can be differentiated by positions, cell and parameters. Values are not checked: relaxed ions
    need a structure without forces at a minimum of the energy. `elastic_constants` checks that.

    Args:
        energy: Energy function `E(positions, cell, params)`, in eV. Energy functions of `energy_fn`
            know their periodic directions; any other is taken as periodic in three directions.
        ions: "relaxed" for ions that follow the strain; "clamped" for ions that keep their
            fractional coordinates.
        coefficients: "birch" for derivatives of the stress by the strain; "lagrangian" for second
            derivatives of the energy by the Lagrangian strain; "second-derivative" for those by the
            strain e itself. They differ under stress only.
        chunk_size: Columns of the Hessian at once; see `hessian`.
        memory_budget: Bytes that "auto" may fill; see `hessian`.

    Returns:
        `(positions, cell, params)` to the tensor C[i, j, k, l] in eV/Å³, (3, 3, 3, 3). For a slab
        or a rod it is zero but along the periodic directions, and proportional to one over the
        thickness of the cell, as `stress` is. It raises ValueError for a cell without a volume.

    Raises:
        ValueError: If the structure has no periodic direction, or an option is unknown.

    Example:
        >>> def energy(x, cell, k):
        ...     return 0.5 * k * (cell.diagonal() - 2.0).square().sum()
        >>> C = elastic_tensor(energy)(torch.zeros(1, 3), 2.0 * torch.eye(3), 3.0)
        >>> C[0, 0, 0, 0], C[0, 0, 1, 1]
        (tensor(1.5000), tensor(0.))

    Source: Wu, Vanderbilt, Hamann, Phys. Rev. B 72, 035105 (2005).
    """
    if ions not in get_args(Ions):
        raise ValueError(f"ions must be 'relaxed' or 'clamped', not {ions!r}")
    check_coefficients(coefficients)
    options: dict[str, Any] = {"chunk_size": chunk_size, "memory_budget": memory_budget}
    by_strain = strain_derivatives(energy, **options)
    by_positions = hessian(energy, **options)

    def tensor(positions: Tensor, cell: Tensor, *args: Any) -> Tensor:
        volume = positive_volume_of(cell)
        e = by_strain(positions, cell, *args)
        second = e.second
        if ions == "relaxed":
            response = solve_hessian(by_positions(positions, cell, *args), e.mixed)
            second = second - torch.einsum("iak,ial->kl", e.mixed, response)
        stress = e.virial / volume
        return under_stress(
            coefficients, from_voigt(second) / volume, stress, projector=e.projector
        )

    return tensor


TRANSLATION_STIFFNESS = 1.0
"""Force constant of uniform translations that makes a Hessian invertible, eV/Å².

Any positive number gives the same response. Force constants of bonds are between 1 and 100 eV/Å².
"""


def solve_hessian(hessian: Tensor, vectors: Tensor) -> Tensor:
    """Compute `H+ v`, with the inverse of the Hessian without translations.

    `(H + k T T^T)^-1 v = H+ v` for vectors v without translations T, for every constant k > 0.
    `torch.linalg.solve` is not used, because derivatives of its forward derivatives are wrong
    (torch 2.13).

    Args:
        hessian: Hessian in eV/Å², (N, 3, N, 3).
        vectors: Vectors as columns, without translations, (N, 3, k).

    Returns:
        Vectors without translations, (N, 3, k).
    """
    n = hessian.shape[0]
    matrix = hessian.reshape(3 * n, 3 * n)
    matrix = 0.5 * (matrix + matrix.mT)
    identity = torch.eye(3, dtype=hessian.dtype, device=hessian.device)
    matrix = matrix + (TRANSLATION_STIFFNESS / n) * identity.repeat(n, n)
    centred = vectors - vectors.mean(0, keepdim=True)
    return (torch.linalg.inv(matrix) @ centred.reshape(3 * n, -1)).reshape(vectors.shape)
