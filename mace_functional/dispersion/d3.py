"""Dispersion energy: Grimme's D3 with rational damping as a pure function.

D3 is added to a potential that was trained on a functional without dispersion:

    E_D3 = -sum_(i<j) C6_ij [s6 / (r^6 + f^6) + s8 R^2 / (r^8 + f^8)],    f = a1 R + a2,

over all pairs and periodic images, with `R^2 = C8 / C6 = 3 sqrt(Q_i Q_j)`. The coefficient C6_ij
is an average over reference systems, with weights that depend on the coordination numbers:

    C6_ij = sum_(a, b) w_ia w_jb C6_(a, b),    w_ia ~ exp(-4 (CN_i - CN_a)^2),
    CN_i = sum_(j) 1 / (1 + exp(-16 (R_cov / r - 1))).

Derivatives include those of the coordination numbers. The three-body term is omitted.

Source: Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010); Grimme, Ehrlich, Goerigk,
J. Comput. Chem. 32, 1456 (2011). Reference data and damping parameters are those of tad-dftd3
(Friede, Ehlert, Grimme, Mewes, J. Chem. Phys. 161, 062501 (2024)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_functional.autodiff.memory import tune_allocator
from mace_functional.dispersion.image_sum import ImageSum
from mace_functional.dispersion.pairs import CN_CUTOFF, CUTOFF, D3Pairs, D3Settings
from mace_functional.dispersion.reference import ReferenceSystems
from mace_functional.support import validation

if TYPE_CHECKING:
    from ase import Atoms

COUNTING = 16.0
"""Steepness k1 of the counting function of coordination numbers."""

WEIGHTING = 4.0
"""Exponent k3 of the weights of reference systems, per squared coordination number."""


def dispersion_fn(
    atoms: Atoms,
    *,
    functional: str = "pbe",
    cutoff: float = CUTOFF,
    cn_cutoff: float = CN_CUTOFF,
    skin: float = 0.0,
    per_atom: bool = False,
    dtype: str | torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the D3 dispersion energy with Becke-Johnson damping as a pure function.

    The function is `D3(positions, cell)` in eV, with `positions` (N, 3) and `cell` (3, 3) in Å. It
    is added to the energy of a potential, and supports the same nested transforms:

        E_D3 = lambda positions, cell, params: E(positions, cell, params) + D3(positions, cell)

    The cutoff is sharp, as in s-dftd3. The energy jumps by about 1e-8 eV when a pair crosses the
    default cutoff; derivatives do not contain these jumps. The function holds the pairs of `atoms`
    within the cutoffs and the skin. It is exact as long as no other pair comes within a cutoff.

    Args:
        atoms: Periodic in any directions.
        functional: Functional of the training data: "pbe", "revpbe", "r2scan", "b3lyp", ...
        cutoff: Cutoff of the pair energies, Å.
        cn_cutoff: Cutoff of the coordination numbers, Å.
        skin: Length added to both in the neighbour search, Å. Energies do not depend on it.
        per_atom: Return the energies of the atoms (N,) instead of their sum; each atom gets half of
            the energy of its pairs.
        dtype: Dtype of positions and cell, or its name.
        device: Device of positions and cell.

    Returns:
        The function. It raises ValueError if shapes or dtypes do not match.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If there are no atoms, the functional or an element is unknown, a cutoff is not
            positive, the skin is negative, positions or cell are not finite, atoms coincide, or
            periodic lattice vectors are missing or linearly dependent.

    Source: Grimme, Ehrlich, Goerigk, J. Comput. Chem. 32, 1456 (2011).
    """
    skin, dtype = validation.skin(skin), validation.floating_type(dtype)
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms")
    tune_allocator()
    settings = D3Settings(functional, cutoff, cn_cutoff)
    like = torch.empty(0, dtype=dtype, device=device)
    atomic_energies = d3_energies(D3Pairs.of(settings, atoms, (skin, skin), like))

    def energy(positions: Tensor, cell: Tensor) -> Tensor:
        _check(len(atoms), dtype, positions, cell)
        energies = atomic_energies(positions, cell)
        return energies if per_atom else energies.sum()

    return energy


