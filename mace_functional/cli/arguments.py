"""Words of the command line: options that take several values, and checks of single ones.

An option that takes several values must not swallow the file behind it: in `--temperatures 250 300
quartz.cif`, and in `--dispersion quartz.cif`, the last word is no value. Before argparse sees the
words, the values of such an option are therefore put together to one: the first word behind it, and
all further ones that can be values of it. They may be separated by commas too.

>>> from mace_functional.support.validation import finite
>>> parser = Parser()
>>> parser.add_several("--temperatures", can_be=is_number, type=numbers("--temperatures", finite))
>>> parser.add_argument("file").dest
'file'
>>> parser.parse_args(["--temperatures", "250", "300", "quartz.cif"])
Namespace(temperatures=[250.0, 300.0], file='quartz.cif')
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mace_functional.support.validation import count

T = TypeVar("T")


class UsageError(Exception):
    """A command line that cannot be run; the text says why."""


@dataclass(frozen=True)
class _Several:
    """How many words an option takes.

    Attributes:
        can_be: Whether a word can be a value of the option.
        alone: What the option means without a value; None if it needs one.
    """

    can_be: Callable[[str], bool]
    alone: str | None


class Parser(argparse.ArgumentParser):
    """A parser whose options take no word that is not theirs, and whose errors are exceptions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._several: dict[str, _Several] = {}

    def add_several(
        self, name: str, *, can_be: Callable[[str], bool], alone: str | None = None, **options: Any
    ) -> None:
        """Add an option that takes several values, or may stand without one.

        Args:
            name: Of the option.
            can_be: Whether a word can be a value. The first word behind the option is one in any
                case, unless the option may stand alone.
            alone: What it means without a value; None if it needs one.
            **options: Of `add_argument`; `type` is given the values, separated by commas.
        """
        self.add_argument(name, **options)
        self._several[name] = _Several(can_be, alone)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words as argparse does, the values of each option put together first."""
        words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._together(words), namespace)

    def error(self, message: str) -> Any:
        """Refuse the command line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _together(self, words: list[str]) -> list[str]:
        """The words, with one word for each option of several values and all its values."""
        result: list[str] = []
        while words:
            word, *words = words
            if word == "--":
                return [*result, word, *words]
            option = self._option(word)
            several = self._several.get(option)
            if several is None:
                result.append(word)
                continue
            values: list[str] = []
            while words and self._is_value(words[0], several, first=not values):
                values.append(words.pop(0))
            if values or several.alone is None:
                result.append(f"{option}={','.join(values)}" if values else option)
            else:
                result.append(f"{option}={several.alone}")
        return result

    def _option(self, word: str) -> str:
        """The option that a word names, in full or by its beginning."""
        known = self._option_string_actions
        near = [name for name in known if word.startswith("--") and name.startswith(word)]
        return near[0] if word not in known and len(near) == 1 else word

    def _is_value(self, word: str, several: _Several, first: bool) -> bool:
        if several.can_be(word):
            return True
        return first and several.alone is None and not word.startswith("--")


def is_number(word: str) -> bool:
    """Whether a word is a number, or several with commas between them."""
    try:
        return bool([float(part) for part in word.split(",")])
    except ValueError:
        return False


def is_any_of(pattern: str) -> Callable[[str], bool]:
    """Whether a word matches a regular expression, or several do with commas between them."""
    item = re.compile(pattern)
    return lambda word: all(item.fullmatch(part.strip()) for part in word.split(","))


def number(option: str, check: Callable[..., T], *arguments: Any) -> Callable[[str], T]:
    """The type of an option that takes a number.

    Args:
        option: Its name, for errors.
        check: One of `validation`, such as `positive`, called with name, value and `arguments`.
        *arguments: Further ones of the check, such as a unit.

    Returns:
        A function of the word that raises UsageError if it is out of range.
    """
    read = _whole if check is count else _real

    def parse(word: str) -> T:
        try:
            return check(option, read(word), *arguments)
        except ValueError as error:
            raise UsageError(str(error)) from error

    return parse


def numbers(option: str, check: Callable[..., T], *arguments: Any) -> Callable[[str], list[T]]:
    """The type of an option that takes numbers with commas between them; see `number`."""
    one = number(option, check, *arguments)
    return lambda words: [one(word) for word in words.split(",")]


def words_of(known: Callable[[str], T]) -> Callable[[str], list[T]]:
    """The type of an option that takes words with commas between them, each checked by itself."""
    return lambda words: [known(word.strip()) for word in words.split(",")]


def checked(option: str, check: Callable[[str], T]) -> Callable[[str], T]:
    """The type of an option whose word a function accepts, or refuses with a ValueError."""

    def parse(word: str) -> T:
        try:
            return check(word)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error

    return parse


def three(option: str) -> Callable[[str], tuple[int, int, int]]:
    """The type of an option that takes three positive whole numbers, one for each direction."""

    def parse(words: str) -> tuple[int, int, int]:
        try:
            first, second, third = (count(option, _whole(word)) for word in words.split(","))
        except ValueError as error:
            given = words.replace(",", " ")
            raise UsageError(
                f"{option} takes three positive integers, one for each direction, not {given!r}"
            ) from error
        return first, second, third

    return parse


def _real(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _whole(word: str) -> int | str:
    try:
        return int(word)
    except ValueError:
        return word
