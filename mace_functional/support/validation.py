"""Checks of numbers and devices at the border of the package.

Public functions and the command line check what they are given here, once, before anything is
computed. A check returns the value, as the type that the code behind it needs, or raises a
ValueError that names the argument, the range and the value.

>>> positive("fmax", 1e-3, "eV/Å")
0.001
>>> count("max_steps", 0)
Traceback (most recent call last):
ValueError: max_steps must be a whole number of at least 1, not 0
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mace_functional.support.defaults import DTYPES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGEST = 2**63 - 1
"""Largest whole number that torch takes."""

HOTTEST = 1e6
"""Highest temperature that is accepted, K. No bond is left long before it."""

TIGHTEST, LOOSEST = 1e-8, 0.5
"""Least and largest tolerance of symmetry, Å. Below, the rounding of coordinates breaks every
symmetry; above, atoms that are bound to each other fall together. spglib was seen to end the
process at zero and below."""

STRONGEST = 1e4
"""Largest pressure, or tension, that is accepted, GPa: 30 times that in the centre of the Earth."""

WIDEST = 20.0
"""Largest skin of a neighbour list, Å. At several times the cutoff the list holds a thousand times
the pairs that count."""

NEAREST, FARTHEST = 1e-3, 200.0
"""Least and largest cutoff of pairs, Å. That of D3 is 32 Å; the number of pairs grows with its
cube, and an atom of quartz has 2.7 million neighbours within 200 Å."""

MOST_WAVE_VECTORS = 10**6
"""Points of the largest mesh, before symmetry, or path that is accepted: a hundred along each
direction. Lists of ten times as many take a GiB."""


def finite(name: str, value: Any, unit: str = "") -> float:
    """A finite number.

    Args:
        name: Of the argument, for the error.
        value: What was given.
        unit: Of the value, for the error.

    Raises:
        ValueError: If it is no number, or infinite or NaN.
    """
    return _number(name, value, unit, "a finite number", lambda _: True)


def positive(name: str, value: Any, unit: str = "") -> float:
    """A finite number above zero; arguments and errors as of `finite`."""
    return _number(name, value, unit, "a finite number above zero", lambda x: x > 0)


def between(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """A number from `low` to `high`, both included; other arguments and errors as of `finite`."""
    range_ = f"a number from {low:g} to {high:g}"
    return _number(name, value, unit, range_, lambda x: low <= x <= high)


def count(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """A whole number.

    Args:
        name: Of the argument, for the error.
        value: What was given.
        least: Smallest number that is accepted.
        most: Largest number that is accepted.

    Raises:
        ValueError: If it is no whole number, too small or too large.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = least - 1
    if isinstance(value, bool) or not least <= whole <= most:
        range_ = f"of at least {least}" if most == LARGEST else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {range_}, not {value!r}")
    return whole


def symmetry_tolerance(name: str, value: Any) -> float:
    """A tolerance of symmetry in Å, from `TIGHTEST` to `LOOSEST`; errors as of `finite`."""
    return between(name, value, TIGHTEST, LOOSEST, "Å")


def pressure(name: str, value: Any) -> float:
    """A pressure in GPa, negative for tension, of at most `STRONGEST`; errors as of `finite`."""
    return between(name, value, -STRONGEST, STRONGEST, "GPa")


def skin(value: Any) -> float:
    """The skin of a neighbour list in Å, from 0 to `WIDEST`; errors as of `finite`."""
    return between("skin", value, 0.0, WIDEST, "Å")


def pair_cutoff(name: str, value: Any) -> float:
    """A cutoff of pairs in Å, from `NEAREST` to `FARTHEST`; errors as of `finite`."""
    return between(name, value, NEAREST, FARTHEST, "Å")


def mesh(size: Any) -> tuple[int, int, int]:
    """Wave vectors along each reciprocal lattice vector, `MOST_WAVE_VECTORS` in all at most.

    Raises:
        ValueError: If these are not three positive whole numbers, or too many wave vectors.
    """
    try:
        whole = [operator.index(n) for n in size if not isinstance(n, bool)]
    except TypeError:
        whole = []
    if len(whole) != 3 or min(whole) < 1:
        raise ValueError(f"the size of a mesh is three positive integers, not {size!r}")
    points = math.prod(whole)
    if points > MOST_WAVE_VECTORS:
        raise ValueError(
            f"a mesh of size {' x '.join(map(str, whole))} has {points} wave vectors, more than "
            f"{MOST_WAVE_VECTORS}: take a smaller one"
        )
    return whole[0], whole[1], whole[2]


