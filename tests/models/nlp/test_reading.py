"""Documents of every kind, upright, turned and in columns; and what is no document."""

from __future__ import annotations

import io
import itertools
import os
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_converters.certificates.pdf_writer import PdfCanvas, write_pdf
from lineside_models.nlp.document import Document
from lineside_models.nlp.pdf.pages import pdf_image
from lineside_models.nlp.reading import DocumentLimits, read_document
from lineside_runtime.errors import DocumentError, InputNotFoundError
from tests.models.test_image_file import claims, png_bomb

pytest.importorskip("pypdfium2")

HEAT = "Heat No. A2B347-9"
ROWS = (("Element", "Value", "Limit"), ("C", "0,17", "0,20"), ("Mn", "1,42", "1,60"))
PROSE = (
    "The supplier delivers the coils in the order in which the plant has called them, each with",
    "its certificate, and names every deviation from the order in writing before the delivery.",
)


def page_of(rotate: int = 0, angle: int = 0) -> PdfCanvas:
    """A heading, a table with wide gaps, and a closing line."""
    canvas = PdfCanvas(rotate=rotate)

    def put(x: float, y: float, text: str, size: float = 11) -> None:
        at = {0: (x, y), 90: (y, 842 - x), 180: (595 - x, 842 - y), 270: (595 - y, x)}[angle]
        canvas.text(*at, text, size=size, angle=angle)

    put(60, 80, "Inspection certificate 3.1", 16)
    put(60, 110, HEAT)
    for row, cells in enumerate(ROWS):
        for column, cell in enumerate(cells):
            put(60 + 150 * column, 160 + 20 * row, cell)
    put(60, 260, "We confirm that the delivery meets the order.")
    return canvas


def lines(document: Document) -> list[str]:
    return document.text.rstrip().splitlines()


def check_offsets(document: Document) -> None:
    words = [word for page in document.pages for word in page.words]
    assert words and all(document.text[word.start : word.end] == word.text for word in words)
    assert all(before.end < after.start for before, after in itertools.pairwise(words))
    for page in document.pages:
        for word in page.words:
            if word.box is not None:
                assert -1 <= word.box[0] < word.box[2] <= page.width + 1
                assert -1 <= word.box[1] < word.box[3] <= page.height + 1


@pytest.mark.parametrize(("rotate", "angle"), [(0, 0), (90, 0), (180, 0), (0, 90), (0, 180), (0, 270)])
def test_a_page_with_text_is_read_row_by_row_however_it_is_turned(rotate: int, angle: int) -> None:
    document = read_document(write_pdf([page_of(rotate, angle)]))
    check_offsets(document)
    assert lines(document)[1:5] == [HEAT, *("\t".join(cells) for cells in ROWS)]
    assert not document.pages[0].scanned and document.format == "pdf"


def test_two_columns_of_prose_are_read_one_after_the_other() -> None:
    canvas = PdfCanvas()
    canvas.text(150, 60, "Conditions of delivery of the works in Duisburg and Linz", size=12)
    for at in range(12):
        for column, x in (("left", 40), ("right", 310)):
            canvas.text(x, 100 + 14 * at + (5 if x > 300 else 0), f"{column} {at} {PROSE[at % 2][:52]}", size=8.5)
    canvas.text(40, 300, "Page 1 of 1: " + PROSE[0], size=9)
    read = lines(read_document(write_pdf([canvas])))
    assert [line.split()[0] for line in read] == ["Conditions", *["left"] * 12, *["right"] * 12, "Page"]