def d3_energies(topology: D3Pairs) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the D3 energies of the atoms as a pure function.

    Each atom gets half of the energy of its pairs.

    Args:
        topology: Pairs and data of the structure.

    Returns:
        A function of `(positions, cell)` in Å that returns (N,) in eV; it does not check shapes.
    """
    pairs, cn_pairs, reference = topology.pairs, topology.cn_pairs, topology.reference
    n_atoms = len(reference.kinds)
    count, attraction = counting(topology), damping(topology)
    entries = pairs.first * n_atoms + pairs.second

    def energies(positions: Tensor, cell: Tensor) -> Tensor:
        cn = cn_pairs.to_atoms(count(cn_pairs.between(positions), cell)[:, 0], n_atoms)
        weights = reference_weights(reference, cn)
        c6 = pair_coefficients(reference, weights, weights).reshape(-1)
        pair_energies = (
            -c6.index_select(0, entries) * attraction(pairs.between(positions), cell)[:, 0]
        )
        return pairs.to_atoms(0.5 * pair_energies, n_atoms)

    return energies


def counting(topology: D3Pairs) -> ImageSum:
    """Return the contributions of pairs to coordination numbers, summed over images."""
    images, radii = topology.cn_pairs, topology.reference.radii[topology.reference.kinds]
    r_cov = (radii[images.first] + radii[images.second])[:, None]

    def count(r2: Tensor) -> Tensor:
        return torch.sigmoid(COUNTING * (r_cov * r2.rsqrt() - 1))

    return ImageSum(images, count, topology.settings.cn_cutoff)


def damping(topology: D3Pairs) -> ImageSum:
    """Return the damped attraction of pairs, their energy over -C6, summed over images."""
    images, sqrt_q = topology.pairs, topology.reference.sqrt_q[topology.reference.kinds]
    c8_over_c6 = 3 * (sqrt_q[images.first] * sqrt_q[images.second])[:, None]
    s6, s8, a1, a2 = topology.damping
    f = a1 * c8_over_c6.sqrt() + a2
    f6, f8 = f**6, f**8

    def damped(r2: Tensor) -> Tensor:
        r6 = r2 * r2 * r2
        return s6 / (r6 + f6) + s8 * c8_over_c6 / (r6 * r2 + f8)

    return ImageSum(images, damped, topology.settings.cutoff)


def reference_weights(reference: ReferenceSystems, cn: Tensor) -> Tensor:
    """Return the weights w_ia of the reference systems of each atom.

    Args:
        reference: Data of the elements.
        cn: Coordination numbers, (N,) or (N, 1).

    Returns:
        The weights, (N, 7), whose sum is one for each atom; zero where there is no reference.
    """
    cn_references = reference.coordination[reference.kinds]
    # Unlike a quotient of exponentials, a softmax does not underflow far from all references.
    exponents = -WEIGHTING * (cn.view(-1, 1) - cn_references) ** 2
    return exponents.masked_fill(cn_references < 0, -torch.inf).softmax(-1)


def pair_coefficients(reference: ReferenceSystems, left: Tensor, right: Tensor) -> Tensor:
    """Return `C6_ij = sum_(a, b) left_ia right_jb C6_(a, b)` for all pairs of atoms, (N, N).

    Args:
        reference: Data of the elements.
        left: Weights w_ia of the references of each atom, or their derivatives, (N, 7).
        right: Weights w_jb, or their derivatives, (N, 7).
    """
    element = torch.nn.functional.one_hot(reference.kinds, len(reference.radii)).to(left)
    c6 = reference.c6.transpose(1, 2).flatten(2).flatten(0, 1)
    left, right = ((element[..., None] * w[:, None]).flatten(1) for w in (left, right))
    return left @ c6 @ right.T


def _check(atoms: int, dtype: torch.dtype, positions: Tensor, cell: Tensor) -> None:
    """Raise if shapes or dtypes do not match; values are never read."""
    if positions.shape != (atoms, 3) or cell.shape != (3, 3):
        raise ValueError(
            f"the function is for positions ({atoms}, 3) and cell (3, 3), not "
            f"{tuple(positions.shape)} and {tuple(cell.shape)}; use vmap for several structures"
        )
    if {positions.dtype, cell.dtype} != {dtype}:
        raise ValueError(
            f"positions ({positions.dtype}) and cell ({cell.dtype}) must be {dtype}; "
            "or give dispersion_fn their dtype"
        )
