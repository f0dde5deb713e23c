"""Checks of the arguments of public functions and of the command line.

Arguments are checked once, before the computation. A check returns the value, converted to the type
that the package uses, or raises a ValueError that names the argument, its range and the value.

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
"""Largest integer that torch can represent."""

HOTTEST = 1e6
"""Highest temperature that is accepted, K; all bonds break at far lower ones."""

TIGHTEST, LOOSEST = 1e-8, 0.5
"""Smallest and largest tolerance of symmetry that is accepted, Å.

With a smaller one, the rounding of coordinates breaks every symmetry, and at zero or below spglib
can terminate the process. With a larger one, bonded atoms count as coincident.
"""

STRONGEST = 1e4
"""Largest pressure or tension that is accepted, GPa: 30 times the pressure in the Earth's core."""

DENSEST = 1e3
"""Largest pressure of a gas that is accepted, bar; gases are far from ideal below it."""

WIDEST = 20.0
"""Largest skin of a neighbour list that is accepted, Å.

At several times the cutoff, only one in a thousand listed pairs contributes to the energy.
"""

NEAREST, FARTHEST = 1e-3, 200.0
"""Smallest and largest cutoff of pairs that is accepted, Å; D3 uses 32 Å.

The number of pairs grows with the cube of the cutoff: an atom of quartz has 2.7 million neighbours
within 200 Å.
"""

MOST_WAVE_VECTORS = 10**6
"""Largest number of wave vectors of a path, or of a mesh before symmetry, that is accepted.

It allows 100 along each direction. Lists of ten times as many take a GiB.
"""


def finite(name: str, value: Any, unit: str = "") -> float:
    """Check that a value is a finite number, and return it as float.

    Args:
        name: Name of the argument, for the error.
        value: The value.
        unit: Unit of the value, for the error.

    Raises:
        ValueError: If it is not a number, or infinite or NaN.
    """
    return _number(name, value, unit, "a finite number", lambda _: True)


def positive(name: str, value: Any, unit: str = "") -> float:
    """Check that a value is a finite number above zero; arguments and errors as in `finite`."""
    return _number(name, value, unit, "a finite number above zero", lambda x: x > 0)


