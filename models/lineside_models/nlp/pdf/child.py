"""The process that reads a PDF: PDFium with bounded memory and time, so that a bad file harms nobody else.

It reads one `Request` from its standard input and writes one `PdfPage` a page to its standard output.
"""

from __future__ import annotations

import ctypes
import math
import resource
import sys
from typing import Any, BinaryIO

import msgspec
import pypdfium2
import pypdfium2.raw as pdfium

from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.pdf.form_fields import form_words
from lineside_models.nlp.pdf.messages import Finished, PdfPage, PdfWord, Refused, Request, receive, send

DPI = 200
"""Of pages that are rendered: what text recognition was measured at."""

PIXELS_MAX = 6_000_000
"""Of a rendered page."""

_TEXT_FROM = 8
"""A page with fewer characters is looked at as an image."""

_UNREADABLE_SHARE = 0.2
"""A page with more characters that stand for none, as fonts without a table of characters give, is rendered; so is one
with more letters that are not drawn, as another text recognition lays them over a scan."""

_FOOTNOTE_SIZE = 0.85
"""Of a raised digit, in sizes of the number before it, at most."""

_WHITE_FROM = 240
"""Red, green and blue of a letter that can't be seen on white paper."""

_CHARACTERS_MAX = 300_000
"""Of one page."""

_HYPHEN = 0x02
"""PDFium's mark of a hyphen at the end of a line."""

_PASSWORD = 4
"""``FPDF_ERR_PASSWORD``."""


def main() -> None:
    """Serves one request and ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    request = receive(stdin, msgspec.msgpack.Decoder(Request), most=1 << 30)
    _restrict(request.limits)
    try:
        read_pdf(request, stdout)
    except MemoryError:
        send(stdout, too_much_memory(request.limits))


def _restrict(limits: DocumentLimits) -> None:
    memory = limits.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = int(limits.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    for one in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(one, (0, 0))


def too_much_memory(limits: DocumentLimits) -> Refused:
    """Returns the refusal of a file that needs too much memory."""
    return Refused(
        message="the PDF needs too much memory",
        expected=f"at most {limits.memory_mb} MiB",
        actual="more",
        action="Print it as a new PDF with smaller pages, or raise DocumentLimits(memory_mb=…).",
    )


def read_pdf(request: Request, stdout: BinaryIO) -> None:
    """Answers a request: pages, then `Finished`; or `Refused`."""
    limits = request.limits
    try:
        document = pypdfium2.PdfDocument(request.data)
    except pypdfium2.PdfiumError as error:
        send(stdout, _not_opened(error))
        return
    if document.get_formtype():
        document.init_forms()
    count = len(document)
    if not 0 < count <= limits.pages_max:
        send(
            stdout,
            Refused(
                message="the PDF has too many pages" if count else "the PDF has no pages",
                expected=f"1 to {limits.pages_max} pages",
                actual=str(count),
                action="Split the file, or raise DocumentLimits(pages_max=…), `--pages-max` of lineside read.",
            ),
        )
        return
    for number in request.images:
        if number < count:
            send(stdout, _image(document, number, request.dpi))
    characters = 0
    for number in range(0 if request.images else count):
        page = _page(document, number)
        characters += sum(len(word.text) for word in page.words)
        if characters > limits.characters_max:
            send(stdout, too_many_characters(limits))
            return
        send(stdout, page)
    send(stdout, Finished())


def too_many_characters(limits: DocumentLimits) -> Refused:
    """Returns the refusal of a file with too much text."""
    return Refused(
        message="the document has too much text",
        expected=f"at most {limits.characters_max} characters",
        actual="more",
        action="Split the file, or raise DocumentLimits(characters_max=…).",
    )


def _not_opened(error: pypdfium2.PdfiumError) -> Refused:
    if getattr(error, "err_code", None) == _PASSWORD or "password" in str(error).lower():
        return Refused(
            message="the PDF is encrypted",
            expected="a PDF that opens without a password",
            actual="one that asks for it",
            action="Open it with its password and save it without.",
        )
    return Refused(
        message="the PDF is damaged",
        expected="a whole PDF",
        actual=str(error),
        action="Fetch or scan it again; where a viewer still shows it, print it as a new PDF.",
    )


def _page(document: Any, number: int) -> PdfPage:
    """Reads a page; one that PDFium can't load has no words and no image."""
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return PdfPage(number=number, width=0, height=0)
    try:
        width, height = page.get_size()
        text = page.get_textpage()
        try:
            reader = _Words(page, text, width, height)
            words, readable = reader.all()
            words += tuple(form_words(page, getattr(document.formenv, "raw", None), reader.device))
        finally:
            text.close()
        if readable or not pdfium.FPDFPage_CountObjects(page):
            return PdfPage(number=number, width=width, height=height, words=words)
        image, size = _rendered(page, width, height, DPI)
        return PdfPage(number=number, width=width, height=height, image=image, image_size=size)
    except pypdfium2.PdfiumError:
        return PdfPage(number=number, width=0, height=0)
    finally:
        page.close()


def _image(document: Any, number: int, dpi: float) -> PdfPage:
    """Renders a page; one that PDFium can't load has no image."""
    try:
        page = document[number]
        width, height = page.get_size()
        image, size = _rendered(page, width, height, dpi)
        page.close()
    except pypdfium2.PdfiumError:
        return PdfPage(number=number, width=0, height=0)
    return PdfPage(number=number, width=width, height=height, image=image, image_size=size)


