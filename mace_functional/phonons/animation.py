"""Animations of vibrating crystals and molecules, as lists of structures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from mace_functional.phonons.modes import (
    checked_q,
    modes_at_q,
    signed_frequencies,
    warn_if_not_relaxed,
)

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.phonons.phonons import Phonons

MAX_REPEATS = 24
"""Largest number of cells along a lattice vector in which a commensurate wave must be periodic."""


def animate(
    phonons: Phonons,
    q: Tensor | Sequence[float],
    mode: int,
    *,
    amplitude: float = 0.3,
    frames: int = 20,
    supercell: Literal["commensurate"] | Sequence[int] = "commensurate",
) -> list[Atoms]:
    """Return one period of one mode as structures, which `ase.io.write("a.extxyz", ...)` saves.

        u_Rk(t) = Re[ e_k / sqrt(m_k) exp(2 pi i (q.R - t / period)) ]

    Args:
        phonons: Phonons of `phonons_of`, of a crystal or, with q = 0, of a molecule.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        mode: Number of the mode, 0 to 3N - 1, in the order of ascending frequencies.
        amplitude: Largest displacement of any atom, Å.
        frames: Number of structures in one period.
        supercell: Cells along each lattice vector, or "commensurate" for the smallest supercell in
            which the wave is periodic.

    Returns:
        The structures, with `q`, `mode` and `frequency_THz` in their `info`.

    Raises:
        ValueError: If q is invalid, the mode does not exist, amplitude or frames are not positive,
            or the wave is not periodic within 24 cells along each lattice vector.

    Warns:
        UserWarning: The structure is far from relaxed.
    """
    atoms = phonons.atoms
    q = checked_q(phonons, q)
    if not 0 <= mode < 3 * len(atoms):
        raise ValueError(f"{len(atoms)} atoms have the modes 0 to {3 * len(atoms) - 1}, not {mode}")
    if not 0 < amplitude < math.inf:
        raise ValueError(f"the amplitude must be positive, in Å, not {amplitude}")
    if frames < 1:
        raise ValueError(f"there must be at least one frame, not {frames}")
    repeats = _commensurate(q.tolist()) if supercell == "commensurate" else _cells(supercell)
    warn_if_not_relaxed(phonons)

    values, vectors = modes_at_q(phonons, q)
    wave = (vectors[mode] / phonons.masses.sqrt()[:, None]).cpu().numpy()
    # The cells have the order of Atoms.repeat.
    phases = np.exp(2j * np.pi * np.indices(repeats).reshape(3, -1).T @ q.cpu().numpy())
    wave = (phases[:, None, None] * wave).reshape(-1, 3)
    rotations = np.exp(-2j * np.pi * np.arange(frames) / frames)
    # |u(t)|^2 = (|w|^2 + Re[w.w exp(-2i omega t)]) / 2 is largest where the second term is |w.w|.
    squares = (abs(wave) ** 2).sum(1) + abs((wave**2).sum(1))
    wave *= amplitude / np.sqrt(squares.max() / 2)

    repeated = atoms.repeat(repeats)
    repeated.calc = None
    structures = []
    for rotation in rotations:
        frame = repeated.copy()
        frame.positions += (wave * rotation).real
        frame.info.update(
            q=q.tolist(), mode=mode, frequency_THz=float(signed_frequencies(values, "THz")[mode])
        )
        structures.append(frame)
    return structures


def _commensurate(q: Sequence[float]) -> tuple[int, int, int]:
    """Return the numbers of cells of the smallest supercell in which a wave is periodic."""
    fractions = [Fraction(x).limit_denominator(MAX_REPEATS) for x in q]
    if any(abs(x - float(f)) > 1e-6 for x, f in zip(q, fractions, strict=True)):
        raise ValueError(
            f"the wave of q = {list(q)} does not repeat within {MAX_REPEATS} cells along each "
            "lattice vector: choose another q, or give a supercell, in which it need not repeat"
        )
    return fractions[0].denominator, fractions[1].denominator, fractions[2].denominator


def _cells(supercell: Sequence[int]) -> tuple[int, int, int]:
    if isinstance(supercell, str) or len(supercell) != 3 or any(n < 1 for n in supercell):
        raise ValueError(
            f"a supercell is 'commensurate' or three positive integers, not {supercell!r}"
        )
    return int(supercell[0]), int(supercell[1]), int(supercell[2])
