"""D3 data of elements and functionals, from tad-dftd3."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from torch import Tensor


class ReferenceSystems(NamedTuple):
    """D3 data of the elements in a structure, in eV and Å.

    Attributes:
        kinds: Element of each atom, as an index into the other attributes, (N,).
        coordination: Coordination numbers CN_a of the reference systems, (elements, 7); negative
            where an element has fewer than seven.
        c6: Coefficients C6_(a, b) of the reference systems, (elements, elements, 7, 7).
        radii: Covalent radii times 4/3, (elements,).
        sqrt_q: Square roots of Q, (elements,).
    """

    kinds: Tensor
    coordination: Tensor
    c6: Tensor
    radii: Tensor
    sqrt_q: Tensor


class Damping(NamedTuple):
    """Parameters of rational damping for a functional; a2 is in Å."""

    s6: float
    s8: float
    a1: float
    a2: float


def damping_of(functional: str) -> Damping:
    """Return the damping parameters of a functional.

    Args:
        functional: Name of the functional; case and hyphens are ignored.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If the functional is unknown or has no parameters for rational damping.
    """
    param = _tad_dftd3().param
    try:
        values = param.get_functional_params(functional, damping="bj", dtype=torch.float64)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"there are no parameters of D3 with rational damping for {functional!r}: "
            "name the functional as 'pbe', 'revpbe', 'b3lyp', ..."
        ) from error
    s6, s8, a1, a2 = (float(values[name]) for name in ("s6", "s8", "a1", "a2"))
    return Damping(s6, s8, a1, a2 * Bohr)


def reference_of(numbers: np.ndarray, like: Tensor) -> ReferenceSystems:
    """Return the D3 data of the elements in a structure.

    Args:
        numbers: Atomic numbers, (N,).
        like: Tensor with the dtype and device to use.

    Raises:
        ImportError: If tad-dftd3 is not installed.
        ValueError: If D3 does not know an element.
    """
    tad_dftd3 = _tad_dftd3()
    from tad_mctc.data.radii import COV_D3

    double, cpu = torch.float64, torch.device("cpu")
    tables = tad_dftd3.reference.Reference(dtype=double, device=cpu)
    present, kinds = np.unique(numbers, return_inverse=True)
    unknown = [int(z) for z in present if not 0 < z < len(tables.cn)]
    if unknown:
        raise ValueError(f"D3 has no data of {' '.join(chemical_symbols[z] for z in unknown)}")
    rows = torch.as_tensor(present)
    return ReferenceSystems(
        kinds=torch.as_tensor(kinds, device=like.device),
        coordination=tables.cn[rows].to(like),
        c6=(tables.c6[rows][:, rows] * (Hartree * Bohr**6)).to(like),
        radii=(COV_D3(dtype=double, device=cpu)[rows] * Bohr).to(like),
        sqrt_q=(tad_dftd3.data.R4R2(dtype=double, device=cpu)[rows] * Bohr).to(like),
    )


def _tad_dftd3() -> Any:
    """Import tad-dftd3, an optional dependency."""
    try:
        import tad_dftd3
    except ImportError as error:
        raise ImportError(
            "dispersion needs the data of tad-dftd3: pip install 'mace_functional[dispersion]'"
        ) from error
    return tad_dftd3
