"""Reading: contracts with text (CUAD) and scanned receipts (SROIE, training part), compared with their own texts.

- ``words``: share of the words of the reference that were read; ``pairs``: share of its pairs of neighbouring words,
  which the reading order has to keep. Letters and digits count, case doesn't.
- ``keys``: share of receipts whose company, date, address and total stand in what was read, blanks left out. It is what
  an extractor could reach at best, not what one reaches.
- ``seconds``: processor time of a page, of this process and the one that reads the PDF.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from lineside_models.nlp.reading import read_document
from lineside_runtime.system import heap

CONTRACTS = scaled(15, smoke=1)
RECEIPTS = scaled(60, smoke=1)
KEYS = ("company", "date", "address", "total")
BARS = {"contract_s": 1.0, "scanned_page_s": 4.0, "memory_mb": 300.0, "keys": 0.85}


def run() -> dict[str, Any]:
    """Reads contracts and receipts."""
    heap.save_memory()
    pdfs = [_judge(path, text) for path, text in contracts(shared("cuad"))]
    receipts, keys = [], collections.Counter[str]()
    for path in sorted(shared("sroie").glob("*.jpg"))[:RECEIPTS]:
        receipts.append(_judge(path, reference(path)))
        read = _squeezed(receipts[-1].pop("text"))
        wanted = json.loads(path.with_suffix(".json").read_text())
        keys.update(key for key in KEYS if _squeezed(wanted.get(key, "")) in read)
        print(f"documents.reading: {path.name}", file=sys.stderr, flush=True)
    return {
        "baseline": "the texts that come with the data sets",
        "bars": BARS,
        "contracts": _summary(pdfs),
        "receipts": {**_summary(receipts), "keys": {key: keys[key] / len(receipts) for key in KEYS}},
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "pdf_process_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def reference(image: Path) -> str:
    """Returns the text that SROIE gives for a receipt."""
    lines = image.with_suffix(".csv").read_text("utf-8", "replace").splitlines()
    return "\n".join(line.split(",", 8)[-1] for line in lines)


def contracts(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields PDFs of CUAD with their texts."""
    found = 0
    for path in sorted((folder / "pdf").glob("*.pdf")):
        text = folder / "txt" / f"{path.stem}.txt"
        if text.is_file() and found < CONTRACTS:
            found += 1
            yield path, text.read_text("utf-8", "replace")


def _judge(path: Path, reference: str) -> dict[str, Any]:
    processor, wall = _processor_s(), time.monotonic()
    document = read_document(path)
    seconds, wall_s = _processor_s() - processor, time.monotonic() - wall
    read, wanted = words(document.text), words(reference)
    return {
        "document": path.name,
        "pages": len(document.pages),
        "words": _share(wanted, read),
        "pairs": _share(list(itertools.pairwise(wanted)), list(itertools.pairwise(read))),
        "seconds": seconds,
        "wall_s": wall_s,
        "text": document.text,
    }


def words(text: str) -> list[str]:
    """Returns the words of a text, without signs and case."""
    return re.findall(r"[^\W_]+", text.casefold())


def _share(wanted: list[Any], read: list[Any]) -> float:
    return matches(wanted, read) / max(len(wanted), 1)


def matches(wanted: list[Any], read: list[Any]) -> int:
    """Returns how many of the wanted words, or pairs of them, were read."""
    return (collections.Counter(wanted) & collections.Counter(read)).total()


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _summary(judged: list[dict[str, Any]]) -> dict[str, Any]:
    worst = sorted(judged, key=lambda one: one["words"])[:3]
    return {
        "documents": len(judged),
        "pages": sum(one["pages"] for one in judged),
        "words": statistics.fmean(one["words"] for one in judged),
        "pairs": statistics.fmean(one["pairs"] for one in judged),
        "seconds_a_page": sum(one["seconds"] for one in judged) / sum(one["pages"] for one in judged),
        "seconds": {
            "median": statistics.median(one["seconds"] for one in judged),
            "highest": max(one["seconds"] for one in judged),
        },
        "worst": [{name: one[name] for name in ("document", "pages", "words", "pairs")} for one in worst],
    }


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
