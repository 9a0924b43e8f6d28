"""`read_document`: a file of any known kind to a `Document`."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.image_file import SUFFIXES, decode_image, image_size
from lineside_models.nlp.document import Document, Page, Word
from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.pdf.messages import PdfPage
from lineside_models.nlp.pdf.pages import page_image, pdf_pages, too_slow
from lineside_models.nlp.reading.docx import docx_lines
from lineside_models.nlp.reading.layout import Line, PlacedWord, reading_order, upright
from lineside_runtime.errors import DocumentError, InputNotFoundError

_HIDDEN = 0.5
"""Score of a word of a PDF that is not drawn, or in white: nobody who looks at the page knows of it."""

NOT_TEXT = (".pdf", ".doc", ".docx", *SUFFIXES)
KINDS = "a PDF, DOCX, text file, or an image (PNG, JPEG, TIFF, BMP, WebP)"
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Compound file (MS-CFB): .doc, and a .docx with a password."""

OnPage = Callable[[int], None]


def read_document(
    source: Path | str | bytes, *, limits: DocumentLimits | None = None, on_page: OnPage | None = None
) -> Document:
    """Reads words and, where there are pages, their boxes.

    The kind is told by the content. A page of a PDF without a text that can be read and seen, and an image, go through
    text recognition (OCR). A PDF is read in a process of its own with bounded memory.

    Args:
        source: A file, or its content.
        limits: What it may cost; `DocumentLimits()` if ``None``.
        on_page: Called with the number of each page that was read, from 0.

    Raises:
        InputNotFoundError: There is no such file.
        DocumentError: It is of another kind, encrypted, damaged, empty, or beyond a limit.
        MissingExtraError: A PDF needs what the extra ``documents`` installs.
    """
    bounds = limits or DocumentLimits()
    data, name = (source, "") if isinstance(source, bytes) else (_content(Path(source), bounds), Path(source).name)
    _check_size(len(data), bounds)
    if b"%PDF-" in data[:1024]:
        return _Assembly(bounds).pdf(data, name, on_page or _ignore)
    if data[:4] == b"PK\x03\x04":
        return _Assembly(bounds).lines(docx_lines(data, bounds), name, "docx")
    if data[:8] == _OLD_OFFICE:
        raise DocumentError(
            "an old or encrypted Office file",
            expected="a .docx file without a password",
            actual="a compound file (.doc, or encrypted)",
            action="Open it and save it as .docx or PDF, without a password.",
        )
    if image_size(data) is not None:
        return _Assembly(bounds).image(data, name, on_page or _ignore)
    return _Assembly(bounds).lines(_text_lines(data, name), name, "txt")


def _ignore(_: int) -> None:
    pass


def _content(path: Path, limits: DocumentLimits) -> bytes:
    try:
        _check_size(path.stat().st_size, limits)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputNotFoundError(f"no document at {path}") from error
    except OSError as error:
        why = (error.strerror or "no answer").lower()
        raise DocumentError(
            f"{path} can't be read", expected="a file", actual=why, action="Give one document, or the right to read it."
        ) from error


def _check_size(size: int, limits: DocumentLimits) -> None:
    if size == 0:
        raise DocumentError("the file is empty", expected=KINDS, actual="0 bytes", action="Fetch or scan it again.")
    if size > limits.bytes_max:
        raise DocumentError(
            "the file is too large",
            expected=f"at most {limits.bytes_max} bytes",
            actual=str(size),
            action="Split it, or raise DocumentLimits(bytes_max=…).",
        )


def _text_lines(data: bytes, name: str) -> list[str]:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            text = data.decode(encoding, "replace")
            break
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")
    strange = sum(not (character.isprintable() or character in "\t\r\n\f\xa0") for character in text[:10_000])
    if "\0" in text or strange > 0.02 * min(len(text), 10_000):
        raise DocumentError(f"{name or 'the file'} is of no known kind", expected=KINDS, actual="binary data")
    if name.lower().endswith(NOT_TEXT):
        start = " ".join(text[:200].split())[:60]
        raise DocumentError(
            f"{name} holds text, as a page of a web server in place of a file does",
            expected=KINDS,
            actual=f"text that begins with {start!r}",
            action="Fetch it again, or name it .txt if it is a text.",
        )
    return text.splitlines()


