"""Synthetic mill certificates by the rules of the schema: layouts that no rule or label was chosen on.

There are no open certificates, so these are made (`lineside_converters.certificates`); real ones will be worse.
Conditions: ``pdf`` with text, ``scan`` at 200 dpi, and ``copy``, the noisy scan of a copy. Each document has another
seed; layouts take turns.

- ``fields``: precision, recall and F1 of the normalised values of fields and tables; the dimensions are left out.
- ``relations``: the same of limits with their values (`min_of`, `max_of`).
- ``accepted``: values that the report does not ask to look at: their share, and how many of them are right.
- ``heat``: documents whose heat number is missing or wrong; ``unflagged`` of them the report accepts; ``flagged`` are
  all documents whose heat number a person is asked to look at, right or wrong.
- ``seconds``: processor time of a document, reading and finding, of this process and the one that reads the PDF.
"""

from __future__ import annotations

import collections
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.provenance import sources_sha256
from benchmarks.registry import BENCHMARKS
from benchmarks.smoke import SMOKE, kept, scaled
from lineside_converters.certificates.generator import COPY, HELD_OUT, SCAN, make_certificate, scan, truth
from lineside_models.nlp.document import DocumentReport
from lineside_models.nlp.reading import read_document
from lineside_models.nlp.rules import extract_by_rules
from lineside_models.nlp.schemas import load_schema
from lineside_runtime.system import heap

MINUTES = 120.0
COUNTS = {"pdf": scaled(200, smoke=1), "scan": scaled(500, smoke=1), "copy": scaled(100, smoke=0)}
"""Documents of each condition at most."""

SHARES = {"pdf": 0.05, "scan": 0.9, "copy": 1.0}
"""When a condition ends, as a share of the minutes."""

FIRST_SEED = 1000
BARS = {"field_f1": 0.95, "relation_f1": 0.93, "heat_unflagged": 0}
KEPT = kept(".documents")
_NOT_JUDGED = ("dimensions",)


class Judged(msgspec.Struct, kw_only=True):
    """What was found in one document, kept until the measured code changes.

    Attributes:
        seed: Of the certificate and of its scan.
        counts: Of values, relations and what a person must look at.
        seconds: Processor time.
        heat: True and read heat number where they differ.
    """

    layout: str
    seed: int
    counts: dict[str, int]
    seconds: float
    heat: tuple[str, str | None] | None = None


