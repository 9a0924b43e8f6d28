"""Write PDF files of text and lines with the standard fonts, for synthetic documents.

Coordinates are in points from the upper left corner, y downwards. The format is ISO 32000-1, sections 7.5
and 9.6.
"""

from __future__ import annotations

from collections.abc import Sequence

FONTS = ("Helvetica", "Helvetica-Bold", "Times-Roman", "Times-Bold", "Courier", "Courier-Bold")


class PdfCanvas:
    """One page to draw on.

    Args:
        width: In points; A4 is 595 × 842.
        height: In points.
        rotate: Degrees by which a viewer turns the page clockwise.
    """

    def __init__(self, width: float = 595, height: float = 842, *, rotate: int = 0) -> None:
        self.width, self.height, self.rotate = width, height, rotate
        self._content: list[str] = []

    def text(self, x: float, y: float, text: str, *, size: float = 9, font: str = "Helvetica", angle: int = 0) -> None:
        """Writes a text; ``(x, y)`` begins its baseline, ``angle`` turns it anticlockwise in steps of 90."""
        cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[angle]
        escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        matrix = f"{cos} {sin} {-sin} {cos} {x:.2f} {self.height - y:.2f}"
        self._content.append(f"BT /F{FONTS.index(font)} {size:.2f} Tf {matrix} Tm ({escaped}) Tj ET")

    def line(self, x0: float, y0: float, x1: float, y1: float, *, width: float = 0.6) -> None:
        """Draws a line."""
        self._content.append(f"{width:.2f} w {x0:.2f} {self.height - y0:.2f} m {x1:.2f} {self.height - y1:.2f} l S")

    def fill(self, x0: float, y0: float, x1: float, y1: float, *, grey: float) -> None:
        """Fills a rectangle; ``grey`` from 0 (black) to 1."""
        box = f"{x0:.2f} {self.height - y1:.2f} {x1 - x0:.2f} {y1 - y0:.2f}"
        self._content.append(f"q {grey:.2f} g {box} re f Q")

    def content(self) -> bytes:
        """Returns the page's content stream; characters outside of Windows-1252 become question marks."""
        return "\n".join(self._content).encode("cp1252", "replace")


def write_pdf(pages: Sequence[PdfCanvas]) -> bytes:
    """Returns a PDF file."""
    fonts = [
        f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>".encode() for name in FONTS
    ]
    first_page = 3 + len(fonts)
    kids = " ".join(f"{first_page + 2 * at} 0 R" for at in range(len(pages)))
    named = " ".join(f"/F{at} {3 + at} 0 R" for at in range(len(fonts)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} /Resources << /Font << {named} >> >> >>".encode(),
        *fonts,
    ]
    for at, page in enumerate(pages):
        box = f"[0 0 {page.width:.2f} {page.height:.2f}]"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox {box} /Rotate {page.rotate} "
            f"/Contents {first_page + 2 * at + 1} 0 R >>".encode()
        )
        content = page.content()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    return _file(objects)


def _file(objects: Sequence[bytes]) -> bytes:
    """Puts objects, numbered from 1, the first of them the catalogue, into a file."""
    data = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, one in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(data)
