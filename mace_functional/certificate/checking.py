"""The function `check_potential`, which runs all checks of a potential at one structure."""

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
    *repeats.CHECKS,  # first, because a potential with state may be right only in its first calls
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

    The checks are:

    - Forces and stress agree with extrapolated finite differences of the energy, Hessian products
      with differences of forces, and a third derivative with differences of Hessian products.
    - Nested transforms give the same result in each of four calls.
    - The Hessian is symmetric, and zero for translations.
    - Energies and forces do not depend on orientation, position, order of atoms, neighbour list,
      choice of images or size of the cell, and only slightly on the precision.
    - The energy of a sum is the sum of the energies of its parts.
    - D(q) agrees with the Hessian of a supercell.

    The bound of each check follows from rounding and from the uncertainty of its differences. A
    check finds any relative error of 1e-4, or reports that it cannot.

    Derivatives are taken along random directions that move all atoms, so that the number of
    evaluations does not grow with the number of atoms, except for D(q). This takes seconds for a
    few atoms, minutes for a framework. Checks run on the device of the potential, in double
    precision if it supports it.

    Args:
        potential: A `Potential`, such as a model of `load_model`. The further protocols
            `EdgePotential`, `HasDynamicalMatrix`, `HasParts` and `HoldsPairs` are checked or used
            if the potential has them.
        atoms: The structure, periodic in any directions; it need not be relaxed. Constraints are
            ignored.
        displacement: Largest random displacement of the atoms along x, y and z, Å. It removes all
            symmetry. Without it, some quantities are zero by symmetry; a check of such a quantity
            cannot find an error, and reports this.
        seed: Seed of displacements and directions.
        progress: Show a progress bar, on standard error.

    Returns:
        The table of checks. `print` shows it; `passed` is True if every applicable check holds.

    Raises:
        ValueError: If an option is out of range, there are no atoms, or the potential does not
            support them.
        TypeError: If the potential lacks a member of the protocol.

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
    subject.structure  # noqa: B018  (raises if the potential does not support the structure)
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
    """Raise if an object lacks a member of the protocol `Potential`."""
    members = ("params", "dtype", "device", "to", "structure", "energy_fn")
    missing = [name for name in members if not hasattr(potential, name)]
    if missing:
        raise TypeError(
            f"check_potential takes a potential and atoms: {type(potential).__name__} has no "
            f"{', '.join(missing)}"
        )


def _in_double(potential: Potential) -> Potential:
    """Return the potential in double precision, or unchanged if it does not support it."""
    if potential.dtype == torch.float64:
        return potential
    try:
        return potential.to(dtype=torch.float64)
    except (ValueError, TypeError, NotImplementedError):
        return potential


def _run(examination: Examination, subject: Subject) -> Check:
    """Run one check; an exception that the potential raises counts as failure."""
    try:
        return Check.of(examination, list(examination.run(subject)))
    except NotApplicableError as error:
        return Check.without(examination, Verdict.NOT_APPLICABLE, str(error))
    except MemoryError as error:
        return Check.without(examination, Verdict.NOT_RESOLVED, f"out of memory: {error}")
    except Exception as error:
        return Check.without(examination, Verdict.FAILS, f"{type(error).__name__}: {error}")
