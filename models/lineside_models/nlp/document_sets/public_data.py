"""CUAD and Kleister NDA as annotated documents.

CUAD annotates strings, without offsets; a mention is where such a string stands first, and everywhere in the first
pages. A string that was shortened, ``<omitted>``, stands in the text in pieces. Parties and aliases are told apart by
the column of answers, ``NAME ("Alias"); …``, which gives the pairs too, and the aliases that the column of strings
lacks or has as one string, ``"Buyer" or "PNC"``. A law is compared by the dictionary's normal form. The rules of what
counts as a party are those under which the figures of the documentation were measured.
"""

from __future__ import annotations

import ast
import csv
import functools
import lzma
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from lineside_models.nlp.document_sets.annotations import (
    AnnotatedDocument,
    AnnotatedSpan,
    FoldedText,
    Pairs,
    Values,
    fold_blanks,
)
from lineside_models.nlp.normalization.dates import parse_date
from lineside_models.nlp.normalization.legal_terms import SHIPPED, LegalTerms
from lineside_models.nlp.normalization.values import clean, name_key, value_key
from lineside_runtime.errors import DatasetError

CUAD_TABLE = "master_clauses.csv"
KLEISTER_TEXTS = "in.tsv.xz"
TITLE, PARTY, ALIAS = "title", "party", "alias"
AGREEMENT_DATE, EFFECTIVE_DATE, LAW = "agreement_date", "effective_date", "governing_law"
ALIAS_OF = "alias_of"

NAME_MAX, PARTY_MAX, DATE_MAX = 110, 90, 60
BEGINNING = 4200
"""Characters in which every mention of an annotated value is labelled: labels of first mentions alone teach a network
that the second mention is none (F1 0.46 instead of 0.62)."""

_GENERIC = {"party", "parties", "jointventurers", "jointventurer", "eachaparty", "eachparty", "aparty", "theparties"}
_NO_NAME = re.compile(
    r"collectiv|individually|\beach\b|together|respective|referred|\bparties\b|affiliates|hereinafter|[\"“”]", re.I
)
_NO_BEGIN = re.compile(r"(?:the|and|as|its|in|of|formerly)\b")
_OMITTED = "<omitted>"
_QUOTES = "\"“”'‘’"
_QUOTED = re.compile(r'["“]([^"”“]{1,60})["”]')
_INNER_QUOTE = re.compile(r'["“”].*["“”]')
_DEFINITION = re.compile(r'\((?=[^()]*["“])|\((?=[^)]*$)')
"""The parenthesis that names the aliases: the first with a quote in it, as a name may have one of its own."""


def load_cuad(folder: Path, fold: str) -> tuple[AnnotatedDocument, ...]:
    """Reads a fold of CUAD v1 (Hendrycks et al. 2021, arXiv:2103.06268): table of clauses, ``txt/``, ``folds.csv``.

    Raises:
        DatasetError: A file of it is missing or damaged.
    """
    texts = {_file_key(path.name): path for path in sorted((folder / "txt").glob("*.txt"))}
    folds = {_file_key(row["file"]): row for row in read_table(folder / "folds.csv")}
    found = []
    for row in read_table(folder / CUAD_TABLE):
        key = _file_key(row["Filename"])
        if key in texts and folds.get(key, {}).get("fold") == fold:
            text = texts[key].read_text(encoding="utf-8", errors="replace")
            found.append(_CuadContract(row, text).annotated(folds[key]["group"]))
    return tuple(found)


