"""Receipts (SROIE) read by our own text recognition: company, date, address and total by a schema of one's own.

The way of a customer with forms that lineside has no schema for: `receipt.toml` beside this file, a folder of texts as
`lineside read --text` prints them, ``annotations.jsonl``, then `lineside train document` and `lineside optimize`.

Protocol. 100 receipts, divided by company: 60 to train on, for which schema and expressions were written, and 40 that
are judged. The scores are fitted on readings of the 60 by networks that had not seen them (``cross_fit``). A value is
right if company or address has the same letters and digits, the date is the same day, and the total the same amount;
``exact`` compares all characters but blanks. Labels for training are the places of the text that are most like the
true values. ``readable`` counts values that stand whole in what was read: what is lost before anything is searched.
``train`` holds the F1 of values inside the 60, each by what other companies taught: of the network alone, of the scores
without a network, and of both. `lineside train document` uses the network if ``both`` is higher than ``scores``, and
what is judged is what it chose. `benchmarks.models.documents.receipt_scores` judges the scores without a network.

SROIE's terms allow measuring, not shipping. Texts and trainings stay in ``benchmarks/.documents``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.inputs.data import shared
from benchmarks.smoke import SMOKE, kept
from lineside_converters.optimizer import Optimizer
from lineside_converters.training.documents.config import DocumentConfig
from lineside_converters.training.documents.fitting import FittedReading, fit_reading
from lineside_converters.training.documents.trainer import train_document
from lineside_models.nlp.document_sets.annotations import AnnotatedSpan
from lineside_models.nlp.document_sets.loading import load_documents
from lineside_models.nlp.document_sets.scoring import f1_figures
from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.contract_parser import open_extractor
from lineside_models.nlp.extraction.reading import SpanReading
from lineside_models.nlp.extraction.spans import TokenProbabilities
from lineside_models.nlp.normalization.dates import DATE, parse_date
from lineside_models.nlp.normalization.values import name_key, parse_money
from lineside_models.nlp.reading import read_document
from lineside_models.nlp.schemas import load_model_schema
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.session import Session

SCHEMA = Path(__file__).with_name("receipt.toml")
TYPES = {"company": "company", "date": "date", "address": "address", "total": "total_amount"}
"""Types of the schema by SROIE's keys."""

MUST, GOAL = 0.85, 0.91
PARTS, JUDGED = 5, (3, 4)
"""Parts by company, and those of them that are judged."""

SALT = 311
"""Of the parts: with it they have 40 receipts."""
ONE_THREAD = Config(threads=1, engines=("ort",))
SETTINGS: dict[str, Any] = {"epochs": 40, "frozen_layers": 2, "cross_fit": 3}
"""Without a search: the passes and layers of a usual run, and scores that are fitted on all 60."""

ALIKE_MIN = 0.75
"""Likeness from which a place of the text is labelled."""

_AMOUNT = re.compile(r"(?<![\d.,/:-])\d[\d,]*(?: ?[.,] ?| |-)\d[\dOoCGDQ](?![\w/:])")
_TOTAL_LINE = re.compile(r"total|amount|nett?|due|round|payable|cash", re.IGNORECASE)


class Receipt(msgspec.Struct, frozen=True):
    """A receipt as it was read, and its true values by key."""

    name: str
    text: str
    keys: dict[str, str]

    @property
    def fold(self) -> str:
        """``train`` or ``val``, by its company."""
        key = f"{SALT} {name_key(self.keys['company'])}"
        part = int(hashlib.sha256(key.encode()).hexdigest(), 16) % PARTS
        return "val" if part in JUDGED else "train"


def run() -> dict[str, Any]:
    """Trains and judges."""
    receipts, data = receipt_data()
    bundle, facts = _bundle(data.parent, data)
    with Session(bundle, ONE_THREAD) as session:
        extractor = open_extractor(session)
        found = judged(receipts, lambda text: extractor.read(text)[0], extractor.reading)
    found["steps"] = facts["steps"]
    found["train"] = {
        "network": facts["held_f1"],
        "scores": fit_without_network(data).f1,
        "both": facts["network_f1"],
    }
    return found


