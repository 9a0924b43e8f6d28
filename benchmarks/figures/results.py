"""Reads a result file; a value that is missing or of another type is an error that names the file and the key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures.forms import significant, times

FOLDER = "benchmarks/results"
FORMS = {"sig": significant, "x": times}


class FiguresError(Exception):
    """A page or a result file is not as the renderer needs it."""


class Value:
    """A value of a result file, and its place there."""

    def __init__(self, value: object, where: str) -> None:
        self._value = value
        self._where = where

    def __getitem__(self, key: str | int) -> Value:
        there: object = None
        if isinstance(self._value, dict):
            there = self._value.get(str(key))
        elif isinstance(self._value, list) and isinstance(key, int) and key < len(self._value):
            there = self._value[key]
        if there is None:
            raise FiguresError(f"{self._where}: no key {key!r}; the renderer and the result file differ")
        return Value(there, f"{self._where}.{key}")

    def __contains__(self, key: str) -> bool:
        return isinstance(self._value, dict) and self._value.get(key) is not None

    def items(self) -> Iterator[tuple[str, Value]]:
        """Returns the members of an object, in the order of the file."""
        if not isinstance(self._value, dict):
            raise self._other("an object")
        for key, each in self._value.items():
            yield key, Value(each, f"{self._where}.{key}")

    def values(self) -> list[Value]:
        """Returns the elements of a list."""
        if not isinstance(self._value, list):
            raise self._other("a list")
        return [Value(each, f"{self._where}[{number}]") for number, each in enumerate(self._value)]

    def __format__(self, form: str) -> str:
        """Formats a value.

        Args:
            form: Of a number: ``.3f``, ``.1%`` and others as in Python, with a minus sign, commas between thousands
                and a space before ``%``; ``sig``: three digits that count; ``x``: a ratio; ``.1MB``: megabytes.
                Of an object with percentiles: ``spread``, the median, and in brackets the 5th and 95th. Empty: text.
        """
        if not form:
            return self.text
        if form == "spread":
            low, middle, high = (significant(self[name].number) for name in ("p5", "p50", "p95"))
            return f"{middle} ({low} to {high})"
        if form in FORMS:
            return FORMS[form](self.number)
        if form.endswith("MB"):
            return f"{self.number / 1e6:,{form[:-2]}f}"
        text = format(self.number, f",{form}" if form.startswith(".") else form).replace("%", " %")
        return f"−{text[1:]}" if text.startswith("-") else text

    @property
    def number(self) -> float:
        """The value as a number."""
        if isinstance(self._value, bool) or not isinstance(self._value, (int, float)) or math.isnan(self._value):
            raise self._other("a number")
        return self._value

    @property
    def numbers(self) -> Sequence[float]:
        """The value as a list of numbers."""
        return [each.number for each in self.values()]

    @property
    def text(self) -> str:
        """The value as text."""
        if not isinstance(self._value, str):
            raise self._other("text")
        return self._value

    @property
    def is_text(self) -> bool:
        """Whether the value is text."""
        return isinstance(self._value, str)

    @property
    def truth(self) -> bool:
        """The value as true or false."""
        if not isinstance(self._value, bool):
            raise self._other("true or false")
        return self._value

    def _other(self, expected: str) -> FiguresError:
        return FiguresError(f"{self._where}: expected {expected}, found {str(self._value)[:60]!r}")


def path_of(name: str) -> str:
    """Returns the path of a result file, relative to the repository."""
    return f"{FOLDER}/{name}.json"


def load(root: Path, name: str) -> Value | None:
    """Reads a result file; ``None`` if there is none.

    Raises:
        FiguresError: It is no JSON object.
    """
    where = path_of(name)
    try:
        found = json.loads((root / where).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FiguresError(f"{where}: {error}") from error
    if not isinstance(found, dict):
        raise FiguresError(f"{where}: expected an object")
    return Value(found, where)
