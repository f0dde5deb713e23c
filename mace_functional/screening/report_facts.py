"""The first table of a report: structures, model, settings, time and versions, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from mace_functional.screening.provenance import Provenance, model_name
from mace_functional.screening.record import Record
from mace_functional.screening.rows import Row
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.wording import duration, mesh_words


def report_facts(
    rows: Sequence[Row], settings: ScreenSettings, provenance: Provenance | None
) -> dict[str, str]:
    """Rows of the first table, by what they are about.

    Args:
        rows: The structures, failed ones too.
        settings: Settings of the screening.
        provenance: Date, versions and digest of the model; not shown if None.
    """
    done = [row.record for row in rows if row.has_result]
    failed = len(rows) - len(done)
    relaxing = sum(record.seconds_relaxation or 0.0 for record in done)
    vibrating = sum(record.seconds_modes or 0.0 for record in done)
    expanding = sum(record.seconds_cp or 0.0 for record in done)
    facts = {
        "Structures": f"{len(rows)}: "
        + (f"{len(done)} done, {failed} failed" if failed else "all done"),
        "Model": _model(settings, provenance),
        "Relaxation": _relaxation(settings, done),
        "Vibrations": f"harmonic, from exact Hessians, {_wave_vectors(settings)}"
        + _without_hessian(settings),
        "Computing time": f"{duration(relaxing + vibrating + expanding)}: relaxations "
        f"{duration(relaxing)}, vibrations {duration(vibrating)}"
        + (f", constant pressure {duration(expanding)}" if settings.cp else ""),
    }
    dates = sorted(record.computed for record in done if record.computed)
    if dates:
        days = dict.fromkeys([_day(dates[0]), _day(dates[-1])])
        facts["Computed"] = f"{' to '.join(days)}, with {_software(done)}"
    if provenance is not None:
        versions = _versions(provenance.versions)
        facts["Report"] = f"{_day(provenance.date)}, by {versions}"
    return facts


def _model(settings: ScreenSettings, provenance: Provenance | None) -> str:
    """The model with its digest, head, precision and dispersion correction."""
    words = [model_name(settings.model)]
    if provenance is not None:
        words.append(f"sha256 of weights and settings {provenance.model_digest}")
    if settings.head:
        words.append(f"head {settings.head}")
    words.append(str(settings.dtype))
    words.append(
        f"D3 dispersion for {settings.dispersion.upper()}"
        if settings.dispersion
        else "no dispersion correction"
    )
    return ", ".join(words)


def _relaxation(settings: ScreenSettings, done: Sequence[Record]) -> str:
    """Relaxed coordinates and limits, and the number of structures that converged."""
    if not settings.relax:
        return "not relaxed: as they are in the files"
    what = "positions and cells" if settings.relax_cell else "positions, in the cells of the files"
    converged = sum(record.converged is True for record in done)
    return (
        f"{what}, to forces below {settings.fmax:g} eV/Å in at most {settings.max_steps} steps: "
        f"{converged} of {len(done)} converged"
    )


def _day(date: str) -> str:
    """A date in ISO format as 1 January 2026, 12:00 UTC; as it is if it is none."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return date
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _software(done: Sequence[Record]) -> str:
    """The versions that computed the records."""
    known = {_versions(record.versions) for record in done if record.versions}
    return " and with ".join(sorted(known)) or "unknown versions"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _without_hessian(settings: ScreenSettings) -> str:
    """The structures whose thermodynamics are sampled, in words."""
    if settings.stochastic_above is None:
        return ""
    errors = f"{settings.rel_error:g} of the heat capacity"
    if settings.entropy_error is not None:
        errors += f" and {settings.entropy_error:g} of the entropy"
    return (
        f"; structures of more than {settings.stochastic_above} atoms by random vectors, at the "
        f"Gamma point alone, to relative standard errors of {errors}"
    )


def _wave_vectors(settings: ScreenSettings) -> str:
    """The wave vectors of crystals and molecules, in words."""
    mesh = settings.mesh
    if mesh is None:
        return "at the Gamma point alone"
    if isinstance(mesh, str):
        return (
            f"on meshes of wave vectors that are refined until heat capacities at "
            f"{settings.mesh_temperature:g} K change by less than {settings.mesh_tolerance:g}; "
            "molecules without a mesh"
        )
    if isinstance(mesh, float):
        return f"on meshes of wave vectors at most {mesh:g} 1/Å apart; molecules without a mesh"
    return f"on a mesh of {mesh_words(mesh)} wave vectors; molecules without a mesh"
