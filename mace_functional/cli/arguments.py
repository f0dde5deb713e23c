"""Options with several values, and checks of single values, for argparse.

An option with several values must not take the file name that follows it. In `--temperatures 250
300 quartz.cif` and in `--dispersion quartz.cif`, the last word is not a value of the option. The
values of such an option are therefore joined to one word before argparse reads them: the first word
after the option, and all further words that can be values. Values may also be separated by commas.

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
    """Error for an invalid command line, with the reason."""


@dataclass(frozen=True)
class _Several:
    """Rule for the values of an option with several values.

    Attributes:
        can_be: Function that returns True if a word can be a value of the option.
        alone: Value of the option if no value follows it; None if it needs a value.
    """

    can_be: Callable[[str], bool]
    alone: str | None


class Parser(argparse.ArgumentParser):
    """Argument parser with options of several values, and with exceptions as errors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._several: dict[str, _Several] = {}

    def add_several(
        self, name: str, *, can_be: Callable[[str], bool], alone: str | None = None, **options: Any
    ) -> None:
        """Add an option that takes several values, or no value.

        Args:
            name: Name of the option.
            can_be: Function that returns True if a word can be a value. The first word after the
                option is always a value, unless `alone` is given.
            alone: Value of the option if no value follows it; None if it needs a value.
            **options: Arguments of `add_argument`. `type` is called with the values in one word,
                separated by commas.
        """
        self.add_argument(name, **options)
        self._several[name] = _Several(can_be, alone)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Join the values of each option to one word, and parse the words with argparse."""
        words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._joined(words), namespace)

    def error(self, message: str) -> Any:
        """Raise an error for an invalid command line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _joined(self, words: list[str]) -> list[str]:
        """Join each option with several values and its values to one word `--name=a,b`."""
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
        """Return the option that a word names, in full or by a unique prefix."""
        known = self._option_string_actions
        matches = [name for name in known if word.startswith("--") and name.startswith(word)]
        return matches[0] if word not in known and len(matches) == 1 else word

    def _is_value(self, word: str, several: _Several, first: bool) -> bool:
        """Return True if a word after an option is a value of it."""
        if several.can_be(word):
            return True
        return first and several.alone is None and not word.startswith("--")


def is_number(word: str) -> bool:
    """Return True if a word consists of numbers, separated by commas."""
    try:
        return bool([float(part) for part in word.split(",")])
    except ValueError:
        return False


def is_any_of(pattern: str) -> Callable[[str], bool]:
    """Return a function that is True for words, separated by commas, that match a pattern."""
    item = re.compile(pattern)
    return lambda word: all(item.fullmatch(part.strip()) for part in word.split(","))


def number(option: str, check: Callable[..., T], *arguments: Any) -> Callable[[str], T]:
    """Return the `type` of an option that takes a number.

    Args:
        option: Name of the option, for errors.
        check: Function of `validation`, such as `positive`; it is called with the name, the value
            and `arguments`.
        *arguments: Further arguments of the check, such as a unit.

    Returns:
        A function of the word. It raises UsageError if the number is out of range.
    """
    read = _integer_or_word if check is count else _float_or_word

    def parse(word: str) -> T:
        try:
            return check(option, read(word), *arguments)
        except ValueError as error:
            raise UsageError(str(error)) from error

    return parse


def numbers(option: str, check: Callable[..., T], *arguments: Any) -> Callable[[str], list[T]]:
    """Return the `type` of an option that takes numbers, separated by commas; see `number`."""
    one = number(option, check, *arguments)
    return lambda words: [one(word) for word in words.split(",")]


def words_of(known: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return the `type` of an option that takes words, separated by commas, each checked."""
    return lambda words: [known(word.strip()) for word in words.split(",")]


def checked(option: str, check: Callable[[str], T]) -> Callable[[str], T]:
    """Return the `type` of an option that turns ValueErrors of a check into UsageErrors."""

    def parse(word: str) -> T:
        try:
            return check(word)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error

    return parse


def three(option: str) -> Callable[[str], tuple[int, int, int]]:
    """Return the `type` of an option that takes three positive integers, one per direction."""

    def parse(words: str) -> tuple[int, int, int]:
        try:
            first, second, third = (
                count(option, _integer_or_word(word)) for word in words.split(",")
            )
        except ValueError as error:
            text = words.replace(",", " ")
            raise UsageError(
                f"{option} takes three positive integers, one for each direction, not {text!r}"
            ) from error
        return first, second, third

    return parse


def _float_or_word(word: str) -> float | str:
    """Read a number; return the word itself if it is not a number."""
    try:
        return float(word)
    except ValueError:
        return word


def _integer_or_word(word: str) -> int | str:
    """Read an integer; return the word itself if it is not an integer."""
    try:
        return int(word)
    except ValueError:
        return word