def chunk_size(value: Any) -> int | Literal["auto"] | None:
    """How many columns go at once: a whole number of at least 1, "auto", or None for all.

    Raises:
        ValueError: If it is something else.
    """
    if value is None:
        return None
    if isinstance(value, str) and value == "auto":
        return "auto"
    try:
        return count("chunk_size", value)
    except ValueError as error:
        raise ValueError(
            f"chunk_size must be a positive number, None or 'auto', not {value!r}"
        ) from error


def memory_budget(value: Any) -> int | None:
    """Bytes that may be filled, at least 1, or None for what is free; errors as of `count`."""
    return None if value is None else count("memory_budget", value)


KINDS = {
    "Potential": ("params", "dtype", "device", "to", "structure", "energy_fn"),
    "Topology": ("pbc", "n_atoms", "is_current", "rebuilt", "pairs_within"),
}
"""Kinds that are told by their members, whatever the class."""


def in_order(call: str, *given: tuple[Any, str]) -> None:
    """Arguments are of the kinds that a function takes, in its order.

    >>> in_order("relax(potential, atoms)", ("small", "Potential"), (None, "Atoms"))
    Traceback (most recent call last):
    TypeError: relax(potential, atoms) takes a Potential and an Atoms in this order, not str and \
NoneType

    Args:
        call: The function with its first arguments, for the error.
        given: For each of them its value and what it must be: one of `KINDS` or a class, by name.

    Raises:
        TypeError: If one is something else.
    """
    if all(_is_a(value, kind) for value, kind in given):
        return
    wanted = " and ".join(f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}" for _, kind in given)
    found = " and ".join(type(value).__name__ for value, _ in given)
    order = " in this order" if len(given) > 1 else ""
    swapped = len(given) > 1 and all(any(_is_a(v, kind) for v, _ in given) for _, kind in given)
    raise TypeError(
        f"{call} takes {wanted}{order}, not {found}{': they are swapped' if swapped else ''}"
    )


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value has the members of a kind, or is of a class of that name."""
    if kind in KINDS:
        # Of the class where it has them: a property may cost time, or fail.
        names = {*dir(type(value)), *vars(value)} if hasattr(value, "__dict__") else dir(value)
        return set(KINDS[kind]) <= set(names)
    return kind in {c.__name__ for c in type(value).__mro__}


def temperatures(values: Sequence[float] | Tensor | float) -> list[float]:
    """Temperatures in K: at least one, each finite, not negative and at most `HOTTEST`.

    Raises:
        ValueError: If there is none, or one is out of range.
    """
    import torch

    given = torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist()
    if not given or not all(0 <= t <= HOTTEST for t in given):
        raise ValueError(
            f"temperatures must lie between 0 and {HOTTEST:g} K, and there must be at least one: "
            f"{given}"
        )
    return given


def compute_device(name: str | torch.device) -> torch.device:
    """A device that is there and that tensors can be computed on.

    Args:
        name: "cpu", "cuda", "cuda:1", ...

    Raises:
        ValueError: If torch does not know the name, the device is no CPU or GPU, or is not there.
    """
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name!r} is no device: take cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise ValueError(f"there is no device {name}: torch finds {found} GPUs; take cpu")
    elif device.type != "cpu" or device.index not in (None, 0):
        raise ValueError(f"the device must be cpu, cuda or cuda:1, not {name}")
    return device


def functional_name(dispersion: str | bool | None) -> str | None:
    """The functional of a D3 correction, in small letters, or None for no correction.

    >>> functional_name("PBE"), functional_name("none"), functional_name(False)
    ('pbe', None, None)

    Args:
        dispersion: Name of a functional; None, False or "none" for no correction.

    Raises:
        ValueError: If it is True, which names no functional.
        TypeError: If it is of another type.
    """
    if dispersion is None or dispersion is False:
        return None
    if dispersion is True:
        raise ValueError(
            "dispersion=True does not say which D3 correction: name the functional of the data "
            "that the model was fitted to, such as dispersion='pbe' for models of MACE-MP"
        )
    if not isinstance(dispersion, str):
        raise TypeError(
            "dispersion must be the name of a functional, such as 'pbe', or None, not "
            f"{type(dispersion).__name__}"
        )
    name = dispersion.strip().lower()
    return None if name == "none" else name


def floating_type(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of a precision, by its name or as it is.

    >>> floating_type("float64")
    torch.float64

    Args:
        dtype: One of `DTYPES`, or torch's own.

    Raises:
        ValueError: If it is another.
    """
    import torch

    known: dict[Any, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
    known |= {found: found for found in known.values()}
    if dtype not in known:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    return known[dtype]


def _number(name: str, value: Any, unit: str, range_: str, accepted: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool | str) or not math.isfinite(number) or not accepted(number):
        of_unit = f" in {unit}" if unit else ""
        raise ValueError(f"{name} must be {range_}{of_unit}, not {value!r}")
    return number