def read_table(path: Path) -> list[dict[str, str]]:
    """Reads a CSV file whose cells may be as large as the file; the limit of the process holds again afterwards.

    Raises:
        DatasetError: It is missing or damaged.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _file_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.rsplit(".", 1)[0].lower())


@functools.cache
def _law_terms() -> LegalTerms:
    return LegalTerms.open(SHIPPED)


def parse_parties(answer: str) -> list[tuple[str, list[str]]]:
    """Reads ``NAME ("Alias" or "Other"); NAME2 ("X")`` as names with their aliases."""
    found = []
    for part in re.split(r";\s*", answer):
        defined = _DEFINITION.search(part)
        name = clean(part[: defined.start()] if defined else part)
        aliases = [clean(one) for one in _QUOTED.findall(part[defined.start() :])] if defined else []
        if name:
            found.append((name, [one for one in aliases if one]))
    return found


def _may_be_party(name: str) -> bool:
    return not _NO_NAME.search(name) and not _NO_BEGIN.match(name) and len(name) <= PARTY_MAX


class _CuadContract:
    """One row of the table with its text."""

    def __init__(self, row: dict[str, str], text: str) -> None:
        self._row, self._text, self._folded = row, text, FoldedText(text)
        self._parties = parse_parties(row["Parties-Answer"])
        self._names = {name_key(name) for name, _ in self._parties}
        self._aliases = {name_key(alias) for _, aliases in self._parties for alias in aliases}
        self._spans: list[tuple[int, int, str]] = []
        self._values: Values = {}
        self._alias_words: dict[str, set[str]] = {}

    def annotated(self, group: str) -> AnnotatedDocument:
        """Returns it with spans, values and pairs."""
        for text in self._column("Document Name"):
            self._add(TITLE, text)
        for text in self._column("Parties"):
            self._add_party(text)
        for _, aliases in self._parties:
            for alias in aliases:
                self._add_answered(alias)
        for type_name, column in ((AGREEMENT_DATE, "Agreement Date"), (EFFECTIVE_DATE, "Effective Date")):
            shortened = _OMITTED in self._row[column]
            for text in self._column(column):
                if len(text) <= DATE_MAX and (parse_date(text) or not shortened):
                    self._add(type_name, text)
        for clause in self._column("Governing Law"):
            self._add_law(clause)
        spans = [AnnotatedSpan(kind, *self._folded.span(start, end)) for start, end, kind in self._mentions()]
        return AnnotatedDocument(
            name=self._row["Filename"],
            text=self._text,
            group=group,
            spans=tuple(spans),
            values=self._values,
            pairs=self._pairs(),
        )

    def _column(self, name: str) -> list[str]:
        """Returns the strings of a column that stand in the text, a shortened one in pieces."""
        try:
            strings = ast.literal_eval(self._row[name]) if self._row[name].strip() else []
        except (ValueError, SyntaxError):
            return []
        folded = (fold_blanks(piece) for text in strings for piece in text.split(_OMITTED))
        return [text for text in folded if text and text in self._folded.text]

    def _add(self, type_name: str, text: str, start: int = 0) -> None:
        cleaned = clean(text)
        place = self._folded.text.find(cleaned, start)
        key = value_key(type_name, cleaned)
        if key and place >= 0:
            self._values.setdefault(type_name, set()).add(key)
            self._spans.append((place, place + len(cleaned), type_name))

    def _add_party(self, text: str) -> None:
        name = clean(text)
        key = name_key(name)
        if not key or key in _GENERIC or len(name) > NAME_MAX:
            return
        quoted = text[:1] in _QUOTES and text[-1:] in _QUOTES
        alias = key not in self._names and (key in self._aliases or quoted)
        if key in self._aliases and key in self._names:
            alias = quoted
        if alias:
            for one in _QUOTED.findall(text) if _INNER_QUOTE.search(name) else [name]:
                self._add_alias(clean(one))
        elif (key in self._names or re.search("[A-Z]", name)) and _may_be_party(name):
            self._add(PARTY, name)

    def _add_alias(self, name: str) -> None:
        key = name_key(name)
        if key and key not in _GENERIC:
            defined = re.search("[\"“'‘(]\\s*" + re.escape(name) + "\\s*[,.]?[\"”'’)]", self._folded.text)
            self._alias_words[key] = {name_key(word) for word in re.split(r"\bor\b|,", name)} - {""}
            self._add(ALIAS, name, defined.start() if defined else 0)

    def _add_answered(self, name: str) -> None:
        """Adds an alias of the answers that the strings lack, if the text has it in quotes."""
        if name_key(name) in self._values.get(ALIAS, ()) or len(name) > NAME_MAX:
            return
        if re.search("[\"“'‘]\\s*" + re.escape(name) + "\\s*[,.;]?\\s*[\"”'’]", self._folded.text):
            self._add_alias(name)

    def _add_law(self, clause: str) -> None:
        begin = self._folded.text.find(clause)
        end = begin + len(clause) + 5
        region = self._folded.text[begin:end].lower()
        for part in re.split(r"[;/]| and ", self._row["Governing Law-Answer"]):
            law = clean(part).split(",")[0]
            if not law:
                continue
            place = region.find(law.lower())
            key = _law_terms().key(LAW, law) or name_key(law)
            spans = [(begin + place, begin + place + len(law))] if place >= 0 else self._laws(begin, end, key)
            if spans:
                self._values.setdefault(LAW, set()).add(key)
                self._spans.append((*spans[0], LAW))

    def _laws(self, begin: int, end: int, key: str) -> list[tuple[int, int]]:
        """Returns where other words for a law stand, such as ``PRC``."""
        text, terms = self._folded.text, _law_terms()
        found = terms.propose(text, begin, min(end, len(text)))
        return [(start, stop) for kind, start, stop in found if kind == LAW and terms.key(LAW, text[start:stop]) == key]

    def _mentions(self) -> list[tuple[int, int, str]]:
        """Returns the spans, and in the first pages every mention of what was annotated; aliases only as defined."""
        found = set(self._spans)
        beginning = self._folded.text[:BEGINNING].lower()
        for start, end, type_name in self._spans:
            words = self._folded.text[start:end].lower()
            if start < BEGINNING and type_name not in (LAW, ALIAS) and len(words) >= 4:
                for match in re.finditer(r"(?<!\w)" + re.escape(words) + r"(?!\w)", beginning):
                    found.add((match.start(), match.end(), type_name))
        return sorted(found)

    def _pairs(self) -> Pairs:
        """Returns the aliases of the parties; the answers may spell a name or join aliases in another way."""
        pairs: Pairs = set()
        for name, aliases in self._parties:
            head = self._party_like(name_key(name))
            wanted = {name_key(alias) for alias in aliases} - _GENERIC
            if not head or not 1 < len(name) < 120:
                continue
            for tail, words in self._alias_words.items():
                if tail in wanted or (words and words <= wanted):
                    pairs.add((ALIAS_OF, head, tail))
        return pairs

    def _party_like(self, key: str) -> str:
        """Returns the party's key in the text: this one, or the only one that begins as it does."""
        known = self._values.get(PARTY, set())
        if key in known:
            return key
        alike = [one for one in known if min(len(one), len(key)) >= 6 and (one.startswith(key) or key.startswith(one))]
        return alike[0] if len(alike) == 1 else ""


