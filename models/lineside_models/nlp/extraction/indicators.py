"""Indicators of a form: which words stand around a candidate, where it stands, and which expression found it.

A form says by its layout what a value is, and the cues of its schema what the lines around one hold. Each fact is a
name, such as ``total_amount left:rounding``: a candidate has it or not. Training keeps the names that candidates of
several documents have, and the score weighs them.

Where a schema has cues, they stand for the words: with some dozens of documents, the words themselves and the number of
a line say more of the forms that were seen than of others (`documents.receipt_scores`).
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.form_rules import FormRules
from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.normalization.values import parse_money, value_kind

Floats = npt.NDArray[np.float64]

LAYOUT = ("line", "tenth", "lines", "begins", "ends")
"""Indicators of where a candidate stands; see `is_layout`."""

NONE = ("none",)
"""In place of the cues of a line where none matches."""

LINES = (0, 1, 2, 3, 4, 5, 6, 9, 14)
"""Numbers of lines, from 0, that ranges of lines begin with."""

RIGHT_WORDS = 2
"""Words behind a candidate that are looked at."""

AMOUNTS_NEAR = 4
"""Amounts before and behind one whose sums and differences are looked at."""

SUMMED = 14
"""Most amounts of a run whose sum is looked at."""

COUNTED = 4
"""Amounts that are larger than one, or as large, are counted up to this number."""

ROUNDED_CENTS = 4
"""Most that an amount differs from what it is rounded to, such as five cents."""

COIN_CENTS = 5
"""Smallest coin of many countries: what is paid in cash is rounded to it."""

CUE_KINDS = {
    *("lines", "begins", "ends", "expression", "left cue", "above cue", "below cue"),
    *("own cue", "first own cue", "last own cue", "brackets"),
    *("larger amounts", "equal amounts", f"multiple of {COIN_CENTS} cents", "rounded", "equals"),
}
"""Indicators of a form with cues."""

_DIGIT = re.compile(r"\d")
_EDGES = ".,;:()[]*#!-|/@+\"'"


class _Lines:
    """Lines of a text and where they begin."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines[:-1]:
            self.starts.append(self.starts[-1] + len(line) + 1)

    def number(self, offset: int) -> int:
        return bisect.bisect_right(self.starts, offset) - 1

    def line(self, number: int) -> str:
        return self.lines[number] if 0 <= number < len(self.lines) else ""

    def words(self, number: int) -> list[str]:
        return _words(self.line(number))

    def beside(self, one: Mention) -> tuple[str, str]:
        """Returns what stands before a mention on its first line, and behind it on its last."""
        last = self.number(one.end - 1)
        before = self.lines[self.number(one.start)][: one.start - self.starts[self.number(one.start)]]
        return before, self.lines[last][one.end - self.starts[last] :]


class _Amounts:
    """Amounts of a document in the order of its text: a total is the sum of those above it, or cash less change."""

    def __init__(self, candidates: Sequence[SpanCandidate], text: str) -> None:
        mentions = sorted(
            (mention for one in candidates if value_kind(one.type) == "money" for mention in one.mentions),
            key=lambda one: (one.start, -one.end),
        )
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._cents: list[int] = []
        for one in mentions:
            found = parse_money(text[one.start : one.end])
            if found is not None and not (self._ends and one.start < self._ends[-1]):
                self._starts.append(one.start)
                self._ends.append(one.end)
                self._cents.append(round(100 * float(found.split()[-1])))
        self._counts = Counter(self._cents)
        self._ranked = sorted(self._counts)

    def comparisons(self, one: Mention) -> Iterable[str]:
        """Yields how an amount compares with the others of the document."""
        at = bisect.bisect_right(self._starts, one.start) - 1
        if value_kind(one.type) != "money" or at < 0 or one.start >= self._ends[at]:
            return
        value, above = self._cents[at], self._cents[max(0, at - AMOUNTS_NEAR) : at]
        sums = itertools.accumulate(reversed(self._cents[max(0, at - SUMMED) : at]))
        if value and value in itertools.islice(sums, 1, None):
            yield "equals:sum of run above"
        yield f"larger amounts:{min(len(self._ranked) - bisect.bisect_right(self._ranked, value), COUNTED)}"
        yield f"equal amounts:{min(self._counts[value], COUNTED)}"
        yield f"multiple of {COIN_CENTS} cents:{'no' if value % COIN_CENTS else 'yes'}"
        below = self._cents[at + 1 : at + 1 + AMOUNTS_NEAR]
        yield from (
            f"rounded:{where}"
            for where, near in (("above", above), ("below", below))
            if any(0 < abs(cents - value) <= ROUNDED_CENTS for cents in near)
        )
        if any(first + second == value for first, second in itertools.combinations(above, 2) if first and second):
            yield "equals:sum above"
        for first, second in itertools.combinations(below, 2):
            if value and first - second == value:
                yield "equals:difference below" if second else "equals:next and no difference"


