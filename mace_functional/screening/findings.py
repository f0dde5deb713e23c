"""Findings: results of a structure that a person should look at, and advice for each kind.

A kind of finding has a title, advice that fits the settings of the screening, and a function that
describes what is found in one structure, or returns None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mace_functional.figures.spectrum import HIGHEST
from mace_functional.phonons.modes import is_gamma
from mace_functional.screening.constant_pressure import strain_words
from mace_functional.screening.missing import LARGE, is_large, missing_at_gamma
from mace_functional.screening.rows import Row
from mace_functional.screening.sampled_thermo import imaginary_words, inaccurate_words
from mace_functional.screening.screen_settings import ScreenSettings
from mace_functional.screening.table import ROOM
from mace_functional.screening.wording import counted, formatted
from mace_functional.structure.contacts import REPORTED
from mace_functional.vibrations.harmonic_modes import LARGEST_FORCE, SOFT

ROUNDING = {"float64": 1e-8, "float32": 1e-4}
"""Largest errors of the sum rule and the symmetry of a Hessian, relative to its largest force
constant. Rounding was measured to be 1e-14 and 2e-6; errors of the sizes given here move a mode of
50 cm-1 by 1e-3 and 5 cm-1."""

ANHARMONICITY = 10.0
"""Relative change of force constants with a displacement, 1/Å: twice the value of quartz. Force
constants that follow from others by symmetry err by this times the tolerance of symmetry."""

STIFF = 50.0
"""Largest force constant, eV/Å², for records without one: the value of a C-H or Si-O bond."""

STRESS = 2.0
"""Stress, GPa, above which a structure is reported. It changes the volume of a stiff oxide by 1 %
and of quartz by 5 %; cells of other functionals and of experiments often have 1 GPa."""

VOLUME = 0.2
"""Relative change of the volume in a relaxation above which it is reported. Potentials and
experiments differ by a few per cent; a framework that collapses changes by more than this."""

THINNER = 0.75
"""Ratio of a height of the cell after and before relaxation below which it is reported."""

BINDING = (-20.0, 5.0)
"""Range of energies relative to free atoms of the same model, eV an atom; no material is outside.
The most strongly bound solids have -9; models that do not know free atoms well err by some eV."""

MODES = 3.0
"""Modes of an atom, and its heat capacity in k_B at high temperatures (Dulong and Petit)."""


def failure(row: Row, settings: ScreenSettings) -> str | None:
    """Describe why there is no result."""
    return None if row.has_result else row.record.failure or "no reason is known"


def as_read(row: Row, settings: ScreenSettings) -> str | None:
    """Describe what was repaired, or looks wrong, in the file."""
    return "; ".join(row.record.findings) or None


def not_converged(row: Row, settings: ScreenSettings) -> str | None:
    """Describe a relaxation that ended too early."""
    record = row.record
    if record.converged is not False:
        return None
    return f"{record.relaxation}, largest force {formatted(record.largest_force, '.2g')} eV/Å"


def large_forces(row: Row, settings: ScreenSettings) -> str | None:
    """Describe forces that are too large for a minimum."""
    force, limit = row.record.largest_force, LARGEST_FORCE
    if force is None or row.record.converged is False:
        return None
    if row.record.converged:
        limit = min(limit, 1.01 * settings.fmax)  # not what rounding adds
    return f"largest force {force:.2g} eV/Å" if not force <= limit else None


def under_stress(row: Row, settings: ScreenSettings) -> str | None:
    """Describe stress, unless the relaxation of the cell ended too early."""
    stress = row.record.largest_stress
    if (
        stress is None
        or stress <= STRESS
        or (settings.relax_cell and row.record.converged is False)
    ):
        return None
    return f"{stress:.1f} GPa"


def other_cell(row: Row, settings: ScreenSettings) -> str | None:
    """Describe a cell that differs much from the cell in the file."""
    record, words = row.record, []
    if record.volume and record.volume_read:
        change = record.volume / record.volume_read - 1
        if not abs(change) <= VOLUME:
            words.append(
                f"volume from {record.volume_read:.1f} to {record.volume:.1f} Å³, "
                f"{100 * change:+.0f} %"
            )
    if record.thinnest is not None and not record.thinnest >= THINNER:
        words.append(f"thinner by {100 * (1 - record.thinnest):.0f} % in one direction")
    return ", ".join(words) or None


def other_bonds(row: Row, settings: ScreenSettings) -> str | None:
    """Describe bonds that the relaxation broke or formed."""
    broken, formed = row.record.n_bonds_broken, row.record.n_bonds_formed
    words = [f"{counted(broken, 'bond')} broken"] if broken else []
    words += [f"{counted(formed, 'bond')} formed"] if formed else []
    return ", ".join(words) or None


def too_near(row: Row, settings: ScreenSettings) -> str | None:
    """Describe atoms that nearly touch in the final structure."""
    contact = row.record.shortest_contact
    if contact is None or contact >= REPORTED:
        return None
    return f"two atoms are at {contact:.2f} of the sum of their covalent radii"


def unbound(row: Row, settings: ScreenSettings) -> str | None:
    """Describe an energy that no material has."""
    binding = row.record.binding
    if binding is None or BINDING[0] <= binding <= BINDING[1]:
        return None
    return f"{binding:+.3g} eV an atom from free atoms"


def imaginary(row: Row, settings: ScreenSettings) -> str | None:
    """Describe imaginary modes, or the negative Ritz value that proves them."""
    count, lowest, found = row.record.n_imaginary, row.record.lowest_frequency, row.sampled
    if count is None and found is not None and found.lowest_frequency < 0:
        return (
            f"{imaginary_words(row.record)} modes, lowest Ritz value "
            f"{found.lowest_frequency:.1f} cm-1"
        )
    return f"{counted(count, 'mode')}, down to {formatted(lowest, '.1f')} cm-1" if count else None


def no_cp(row: Row, settings: ScreenSettings) -> str | None:
    """Describe why there is no heat capacity at constant pressure."""
    return row.record.no_cp


def off_the_minimum(row: Row, settings: ScreenSettings) -> str | None:
    """Describe a cell whose expansion is that of another cell."""
    return strain_words(row.record)


def too_stiff(row: Row, settings: ScreenSettings) -> str | None:
    """Describe frequencies that no bond has."""
    if row.sampled is not None and row.sampled.highest_frequency > HIGHEST:
        return f"highest Ritz value {row.sampled.highest_frequency:.3g} cm-1"
    if row.spectrum is None:
        return None
    high = row.spectrum.frequencies[row.spectrum.frequencies.abs() > HIGHEST]
    if not len(high):
        return None
    return f"{counted(len(high), 'mode')}, up to {float(high.abs().max()):.3g} cm-1"


def inaccurate(row: Row, settings: ScreenSettings) -> str | None:
    """Describe standard errors that are larger than asked for."""
    return None if row.sampled is None else inaccurate_words(row.sampled)


def too_many_modes(row: Row, settings: ScreenSettings) -> str | None:
    """Describe a heat capacity that exceeds the classical limit at high temperatures."""
    if row.spectrum is None or not row.record.n_atoms:
        return None
    weights = row.spectrum.weights / row.spectrum.weights.sum()
    modes = float(weights @ (row.spectrum.frequencies > 0).sum(1).to(weights)) / row.record.n_atoms
    return f"{modes:.2f} modes an atom" if modes > MODES * (1 + 1e-6) else None


def nothing_vibrates(row: Row, settings: ScreenSettings) -> str | None:
    """Describe atoms of which none interacts with another."""
    if (
        row.spectrum is None
        or row.record.n_atoms == 1
        or bool((row.spectrum.frequencies != 0).any())
    ):
        return None
    return f"none of its {row.record.n_atoms} atoms interacts with another"


def soft(row: Row, settings: ScreenSettings) -> str | None:
    """Describe vibrations so soft that they may be free motions."""
    if row.spectrum is None:
        return None
    # Acoustic modes close to Gamma are soft in every crystal: only Gamma itself is looked at.
    frequencies = row.spectrum.frequencies[is_gamma(row.spectrum.q)]
    soft = frequencies[(frequencies > 0) & (frequencies < SOFT)]
    if not len(soft):
        return None
    return f"{counted(len(soft), 'mode')}, the lowest at {float(soft.min()):.2f} cm-1"


def rough_hessian(row: Row, settings: ScreenSettings) -> str | None:
    """Describe errors of the Hessian that are larger than rounding."""
    record, part = row.record, ROUNDING[str(settings.dtype)]
    if settings.mesh is not None:
        part = max(part, ANHARMONICITY * settings.symprec)
    limit = part * (record.stiffness or STIFF)
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
    """Describe a heat capacity at Gamma that lacks much of the whole."""
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
    """Describe a mesh whose refinement ended before the heat capacity converged."""
    error = row.record.mesh_error
    if error is None or error <= settings.mesh_tolerance:
        return None
    return f"error {error:.1e} at {settings.mesh_temperature:g} K"


NO_RELAX = "Relax with this model: leave out `--no-relax`."


def _retry(settings: ScreenSettings) -> str:
    return (
        "There is no result. Correct the file, or whatever else the reason names, and run the same "
        "command with `--retry`."
    )


def _read_again(settings: ScreenSettings) -> str:
    return (
        "The file has a fault, and was read as described here. Check that this is the structure "
        "you mean, and correct the file."
    )


def _relax_longer(settings: ScreenSettings) -> str:
    advice = (
        "The relaxation ended too early, so the results are for a structure off its minimum. "
        "Allow more steps (`--max-steps`), or start from a better geometry."
    )
    if settings.dtype == "float32":
        advice += " Forces in single precision may not reach `--fmax`: take `--dtype float64`."
    return advice


def _find_the_minimum(settings: ScreenSettings) -> str:
    advice = (
        "The structure is not a minimum of the energy along these modes. They are left out of all "
        "sums, so heat capacity and entropy are too low. "
    )
    if not settings.relax:
        return advice + NO_RELAX
    advice += (
        "Relax further (lower `--fmax`), or move the atoms a little along the mode and relax again."
    )
    if not settings.relax_cell:
        advice += " Let the cell relax too (leave out `--fixed-cell`)."
    if settings.mesh is not None:
        advice += " If they are away from Gamma, take a supercell that holds these waves."
    return advice


def _how_to_relax(settings: ScreenSettings) -> str:
    advice = "The forces are not zero, so harmonic frequencies mean little. "
    if not settings.relax:
        return advice + NO_RELAX
    if settings.dtype == "float32":
        return advice + "Relax in double precision (`--dtype float64`)."
    return advice + (
        "They are larger than at the end of the relaxation: the energy jumps there. Move the atoms "
        "a little and relax again."
    )


def _relax_the_cell(settings: ScreenSettings) -> str:
    advice = "The cell is not at equilibrium for this model; frequencies are under stress. "
    if not settings.relax:
        return advice + NO_RELAX
    if not settings.relax_cell:
        return advice + "Let it relax: leave out `--fixed-cell`."
    return advice + "Relax further: lower `--fmax`."


def _mind_the_pressure(settings: ScreenSettings) -> str:
    advice = (
        "There is a heat capacity at constant volume alone. Thermal expansion exists for crystals "
        "at a minimum of the energy, without imaginary modes. "
    )
    if settings.stochastic_above is not None:
        advice += (
            "It needs all modes, which larger structures have with a larger `--stochastic-above`. "
        )
    advice += "After an error, `--retry` computes it again. "
    return advice + ("Molecules have none." if settings.relax else NO_RELAX)


def _relax_for_expansion(settings: ScreenSettings) -> str:
    advice = (
        "Heat capacities at constant pressure are for the cell of minimal energy, to first order. "
        "Where the cell is another one, their difference to constant volume is off. "
    )
    if not settings.relax:
        return advice + NO_RELAX
    if not settings.relax_cell:
        return advice + "Let the cell relax: leave out `--fixed-cell`."
    return advice + "Relax further: lower `--fmax`."


def _compare_with_the_file(settings: ScreenSettings) -> str:
    advice = (
        "The relaxation has led to another structure. Compare `structure.xyz` with the file: its "
        "cell, coordinates or elements may be wrong, or the model may not suit this material."
    )
    return f"{advice} `--fixed-cell` keeps the cell." if settings.relax_cell else advice


def _compare_bonds_with_the_file(settings: ScreenSettings) -> str:
    return (
        "The relaxation has led to another structure. Compare `structure.xyz` with the file: its "
        "coordinates or elements may be wrong, or the model may not suit this material."
    )


def _look_at_contacts(settings: ScreenSettings) -> str:
    advice = "No bond is that short, and potentials know little about such distances. "
    return advice + ("Compare with the file." if settings.relax else NO_RELAX)


def _another_model(settings: ScreenSettings) -> str:
    return (
        "No material has such an energy: the model does not know this material, or atoms are in "
        "wrong places. The results mean nothing."
    )


def _no_such_bond(settings: ScreenSettings) -> str:
    advice = (
        f"No vibration is above {HIGHEST:g} cm-1 (hydrogen has 4400). Look for atoms "
        "that nearly touch, masses that are too small, or a material that the model does not know."
    )
    return advice if settings.relax else f"{advice} {NO_RELAX}"


def _delete(settings: ScreenSettings) -> str:
    return (
        "The heat capacity exceeds 3 k_B an atom (Dulong and Petit), which is impossible for "
        "harmonic vibrations: the results belong to another structure. Remove its folder, and run "
        "the same command."
    )


def _mind_the_unit(settings: ScreenSettings) -> str:
    return "There are no vibrations to sum over. Check that coordinates and cell are in Å."


def _mind_soft_modes(settings: ScreenSettings) -> str:
    advice = (
        f"Each vibration below {SOFT:g} cm-1 adds nearly k_B to the heat capacity. Entropy and "
        "free energy depend strongly on these frequencies and cannot be trusted. Check whether a "
        "part of the structure is free to move. "
    )
    return advice + ("Relax further (lower `--fmax`)." if settings.relax else NO_RELAX)


def _look_at_the_hessian(settings: ScreenSettings) -> str:
    advice = "Sum rule and symmetry of the Hessian should hold to rounding. "
    if settings.dtype == "float32":
        advice += "Compute in `--dtype float64`, and look "
    else:
        advice += "Look "
    return advice + "for atoms that nearly touch, or force constants that no bond has."


def _average_over_a_mesh(settings: ScreenSettings) -> str:
    advice = (
        f"More than {100 * LARGE:g} % of the heat capacity is missing: the acoustic modes, which "
        "are translations at Gamma. Their part is estimated from speeds of sound. Such structures "
        "are left out of the fit of a common frequency factor. "
    )
    if settings.mesh is not None:
        return advice + "Take a mesh of more than one wave vector, or a larger cell."
    return advice + ("Average over a mesh of wave vectors (`--mesh auto`), or take a larger cell.")


def _sample_longer(settings: ScreenSettings) -> str:
    entropy = settings.entropy_error
    asked = f"{settings.rel_error:g} of C_V"
    if entropy is not None:
        asked += f" and {entropy:g} of S"
    return (
        f"Relative standard errors of {asked} were asked for. Raise `--max-products`, "
        "`--rel-error` or `--entropy-error`, or leave out low temperatures."
    )


def _another_mesh(settings: ScreenSettings) -> str:
    return (
        "The heat capacity has not converged to `--mesh-tolerance` on the finest mesh that is "
        "tried. Give the size of a mesh, or a larger tolerance."
    )


class Finding(NamedTuple):
    """A kind of finding.

    Attributes:
        title: Name of the kind.
        advice: Advice for the settings of a screening, with options between backticks.
        found: Describes what is found in a structure; None if nothing is.
    """

    title: str
    advice: Callable[[ScreenSettings], str]
    found: Callable[[Row, ScreenSettings], str | None]


FINDINGS = (
    Finding("Failed", _retry, failure),
    Finding("As read", _read_again, as_read),
    Finding("Not relaxed", _relax_longer, not_converged),
    Finding("Another cell", _compare_with_the_file, other_cell),
    Finding("Other bonds", _compare_bonds_with_the_file, other_bonds),
    Finding("Atoms too near", _look_at_contacts, too_near),
    Finding("Absurd energy", _another_model, unbound),
    Finding("Imaginary modes", _find_the_minimum, imaginary),
    Finding("Large forces", _how_to_relax, large_forces),
    Finding("Under stress", _relax_the_cell, under_stress),
    Finding("No Cp", _mind_the_pressure, no_cp),
    Finding("Cp of another cell", _relax_for_expansion, off_the_minimum),
    Finding("Gamma alone", _average_over_a_mesh, gamma_alone),
    Finding("Mesh too coarse", _another_mesh, coarse_mesh),
    Finding("Less accurate", _sample_longer, inaccurate),
    Finding("Frequencies too high", _no_such_bond, too_stiff),
    Finding("Too many modes", _delete, too_many_modes),
    Finding("No vibrations", _mind_the_unit, nothing_vibrates),
    Finding("Very soft modes", _mind_soft_modes, soft),
    Finding("Inexact Hessian", _look_at_the_hessian, rough_hessian),
)
"""All kinds; findings that affect all numbers come first."""