def load_kleister(folder: Path) -> tuple[AnnotatedDocument, ...]:
    """Reads Kleister NDA (Stanisławek et al. 2021, arXiv:2105.05796), which annotates values without places.

    Raises:
        DatasetError: A file of it is missing or damaged.
    """
    try:
        with lzma.open(folder / KLEISTER_TEXTS, "rt", encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file]
        answers = (folder / "expected.tsv").read_text(encoding="utf-8").splitlines()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DatasetError(f"{folder} cannot be read: {error}") from error
    if len(rows) != len(answers):
        raise DatasetError(f"{folder}: texts and answers", expected=f"{len(rows)} answers", actual=len(answers))
    return tuple(
        AnnotatedDocument(
            name=row[0], text=_unescaped(row[5] if len(row) > 5 else row[2]), group=row[0], spans=(),
            values=_kleister_values(answer.split()), pairs=set(),
        )
        for row, answer in zip(rows, answers, strict=True)
    )  # fmt: skip


def _unescaped(text: str) -> str:
    for escape, letter in ((r"\n", "\n"), (r"\f", "\n"), (r"\t", " "), ("\\\\", "\\")):
        text = text.replace(escape, letter)
    return text


def _kleister_values(answers: Iterable[str]) -> Values:
    names = {"party": PARTY, "jurisdiction": LAW, "effective_date": EFFECTIVE_DATE}
    values: Values = {}
    for answer in answers:
        key, _, value = answer.partition("=")
        if key in names:
            text = value.replace("_", " ")
            found = parse_date(text) if key == "effective_date" else name_key(text)
            values.setdefault(names[key], set()).add(found or name_key(text))
    return values
