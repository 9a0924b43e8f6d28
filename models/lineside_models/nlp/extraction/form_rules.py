"""What a schema says of forms: expressions and runs of lines that may be values, cues on lines, words of values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from lineside_models.nlp.normalization.lexicon import Lexicon

RUN_LINES = 10
"""First lines of a text in which runs of lines begin: the head of a form, with names and addresses."""

RUN_MAX = 8
"""Lines of a run at most."""

Place = tuple[str, int, int]
"""Type, start and end."""


class FormRules(msgspec.Struct, frozen=True):
    """What proposes values of forms, and what their scores rest on.

    Attributes:
        patterns: Regular expressions by type. The first group of each place where one matches is a candidate.
        line_runs: By type, the most lines that a value has: each run of up to so many whole lines, that begins in the
            first `RUN_LINES`, is a candidate.
        cues: Regular expressions by name, each of what a line may hold, such as a phone number: scores rest on which
            of them match in, beside, above and below a candidate.
        lexicon: By type, words that its values usually have: a value's word that text recognition misread is mended.
    """

    patterns: Mapping[str, Sequence[str]] = {}
    line_runs: Mapping[str, int] = {}
    cues: Mapping[str, str] = {}
    lexicon: Mapping[str, Sequence[str]] = {}

    def check(self, types: Sequence[str] | None = None) -> None:
        """Checks the rules.

        Raises:
            ValueError: One is no regular expression, has no group, is of another type, a run is too long, or an entry
                of a lexicon is not one word.
        """
        tables = (("patterns", self.patterns), ("line_runs", self.line_runs), ("lexicon", self.lexicon))
        for table, named in tables:
            for name in named:
                if types is not None and name not in types:
                    raise ValueError(f"{table}: {name} is no type of single or many")
        for expression in (one for each in self.patterns.values() for one in each):
            if not _groups("patterns", expression):
                raise ValueError(f"patterns: {expression!r} needs a group around the value")
        for expression in self.cues.values():
            _groups("cues", expression)
        for name, lines in self.line_runs.items():
            if not 1 <= lines <= RUN_MAX:
                raise ValueError(f"line_runs: {name} has {lines} lines instead of 1 to {RUN_MAX}")
        for word in (one for words in self.lexicon.values() for one in words):
            if len(word.split()) != 1:
                raise ValueError(f"lexicon: {word!r} must be one word")

    @property
    def proposes(self) -> bool:
        """Whether it proposes values."""
        return bool(self.patterns or self.line_runs)

    def expression_places(self, text: str, types: Sequence[str]) -> dict[Place, list[int]]:
        """Returns the places that the expressions find, each with the numbers of its expressions."""
        found: dict[Place, list[int]] = {}
        for name in types:
            for number, expression in enumerate(self.patterns.get(name, ())):
                for start, end in {match.span(1) for match in re.finditer(expression, text)}:
                    if 0 <= start < end:
                        found.setdefault((name, start, end), []).append(number)
        return found

    def mended(self, type_name: str, text: str) -> str:
        """Returns the words of a value, those that were misread mended by the lexicon."""
        words = self.lexicon.get(type_name)
        return Lexicon(words).mend(text) if words else text

    def places(self, text: str, types: Sequence[str]) -> list[Place]:
        """Returns the places of all candidates, in the order of the text."""
        found = set(self.expression_places(text, types))
        lines = [match.span() for match in re.finditer(r"[^\n]*\S[^\n]*", text)]
        for name in types:
            for first in range(min(len(lines), RUN_LINES) if name in self.line_runs else 0):
                for _, end in lines[first : first + self.line_runs[name]]:
                    found.add((name, lines[first][0], end))
        return sorted(found)


def _groups(table: str, expression: str) -> int:
    try:
        return re.compile(expression).groups
    except re.error as error:
        raise ValueError(f"{table}: {expression!r} is no regular expression: {error}") from error
