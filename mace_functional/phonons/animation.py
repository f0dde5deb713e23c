"""Frames of a vibrating crystal or molecule."""

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

LONGEST_PERIOD = 24
"""Cells along one lattice vector after which a wave has to repeat."""


def animate(
    phonons: Phonons,
    q: Tensor | Sequence[float],
    mode: int,
    *,
    amplitude: float = 0.3,
    frames: int = 20,
    supercell: Literal["commensurate"] | Sequence[int] = "commensurate",
) -> list[Atoms]:
    """One period of one mode, as structures; `ase.io.write("mode.extxyz", frames)` keeps them.

        u_Rk(t) = Re[ e_k / sqrt(m_k) exp(2 pi i (q.R - t / period)) ]

    Args:
        phonons: From `phonons_of`, of a crystal or, with q = 0, of a molecule.
        q: Wave vector in units of the reciprocal lattice vectors, (3,).
        mode: 0 to 3N - 1, in the order of ascending frequencies.
        amplitude: Largest displacement of any atom, Å.
        frames: Structures in one period.
        supercell: Cells along each lattice vector, or "commensurate" for the fewest in which the
            wave is periodic.

    Returns:
        The frames, with `q`, `mode` and `frequency_THz` in their `info`.

    Raises:
        ValueError: If q is bad, there is no such mode, amplitude or frames are not positive, or no
            supercell of 24 cells along each lattice vector holds the wave.

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
    # Order of the cells as in Atoms.repeat.
    phases = np.exp(2j * np.pi * np.indices(repeats).reshape(3, -1).T @ q.cpu().numpy())
    wave = (phases[:, None, None] * wave).reshape(-1, 3)
    turns = np.exp(-2j * np.pi * np.arange(frames) / frames)
    # |u(t)|^2 = (|w|^2 + Re[w.w exp(-2i omega t)]) / 2 is largest where the second term is |w.w|.
    squares = (abs(wave) ** 2).sum(1) + abs((wave**2).sum(1))
    wave *= amplitude / np.sqrt(squares.max() / 2)

    large = atoms.repeat(repeats)
    large.calc = None
    found = []
    for turn in turns:
        frame = large.copy()
        frame.positions += (wave * turn).real
        frame.info.update(
            q=q.tolist(), mode=mode, frequency_THz=float(signed_frequencies(values, "THz")[mode])
        )
        found.append(frame)
    return found


def _commensurate(q: Sequence[float]) -> tuple[int, int, int]:
    """The fewest cells in which a wave is periodic."""
    nearest = [Fraction(x).limit_denominator(LONGEST_PERIOD) for x in q]
    if any(abs(x - float(f)) > 1e-6 for x, f in zip(q, nearest, strict=True)):
        raise ValueError(
            f"the wave of q = {list(q)} does not repeat within {LONGEST_PERIOD} cells along each "
            "lattice vector: choose another q, or give a supercell in which it may not close"
        )
    return nearest[0].denominator, nearest[1].denominator, nearest[2].denominator


def _cells(supercell: Sequence[int]) -> tuple[int, int, int]:
    if isinstance(supercell, str) or len(supercell) != 3 or any(n < 1 for n in supercell):
        raise ValueError(
            f"a supercell is 'commensurate' or three positive integers, not {supercell!r}"
        )
    return int(supercell[0]), int(supercell[1]), int(supercell[2])