class _Assembly:
    """Puts pages together and keeps the offsets of the text."""

    def __init__(self, limits: DocumentLimits) -> None:
        self._limits = limits
        self._until = time.monotonic() + limits.seconds
        self._parts: list[str] = []
        self._length = 0
        self._pages: list[Page] = []

    def pdf(self, data: bytes, name: str, on_page: OnPage) -> Document:
        """Reads the pages of a PDF."""
        for page in pdf_pages(data, self._limits):
            self._pdf_page(page)
            self._check_time()
            on_page(page.number)
        return self._document(name, "pdf")

    def image(self, data: bytes, name: str, on_page: OnPage) -> Document:
        """Reads an image of one page."""
        if data[:4] in (b"II*\0", b"MM\0*") and _tiff_pages(data) > 1:
            raise DocumentError(
                "a TIFF of several pages",
                expected="one page an image, or a PDF",
                actual=f"{_tiff_pages(data)} pages",
                action="Save it as a PDF.",
            )
        try:
            image = decode_image(data, how=cv2.IMREAD_GRAYSCALE, pixels_max=self._limits.pixels_max)
        except ValueError as error:
            raise DocumentError(
                "the image can't be read", expected="a whole image of a page", actual=str(error),
                action="Scan it again with 200 dpi, or raise DocumentLimits(pixels_max=…) if it is too large.",
            ) from error  # fmt: skip
        self._scanned(0, np.asarray(image, np.uint8), image.shape[1], image.shape[0])
        on_page(0)
        return self._document(name, "image")

    def lines(self, lines: Iterable[str], name: str, kind: str) -> Document:
        """Makes a document without boxes of lines of text; tabs divide cells."""
        words: list[Word] = []
        for line in lines:
            for cell in line.split("\t"):
                for text in cell.split():
                    words.append(self._word(text, None, 1.0))
                    self._put(" ")
                self._replace_blank("\t")
            self._replace_blank("\n")
        if not words:
            raise DocumentError("the document has no text", expected="words", actual="none", action="")
        self._pages.append(Page(number=0, width=0, height=0, words=tuple(words)))
        return self._document(name, kind)

    def _pdf_page(self, page: PdfPage) -> None:
        if page.image:
            image = page_image(page)
            self._scanned(page.number, image, page.width, page.height)
            return
        words = [
            (PlacedWord(one.text, (one.x0, one.y0, one.x1, one.y1), _HIDDEN if one.is_hidden else 1.0), one.angle)
            for one in page.words
        ]
        placed, rotation = upright(words, page.width, page.height)
        turned = rotation in (90, 270)
        across, along = (page.height, page.width) if turned else (page.width, page.height)
        self._page(page.number, placed, across, along, scanned=False, rotation=rotation)

    def _scanned(self, number: int, image: npt.NDArray[np.uint8], width: float, height: float) -> None:
        from lineside_models.nlp.ocr.page_ocr import shared_ocr

        read = shared_ocr().read(image)
        across, along = (height, width) if read.rotation in (90, 270) else (width, height)
        sx, sy = across / read.width, along / read.height
        placed = [
            PlacedWord(text, (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy), score)
            for text, box, score in read.words
        ]
        self._page(number, placed, across, along, scanned=True, rotation=read.rotation, skew_deg=read.skew_deg)

    def _page(
        self,
        number: int,
        placed: Sequence[PlacedWord],
        width: float,
        height: float,
        *,
        scanned: bool,
        rotation: int,
        skew_deg: float = 0.0,
    ) -> None:
        if self._pages:
            self._put("\f")
        words = tuple(self._lines_of(reading_order(placed, width)))
        self._pages.append(
            Page(
                number=number,
                width=width,
                height=height,
                words=words,
                scanned=scanned,
                rotation=rotation,
                skew_deg=skew_deg,
            )
        )

    def _lines_of(self, lines: Iterable[Line]) -> list[Word]:
        words = []
        for line in lines:
            for fragment in line:
                for word in fragment.words:
                    words.append(self._word(word.text, word.box, word.score))
                    self._put(" ")
                self._replace_blank("\t")
            self._replace_blank("\n")
        return words

    def _word(self, text: str, box: tuple[float, float, float, float] | None, score: float) -> Word:
        start = self._length
        self._put(text)
        return Word(text, box, start, self._length, score)

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
        if self._length > 2 * self._limits.characters_max:
            raise DocumentError(
                "the document has too much text",
                expected=f"at most {self._limits.characters_max} characters",
                actual="more",
                action="Split the file, or raise DocumentLimits(characters_max=…).",
            )

    def _replace_blank(self, text: str) -> None:
        """Makes the blank at the end of the text a tab or line break; a tab behind a tab ends an empty cell."""
        last = self._parts[-1] if self._parts else ""
        if last == " " or (last == "\t" and text != "\t"):
            self._parts[-1] = text
        else:
            self._put(text)

    def _check_time(self) -> None:
        if time.monotonic() > self._until:
            raise too_slow(self._limits)

    def _document(self, name: str, kind: str) -> Document:
        if not any(page.words for page in self._pages):
            raise DocumentError(
                "the document has no text that can be read", expected="words on at least one page", actual="none"
            )
        return Document(pages=tuple(self._pages), text="".join(self._parts), source=name, format=kind)


def _tiff_pages(data: bytes) -> int:
    """Counts the images of a TIFF by the chain of its directories (TIFF 6.0, section 2); at most 1,000."""
    order = "<" if data[:2] == b"II" else ">"
    count = 0
    try:
        (offset,) = struct.unpack_from(f"{order}I", data, 4)
        while offset and count < 1000:
            count += 1
            (entries,) = struct.unpack_from(f"{order}H", data, offset)
            (offset,) = struct.unpack_from(f"{order}I", data, offset + 2 + 12 * entries)
    except struct.error:
        pass
    return count
