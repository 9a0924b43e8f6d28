"""A report as a page: the document's pages with the boxes of what was found, the values, and what to look at."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.image_file import decode_image, encode_jpeg
from lineside_models.nlp.document import Box, Document, DocumentReport, Entity, Page
from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.ocr.page_ocr import turned_about_middle
from lineside_runtime.errors import LinesideError
from lineside_runtime.reports import markup
from lineside_runtime.wording import counted

PAGES_MAX = 20
"""Of a report: about 4 MB."""

DPI = 110
_SIDE_MAX_PX = 1600
_JPEG_QUALITY = 70
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}

Image = npt.NDArray[np.uint8]


def report_page(report: DocumentReport, document: Document, source: Path | str | bytes | None) -> str:
    """Returns the page, one file that loads nothing.

    Args:
        source: The file, for the images of its pages.
    """
    why = report.reasons()
    scanned = sum(page.scanned for page in document.pages)
    read = counted(len(document.pages), "page") + (f", {scanned} by text recognition" if scanned else "")
    by = f"bundle {report.bundle}" if report.bundle else "rules of the schema"
    body = markup.header(report.source or "document", f"schema {report.schema}, {by}; {read}")
    body += markup.tiles(
        [
            (str(len(report.entities)), "values found"),
            (str(len(report.relations)), "relations"),
            (str(len(report.review)), "to look at"),
        ]
    )
    body += _review(report)
    shown = sorted({one.page for one in report.entities if one.page is not None and one.box is not None})[:PAGES_MAX]
    data = source if isinstance(source, bytes | None) else Path(source).read_bytes()
    for number in shown:
        page = document.pages[number]
        picture = _picture(page, _image(document, page, data), report.entities, why)
        body += markup.section(f"Page {number + 1}", picture, "Red: to look at. Point at a box for its value.")
    body += _values(report, why) + _relations(report)
    return markup.document(f"lineside: {report.source or 'document'}", body)


def _review(report: DocumentReport) -> str:
    if not report.review:
        return markup.section("To look at", "<p>Nothing: all values were accepted.</p>")
    rows = [
        (one.field, one.reason.replace("_", " "), one.text, "" if one.page is None else str(one.page + 1))
        for one in report.review
    ]
    return markup.section("To look at", markup.table(("field", "why", "what", "page"), rows, words=(1, 2)))


def _values(report: DocumentReport, why: dict[int, list[str]]) -> str:
    rows = [
        (one.type, f"{one.value or '—'} {one.unit}".rstrip(), one.text, f"{one.score:.2f}", "; ".join(why.get(at, [])))
        for at, one in enumerate(report.entities)
    ]
    heads = ("field", "value", "as it stands there", "score", "to look at")
    return markup.section("Values", markup.table(heads, rows, words=(1, 2, 4)))


def _relations(report: DocumentReport) -> str:
    if not report.relations:
        return ""
    rows = [
        (one.type.replace("_", " "), report.entities[one.head].text, report.entities[one.tail].text, one.evidence)
        for one in report.relations
    ]
    return markup.section("Relations", markup.table(("relation", "head", "tail", "evidence"), rows, words=(1, 2, 3)))


def _picture(page: Page, image: Image | None, entities: tuple[Entity, ...], why: dict[int, list[str]]) -> str:
    width, height = page.width, page.height
    parts = []
    if image is None:
        parts.append(f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>')
    else:
        href = f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(image, _JPEG_QUALITY)).decode()}"
        parts.append(f'<image href="{href}" width="{width:.0f}" height="{height:.0f}" preserveAspectRatio="none"/>')
    for at, one in enumerate(entities):
        if one.page == page.number and one.box is not None:
            lines = [
                f"{one.type}: {one.value or one.text} {one.unit}".rstrip(),
                f"score {one.score:.2f}",
                *why.get(at, []),
            ]
            parts.append(_frame(one.box, "\n".join(lines), doubtful=at in why))
    label = escape(f"page {page.number + 1} with the boxes of the values")
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _frame(box: Box, title: str, *, doubtful: bool) -> str:
    x0, y0, x1, y1 = box
    colour = "var(--bad)" if doubtful else "var(--good)"
    place = f'x="{x0 - 1:.1f}" y="{y0 - 1:.1f}" width="{x1 - x0 + 2:.1f}" height="{y1 - y0 + 2:.1f}"'
    return f'<rect class="frame" style="stroke: {colour}" {place}><title>{escape(title)}</title></rect>'


def _image(document: Document, page: Page, data: bytes | None) -> Image | None:
    """Returns the upright image of a page, ``None`` if there is none."""
    if data is None:
        return None
    try:
        if document.format == "pdf":
            from lineside_models.nlp.pdf.pages import pdf_image

            image = pdf_image(data, page.number, dpi=DPI)
        else:
            pixels = DocumentLimits().pixels_max
            image = np.asarray(decode_image(data, how=cv2.IMREAD_GRAYSCALE, pixels_max=pixels), np.uint8)
    except (LinesideError, ValueError):
        return None  # the boxes are drawn on a white page
    if page.rotation:
        image = np.asarray(cv2.rotate(image, _TURNS[page.rotation]), np.uint8)
    if page.skew_deg:
        image = turned_about_middle(image, page.skew_deg)[0]
    scale = _SIDE_MAX_PX / max(image.shape)
    if scale < 1:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    return image