def _rendered(page: Any, width: float, height: float, dpi: float) -> tuple[bytes, tuple[int, int]]:
    scale = min(dpi / 72, (PIXELS_MAX / max(width * height, 1)) ** 0.5)
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        rows = memoryview(bitmap.buffer).cast("B")
        cut = [rows[at * bitmap.stride : at * bitmap.stride + bitmap.width] for at in range(bitmap.height)]
        return b"".join(cut), (bitmap.width, bitmap.height)
    finally:
        bitmap.close()


class _Words:
    """Makes words of a page's characters."""

    _GRID = 16
    """Device units a point: `FPDF_PageToDevice` gives integers."""

    def __init__(self, page: Any, text: Any, width: float, height: float) -> None:
        self._page, self._text = page, text
        self._size = (max(1, round(width * self._GRID)), max(1, round(height * self._GRID)))
        self._words: list[PdfWord] = []
        self._letters: list[str] = []
        self._box = [0.0] * 4
        self._first = 0
        self._unreadable = self._invisible = 0
        self._size_before = 0.0

    def all(self) -> tuple[tuple[PdfWord, ...], bool]:
        """Returns the words, and whether they are enough of a text to be believed."""
        count = min(pdfium.FPDFText_CountChars(self._text), _CHARACTERS_MAX)
        letters, rect = 0, pdfium.FS_RECTF()
        for at in range(count):
            code = pdfium.FPDFText_GetUnicode(self._text, at)
            code = ord("-") if code == _HYPHEN else code
            character = chr(code) if 32 < code < 0x110000 else " "
            if code == 0 or code == 0xFFFD or 0xE000 <= code < 0xF900:
                self._unreadable += 1
                character = "\ufffd"
            if character.isspace() or character == "\xad":
                self._end()
                continue
            letters += 1
            if not pdfium.FPDFText_GetLooseCharBox(self._text, at, rect):
                continue
            self._add(at, character, (rect.left, rect.bottom, rect.right, rect.top))
        self._end()
        unreadable = max(self._unreadable, self._invisible) > _UNREADABLE_SHARE * letters
        return tuple(self._words), letters >= _TEXT_FROM and not unreadable

    def _add(self, at: int, character: str, box: tuple[float, float, float, float]) -> None:
        size = max(box[2] - box[0], box[3] - box[1])
        if self._letters and (self._far(box) or self._is_footnote(character, size)):
            self._end()
        self._size_before = size
        if not self._letters:
            self._box, self._first = list(box), at
        else:
            old = self._box
            self._box = [min(old[0], box[0]), min(old[1], box[1]), max(old[2], box[2]), max(old[3], box[3])]
        self._letters.append(character)

    def _far(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a character is no neighbour of the word so far: another line, or another cell without a blank."""
        x0, y0, x1, y1 = self._box
        size = max(min(y1 - y0, x1 - x0), box[3] - box[1], 1.0)
        return max(x0 - box[2], box[0] - x1, y0 - box[3], box[1] - y1) > 0.6 * size

    def _is_footnote(self, character: str, size: float) -> bool:
        """Whether a digit behind or before one of another size is no part of its number."""
        sizes = sorted((size, self._size_before))
        return character.isdigit() and self._letters[-1].isdigit() and sizes[0] < _FOOTNOTE_SIZE * sizes[1]

    def _end(self) -> None:
        if not self._letters:
            return
        letters = "".join(self._letters).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        is_drawn, is_white = self._look()
        self._invisible += 0 if is_drawn else len(self._letters)
        self._letters = []
        corners = [self.device(x, y) for x, y in ((self._box[0], self._box[1]), (self._box[2], self._box[3]))]
        (ax, ay), (bx, by) = corners
        angle = pdfium.FPDFText_GetCharAngle(self._text, self._first)
        clockwise = round(math.degrees(angle) / 90) * 90 if angle >= 0 else 0  # -1 is an error
        clockwise += 90 * pdfium.FPDFPage_GetRotation(self._page)
        place = (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
        self._words.append(PdfWord(letters, *place, clockwise % 360, not is_drawn or is_white))

    def _look(self) -> tuple[bool, bool]:
        """Returns whether the word so far is drawn at all, and whether it is white."""
        drawn = pdfium.FPDFText_GetTextObject(self._text, self._first)
        mode = pdfium.FPDFTextObj_GetTextRenderMode(drawn) if drawn else pdfium.FPDF_TEXTRENDERMODE_FILL
        colour = [ctypes.c_uint(0) for _ in range(3)] + [ctypes.c_uint(255)]
        if mode != pdfium.FPDF_TEXTRENDERMODE_FILL or not pdfium.FPDFText_GetFillColor(
            self._text, self._first, *colour
        ):
            return mode not in (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP), False
        return colour[3].value > 0, min(one.value for one in colour[:3]) >= _WHITE_FROM

    def device(self, x: float, y: float) -> tuple[float, float]:
        """Turns a point of the page's own coordinates into one of the displayed page."""
        right, down = ctypes.c_int(), ctypes.c_int()
        pdfium.FPDF_PageToDevice(self._page, 0, 0, *self._size, 0, x, y, right, down)
        return right.value / self._GRID, down.value / self._GRID


if __name__ == "__main__":
    main()
