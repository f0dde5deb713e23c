"""Checks of a screening before it begins, of all that would make every structure fail."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from mace_functional.parallel.delivery import pickled
from mace_functional.potential.protocol import Potential
from mace_functional.screening.references import Reference
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.sources import Source
from mace_functional.support import validation


def check_settings(
    settings: ScreenSettings, temperatures: Sequence[float], workers: int | None
) -> None:
    """Refuse settings that would make every structure fail."""
    validation.floating_type(settings.dtype)
    validation.positive("fmax", settings.fmax, "eV/Å")
    validation.count("max_steps", settings.max_steps)
    _check_mesh(settings)
    validation.symmetry_tolerance("symprec", settings.symprec)
    _check_sampling(settings)
    validation.temperatures(temperatures)
    if workers is not None:
        validation.count("workers", workers)


def check_potential(
    potential: Potential, settings: ScreenSettings, executor: Executor | None
) -> None:
    """Refuse a potential beside settings of a model, or one that cannot be sent to processes."""
    if settings.head is not None or settings.dispersion is not None:
        raise ValueError(
            "head and dispersion belong to the model that settings name: choose the head as you "
            "load a model, and add dispersion with SumPotential(potential, D3(...))"
        )
    if potential.dtype != validation.floating_type(settings.dtype):
        raise ValueError(
            f"the potential is in {potential.dtype} and the settings say {settings.dtype}: give "
            "both the same, with potential.to(dtype=...)"
        )
    if not isinstance(executor, ThreadPoolExecutor):
        pickled(potential)


def _check_mesh(settings: ScreenSettings) -> None:
    mesh = settings.mesh
    if isinstance(mesh, float):
        validation.positive("the spacing of a mesh", mesh, "1/Å")
    elif mesh not in (None, "auto"):
        try:
            validation.mesh(mesh)
        except ValueError as error:
            raise ValueError(
                f'{error}; or take a spacing in 1/Å with a decimal point, "auto", or None'
            ) from error
    validation.positive("mesh_tolerance", settings.mesh_tolerance)
    validation.positive("mesh_temperature", settings.mesh_temperature, "K")


def _check_sampling(settings: ScreenSettings) -> None:
    if settings.stochastic_above is not None:
        validation.count("stochastic_above", settings.stochastic_above, least=0)
    validation.positive("rel_error", settings.rel_error)
    if settings.entropy_error is not None:
        validation.positive("entropy_error", settings.entropy_error)
    if settings.max_products is not None:
        validation.count("max_products", settings.max_products)
    validation.count("seed", settings.seed, least=0)


def check_references(references: Sequence[Reference], sources: Sequence[Source]) -> None:
    """Refuse references that know none of the structures, whose names may differ."""
    names = [source.name for source in sources]
    for reference in references:
        if not set(names) & set(reference.values):
            raise ValueError(
                f"{reference.label} has values for none of the structures: it knows "
                f"{_some(list(reference.values))}, and structures are called {_some(names)}"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
