"""Text of a DOCX: paragraphs as lines, cells of a table divided by tabs.

The parts are read as a stream by expat, with a bound on what is unpacked; document type definitions, which DOCX does
not use and which make entities expand without end, are refused.
"""

from __future__ import annotations

import io
import re
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Mapping

from lineside_models.nlp.limits import DocumentLimits
from lineside_runtime.errors import DocumentError

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
"""Repeats a text box for older programs."""

_PARTS = re.compile(r"word/(header\d*|document|footnotes|endnotes|footer\d*)\.xml")
_ORDER = ("header", "document", "footnotes", "endnotes", "footer")
_PARTS_MAX = 100
_OFF = ("0", "false", "off", "baseline")
"""Values of a property of a run of text that take it away."""

_READ_BYTES = 1 << 16
_COLUMNS_MAX = 64
_DEPTH_MAX = 200


def docx_lines(data: bytes, limits: DocumentLimits) -> list[str]:
    """Returns the lines of a DOCX.

    Raises:
        DocumentError: It is no DOCX, damaged, or beyond a limit.
    """
    left = limits.unpacked_bytes_max
    lines: list[str] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(
                (name for name in archive.namelist() if _PARTS.fullmatch(name)),
                key=lambda name: (next(at for at, kind in enumerate(_ORDER) if kind in name), name),
            )
            if "word/document.xml" not in names:
                raise DocumentError(
                    "not a Word document", expected="a .docx file", actual="another kind of zip archive"
                )
            for name in names[:_PARTS_MAX]:
                left = _read_part(archive, name, left, limits, lines)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,  # an encrypted member
        NotImplementedError,  # a compression that Word doesn't use
        ValueError,
        xml.parsers.expat.ExpatError,
    ) as error:
        raise DocumentError("the DOCX is damaged", expected="a whole .docx file", actual=str(error)) from error
    return lines


def _read_part(archive: zipfile.ZipFile, name: str, left: int, limits: DocumentLimits, lines: list[str]) -> int:
    """Adds the lines of a part; returns how many bytes may still be unpacked."""
    part = _Part()
    with archive.open(name) as file:
        while block := file.read(_READ_BYTES):
            left -= len(block)
            if left < 0:
                raise DocumentError(
                    "the DOCX is too large when it is unpacked",
                    expected=f"at most {limits.unpacked_bytes_max} bytes of text parts",
                    actual="more",
                    action="Save its text as a new document, or raise DocumentLimits(unpacked_bytes_max=…).",
                )
            part.feed(block, last=False)
    part.feed(b"", last=True)
    lines += part.lines
    return left


class _Part:
    """Collects the text of one XML part."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._text: list[str] = []
        self._cells: list[list[str]] = []
        self._span = 1
        self._depth = 0
        self._skipped = 0
        self._inside_text = False
        self._run = ""  # properties of the run of text that count: "vanish", "vertAlign"
        self._inside_run = False
        parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        self._parser = parser

    def feed(self, block: bytes, *, last: bool) -> None:
        """Reads a block of the part."""
        self._parser.Parse(block, last)

    def _doctype(self, *_: object) -> None:
        raise ValueError("the part has a document type definition, which is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise ValueError(f"elements are nested deeper than {_DEPTH_MAX}")
        if name == _FALLBACK:
            self._skipped += 1
        kind = name.removeprefix(_WORD)
        if kind == "t":
            self._inside_text = True
        elif kind == "r":
            self._inside_run, self._run = True, ""
        elif kind in ("vanish", "vertAlign") and self._inside_run and self._run != "vanish":
            self._run = kind if attributes.get(f"{_WORD}val", "1") not in _OFF else self._run
        elif kind == "tab":
            self._text.append("\t")
        elif kind in ("br", "cr"):
            self._text.append(" ")
        elif kind == "noBreakHyphen":
            self._text.append("-")
        elif kind == "tr":
            self._end_paragraph()
            self._cells.append([])
        elif kind == "tc" and self._cells:
            self._text, self._span = [], 1
        elif kind == "gridSpan":
            self._span = _columns(attributes)
        elif kind == "gridBefore" and self._cells:
            self._cells[-1] += [""] * _columns(attributes)

    def _end(self, name: str) -> None:
        self._depth -= 1
        if name == _FALLBACK:
            self._skipped -= 1
        kind = name.removeprefix(_WORD)
        if kind == "t":
            self._inside_text = False
        elif kind == "r":
            self._inside_run, self._run = False, ""
        elif kind == "p":
            self._end_paragraph()
        elif kind == "tc" and self._cells:
            self._cells[-1] += [" ".join("".join(self._text).split()), *[""] * (self._span - 1)]
            self._text, self._span = [], 1
        elif kind == "tr" and self._cells:
            row = self._cells.pop()
            self._line("\t".join(row))

    def _characters(self, text: str) -> None:
        if self._inside_text and not self._skipped and self._run != "vanish":
            before = self._text[-1] if self._text else ""
            if self._run == "vertAlign" and before[-1:].isdigit() and text[:1].isdigit():
                self._text.append(" ")  # the number of a footnote
            self._text.append(text)

    def _end_paragraph(self) -> None:
        if self._cells:
            self._text.append(" ")  # several paragraphs of a cell are one text
            return
        self._line("".join(self._text))
        self._text = []

    def _line(self, text: str) -> None:
        if self._cells:  # a table inside a cell
            self._text.append(f" {text} ")
        elif text.strip():
            self.lines.append(text)


def _columns(attributes: Mapping[str, str]) -> int:
    """Returns a number of columns of a table (ECMA-376, part 1, section 17.4)."""
    value = attributes.get(f"{_WORD}val", "")
    return min(int(value), _COLUMNS_MAX) if value.isdecimal() else 1