@pytest.mark.parametrize("turn", [None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180])
def test_a_scan_is_read_as_its_page_however_it_lies(turn: int | None) -> None:
    image = pdf_image(write_pdf([page_of()]), 0, dpi=200)
    wanted = image.shape
    image = image if turn is None else np.asarray(cv2.rotate(image, turn))
    image = skewed(image, 1.3)
    document = read_document(cv2.imencode(".png", image)[1].tobytes())
    check_offsets(document)
    page = document.pages[0]
    assert page.scanned and (page.height, page.width) == wanted
    assert lines(document)[1:5] == [HEAT, *("\t".join(cells) for cells in ROWS)]
    number = next(word for word in page.words if word.text == "0,17")
    assert number.box is not None
    middle = [(number.box[0] + number.box[2]) / 2 * 72 / 200, (number.box[1] + number.box[3]) / 2 * 72 / 200]
    assert np.abs(np.subtract(middle, (220, 176))).max() < 15  # the skewed image was turned about its middle


def test_a_pdf_of_scanned_pages_goes_through_text_recognition() -> None:
    document = read_document(scanned_pdf(pdf_image(write_pdf([page_of()]), 0, dpi=200)))
    check_offsets(document)
    assert document.pages[0].scanned and document.pages[0].width == 595
    assert HEAT in lines(document)


class DrawnPage(PdfCanvas):
    """A page with an operator between its texts."""

    def operator(self, text: str) -> None:
        self._content.append(text)


@pytest.mark.parametrize(("before", "score"), [("0 g", 1.0), ("1 g", 0.5), ("0.97 0.97 1 rg", 0.5), ("3 Tr", 0.5)])
def test_words_that_nobody_sees_are_less_sure(before: str, score: float) -> None:
    page = DrawnPage()
    for row in range(9):
        page.text(60, 80 + 20 * row, PROSE[row % 2])
    page.operator(before)
    page.text(60, 300, HEAT)
    document = read_document(write_pdf([page]))
    assert not document.pages[0].scanned
    assert {word.score for word in document.pages[0].words if word.text in PROSE[0]} == {1.0}
    assert [word.score for word in document.pages[0].words][-3:] == [score] * 3


@pytest.mark.parametrize("angle", [0, 90])
def test_a_raised_digit_of_a_footnote_is_no_part_of_a_number(angle: int) -> None:
    page = PdfCanvas()
    for at, (x, size, text) in enumerate(((60, 11, "C 0.17"), (94, 7, "1"), (200, 11, "Rm"), (216, 7, "2"))):
        y = 100 - 3 * (at % 2)
        page.text(*((x, y) if angle == 0 else (y, 842 - x)), text, size=size, angle=angle)
    assert "C 0.17 1\tRm2" in read_document(write_pdf([page])).text


def test_a_text_that_lies_invisibly_over_a_scan_is_not_believed() -> None:
    page = DrawnPage()
    page.text(60, 80, HEAT, size=16)
    page.operator("3 Tr")
    for row in range(9):
        page.text(60, 200 + 20 * row, PROSE[row % 2])
    document = read_document(write_pdf([page]))
    assert document.pages[0].scanned and lines(document) == [HEAT]


def with_fields(page: PdfCanvas, fields: dict[str, str]) -> bytes:
    """Returns a PDF with annotations: their dictionaries' entries, by the place of their lower left corner."""
    data = write_pdf([page])
    kids = " ".join(f"{90 + at} 0 R" for at in range(len(fields)))
    parent = b"80 0 obj\n<< /FT /Tx /T (p) /V (12480 kg) >>\nendobj\n"
    objects = parent + b"".join(
        f"{90 + at} 0 obj\n<< /Type /Annot /Rect [{place} {int(place[:3]) + 150} {int(place[4:]) + 20}] {entries} >>"
        "\nendobj\n".encode()
        for at, (place, entries) in enumerate(fields.items())
    )
    data = data.replace(b"/Type /Catalog", f"/Type /Catalog /AcroForm << /Fields [{kids}] >>".encode())
    return data.replace(b"/MediaBox", f"/Annots [{kids}] /MediaBox".encode()).replace(
        b"\nxref", b"\n" + objects + b"xref"
    )


