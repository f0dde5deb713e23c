"""Reference energies of the elements, fitted to the energies of structures.

Energies of two electronic-structure methods differ by large constants for each element. A fit by
least squares takes them out, so that training need not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mace_functional.potential.protocol import Potential
from mace_functional.training.label_batches import Example


def element_shifts(potential: Potential, examples: Sequence[Example]) -> dict[int, float]:
    """Return the shift of each element's energy that brings labels nearest to a potential.

    The shifts c minimise the sum of `((E0 - E - sum_z n_z c_z) / N)^2`. Elements that cannot be
    told apart, because they always come in the same proportion, share their shift.

    Args:
        potential: The potential, with energies E.
        examples: Structures, with labels E0; those without an energy are left out.

    Returns:
        The shifts in eV, by atomic number.
    """
    chosen = [e for e in examples if e.labelled.energy is not None]
    elements = sorted({int(z) for e in chosen for z in e.labelled.atoms.numbers})
    rows, errors = [], []
    for e in chosen:
        s = e.structure
        with torch.no_grad():
            energy = potential.energy_fn(s.topology)(s.positions, s.cell, potential.params)
        numbers = e.labelled.atoms.numbers
        rows.append([(numbers == z).sum() / len(numbers) for z in elements])
        errors.append(((e.labelled.energy or 0.0) - float(energy)) / len(numbers))
    if not chosen:
        return {}
    shifts, *_ = np.linalg.lstsq(np.array(rows), np.array(errors), rcond=None)
    return dict(zip(elements, map(float, shifts), strict=True))
