"""Dispersion: Grimme's D3 with rational damping as a pure function.

What a potential lacks that was trained on a functional without dispersion, to be added to its
energy:

    E_D3 = -sum_(i<j) C6_ij [s6 / (r^6 + f^6) + s8 R^2 / (r^8 + f^8)],    f = a1 R + a2,

over all pairs and periodic images, with `R^2 = C8 / C6 = 3 sqrt(Q_i Q_j)`. The coefficient C6_ij
is the mean of those of reference systems, weighted by how near the coordination numbers are:

    C6_ij = sum_(a, b) w_ia w_jb C6_(a, b),    w_ia ~ exp(-4 (CN_i - CN_a)^2),
    CN_i = sum_(j) 1 / (1 + exp(-16 (R_cov / r - 1))).

Nothing is held fixed: derivatives include those of the coordination numbers. The three-body term is
not there.

Source: Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010); Grimme, Ehrlich, Goerigk,
J. Comput. Chem. 32, 1456 (2011). Reference data and damping parameters are those of tad-dftd3
(Friede, Ehlert, Grimme, Mewes, J. Chem. Phys. 161, 062501 (2024)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.units import Bohr
from torch import Tensor

from mace_functional import neighbours
from mace_functional.dispersion.images import Images, ImageSum, in_rows
from mace_functional.dispersion.reference import Damping, Reference, damping_of, reference_of
from mace_functional.memory import keep_freed_memory

if TYPE_CHECKING:
    from ase import Atoms

CUTOFF = 60 * Bohr
"""Where pairs end in s-dftd3, Å."""

CN_CUTOFF = 40 * Bohr
"""Where coordination numbers end there, Å."""

COUNTING = 16.0
"""Steepness of the counting function, k1."""

WEIGHTING = 4.0
"""How fast the weight of a reference falls with the coordination number, k3."""


def dispersion_fn(
    atoms: Atoms,
    *,
    functional: str = "pbe",
    cutoff: float = CUTOFF,
    cn_cutoff: float = CN_CUTOFF,
    skin: float = 0.0,
    per_atom: bool = False,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Callable[[Tensor, Tensor], Tensor]:
    """The D3 dispersion energy, damped after Becke and Johnson, as a pure function.

    `D3(positions, cell)` in eV, with `positions` (N, 3) and `cell` (3, 3) in Å, is to be added to
    the energy of a potential, and nests in the same transforms:

        E_D3 = lambda positions, cell, params: E(positions, cell, params) + D3(positions, cell)

    Pairs are cut off sharply, as in s-dftd3, so that the energy jumps, by some 1e-8 eV at the usual
    cutoff, where one crosses it; derivatives are those between the jumps. The function knows the
    pairs that `atoms` has within the cutoffs and the skin. It is exact for these positions and
    cell, and for others as long as no pair that it does not know comes within a cutoff.

    Args:
        atoms: Periodic in any directions.
        functional: What the potential was trained on: "pbe", "revpbe", "r2scan", "b3lyp", ...
        cutoff: Where pairs end, Å.
        cn_cutoff: Where coordination numbers end, Å.
        skin: Added to both in the neighbour search, Å. Energies do not depend on it.
        per_atom: Return the energies of the atoms (N,), half a pair's for each end, and not their
            sum.
        dtype: Of the positions.
        device: Of the positions.

    Returns:
        The function. It raises ValueError if shapes or dtypes do not fit.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If there are no atoms, the functional or an element is unknown, a cutoff is not
            positive, the skin is negative, positions or cell are not finite, atoms coincide, or
            periodic lattice vectors are missing or linearly dependent.

    Source: Grimme, Ehrlich, Goerigk, J. Comput. Chem. 32, 1456 (2011).
    """
    if not (0 < cutoff < np.inf and 0 < cn_cutoff < np.inf and 0 <= skin < np.inf):
        raise ValueError(
            "cutoffs must be positive and the skin not negative, in Å, not "
            f"{cutoff}, {cn_cutoff} and {skin}"
        )
    size = len(atoms)
    if size == 0:
        raise ValueError("the structure has no atoms")
    keep_freed_memory()
    like = torch.empty(0, dtype=dtype, device=device)
    damping = damping_of(functional)
    reference = reference_of(atoms.numbers, like)
    pairs, counted = _find(atoms, (cutoff + skin, cn_cutoff + skin), like)

    kinds = reference.kinds
    radii = reference.radii[kinds[counted.first]] + reference.radii[kinds[counted.second]]
    counts = ImageSum(counted, _counting(radii[:, None]), cn_cutoff)
    roots = reference.sqrt_q[kinds[pairs.first]] * reference.sqrt_q[kinds[pairs.second]]
    sums = ImageSum(pairs, _damped(damping, 3 * roots[:, None]), cutoff)
    coefficients = _weighting(reference)
    entries = pairs.first * size + pairs.second

    def energy(positions: Tensor, cell: Tensor) -> Tensor:
        _check(size, dtype, positions, cell)
        coordination = counted.to_atoms(counts(counted.between(positions), cell)[:, 0], size)
        c6 = coefficients(coordination).reshape(-1)
        of_pairs = -c6.index_select(0, entries) * sums(pairs.between(positions), cell)[:, 0]
        return pairs.to_atoms(0.5 * of_pairs, size) if per_atom else of_pairs.sum()

    return energy


def _counting(radii: Tensor) -> Callable[[Tensor], Tensor]:
    """How much of a neighbour an atom is, by the squared distance."""
    return lambda r2: torch.sigmoid(COUNTING * (radii * r2.rsqrt() - 1))


def _damped(damping: Damping, ratio: Tensor) -> Callable[[Tensor], Tensor]:
    """Energy of a pair over -C6, by the squared distance, with `ratio` for C8 / C6."""
    f = damping.a1 * ratio.sqrt() + damping.a2
    f6, f8, s8 = f**6, f**8, damping.s8 * ratio

    def damped(r2: Tensor) -> Tensor:
        r6 = r2 * r2 * r2
        return damping.s6 / (r6 + f6) + s8 / (r6 * r2 + f8)

    return damped


def _weighting(reference: Reference) -> Callable[[Tensor], Tensor]:
    """Coordination numbers (N,) to the coefficients C6 of all pairs of atoms (N, N)."""
    kinds, coordination = reference.kinds, reference.coordination[reference.kinds]
    missing = coordination < 0
    element = torch.nn.functional.one_hot(kinds, len(reference.radii)).to(coordination)
    c6 = reference.c6.transpose(1, 2).flatten(2).flatten(0, 1)

    def coefficients(found: Tensor) -> Tensor:
        # A softmax does not underflow: far from all references the nearest has all the weight.
        exponents = -WEIGHTING * (found[:, None] - coordination) ** 2
        weights = exponents.masked_fill(missing, -torch.inf).softmax(-1)
        by_element = (element[..., None] * weights[:, None]).flatten(1)
        return by_element @ c6 @ by_element.T

    return coefficients


def _find(atoms: Atoms, cutoffs: tuple[float, float], like: Tensor) -> tuple[Images, ...]:
    """The pairs within each cutoff."""
    cell, positions = atoms.cell.array, atoms.positions
    first, second, shifts = neighbours.search(positions, cell, atoms.pbc, max(cutoffs))
    distances = np.linalg.norm(positions[first] - positions[second] + shifts @ cell, axis=1)
    return tuple(
        in_rows((first[near], second[near], shifts[near]), len(atoms), like)
        for near in (distances <= cutoff for cutoff in cutoffs)
    )


def _check(atoms: int, dtype: torch.dtype, positions: Tensor, cell: Tensor) -> None:
    """Shapes and dtypes; values are never read."""
    if positions.shape != (atoms, 3) or cell.shape != (3, 3):
        raise ValueError(
            f"the function is for positions ({atoms}, 3) and cell (3, 3), not "
            f"{tuple(positions.shape)} and {tuple(cell.shape)}; use vmap for more than one"
        )
    if {positions.dtype, cell.dtype} != {dtype}:
        raise ValueError(
            f"positions ({positions.dtype}) and cell ({cell.dtype}) must be {dtype}; "
            "or give dispersion_fn their dtype"
        )