def test_fields_of_a_form_and_texts_typed_onto_a_page_are_read() -> None:
    page = PdfCanvas()
    for row, label in enumerate(("Heat No.", "Grade", "Net weight", "Note")):
        page.text(60, 100 + 40 * row, label)
    data = with_fields(
        page,
        {
            "160 735": "/Subtype /Widget /FT /Tx /T (a) /V (A2B347)",
            "160 695": "/Subtype /FreeText /Contents (S355 J2)",
            "160 655": "/Subtype /Widget /Parent 80 0 R",
            "160 615": "/Subtype /Widget /FT /Tx /T (b) /V (hidden) /F 2",
            "160 575": "/Subtype /Widget /FT /Btn /T (c) /V /Yes",
            "160 535": "/Subtype /Widget /FT /Tx /Ff 4096 /T (d) /V (two\\nlines)",
        },
    )
    document = read_document(data)
    check_offsets(document)
    assert lines(document) == ["Heat No.\tA2B347", "Grade\tS355 J2", "Net weight\t12480 kg", "Note", "two", "lines"]


def test_a_docx_keeps_its_cells_and_leaves_out_what_was_deleted() -> None:
    document = read_document(
        docx(
            "<w:p><w:r><w:t>Heat No. </w:t></w:r><w:r><w:t>A2B347</w:t></w:r></w:p>"
            "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>C</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>0,17</w:t></w:r></w:p>"
            "</w:tc></w:tr></w:tbl><w:p><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
        )
    )
    check_offsets(document)
    assert document.text == "Heat No. A2B347\nC\t0,17\n"
    assert document.pages[0].words[0].box is None


def test_hidden_text_of_a_docx_is_left_out_and_a_raised_digit_stands_alone() -> None:
    def run(text: str, properties: str = "") -> str:
        return f"<w:r><w:rPr>{properties}</w:rPr><w:t>{text}</w:t></w:r>"

    raised = '<w:vertAlign w:val="superscript"/>'
    body = (
        "<w:p><w:pPr><w:rPr><w:vanish/></w:rPr></w:pPr>"
        + run("C 0.17")
        + run("1", raised)
        + run(" of 5 mm")
        + run("2", raised)
        + run(" secret", "<w:vanish/>")
        + run(" seen", '<w:vanish w:val="0"/>')
        + "</w:p>"
    )
    assert read_document(docx(body)).text == "C 0.17 1 of 5 mm2 seen\n"


