"""A dictionary of terms: proposes where a value stands, and gives it its normal form.

A JSON file, such as ``law_dict.json``::

    {"New York": {"type": "governing_law", "canonical": "New York", "patterns": ["State of New York"],
                  "near": ["governed by", "laws of"]}}

Phrases are compared without regard to case and with any blanks between their words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from lineside_models.nlp.normalization.values import clean, name_key
from lineside_models.nlp.schemas import load_model_schema
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BadInputFormatError, InputNotFoundError

SHIPPED = "law_dict.json"
"""Name of the dictionary that is shipped: states, provinces and countries whose law contracts name."""

MAX_BYTES = 10_000_000
NEAR = 220
"""Characters before a term in which one of its ``near`` phrases must stand."""


class LegalTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One term.

    Attributes:
        type: Entity type that it stands for.
        canonical: Its normal form; the term itself if empty.
        patterns: Other spellings.
        near: Phrases of which one must stand shortly before it for a proposal; empty for anywhere.
    """

    type: str
    canonical: str = ""
    patterns: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


class LegalTerms:
    """A dictionary of terms."""

    def __init__(self, terms: dict[str, LegalTerm]) -> None:
        """Takes the terms by name."""
        self._by_key: dict[tuple[str, str], str] = {}
        self._near: dict[tuple[str, str], re.Pattern[str] | None] = {}
        spellings: dict[str, set[str]] = {}
        for name, term in terms.items():
            near = _pattern(term.near) if term.near else None
            for phrase in (name, *term.patterns):
                key = (term.type, name_key(phrase))
                self._by_key[key] = term.canonical or name
                self._near[key] = near
                spellings.setdefault(term.type, set()).add(phrase)
        self._patterns = {type_name: _pattern(phrases) for type_name, phrases in spellings.items()}

    @classmethod
    def open(cls, path: Path | str) -> LegalTerms:
        """Reads a dictionary: a file, or the shipped one by its name where no such file is in the working folder.

        Raises:
            InputNotFoundError: There is no such file.
            BadInputFormatError: It is not such a JSON file.
        """
        file = Path(path)
        if not file.is_file() and str(path) == SHIPPED:
            return cls.decode(resources.files(__package__).joinpath(SHIPPED).read_bytes(), SHIPPED)
        if not file.is_file():
            raise InputNotFoundError(f"no dictionary at {file}", action=f"Give a JSON file, or {SHIPPED}.")
        if file.stat().st_size > MAX_BYTES:
            raise BadInputFormatError(f"{file}", expected=f"at most {MAX_BYTES} bytes", actual=file.stat().st_size)
        return cls.decode(file.read_bytes(), str(file))

    @classmethod
    def decode(cls, data: bytes, where: str) -> LegalTerms:
        """Reads the content of a dictionary.

        Raises:
            BadInputFormatError: It is not such a JSON file.
        """
        try:
            return cls(decode_json(data, type=dict[str, LegalTerm]))
        except msgspec.DecodeError as error:
            raise BadInputFormatError(
                f"{where} is no dictionary of terms: {error}",
                expected='{"term": {"type": …, "canonical": …, "patterns": […], "near": […]}}',
                action="Correct the file; the message says where.",
            ) from error

    def check_types(self, types: Sequence[str], where: str) -> None:
        """Checks that each term is of a type that is looked for, or of a contract's, as the shipped ones are.

        Raises:
            BadInputFormatError: A term is of another type.
        """
        known = {*types, *load_model_schema("contract").types}
        for (type_name, _), canonical in self._by_key.items():
            if type_name not in known:
                raise BadInputFormatError(
                    f"{where}: the type of {canonical!r}",
                    expected=f"one of {', '.join(types)}",
                    actual=type_name,
                    action="Correct it there: terms of a type that is not looked for would be ignored.",
                )

    def propose(self, text: str, begin: int, end: int) -> Iterable[tuple[str, int, int]]:
        """Yields type and offsets of the terms in a part of a text."""
        for type_name, pattern in self._patterns.items():
            for match in pattern.finditer(text, begin, end):
                near = self._near[type_name, name_key(match[0])]
                if near is None or near.search(text, max(0, match.start() - NEAR), match.start()):
                    yield type_name, match.start(), match.end()

    def canonical(self, type_name: str, text: str) -> str | None:
        """Returns the normal form of a mention: that of the longest term in it; ``None`` if it holds none."""
        known = self._by_key.get((type_name, name_key(text)))
        if known is not None:
            return known
        pattern = self._patterns.get(type_name)
        found = pattern.findall(text) if pattern is not None else []
        return self._by_key[type_name, name_key(max(found, key=len))] if found else None

    def key(self, type_name: str, text: str) -> str | None:
        """Returns the key of the normal form; ``None`` if the mention is not in the dictionary."""
        known = self.canonical(type_name, clean(text))
        return name_key(known) if known is not None else None


def _pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    bodies = (r"\s+".join(re.escape(word) for word in phrase.split()) for phrase in ordered)
    return re.compile(rf"(?<!\w)(?:{'|'.join(bodies)})(?!\w)", re.IGNORECASE)
