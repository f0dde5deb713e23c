"""What needs a person's eye in the result of a structure, each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from mace_functional.phonons.modes import LARGEST_FORCE, is_gamma
from mace_functional.screening.missing import LARGE, is_large, missing_at_gamma
from mace_functional.screening.page import counted, formatted
from mace_functional.screening.rows import Row
from mace_functional.screening.settings import ScreenSettings
from mace_functional.screening.table import ROOM

SOFT = 5.0
"""Below this, in cm-1, a vibration is hardly told from a free motion."""

ROUNDING = {"float64": 1e-6, "float32": 1e-2}
"""Sum rule and symmetry of a Hessian hold to this, eV/Å²; rounding is far below it."""


def failure(row: Row, settings: ScreenSettings) -> str | None:
    """Why there is no result."""
    return None if row.spectrum is not None else row.record.failure or "no reason is known"


def as_read(row: Row, settings: ScreenSettings) -> str | None:
    """What was repaired or looks wrong in the file."""
    return "; ".join(row.record.findings) or None


def not_converged(row: Row, settings: ScreenSettings) -> str | None:
    """That the relaxation ended too early."""
    record = row.record
    if record.converged is not False:
        return None
    return f"{record.relaxation}, largest force {formatted(record.largest_force, '.2g')} eV/Å"


def not_at_rest(row: Row, settings: ScreenSettings) -> str | None:
    """Forces that are left."""
    force, limit = row.record.largest_force, LARGEST_FORCE
    if force is None or row.record.converged is False:
        return None
    if row.record.converged:
        limit = min(limit, 1.01 * settings.fmax)  # not what rounding adds
    return f"largest force {force:.2g} eV/Å" if force > limit else None


def imaginary(row: Row, settings: ScreenSettings) -> str | None:
    """Modes along which it is no minimum."""
    count, lowest = row.record.imaginary_modes, row.record.lowest_frequency
    return f"{counted(count, 'mode')}, down to {formatted(lowest, '.1f')} cm-1" if count else None


def soft(row: Row, settings: ScreenSettings) -> str | None:
    """Vibrations that may be none."""
    if row.spectrum is None:
        return None
    # Close to Gamma, acoustic modes of a dense mesh are soft by right.
    frequencies = row.spectrum.frequencies[is_gamma(row.spectrum.q)]
    soft = frequencies[(frequencies > 0) & (frequencies < SOFT)]
    if not len(soft):
        return None
    return f"{counted(len(soft), 'mode')}, the lowest at {float(soft.min()):.2f} cm-1"


def rough_hessian(row: Row, settings: ScreenSettings) -> str | None:
    """What a sound Hessian would not have."""
    record, limit = row.record, ROUNDING[settings.dtype]
    found = [
        f"{name} {value:.1e} eV/Å²"
        for name, value in (
            ("acoustic sum rule broken by", record.acoustic_sum_residual),
            ("asymmetry of the Hessian", record.asymmetry),
        )
        if value is not None and not value < limit
    ]
    return ", ".join(found) or None


def gamma_alone(row: Row, settings: ScreenSettings) -> str | None:
    """A heat capacity that lacks much without other wave vectors."""
    missing = missing_at_gamma(row, ROOM)
    if missing is None or not is_large(row, ROOM):
        return None
    if missing.estimate is None:
        return (
            f"lacks up to {missing.bound:.4f} J/(g K), {100 * missing.share:.0f} %; there is no "
            f"estimate: {missing.reason}"
        )
    return (
        f"lacks about {missing.estimate:.4f} J/(g K) at {ROOM:g} K, {100 * missing.share:.0f} %, "
        f"and at most {missing.bound:.4f}"
    )


def coarse_mesh(row: Row, settings: ScreenSettings) -> str | None:
    """A mesh that was refined as far as it may, and is too coarse."""
    error = row.record.mesh_error
    if error is None or error <= settings.mesh_tolerance:
        return None
    return f"error {error:.1e} at {settings.mesh_temperature:g} K"


FINDINGS: tuple[tuple[str, str, Callable[[Row, ScreenSettings], str | None]], ...] = (
    (
        "Failed",
        "There is no result. Correct the file, or what else the reason names, and run the same "
        "command with <code>--retry</code>.",
        failure,
    ),
    (
        "As read",
        "The file is not as it should be, and was read as is said here. Look whether the structure "
        "is the one that is meant, and correct the file.",
        as_read,
    ),
    (
        "Not relaxed",
        "The relaxation ended too early, and what follows is of a structure that is not at rest. "
        "Allow more steps (<code>--max-steps</code>), or start from a better geometry.",
        not_converged,
    ),
    (
        "Imaginary modes",
        "The structure is no minimum of the energy along them. They are left out of all sums, so "
        "that heat capacity and entropy are too low. Relax further (lower <code>--fmax</code>), "
        "move the atoms a little along the mode and relax again, or, if a mesh shows them away "
        "from Gamma, take a larger cell.",
        imaginary,
    ),
    (
        "Not at rest",
        "Forces are left, and harmonic frequencies mean little where they are. Relax the structure "
        "with this model (without <code>--no-relax</code>).",
        not_at_rest,
    ),
    (
        "Gamma alone",
        f"More than {100 * LARGE:g} % of the heat capacity is missing: the acoustic modes, which "
        "are translations at Gamma and hold nothing there. They are estimated from speeds of "
        "sound. Such structures have no part in a common scale of frequencies. Average over a "
        "mesh of wave vectors (<code>--mesh auto</code>), or take a larger cell.",
        gamma_alone,
    ),
    (
        "Mesh too coarse",
        "The heat capacity has not converged to <code>--mesh-tolerance</code> on the finest mesh "
        "that is tried. Give the size of a mesh, or ask for less.",
        coarse_mesh,
    ),
    (
        "Very soft modes",
        f"Vibrations below {SOFT:g} cm<sup>-1</sup> count in full, each with nearly k<sub>B</sub> "
        "in the heat capacity. Entropy and free energy depend on how soft they are, and are not to "
        "be trusted. Relax further, and look whether a part of the structure is free to move.",
        soft,
    ),
    (
        "Inexact Hessian",
        "Sum rule and symmetry hold to rounding in a sound calculation. Compute in "
        "<code>--dtype float64</code>, and look for atoms that nearly touch.",
        rough_hessian,
    ),
)
"""What is found in a structure: a title, what to do, and the words for one structure, or None."""
