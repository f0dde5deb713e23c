"""Outcomes of iterative searches: relaxations, and searches for saddle points or modes."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """Reason why an iterative search ended; the value is a sentence.

    Results have it as `outcome`, to be compared with `is`. Their `reason` is the sentence with
    numbers and advice, for people.

    Attributes:
        CONVERGED: The criteria are met.
        FLAT: Forces vanish, and some direction has no curvature, because fragments do not interact
            or a motion costs no energy.
        NOTHING_FREE: Constraints fix everything.
        MAX_STEPS: The limit of gradients or products was reached.
        NOISE_LIMIT: Remaining changes are below the rounding error or the noise of the energy.
        STUCK: No step is accepted, even with the exact Hessian, or in large cells with a new one.
        NOT_FINITE: The exact Hessian has entries that are not finite.
        FRAGMENTED: Forces vanish, but the structure has more connected parts than at the start.
        NEGATIVE_EIGENVALUE: The search was meant to end with the first negative eigenvalue, and
            found one.
        MODES_MAY_BE_MISSING: The modes are converged, but softer ones may exist.

    >>> Outcome.MAX_STEPS.value
    'not converged: the limit of evaluations was reached'
    """

    CONVERGED = "converged"
    FLAT = "forces vanish, but the surface is flat in some direction"
    NOTHING_FREE = "nothing is free to move"
    MAX_STEPS = "not converged: the limit of evaluations was reached"
    NOISE_LIMIT = "not converged: remaining changes are below the rounding error"
    STUCK = "not converged: no step is accepted, even with a new Hessian"
    NOT_FINITE = "not converged: the exact Hessian has entries that are not finite"
    FRAGMENTED = "forces vanish, but the structure has broken into fragments"
    NEGATIVE_EIGENVALUE = "a negative eigenvalue was found"
    MODES_MAY_BE_MISSING = "not converged: softer modes may be missing"


class Ending(NamedTuple):
    """Outcome of a search, with details.

    Attributes:
        outcome: Reason why the search ended.
        detail: Text with numbers and advice; may be empty.
    """

    outcome: Outcome
    detail: str = ""

    @property
    def sentence(self) -> str:
        """Outcome as text, with the detail."""
        return "; ".join(part for part in (self.outcome.value, self.detail) if part)


class HasOutcome:
    """Result of a search that has an outcome.

    Attributes:
        outcome: Reason why the search ended.
        detail: Text with numbers and advice; may be empty.
    """

    outcome: Outcome
    detail: str

    @property
    def reason(self) -> str:
        """Reason why the search ended, as text; programs should compare `outcome`."""
        return Ending(self.outcome, self.detail).sentence
