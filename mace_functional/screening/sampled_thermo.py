"""Thermodynamics of one large structure, sampled by random vectors, with standard errors.

The record has the results for some temperatures with the options that they were computed with. For
other temperatures or options they are computed again, for the same relaxed structure.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor

from mace_functional.screening.record import Record
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.wording import formatted
from mace_functional.stochastic import StochasticThermo, stochastic_thermo

if TYPE_CHECKING:
    from ase import Atoms

    from mace_functional.potential.protocol import Potential

PASSES = "passes.npz"
"""Name of the checkpoint of a sampling."""

OPTIONS = "options"
"""Key of the options of a sampling in a record."""

METHOD = "random vectors"
"""Method of a structure without a Hessian, in words."""

ALL_MODES = "all modes"
"""Method of a structure with a Hessian, in words."""

NO_CP = f"its modes are not known: it was computed by {METHOD}, and Cp needs all modes"
"""Reason why a sampled structure has no heat capacity at constant pressure."""

NO_ESTIMATE = "its modes are not known"
"""Reason why there is no estimate of the heat capacity that is missing at Gamma."""


def sampled_facts(
    model: Potential,
    atoms: Atoms,
    temperatures: Sequence[float],
    settings: ScreenSettings,
    *,
    checkpoint: Path,
    memory_budget: int | None,
) -> dict[str, Any]:
    """Sample the thermodynamics of a structure.

    Args:
        model: The potential.
        atoms: The structure, relaxed.
        temperatures: Temperatures, K.
        settings: Settings of the screening.
        checkpoint: File from which an interrupted sampling continues.
        memory_budget: Bytes for second derivatives.

    Returns:
        The part of the record about them.
    """
    options = settings.sampling()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the record has what they say
        found = stochastic_thermo(
            model,
            atoms,
            temperatures,
            checkpoint=checkpoint,
            memory_budget=memory_budget,
            **options,
        )
    values = {
        name: value.tolist() if isinstance(value, Tensor) else value
        for name, value in asdict(found).items()
    }
    n_branches = found.n_rigid if atoms.pbc.any() and found.n_rigid in (3, 4) else 0
    exact = _has_all_modes(found)
    return {
        "stochastic": {OPTIONS: options, **values},
        "n_rigid": found.n_rigid,
        "n_acoustic_branches": n_branches,
        "no_acoustic_estimate": NO_ESTIMATE if n_branches else None,
        "n_imaginary": round(found.n_imaginary) if exact else None,
        "lowest_frequency": found.lowest_frequency if exact and found.n_modes else None,
    }


def sampled_thermo(record: Record) -> StochasticThermo | None:
    """The sampled thermodynamics of a record; None for a structure with all modes.

    Raises:
        TypeError: If the record does not have all of them.
    """
    if record.stochastic is None:
        return None
    kinds = get_type_hints(StochasticThermo)
    values: dict[str, Any] = {
        name: torch.tensor(x, dtype=torch.float64) if kinds.get(name) is Tensor else x
        for name, x in record.stochastic.items()
        if name != OPTIONS
    }
    return StochasticThermo(**values)


def is_current(record: Record, settings: ScreenSettings, temperatures: Sequence[float]) -> bool:
    """True if the sampling of a record has these options and temperatures.

    Results with the error that was asked for at more temperatures are taken too.
    """
    kept = record.stochastic
    if kept is None or kept[OPTIONS] != settings.sampling():
        return False
    known, wanted = set(kept["temperatures"]), set(temperatures)
    return wanted == known or (kept["converged"] and wanted < known)


def at_temperatures(found: StochasticThermo, temperatures: Sequence[float]) -> StochasticThermo:
    """The results at some temperatures, (T,) K; NaN at those that were not computed."""
    places = {t: i for i, t in enumerate(found.temperatures.tolist())}
    known = [places.get(float(t)) for t in temperatures]

    def chosen(values: Tensor) -> Tensor:
        return torch.tensor(
            [torch.nan if i is None else float(values[i]) for i in known], dtype=torch.float64
        )

    parts: dict[str, Any] = {
        f.name: chosen(values)
        for f in fields(found)
        if isinstance(values := getattr(found, f.name), Tensor) and values.ndim
    }
    wanted = torch.tensor([float(t) for t in temperatures], dtype=torch.float64)
    return replace(found, **{**parts, "temperatures": wanted})


def sampling_fault(found: StochasticThermo) -> str | None:
    """Reason why numbers cannot be those of a sampling."""
    t = found.temperatures
    for f in fields(found):
        values = getattr(found, f.name)
        if not isinstance(values, Tensor):
            continue
        if values.shape != (() if "zero_point" in f.name else t.shape):
            return "sampled results and temperatures do not fit each other"
        if bool(values.isnan().any()):
            return "sampled results are not numbers"
    return None


def method_words(record: Record) -> str:
    """The method by which the thermodynamics of a structure were computed, in words."""
    found = sampled_thermo(record)
    return ALL_MODES if found is None or _has_all_modes(found) else METHOD


def imaginary_words(record: Record) -> str:
    """The number of imaginary modes, or its estimate with its standard error and its bound."""
    found = sampled_thermo(record)
    if found is None or _has_all_modes(found):
        return formatted(record.n_imaginary, "d")
    if found.lowest_frequency < 0:
        return (
            f"≈ {found.n_imaginary:.1f} ± {found.n_imaginary_error:.1f}, "
            f"≤ {found.n_imaginary_bound:.1f}"
        )
    return f"≤ {found.n_imaginary_bound:.1f}"


def has_imaginary(record: Record) -> bool:
    """True if a structure has imaginary modes, also if a negative Ritz value alone proves it."""
    found = sampled_thermo(record)
    return bool(record.n_imaginary) or (found is not None and found.lowest_frequency < 0)


def inaccurate_words(found: StochasticThermo) -> str | None:
    """The largest standard errors, if they are larger than asked for; else None."""
    if found.converged:
        return None
    errors = f"{_largest(found, 'heat_capacity')} of Cv and {_largest(found, 'entropy')} of S"
    return f"standard errors up to {errors} after {found.n_products} Hessian-vector products"


def _largest(found: StochasticThermo, name: str) -> str:
    """The largest relative standard error of a quantity, and its temperature."""
    warm = found.temperatures > 0
    relative = (getattr(found, f"{name}_error") / getattr(found, name))[warm]
    if not len(relative):
        return "0 %"
    worst = int(relative.argmax())
    return f"{100 * float(relative[worst]):.2g} % at {float(found.temperatures[warm][worst]):g} K"


def _has_all_modes(found: StochasticThermo) -> bool:
    """True if the Hessian took fewer products than random vectors, and was diagonalised."""
    return found.n_vectors == 0
