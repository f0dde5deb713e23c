"""How an iterative search ended: a relaxation, a search for a saddle point or for modes."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """Why an iterative search ended; the value is a sentence.

    A result has it as `outcome`, to be compared by `is`. Its `reason` is the sentence with numbers
    and advice, to be read by people.

    Attributes:
        CONVERGED: The criteria are met.
        FLAT: Forces vanish, and some direction has no curvature: fragments that do not feel each
            other, or a motion that costs no energy.
        NOTHING_FREE: Constraints hold everything.
        MAX_STEPS: The limit of gradients or products was reached.
        NOISE_LIMIT: Rounding, or noise of the energy, leaves nothing to gain.
        STUCK: No step is accepted, even with the exact Hessian.
        NOT_FINITE: The exact Hessian has entries that are not finite.
        FRAGMENTED: Forces vanish, but the structure has more connected parts than at the start.
        NEGATIVE_EIGENVALUE: A search that was to end with the first negative eigenvalue found one.
        MODES_MAY_BE_MISSING: The modes that were found are converged, but softer ones may exist.

    >>> Outcome.MAX_STEPS.value
    'not converged: the limit of evaluations was reached'
    """

    CONVERGED = "converged"
    FLAT = "forces vanish, but the surface is flat in some direction"
    NOTHING_FREE = "nothing is free to move"
    MAX_STEPS = "not converged: the limit of evaluations was reached"
    NOISE_LIMIT = "not converged: what is left is below the rounding of numbers"
    STUCK = "not converged: no step is accepted, even with the exact Hessian"
    NOT_FINITE = "not converged: the exact Hessian has entries that are not finite"
    FRAGMENTED = "forces vanish, but fragments have come apart"
    NEGATIVE_EIGENVALUE = "a negative eigenvalue was found"
    MODES_MAY_BE_MISSING = "not converged: softer modes may be missing"


class Ending(NamedTuple):
    """An outcome, with what there is to say of this one search.

    Attributes:
        outcome: Why the search ended.
        detail: Numbers and advice, in words; may be empty.
    """

    outcome: Outcome
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The outcome in words, with the detail."""
        return "; ".join(part for part in (self.outcome.value, self.detail) if part)


class HasOutcome:
    """A result that tells why its search ended.

    Attributes:
        outcome: Why the search ended.
        detail: Numbers and advice, in words; may be empty.
    """

    outcome: Outcome
    detail: str

    @property
    def reason(self) -> str:
        """Why the search ended, in words; programs should look at `outcome`."""
        return Ending(self.outcome, self.detail).sentence