class _Cues:
    """The cues of a schema, looked for in parts of a text."""

    def __init__(self, cues: Mapping[str, str]) -> None:
        self._cues = {name: re.compile(expression) for name, expression in cues.items()}
        self._found: dict[str, tuple[str, ...]] = {}

    def __call__(self, words: str) -> tuple[str, ...]:
        if words not in self._found:
            self._found[words] = tuple(name for name, cue in self._cues.items() if cue.search(words))
        return self._found[words]

    def around(self, one: Mention, text: str, lines: _Lines) -> Iterable[str]:
        """Yields the cues of a candidate's own lines, of those above and below, and of what stands before it."""
        if not self._cues:
            return
        before, _ = lines.beside(one)
        first, last = lines.number(one.start), lines.number(one.end - 1)
        yield from (f"left cue:{name}" for name in self(before) or NONE)
        yield from (f"above cue:{name}" for name in (self(lines.line(first - 1)) or NONE if first else ("start",)))
        yield from (f"below cue:{name}" for name in self(lines.line(last + 1)) or NONE)
        if value_kind(one.type) == "name":
            words = text[one.start : one.end]
            yield "brackets:" + ("pairs" if words.count("(") == words.count(")") else "cut")
            own = [self(line) for line in words.split("\n")]
            yield from (f"own cue:{name}" for line in own for name in line)
            yield from (f"first own cue:{name}" for name in own[0] or NONE)
            yield from (f"last own cue:{name}" for name in own[-1] or NONE)


def indicators_of(
    candidates: Sequence[SpanCandidate], text: str, types: Sequence[str], form: FormRules
) -> list[set[str]]:
    """Returns the names of the indicators that each candidate of a document has, by any of its mentions."""
    lines, expressions, cues = _Lines(text), form.expression_places(text, types), _Cues(form.cues)
    amounts = _Amounts(candidates, text)
    found = []
    for one in candidates:
        names = {name for mention in one.mentions for name in _layout(mention, lines)}
        if not form.cues:
            names |= {name for mention in one.mentions for name in _words_and_place(mention, text, lines)}
        names |= {name for mention in one.mentions for name in cues.around(mention, text, lines)}
        names |= {name for mention in one.mentions for name in amounts.comparisons(mention)}
        for mention in one.mentions:
            names |= {f"expression:{number}" for number in expressions.get((one.type, mention.start, mention.end), ())}
        found.append({f"{one.type} {name}" for name in names})
    return found


def indicator_features(found: Iterable[set[str]], names: Sequence[str]) -> Floats:
    """Returns ``(N, len(names))``: 1 where a candidate has an indicator, else 0."""
    numbers = {name: number for number, name in enumerate(names)}
    rows = [[numbers[name] for name in sorted(each) if name in numbers] for each in found]
    features = np.zeros((len(rows), len(names)))
    for row, columns in enumerate(rows):
        features[row, columns] = 1.0
    return features


def is_layout(name: str) -> bool:
    """Returns whether an indicator says where a candidate stands, rather than what it is or what stands around it."""
    return _kind(name) in LAYOUT


def check_indicators(names: Iterable[str], form: FormRules) -> None:
    """Checks that this version computes the indicators that scores of a form with cues were fitted on.

    Raises:
        ValueError: It does not, and the scores would be wrong without a word.
    """
    for name in names if form.cues else ():
        if _kind(name) not in CUE_KINDS:
            raise ValueError(f"indicators: {name!r} is of another version; train the document model again")


def _kind(name: str) -> str:
    return name.split(" ", 1)[-1].split(":", 1)[0]


def _layout(one: Mention, lines: _Lines) -> Iterable[str]:
    first, last = lines.number(one.start), lines.number(one.end - 1)
    before, behind = lines.beside(one)
    yield f"lines:{last - first + 1}"
    yield "begins:" + ("line" if not before.strip() else "cell" if before.endswith("\t") else "word")
    yield "ends:" + ("line" if not behind.strip() else "cell" if behind.startswith("\t") else "word")


def _words_and_place(one: Mention, text: str, lines: _Lines) -> Iterable[str]:
    """Yields the words of a candidate, those around it, and how far down it stands."""
    first, last = lines.number(one.start), lines.number(one.end - 1)
    before, behind = lines.beside(one)
    left, below = _words(before), lines.words(last + 1)
    yield f"line:{bisect.bisect_right(LINES, first)}"
    yield f"tenth:{10 * first // len(lines.lines)}"
    yield from (f"left:{word}" for word in left)
    yield from (f"left pair:{word} {other}" for word, other in itertools.pairwise(left))
    yield from (f"last left:{word}" for word in left[-1:])
    yield from (f"right:{word}" for word in _words(behind)[:RIGHT_WORDS])
    yield from (f"above:{word}" for word in lines.words(first - 1))
    yield from (f"below:{word}" for word in below)
    yield from (f"first below:{word}" for word in below[:1])
    if value_kind(one.type) == "name":
        own = _words(text[one.start : one.end])
        yield from (f"own:{word}" for word in own)
        yield from (f"first own:{word}" for word in own[:1])
        yield from (f"last own:{word}" for word in own[-1:])


def _words(text: str) -> list[str]:
    """Returns the words in lower case, without punctuation around them, each digit as 0."""
    return [word for each in text.split() if (word := _DIGIT.sub("0", each.casefold()).strip(_EDGES))]