def receipt_data() -> tuple[list[Receipt], Path]:
    """Reads the receipts, and writes the data set that is trained on."""
    receipts = _receipts()
    return receipts, _write(receipts, kept(".documents") / "receipts" / "data")


def _receipts() -> list[Receipt]:
    if SMOKE:
        return [_drawn(number) for number in range(30)]
    folder = shared("sroie")
    texts = kept(".documents") / "receipts" / "text"
    texts.mkdir(parents=True, exist_ok=True)
    found = []
    for path in sorted(folder.glob("*.jpg")):
        text = texts / f"{path.stem}.txt"
        if not text.exists():
            text.write_text(read_document(path).text)
        keys = json.loads(path.with_suffix(".json").read_text())
        found.append(Receipt(path.stem, text.read_text(), {key: str(keys.get(key, "")).strip() for key in TYPES}))
    return found


def _drawn(number: int) -> Receipt:
    """Returns a receipt of a smoke run."""
    company, total = f"{['Acme', 'Delta', 'Falcon', 'Orchid', 'Summit'][number % 5]} Optics Ltd.", f"{number + 3}.50"
    date, address = f"{number % 27 + 1:02d}/03/2024", f"NO {number} JALAN DEDAP\n81100 JOHOR BAHRU"
    text = f"{company}\n{address}\nDate {date}\nCopper\t2.00\nTOTAL\t{total}\n"
    keys = {"company": company, "date": date, "address": address.replace("\n", " "), "total": total}
    return Receipt(f"{number:03d}", text, keys)


def _write(receipts: Iterable[Receipt], folder: Path) -> Path:
    """Writes a data set: texts and annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for one in receipts:
        (folder / f"{one.name}.txt").write_text(one.text)
        row = {
            "file": f"{one.name}.txt",
            "fold": one.fold,
            "group": name_key(one.keys["company"]) or one.name,
            "entities": [msgspec.to_builtins(span) for span in labels(one)],
        }
        lines.append(json.dumps(row))
    (folder / "annotations.jsonl").write_text("\n".join(lines))
    return folder


def labels(receipt: Receipt) -> list[AnnotatedSpan]:
    """Returns the places of the text that are most like the true values."""
    text, keys = receipt.text, receipt.keys
    spans = [AnnotatedSpan("date", *place) for place in _dates(text, keys["date"])]
    spans += [AnnotatedSpan("total_amount", *place) for place in _totals(text, keys["total"])]
    for key in ("company", "address"):
        spans += [AnnotatedSpan(TYPES[key], *place) for place in _alike(text, keys[key])]
    return sorted(spans, key=lambda one: (one.start, one.end))


def _dates(text: str, true: str) -> list[tuple[int, int]]:
    day = parse_date(true, "day-first")
    found = [match.span() for match in DATE.finditer(text) if day and parse_date(match[0], "day-first") == day]
    at = text.find(true) if true else -1
    return found or ([(at, at + len(true))] if at >= 0 else [])


def _totals(text: str, true: str) -> list[tuple[int, int]]:
    amount = _amount(true)
    places = [match.span() for match in _AMOUNT.finditer(text) if amount and _amount(match[0]) == amount]
    named = [one for one in places if _TOTAL_LINE.search(text, text.rfind("\n", 0, one[0]) + 1, one[0])]
    return named or places[-1:]


def _amount(text: str) -> str:
    """Returns the number of an amount, with its cents."""
    found = parse_money(text)
    return f"{float(found.split()[-1]):.2f}" if found else ""


def _alike(text: str, true: str) -> list[tuple[int, int]]:
    """Returns the run of words, from the beginning of a cell on, whose letters and digits are most like a value's."""
    wanted = name_key(true)
    words = [match.span() for match in re.finditer(r"\S+", text)]
    best, place = ALIKE_MIN, None
    for first, (start, _) in enumerate(words):
        if start and text[start - 1] not in "\n\t":
            continue
        for _, end in words[first:]:
            found_text = name_key(text[start:end])
            if len(found_text) > 1.3 * len(wanted) + 4:
                break
            matcher = difflib.SequenceMatcher(None, found_text, wanted, autojunk=False)
            if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and matcher.ratio() > best:
                best, place = matcher.ratio(), (start, end)
    return [place] if place else []


