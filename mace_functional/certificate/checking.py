"""All checks of a potential at one structure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mace_functional.certificate import differences, invariances, parts, precision, repeats
from mace_functional.certificate import dynamical_matrices as phonons
from mace_functional.certificate.certificate import Certificate, Check
from mace_functional.certificate.comparison import Examination, NotApplicableError, Verdict
from mace_functional.certificate.subject import Subject
from mace_functional.potential.protocol import Potential
from mace_functional.support.defaults import CHECK_DISPLACEMENT, LARGEST_CHECK_DISPLACEMENT
from mace_functional.support.validation import between, count

if TYPE_CHECKING:
    from ase import Atoms

EXAMINATIONS: tuple[Examination, ...] = (
    *repeats.CHECKS,  # first: what keeps state may be right in the first call only
    *differences.CHECKS,
    *invariances.CHECKS,
    *precision.CHECKS,
    *parts.CHECKS,
    *phonons.CHECKS,
)


def check_potential(
    potential: Potential,
    atoms: Atoms,
    *,
    displacement: float = CHECK_DISPLACEMENT,
    seed: int = 0,
    progress: bool = False,
) -> Certificate:
    """Check the derivatives, symmetries and phonons of a potential at one structure.

    Forces and stress are compared with extrapolated differences of the energy, Hessian products
    with those of forces, a third derivative with those of Hessian products. Nested transforms are
    called four times. The Hessian has to be symmetric and zero for translations; energies and
    forces must not depend on orientation, place, order of atoms, neighbour list, choice of images
    or size of the cell, nor much on the precision; a sum has to be that of its parts, and D(q)
    equal to that of a supercell. Every check has a bound that is made of rounding and of the
    uncertainty of its differences, and finds a relative error of 1e-4 or says that it cannot.

    Derivatives are taken along random directions that move all atoms, so that the number of
    evaluations does not grow with the number of atoms, except for D(q): seconds for a few atoms,
    minutes for a framework. Checks run in double precision wherever the potential has one, and on
    its device.

    Args:
        potential: Anything of the shape of `Potential`, such as a model of `load_model`. Where it
            is one of `EdgePotential`, `HasDynamicalMatrix`, `HasParts` or `HoldsPairs` too, what
            these promise is checked or used.
        atoms: The structure, periodic in any directions; it need not be at rest. Constraints do not
            matter.
        displacement: Largest random displacement of the atoms, along x, y and z, that removes all
            symmetry before anything is computed, Å. Without it a check cannot see an error where
            symmetry makes a quantity zero, and says so.
        seed: Of displacements and directions.
        progress: Show a progress bar, on standard error.

    Returns:
        The table of checks. `print` shows it; `passed` is True if every check that applies holds.

    Raises:
        ValueError: If an option is out of range, there are no atoms, or the potential is not made
            for them.
        TypeError: If the potential lacks a member that it must have.

    Example:
        >>> model = mf.load_model("embedded")                                # doctest: +SKIP
        >>> print(mf.check_potential(model, mf.example_structure("quartz")))  # doctest: +SKIP
    """
    _must_be_potential(potential)
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms")
    displacement = between("displacement", displacement, 0.0, LARGEST_CHECK_DISPLACEMENT, "Å")
    count("seed", seed, least=0)
    started = time.perf_counter()
    subject = Subject.of(_in_double(potential), atoms, displacement, seed)
    subject.structure  # noqa: B018  (what the potential is not made for ends here)
    bar = Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    )
    checks = []
    with bar:
        task = bar.add_task("", total=len(EXAMINATIONS))
        for examination in EXAMINATIONS:
            bar.update(task, description=examination.name)
            checks.append(_run(examination, subject))
            bar.advance(task)
    formula = subject.atoms.get_chemical_formula()
    directions = "".join(axis for axis, p in zip("abc", subject.atoms.pbc, strict=True) if p)
    periodic = f"periodic along {directions}" if directions else "not periodic"
    return Certificate(
        potential=repr(potential),
        structure=f"{formula}, {len(subject.atoms)} atoms, {periodic}",
        checks=tuple(checks),
        seconds=time.perf_counter() - started,
    )


def _must_be_potential(potential: object) -> None:
    """Refuse what lacks a member of the protocol."""
    members = ("params", "dtype", "device", "to", "structure", "energy_fn")
    missing = [name for name in members if not hasattr(potential, name)]
    if missing:
        raise TypeError(
            f"check_potential takes a potential and atoms: {type(potential).__name__} has no "
            f"{', '.join(missing)}"
        )


def _in_double(potential: Potential) -> Potential:
    """The potential in double precision, or as it is if it has none."""
    if potential.dtype == torch.float64:
        return potential
    try:
        return potential.to(dtype=torch.float64)
    except (ValueError, TypeError, NotImplementedError):
        return potential


def _run(examination: Examination, subject: Subject) -> Check:
    """One check; whatever a transform of the potential raises is a failure of it."""
    try:
        return Check.of(examination, list(examination.run(subject)))
    except NotApplicableError as why:
        return Check.without(examination, Verdict.NOT_APPLICABLE, str(why))
    except MemoryError as error:
        return Check.without(examination, Verdict.NOT_RESOLVED, f"out of memory: {error}")
    except Exception as error:
        return Check.without(examination, Verdict.FAILS, f"{type(error).__name__}: {error}")
