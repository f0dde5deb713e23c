"""Check of single against double precision, at coordinates that are exact in single precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mace_functional.certificate.comparison import (
    Comparison,
    Examination,
    NotApplicableError,
    compare,
    largest,
    rms,
)
from mace_functional.certificate.subject import Subject, three_orders

SINGLE_BOUND = 3e-5
"""Bound of forces and Hessian products in single precision, as a fraction of their size.

Measured errors are up to 9e-6 (9 to 106 atoms, MACE-MP-0 small and the embedded model).
"""

SINGLE_ENERGY_BOUND = 1e-6
"""Bound of the energy in single precision, as a fraction of its size; measured errors are 1e-7."""


def _float32(s: Subject) -> Iterator[Comparison]:
    if s.potential.dtype != torch.float64:
        raise NotApplicableError("the potential has no double precision to compare with")
    try:
        single = s.potential.to(dtype=torch.float32)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise NotApplicableError(f"no single precision: {error}") from error
    rounded = s.atoms.copy()
    rounded.set_cell(s.atoms.cell.array.astype(np.float32))
    rounded.positions = s.atoms.positions.astype(np.float32)
    e, f, h = three_orders(single, rounded, s.vectors[0])
    e0, f0, h0 = three_orders(s.potential, rounded, s.vectors[0])
    size = rms(e0) + rms(f0) * f0.numel() ** 0.5
    difference = largest(e.to(e0.dtype) - e0)
    yield Comparison("energy", difference, SINGLE_ENERGY_BOUND * size, size, "eV")
    yield compare("forces", f, f0, unit="eV/Å", relative=SINGLE_BOUND)
    yield compare("H v", h, h0, unit="eV/Å²", relative=SINGLE_BOUND)


CHECKS = (Examination("float32", "E, F, H v in single and double precision", _float32),)
