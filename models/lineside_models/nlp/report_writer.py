"""`write_report`: what was found in a document as JSON, CSV or one HTML page."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal, get_args

import msgspec

from lineside_models.nlp.document import Document, DocumentReport
from lineside_runtime.errors import ConfigError

Format = Literal["json", "csv", "html"]

_COLUMNS = ("type", "text", "value", "unit", "score", "page", "x0", "y0", "x1", "y1", "review")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(
    report: DocumentReport, document: Document, format: Format = "json", *, source: Path | str | bytes | None = None
) -> str:
    """Returns a report as text.

    Args:
        format: ``json``, ``csv`` (a row for each entity; pages count from 1) or ``html``.
        source: The file or its content, for the images of the pages in ``html``; without it the boxes are drawn on
            white pages.

    Raises:
        ConfigError: Another format.
    """
    if format not in get_args(Format):
        raise ConfigError("output format", expected="json, csv or html", actual=repr(format), action="")
    if format == "csv":
        return _csv(report)
    if format == "html":
        from lineside_models.nlp.report_page import report_page

        return report_page(report, document, source)
    return msgspec.json.format(msgspec.json.encode(report)).decode() + "\n"


def _csv(report: DocumentReport) -> str:
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    review = report.reasons()
    for number, one in enumerate(report.entities):
        page = "" if one.page is None else one.page + 1
        box = ["", "", "", ""] if one.box is None else [f"{side:.1f}" for side in one.box]
        texts = [one.type, one.text, one.value or "", one.unit]
        row = [*map(_as_text, texts), f"{one.score:.3f}", page, *box, _as_text("; ".join(review.get(number, [])))]
        writer.writerow(row)
    return made.getvalue()


def _as_text(text: str) -> str:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV Injection")."""
    return f"'{text}" if text.startswith(_FORMULA) and not text[1:].replace(".", "", 1).isdigit() else text