def between(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """Check that `low <= value <= high`; other arguments and errors as in `finite`."""
    range_ = f"a number from {low:g} to {high:g}"
    return _number(name, value, unit, range_, lambda x: low <= x <= high)


def count(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Check that a value is an integer in a range, and return it as int.

    Args:
        name: Name of the argument, for the error.
        value: The value.
        least: Smallest accepted integer.
        most: Largest accepted integer.

    Raises:
        ValueError: If it is not an integer, too small or too large.
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
    """Check a tolerance of symmetry, Å, from `TIGHTEST` to `LOOSEST`; errors as in `finite`."""
    return between(name, value, TIGHTEST, LOOSEST, "Å")


def pressure(name: str, value: Any) -> float:
    """Check a pressure, GPa, of at most `STRONGEST` in magnitude; errors as in `finite`."""
    return between(name, value, -STRONGEST, STRONGEST, "GPa")


def gas_pressure(name: str, value: Any) -> float:
    """Check the pressure of a gas, bar, above zero and up to `DENSEST`; errors as in `finite`."""
    range_ = f"a number above zero and up to {DENSEST:g}"
    return _number(name, value, "bar (1e5 Pa)", range_, lambda x: 0 < x <= DENSEST)


def skin(value: Any) -> float:
    """Check the skin of a neighbour list, Å, from 0 to `WIDEST`; errors as in `finite`."""
    return between("skin", value, 0.0, WIDEST, "Å")


def pair_cutoff(name: str, value: Any) -> float:
    """Check a cutoff of pairs, Å, from `NEAREST` to `FARTHEST`; errors as in `finite`."""
    return between(name, value, NEAREST, FARTHEST, "Å")


def mesh(size: Any) -> tuple[int, int, int]:
    """Check the size of a mesh, its number of wave vectors along each reciprocal lattice vector.

    Raises:
        ValueError: If these are not three positive integers, or their product exceeds
            `MOST_WAVE_VECTORS`.
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
            f"{MOST_WAVE_VECTORS}: use a smaller one"
        )
    return whole[0], whole[1], whole[2]


def chunk_size(value: Any) -> int | Literal["auto"] | None:
    """Check the number of columns that are computed at once: positive, "auto", or None for all.

    Raises:
        ValueError: If it is none of these.
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
    """Check a memory limit in bytes, or None for all free memory; errors as in `count`."""
    return None if value is None else count("memory_budget", value)


KINDS = {
    "Potential": ("params", "dtype", "device", "to", "structure", "energy_fn"),
    "Trainable": (
        *("params", "dtype", "device", "to", "structure", "energy_fn"),
        *("weights", "with_params"),
    ),
    "Topology": ("pbc", "n_atoms", "is_current", "rebuilt", "pairs_within"),
}
"""Members of each protocol, by which values of any class are recognised."""


def in_order(call: str, *given: tuple[Any, str]) -> None:
    """Check that arguments are of the kinds that a function takes, in its order.

    >>> in_order("relax(potential, atoms)", ("small", "Potential"), (None, "Atoms"))
    Traceback (most recent call last):
    TypeError: relax(potential, atoms) takes a Potential and an Atoms in this order, not str and \
NoneType

    Args:
        call: The function with its first arguments, for the error.
        given: Value and kind of each argument; a kind is one of `KINDS` or the name of a class.

    Raises:
        TypeError: If an argument is of another kind.
    """
    if all(_is_a(value, kind) for value, kind in given):
        return
    expected = " and ".join(f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}" for _, kind in given)
    found = " and ".join(type(value).__name__ for value, _ in given)
    order = " in this order" if len(given) > 1 else ""
    swapped = len(given) > 1 and all(any(_is_a(v, kind) for v, _ in given) for _, kind in given)
    raise TypeError(
        f"{call} takes {expected}{order}, not {found}{': they are swapped' if swapped else ''}"
    )


def _is_a(value: Any, kind: str) -> bool:
    """Return True if a value has the members of a kind, or is of a class of that name."""
    if kind in KINDS:
        # Names only, without `hasattr`: a property may take time, or fail.
        names = {*dir(type(value)), *vars(value)} if hasattr(value, "__dict__") else dir(value)
        return set(KINDS[kind]) <= set(names)
    return kind in {c.__name__ for c in type(value).__mro__}


def temperatures(values: Sequence[float] | Tensor | float) -> list[float]:
    """Check temperatures, K: one or more numbers from 0 to `HOTTEST`.

    Raises:
        ValueError: If there is none, or one is out of range.
    """
    import torch

    numbers = torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist()
    if not numbers or not all(0 <= t <= HOTTEST for t in numbers):
        raise ValueError(
            f"temperatures must lie between 0 and {HOTTEST:g} K, and there must be at least one: "
            f"{numbers}"
        )
    return numbers


def compute_device(name: str | torch.device) -> torch.device:
    """Return the torch device of a name, if it is an available CPU or GPU; a GPU has its index.

    Args:
        name: "cpu", "cuda", "cuda:1", ...

    Raises:
        ValueError: If the name is unknown, the device is neither CPU nor GPU, or it is missing.
    """
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name!r} is not a device: use cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count()
        if (device.index or 0) >= n_gpus:
            raise ValueError(f"there is no device {name}: torch finds {n_gpus} GPUs; use cpu")
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    elif device.type != "cpu" or device.index not in (None, 0):
        raise ValueError(f"the device must be cpu, cuda or cuda:1, not {name}")
    return device


def functional_name(dispersion: str | bool | None) -> str | None:
    """Return the functional of a D3 correction in lower case, or None for no correction.

    >>> functional_name("PBE"), functional_name("none"), functional_name(False)
    ('pbe', None, None)

    Args:
        dispersion: Name of a functional; None, False or "none" for no correction.

    Raises:
        ValueError: If it is True, which does not name a functional.
        TypeError: If it is of another type.
    """
    if dispersion is None or dispersion is False:
        return None
    if dispersion is True:
        raise ValueError(
            "dispersion=True does not name a functional: give the functional of the data that the "
            "model was fitted to, such as dispersion='pbe' for models of MACE-MP"
        )
    if not isinstance(dispersion, str):
        raise TypeError(
            "dispersion must be the name of a functional, such as 'pbe', or None, not "
            f"{type(dispersion).__name__}"
        )
    name = dispersion.strip().lower()
    return None if name == "none" else name


def floating_type(dtype: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of a precision, given its name or the dtype.

    >>> floating_type("float64")
    torch.float64

    Args:
        dtype: One of `DTYPES`, or a torch dtype.

    Raises:
        ValueError: If it is another name.
    """
    import torch

    known: dict[Any, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
    known |= {torch_dtype: torch_dtype for torch_dtype in known.values()}
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
