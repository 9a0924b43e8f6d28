"""Text recognition by the shipped INT8 networks beside the float ones that they were made of, on the same pages.

- ``receipts``: scans of SROIE; ``certificates``: scans of generated certificates, in layouts that nothing is judged on;
  ``contracts``: first pages of CUAD's PDFs, drawn at 200 dpi.
- ``words``: share of the words of the reference that were read; letters and digits count, case doesn't.
- ``seconds``: mean processor time of a page, one thread. Both read a page one after the other.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.inputs.data import shared
from benchmarks.models.documents.reading import contracts, matches, reference, words
from benchmarks.smoke import scaled
from lineside_converters.bundles.page_text import build_page_text
from lineside_converters.certificates.generator import SCAN, TUNED_ON, make_certificate, scan
from lineside_models.nlp.ocr.page_ocr import PageOcr
from lineside_models.nlp.pdf.pages import pdf_image
from lineside_models.nlp.reading import read_document
from lineside_runtime.config import Config

PAGES = {"receipts": scaled(12, smoke=1), "certificates": scaled(8, smoke=1), "contracts": scaled(2, smoke=0)}
ONE_THREAD = Config(threads=1, engines=("ort",))


def run() -> dict[str, Any]:
    """Reads all pages with both."""
    counts: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_page_text(Path(folder), int8=False)
        readers = {"float": PageOcr(ONE_THREAD, Path(folder)), "INT8": PageOcr(ONE_THREAD)}
        for number, (kind, image, text) in enumerate(_pages()):
            wanted = words(text)
            for precision, reader in readers.items():
                began = time.process_time()
                read = " ".join(word for word, *_ in reader.read(image).words)
                row = (matches(wanted, words(read)), len(wanted), time.process_time() - began)
                counts.setdefault(kind, {}).setdefault(precision, []).append(row)
            print(f"documents.text_networks: page {number}", file=sys.stderr, flush=True)
        for reader in readers.values():
            reader.close()
    figures = {kind: {name: _figures(rows) for name, rows in of.items()} for kind, of in counts.items()}
    return {"baseline": "the float networks of the package rapidocr", "pages": figures}


def _figures(rows: list[tuple[int, int, float]]) -> dict[str, float]:
    read, wanted, seconds = (sum(column) for column in zip(*rows, strict=True))
    return {"pages": len(rows), "words": read / max(wanted, 1), "seconds": seconds / len(rows)}


def _pages() -> Iterator[tuple[str, Any, str]]:
    for path in sorted(shared("sroie").glob("*.jpg"))[: PAGES["receipts"]]:
        yield "receipts", cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), reference(path)
    for number in range(PAGES["certificates"]):
        _, pdf = make_certificate(5000 + number, TUNED_ON[number % len(TUNED_ON)])
        scanned = np.frombuffer(scan(pdf, 5000 + number, SCAN), np.uint8)
        yield "certificates", cv2.imdecode(scanned, cv2.IMREAD_GRAYSCALE), read_document(pdf).text
    for path, _ in itertools.islice(contracts(shared("cuad")), PAGES["contracts"]):
        text = " ".join(word.text for word in read_document(path).pages[0].words)
        yield "contracts", pdf_image(path.read_bytes(), 0, dpi=200), text