def test_text_files_are_read_in_their_encoding(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    for data in ("Prüfung\nGröße 5".encode("cp1252"), "Prüfung\nGröße 5".encode("utf-16")):
        path.write_bytes(data)
        document = read_document(path)
        assert document.text == "Prüfung\nGröße 5\n" and document.source == "note.txt"


BAD = {
    "nothing": (b"", "empty"),
    "an encrypted PDF": (
        write_pdf([page_of()]).replace(
            b"/Root 1 0 R",
            b"/Root 1 0 R /ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> "
            b"/U <" + b"42" * 32 + b"> >>",
        ),
        "encrypted",
    ),
    "a PDF without an end": (write_pdf([page_of()])[:400], "PDF"),
    "noise that says it is a PDF": (b"%PDF-1.7\n" + os.urandom(5000), "damaged"),
    "a PDF of empty pages": (write_pdf([PdfCanvas()]), "no text"),
    "401 pages": (write_pdf([PdfCanvas()] * 401), "too many pages"),
    "a Word file of before 2007": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old or encrypted"),
    "a zip": (b"PK\x03\x04" + bytes(40), "DOCX is damaged"),
    "a program": (b"\x7fELF\2\1\1\0" + bytes(64), "no known kind"),
    "a head of a TIFF": (claims(900, 900)["tif"], "image can't be read"),
    "a white image": (cv2.imencode(".png", np.full((800, 600), 255, np.uint8))[1].tobytes(), "no text"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_can_not_be_read_is_an_error_that_says_what_to_do(what: str) -> None:
    check_refused(*BAD[what])


def check_refused(data: bytes, words: str) -> None:
    with pytest.raises(DocumentError, match=words) as raised:
        read_document(data)
    assert raised.value.code == 2030 and raised.value.expected and raised.value.actual


def test_an_empty_cell_keeps_its_column() -> None:
    def row(*cells: str, before: str = "") -> str:
        return f"<w:tr>{before}{''.join(f'<w:tc>{cell}</w:tc>' for cell in cells)}</w:tr>"

    def cell(text: str, span: int = 1) -> str:
        wide = f'<w:tcPr><w:gridSpan w:val="{span}"/></w:tcPr>' if span > 1 else ""
        return f"{wide}<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"

    indented = '<w:trPr><w:gridBefore w:val="1"/></w:trPr>'
    rows = (
        row(*map(cell, ("Element", "Min", "Max", "Actual"))),
        row(*map(cell, ("C", "", "0.20", "0.21"))),
        row(cell("Si", span=3), cell("0.3")),
        row(*map(cell, ("a", "b", "c")), before=indented),
    )
    table = "Element\tMin\tMax\tActual\nC\t\t0.20\t0.21\nSi\t\t\t0.3\n\ta\tb\tc\n"
    assert read_document(docx(f"<w:tbl>{''.join(rows)}</w:tbl>")).text == table
    assert read_document(table.encode()).text == table


@pytest.mark.parametrize("name", ["contract.pdf", "scan.PNG"])
def test_a_web_page_that_was_saved_as_a_document_is_not_read_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!doctype html>\n<title>Sign in</title>")
    with pytest.raises(DocumentError, match=f"{name} holds text") as raised:
        read_document(tmp_path / name)
    assert "<!doctype html> <title>Sign in" in str(raised.value.actual)


def test_an_image_of_144_megapixels_and_a_file_that_is_not_there_are_refused() -> None:
    check_refused(png_bomb(12_000, 12_000), "image can't be read")
    with pytest.raises(InputNotFoundError, match="no document"):
        read_document("nowhere.pdf")


def test_a_docx_bomb_is_not_unpacked() -> None:
    with pytest.raises(DocumentError, match="too large when it is unpacked"):
        read_document(docx("<w:p/>" * 1_000_000), limits=DocumentLimits(unpacked_bytes_max=1 << 20))
    entities = docx("<w:p><w:r><w:t>&a;</w:t></w:r></w:p>", head="<!DOCTYPE x [<!ENTITY a 'aa'>]>")
    with pytest.raises(DocumentError, match="document type definition"):
        read_document(entities)


def test_a_pdf_that_never_ends_and_one_that_takes_all_memory_are_stopped() -> None:
    endless = PdfCanvas()
    endless._content += ["0 0 m 500 800 400 3 7 9 c S"] * 1_500_000  # an image of many seconds
    with pytest.raises(DocumentError, match=r"takes too long|has ended"):
        read_document(write_pdf([endless]), limits=DocumentLimits(seconds=1))
    bomb = zlib.compress(bytes(300 << 20), 9)
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>"
    packed = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(bomb), bomb)
    with pytest.raises(DocumentError):
        read_document(pdf_of([page, packed]), limits=DocumentLimits(memory_mb=256, seconds=20))


def skewed(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderValue=(255,)))


def scanned_pdf(image: np.ndarray) -> bytes:
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    content = b"q 595 0 0 842 0 0 cm /I Do Q"
    resources = b"/Resources << /XObject << /I 5 0 R >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R %s >>" % resources
    shape = b"/Width %d /Height %d" % (image.shape[1], image.shape[0])
    head = (
        b"<< /Type /XObject /Subtype /Image %s /ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /DCTDecode" % shape
    )
    return pdf_of(
        [
            page,
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
            head + b" /Length %d >>\nstream\n%s\nendstream" % (len(jpeg), jpeg),
        ]
    )


def pdf_of(objects: list[bytes]) -> bytes:
    from lineside_converters.certificates.pdf_writer import _file

    return _file([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", *objects])


def docx(body: str, head: str = "") -> bytes:
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"{head}<w:document {names}><w:body>{body}</w:body></w:document>")
    return made.getvalue()
