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
    dtype: str | torch.dtype = torch.float64,
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
        dtype: Of the positions, or its name.
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
    skin, dtype = validation.skin(skin), validation.floating_type(dtype)
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms")
    tune_allocator()
    settings = D3Settings(functional, cutoff, cn_cutoff)
    like = torch.empty(0, dtype=dtype, device=device)
    of_atoms = d3_energies(D3Pairs.of(settings, atoms, (skin, skin), like))

    def energy(positions: Tensor, cell: Tensor) -> Tensor:
        _check(len(atoms), dtype, positions, cell)
        energies = of_atoms(positions, cell)
        return energies if per_atom else energies.sum()

    return energy


def d3_energies(graph: D3Pairs) -> Callable[[Tensor, Tensor], Tensor]:
    """The energies of the atoms, half a pair's for each end, as a pure function.

    Args:
        graph: Pairs and data of the structure.

    Returns:
        `(positions, cell)` in Å to (N,) in eV; shapes are not checked.
    """
    pairs, counted, reference = graph.pairs, graph.counted, graph.reference
    size = len(reference.kinds)
    counts, sums = counting(graph), damping(graph)
    entries = pairs.first * size + pairs.second

    def energies(positions: Tensor, cell: Tensor) -> Tensor:
        coordination = counted.to_atoms(counts(counted.between(positions), cell)[:, 0], size)
        weights = reference_weights(reference, coordination)
        c6 = pair_coefficients(reference, weights, weights).reshape(-1)
        of_pairs = -c6.index_select(0, entries) * sums(pairs.between(positions), cell)[:, 0]
        return pairs.to_atoms(0.5 * of_pairs, size)

    return energies


def counting(graph: D3Pairs) -> ImageSum:
    """How much of a neighbour atoms are to each other, summed over images."""
    images, radii = graph.counted, graph.reference.radii[graph.reference.kinds]
    both = (radii[images.first] + radii[images.second])[:, None]

    def count(r2: Tensor) -> Tensor:
        return torch.sigmoid(COUNTING * (both * r2.rsqrt() - 1))

    return ImageSum(images, count, graph.settings.cn_cutoff)


def damping(graph: D3Pairs) -> ImageSum:
    """Energies of pairs over -C6, summed over images."""
    images, roots = graph.pairs, graph.reference.sqrt_q[graph.reference.kinds]
    ratio = 3 * (roots[images.first] * roots[images.second])[:, None]
    s6, s8, a1, a2 = graph.damping
    f = a1 * ratio.sqrt() + a2
    f6, f8 = f**6, f**8

    def damped(r2: Tensor) -> Tensor:
        r6 = r2 * r2 * r2
        return s6 / (r6 + f6) + s8 * ratio / (r6 * r2 + f8)

    return ImageSum(images, damped, graph.settings.cutoff)


def reference_weights(reference: ReferenceSystems, coordination: Tensor) -> Tensor:
    """How near the atoms are to each reference of their elements.

    Args:
        reference: Data of the elements.
        coordination: Coordination numbers, (N,) or (N, 1).

    Returns:
        The weights, (N, 7), of sum one; zero where there is no reference.
    """
    known = reference.coordination[reference.kinds]
    # A softmax does not underflow: far from all references the nearest has all the weight.
    exponents = -WEIGHTING * (coordination.view(-1, 1) - known) ** 2
    return exponents.masked_fill(known < 0, -torch.inf).softmax(-1)


def pair_coefficients(reference: ReferenceSystems, left: Tensor, right: Tensor) -> Tensor:
    """`C6_ij = sum_(a, b) left_ia right_jb C6_(a, b)` of all pairs of atoms.

    Args:
        reference: Data of the elements.
        left: Weights of the references of each atom, or their derivatives, (N, 7).
        right: Likewise, (N, 7).

    Returns:
        (N, N).
    """
    element = torch.nn.functional.one_hot(reference.kinds, len(reference.radii)).to(left)
    c6 = reference.c6.transpose(1, 2).flatten(2).flatten(0, 1)
    left, right = ((element[..., None] * w[:, None]).flatten(1) for w in (left, right))
    return left @ c6 @ right.T


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