def fit_without_network(data: Path) -> FittedReading:
    """Fits scores on the train fold by what the schema proposes, without a network."""
    schema, documents = load_model_schema(SCHEMA), load_documents(data, "train")
    nothing = [TokenProbabilities((), (), schema.types)] * len(documents)
    return fit_reading(schema, documents, nothing, trained=(), name=SCHEMA.stem)


def _bundle(folder: Path, data: Path) -> tuple[Bundle, dict[str, Any]]:
    """Trains unless that was done with this schema and data; returns the INT8 bundle and the facts of its training."""
    digest = hashlib.sha256(SCHEMA.read_bytes() + (data / "annotations.jsonl").read_bytes()).hexdigest()[:8]
    config = DocumentConfig(data=(data,), out=folder / f"run-{digest}", schema=str(SCHEMA), bf16=True, **SETTINGS)
    if SMOKE:
        from tests.models.nlp.extraction.generated_contracts import write_encoder

        small = {"encoder": write_encoder(kept("encoder")), "epochs": 2, "frozen_layers": 0, "cross_fit": 2}
        config = msgspec.structs.replace(config, **small)
    if not (config.out / "training.json").exists():
        print("documents.receipts: train", file=sys.stderr, flush=True)
        train_document(msgspec.structs.replace(config, resume=config.out.exists()), lambda _: None)
    options: dict[str, Any] = {"data": [data], "out": folder / "bundle", "overwrite": True, "min_speedup": 1.0}
    made = Optimizer(config.out, "rpi5", 1, max_drop=1.0, min_metric=0.0, name="receipts", **options).run().bundle
    return made, json.loads((config.out / "training.json").read_text())


def judged(
    receipts: Sequence[Receipt], read: Callable[[str], Sequence[SpanCandidate]], reading: SpanReading
) -> dict[str, Any]:
    """Returns the figures of the receipts of the val fold.

    Args:
        read: Returns the values of a text.
        reading: Mends their words.
    """
    rows: list[dict[str, dict[str, Any]]] = []
    for one in (receipt for receipt in receipts if receipt.fold == "val"):
        values = read(one.text)
        found_text = {key: _text_of(values, TYPES[key], one.text, reading) for key in TYPES}
        rows.append(
            {
                "right": {key: _counts(found_text[key], one.keys[key], COMPARED[key]) for key in TYPES},
                "exact": {key: _counts(found_text[key], one.keys[key], _unblanked) for key in TYPES},
                "readable": {key: name_key(one.keys[key]) in name_key(one.text) for key in TYPES},
            }
        )
    found: dict[str, Any] = {"must": MUST, "goal": GOAL, "receipts": len(receipts), "judged": len(rows)}
    for way in ("right", "exact"):
        found[way] = {"all": _figures(rows, way, TYPES), **{key: _figures(rows, way, [key]) for key in TYPES}}
    found["readable"] = {key: float(np.mean([row["readable"][key] for row in rows])) for key in TYPES}
    return found


def _text_of(values: Sequence[SpanCandidate], name: str, text: str, reading: SpanReading) -> str:
    found = [one.clearest for one in values if one.type == name]
    words = reading.form.mended(name, text[found[0].start : found[0].end]) if found else ""
    return _amount(words) or words if name == "total_amount" else words


def _counts(found_text: str, true: str, key: Callable[[str], str]) -> tuple[int, int, int]:
    """Returns right, false and missed."""
    right = bool(true) and key(found_text) == key(true)
    return int(right), int(bool(found_text) and not right), int(bool(true) and not right)


def _day(text: str) -> str:
    return parse_date(text, "day-first") or name_key(text)


def _unblanked(text: str) -> str:
    return "".join(text.split()).upper()


COMPARED: dict[str, Callable[[str], str]] = {
    "company": name_key,
    "address": name_key,
    "date": _day,
    "total": lambda text: _amount(text) or name_key(text),
}


def _figures(rows: Sequence[dict[str, Any]], way: str, keys: Iterable[str]) -> dict[str, Any]:
    counts = np.array([[row[way][key] for key in keys] for row in rows], np.int64).sum(1)
    return {name: round(value, 4) for name, value in msgspec.to_builtins(f1_figures(counts)).items()}
