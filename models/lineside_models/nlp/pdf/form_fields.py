"""Words that a viewer shows on a page beside its text: values of form fields, and texts typed onto the page."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pypdfium2.raw as pdfium

from lineside_models.nlp.pdf.messages import PdfWord

Device = Callable[[float, float], tuple[float, float]]
"""Turns a point of the page's own coordinates into one of the displayed page."""

_HIDDEN = 0x02 | 0x20
"""Flags ``Hidden`` and ``NoView`` (ISO 32000-1, table 165)."""

_ANNOTATIONS_MAX, _BYTES_MAX = 5000, 64 << 10
"""Of one page; of one text in UTF-16."""

_SIZE_MAX = 11.0
"""Height of a line in points where the field is higher."""

_WIDTH = 0.5
"""Of a letter, in heights of the line."""


def form_words(page: Any, form: Any, device: Device) -> list[PdfWord]:
    """Returns the words of the form fields and typed texts of a page.

    Args:
        form: PDFium's handle of the document's form; ``None`` without one.
    """
    words: list[PdfWord] = []
    for at in range(min(pdfium.FPDFPage_GetAnnotCount(page), _ANNOTATIONS_MAX)):
        annotation = pdfium.FPDFPage_GetAnnot(page, at)
        if annotation:
            words += _words(page, annotation, form, device)
            pdfium.FPDFPage_CloseAnnot(annotation)
    return words


def _words(page: Any, annotation: Any, form: Any, device: Device) -> Iterator[PdfWord]:
    text, rect = _text(annotation, form), pdfium.FS_RECTF()
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or not pdfium.FPDFAnnot_GetRect(annotation, rect):
        return
    size = min((rect.top - rect.bottom) / len(lines), _SIZE_MAX)
    middle = (rect.top + rect.bottom) / 2 if len(lines) == 1 else rect.top - size / 2
    for number, line in enumerate(lines):
        x, y = rect.left + 2, middle - number * size
        for word in line:
            end = x + _WIDTH * size * len(word)
            (ax, ay), (bx, by) = device(x, y - size / 2), device(end, y + size / 2)
            place = (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
            yield PdfWord(word, *place, 90 * pdfium.FPDFPage_GetRotation(page) % 360)
            x = end + _WIDTH * size


def _text(annotation: Any, form: Any) -> str:
    """Returns what an annotation shows; empty if it is hidden, a button or of another kind."""
    if pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
        return ""
    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    if kind == pdfium.FPDF_ANNOT_FREETEXT:
        return _string(lambda *buffer: pdfium.FPDFAnnot_GetStringValue(annotation, b"Contents", *buffer))
    fields = (pdfium.FPDF_FORMFIELD_TEXTFIELD, pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX)
    if kind != pdfium.FPDF_ANNOT_WIDGET or form is None:
        return ""
    if pdfium.FPDFAnnot_GetFormFieldType(form, annotation) not in fields:
        return ""
    return _string(lambda *buffer: pdfium.FPDFAnnot_GetFormFieldValue(form, annotation, *buffer))


def _string(read: Callable[..., int]) -> str:
    """Returns a string that PDFium writes into a buffer, as UTF-16 with a zero behind it."""
    length = min(read(None, 0), _BYTES_MAX)
    buffer = (ctypes.c_ushort * (length // 2 + 1))()
    read(buffer, length)
    return bytes(buffer).decode("utf-16-le", "replace").partition("\0")[0]