def run(minutes: float = MINUTES) -> dict[str, Any]:
    """Judges documents until all are judged or the time is over; a later run goes on where this one ended."""
    heap.save_memory()
    start = time.monotonic()
    version = sources_sha256(BENCHMARKS["documents.certificates"].sources)[:16]
    found: dict[str, Any] = {}
    for condition, most in COUNTS.items():
        until = start + 60 * minutes * SHARES[condition]
        judged = _judged(KEPT / f"{version}-{condition}.jsonl", condition, most, until)
        if judged:
            found[condition] = _summary(judged)
    return {
        "baseline": "none: there are no open certificates to compare on",
        "bars": BARS,
        "conditions": found,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _judged(kept_in: Path, condition: str, most: int, until: float) -> list[Judged]:
    """Returns what is known of the documents of a condition, and judges further ones while there is time."""
    kept_in.parent.mkdir(parents=True, exist_ok=True)
    lines = kept_in.read_text().splitlines() if kept_in.exists() else []
    judged = [msgspec.json.decode(line, type=Judged) for line in lines]
    with kept_in.open("a") as file:
        for layout, seed in list(_documents(most))[len(judged) :]:
            if time.monotonic() > until and (judged or not SMOKE):
                break
            judged.append(_judge(condition, layout, seed))
            file.write(msgspec.json.encode(judged[-1]).decode() + "\n")
            file.flush()
    print(f"documents.certificates: {condition}: {len(judged)} of {most}", file=sys.stderr, flush=True)
    return judged


def _documents(count: int) -> Iterator[tuple[str, int]]:
    for number in range(count):
        yield HELD_OUT[number % len(HELD_OUT)], FIRST_SEED + number // len(HELD_OUT)


def _judge(condition: str, layout: str, seed: int) -> Judged:
    certificate, data = make_certificate(seed, layout)
    if condition != "pdf":
        data = scan(data, seed, SCAN if condition == "scan" else COPY)
    before = _processor_s()
    report = extract_by_rules(read_document(data), load_schema("certificate"))
    seconds = _processor_s() - before
    values, relations = truth(certificate, layout)
    counts = _compare(report, values, relations)
    heat = next((one.value for one in report.entities if one.type == "heat_number"), None)
    flagged = int(any(one.field == "heat_number" for one in report.review))
    counts["heat_flagged"] = flagged
    if heat == certificate.heat_number:
        return Judged(layout=layout, seed=seed, counts=counts, seconds=seconds)
    counts["heat_wrong"], counts["heat_unflagged"] = 1, 1 - flagged
    return Judged(layout=layout, seed=seed, counts=counts, seconds=seconds, heat=(certificate.heat_number, heat))


def _compare(report: DocumentReport, values: dict[str, str], relations: set[tuple[str, str, str]]) -> dict[str, int]:
    counts = collections.Counter(documents=1, review=len(report.review))
    doubtful = report.reasons()
    found: dict[str, tuple[str | None, bool]] = {}
    for at, one in enumerate(report.entities):
        if not one.type.endswith((".min", ".max")) and one.type not in _NOT_JUDGED:
            found.setdefault(one.type, (one.value, at not in doubtful))
    for name, (value, accepted) in found.items():
        right = _plain(value) == _plain(values.get(name))
        counts["found"] += 1
        counts["right"] += right
        counts["accepted"] += accepted
        counts["accepted_right"] += right and accepted
    counts["wanted"] += len(values)
    related = {(one.type, report.entities[one.tail].type, report.entities[one.head].value) for one in report.relations}
    counts["relations_found"] += len(related)
    counts["relations_right"] += len(related & relations)
    counts["relations_wanted"] += len(relations)
    return counts


def _plain(value: str | None) -> str | None:
    return value and value.replace(" ", "")


def _summary(judged: list[Judged]) -> dict[str, Any]:
    by_layout = {name: [one.counts for one in judged if one.layout == name] for name in HELD_OUT}
    times = [one.seconds for one in judged]
    return {
        "all": _rates([one.counts for one in judged]),
        "layouts": {name: _rates(counts) for name, counts in by_layout.items() if counts},
        "seconds": {"median": statistics.median(times), "highest": max(times)},
        "wrong_heat_numbers": [
            {
                "layout": one.layout,
                "seed": one.seed,
                "true": one.heat[0],
                "read": one.heat[1],
                "flagged": not one.counts["heat_unflagged"],
            }
            for one in judged
            if one.heat is not None
        ],
    }


def _rates(documents: list[dict[str, int]]) -> dict[str, Any]:
    counts = collections.Counter[str]()
    for one in documents:
        counts.update(one)
    return {
        "documents": counts["documents"],
        "fields": _f1(counts["right"], counts["found"], counts["wanted"]),
        "relations": _f1(counts["relations_right"], counts["relations_found"], counts["relations_wanted"]),
        "accepted": {
            "share": counts["accepted"] / max(counts["wanted"], 1),
            "right": counts["accepted_right"] / max(counts["accepted"], 1),
            "wrong": counts["accepted"] - counts["accepted_right"],
            "values": counts["accepted"],
        },
        "review_a_document": counts["review"] / max(counts["documents"], 1),
        "heat": {name: counts[f"heat_{name}"] for name in ("wrong", "unflagged", "flagged")},
    }


def _f1(right: int, found: int, wanted: int) -> dict[str, float]:
    precision, recall = right / max(found, 1), right / max(wanted, 1)
    return {"precision": precision, "recall": recall, "f1": 2 * right / max(found + wanted, 1)}


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
