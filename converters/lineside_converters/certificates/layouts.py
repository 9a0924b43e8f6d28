"""Layouts of synthetic certificates: where fields and tables stand, how they are called and written."""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable, Sequence
from typing import Literal

from lineside_converters.certificates.pdf_writer import PdfCanvas

Language = Literal["en", "de", "both"]
Table = Literal["chemistry", "mechanical"]


@dataclasses.dataclass(frozen=True, slots=True)
class CertifiedValue:
    """A measured value with the limits that the certificate states; in percent, MPa, J or HBW."""

    name: str
    value: float
    least: float | None
    most: float | None
    decimals: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The true values of a certificate."""

    heat_number: str
    certificate_number: str
    order_number: str
    grade: str
    dimensions: str
    net_weight_kg: int
    date: datetime.date
    language: Language
    comma: bool
    chemistry: tuple[CertifiedValue, ...]
    mechanical: tuple[CertifiedValue, ...]


_FIELDS = ("heat_number", "certificate_number", "order_number", "grade", "dimensions", "net_weight", "date")

_LABELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "heat_number": (
        ("Heat No.", "Heat number", "Melt No.", "Cast No.", "Charge No.", "Heat"),
        ("Schmelze", "Schmelzen-Nr.", "Chargen-Nr.", "Chargennummer", "Schmelze Nr."),
    ),
    "certificate_number": (
        ("Certificate No.", "Cert. No.", "Certificate number", "Test certificate No."),
        ("Zeugnis-Nr.", "Bescheinigung Nr.", "Zeugnisnummer"),
    ),
    "order_number": (
        ("Order No.", "Purchase order", "PO No.", "Customer order No."),
        ("Bestell-Nr.", "Bestellnummer", "Auftrag Nr."),
    ),
    "grade": (("Grade", "Steel grade", "Material", "Quality"), ("Werkstoff", "Stahlsorte", "Güte")),
    "dimensions": (("Dimensions", "Size"), ("Abmessung", "Abmessungen")),
    "net_weight": (("Net weight", "Weight"), ("Nettogewicht", "Gewicht")),
    "date": (("Date", "Date of issue"), ("Datum", "Ausstellungsdatum")),
}
_QUANTITIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ReH": (("ReH", "Yield strength"), ("ReH", "Streckgrenze")),
    "Rp02": (("Rp0.2", "Rp 0.2", "Proof strength"), ("Rp0,2", "Dehngrenze")),
    "Rm": (("Rm", "Tensile strength"), ("Rm", "Zugfestigkeit")),
    "A": (("A", "Elongation", "A80"), ("A", "Bruchdehnung")),
    "KV": (("KV", "Impact energy"), ("KV", "Kerbschlagarbeit")),
    "HB": (("HBW", "Hardness"), ("HBW", "Härte")),
}
_UNITS = {"ReH": "MPa", "Rp02": "MPa", "Rm": "MPa", "A": "%", "KV": "J", "HB": "HBW"}
_WORDS = {
    "title": ("INSPECTION CERTIFICATE 3.1", "ABNAHMEPRÜFZEUGNIS 3.1"),
    "chemistry": ("Chemical composition", "Chemische Zusammensetzung"),
    "mechanical": ("Mechanical properties", "Mechanische Eigenschaften"),
    "element": ("Element", "Element"),
    "property": ("Property", "Kennwert"),
    "value": ("Result", "Istwert"),
    "unit": ("Unit", "Einheit"),
    "min": ("min.", "min."),
    "max": ("max.", "max."),
    "limit": ("Requirement", "Anforderung"),
    "confirm": (
        "We hereby certify that the material described above has been tested and complies with the order.",
        "Es wird bestätigt, dass die Lieferung geprüft wurde und den Vereinbarungen der Bestellung entspricht.",
    ),
    "norm": ("according to EN 10204:2004", "nach EN 10204:2004"),
}
_MAKERS = ("Nordmark Stahlwerke GmbH", "Ardenne Steel Works Ltd.", "Walzwerk Oberau AG", "Tessin Acciai S.p.A.")
_PERIODS = ("%d.%m.%Y", "%Y-%m-%d", "%d-%b-%Y")


class Pen:
    """Draws one certificate: the canvas with its fonts and the words of the certificate's language."""

    def __init__(self, certificate: Certificate, chance: random.Random, *, font: str, size: float) -> None:
        self.of, self.chance = certificate, chance
        self.canvas = PdfCanvas()
        self.font, self.size = font, size
        self.bold = {"Helvetica": "Helvetica-Bold", "Times-Roman": "Times-Bold"}.get(font, "Courier-Bold")
        self._date_form = chance.choice(_PERIODS)
        self._number_labels: dict[str, str] = {}

    def put(self, x: float, y: float, text: str, *, bold: bool = False, size: float = 0.0) -> None:
        """Writes a text at its baseline."""
        self.canvas.text(x, y, text, size=size or self.size, font=self.bold if bold else self.font)

    def word(self, name: str) -> str:
        """Returns a word of the layout in the certificate's language."""
        english, german = _WORDS[name]
        return {"en": english, "de": german}.get(self.of.language, f"{german} / {english}")

    def label(self, field: str) -> str:
        """Returns a label of a field, always the same one on a page."""
        return self._chosen(field, _LABELS[field])

    def quantity(self, name: str) -> str:
        """Returns how a quantity is called; elements by their symbol."""
        return self._chosen(name, _QUANTITIES[name]) if name in _QUANTITIES else name

    def _chosen(self, name: str, labels: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
        if name not in self._number_labels:
            english, german = (self.chance.choice(one) for one in labels)
            both = english if english == german else f"{german} / {english}"
            self._number_labels[name] = {"en": english, "de": german}.get(self.of.language, both)
        return self._number_labels[name]

    def number(self, value: float | None, decimals: int) -> str:
        """Writes a number with the certificate's decimal sign; a dash for ``None``."""
        if value is None:
            return "-"
        text = f"{value:.{decimals}f}"
        return text.replace(".", ",") if self.of.comma else text

    def field(self, name: str) -> str:
        """Returns the value of a field as it is printed."""
        if name == "date":
            return self.of.date.strftime(self._date_form)
        if name == "net_weight":
            return f"{self.of.net_weight_kg} kg"
        return str(getattr(self.of, name))

    def limit(self, one: CertifiedValue) -> str:
        """Returns both limits as one text: a range, or one with a sign or word."""
        low, high = self.number(one.least, one.decimals), self.number(one.most, one.decimals)
        if one.least is not None and one.most is not None:
            return f"{low} - {high}"
        if one.least is not None:
            return f"min. {low}"
        return f"max. {high}" if one.most is not None else "-"


Block = Callable[[Pen, float], float]
"""Draws from a height on; returns where the next block begins."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a maker's certificates look."""

    blocks: tuple[Block, ...]
    font: str = "Helvetica"
    size: float = 9.0
    languages: tuple[Language, ...] = ("en", "de", "both")
    fields: tuple[str, ...] = _FIELDS


def draw(certificate: Certificate, layout: Layout, chance: random.Random) -> PdfCanvas:
    """Draws a certificate on a page of A4."""
    pen = Pen(certificate, chance, font=layout.font, size=layout.size)
    y = 50.0
    for block in layout.blocks:
        y = block(pen, y)
    pen.put(50, min(y + 20, 780), pen.word("confirm"), size=8)
    return pen.canvas


def title(pen: Pen, y: float) -> float:
    """Maker and title."""
    pen.put(50, y, pen.chance.choice(_MAKERS), bold=True, size=14)
    pen.put(50, y + 22, pen.word("title"), bold=True, size=12)
    pen.put(50, y + 36, pen.word("norm"), size=8)
    return y + 64


def title_right(pen: Pen, y: float) -> float:
    """Title on the left, maker with an address on the right."""
    pen.put(50, y, pen.word("title"), bold=True, size=13)
    for at, line in enumerate(
        (pen.chance.choice(_MAKERS), "Hafenstraße 12", "47119 Duisburg", "Tel. +49 203 555 0199")
    ):
        pen.put(400, y + 11 * at, line, size=8)
    return y + 66


def pairs(pen: Pen, y: float) -> float:
    """One "label: value" a line."""
    for name in _FIELDS:
        pen.put(50, y, f"{pen.label(name)}: {pen.field(name)}")
        y += 15
    return y + 12


def pairs_apart(pen: Pen, y: float) -> float:
    """Labels in one column, values in another."""
    for name in _FIELDS:
        pen.put(50, y, pen.label(name))
        pen.put(230, y, pen.field(name), bold=True)
        y += 15
    return y + 12


def pairs_two_columns(pen: Pen, y: float) -> float:
    """Two columns of label, colon and value."""
    for at, name in enumerate(_FIELDS):
        x, line = (50, at // 2) if at % 2 == 0 else (310, at // 2)
        pen.put(x, y + 16 * line, f"{pen.label(name)}:")
        pen.put(x + 130, y + 16 * line, pen.field(name))
    return y + 16 * 4 + 12


def header_table(
    pen: Pen, y: float, *, names: Sequence[str] = ("heat_number", "grade", "dimensions", "net_weight")
) -> float:
    """A ruled table with labels above the values, the rest as pairs."""
    for at, name in enumerate(("certificate_number", "order_number", "date")):
        pen.put(50 + 180 * at, y, f"{pen.label(name)}:")
        pen.put(50 + 180 * at, y + 12, pen.field(name))
    y += 34
    for at, name in enumerate(names):
        pen.put(55 + 125 * at, y + 11, pen.label(name), size=pen.size - 1)
        pen.put(55 + 125 * at, y + 27, pen.field(name))
    for line in (0, 16, 32):
        pen.canvas.line(50, y + line, 550, y + line)
    for at in range(5):
        pen.canvas.line(50 + 125 * at, y, 50 + 125 * at, y + 32)
    return y + 52


def boxes(pen: Pen, y: float) -> float:
    """Frames with a small label in the upper corner and the value below it."""
    for at, name in enumerate(_FIELDS):
        x, top = 50 + 250 * (at % 2), y + 34 * (at // 2)
        for x0, y0, x1, y1 in (
            (x, top, x + 245, top),
            (x, top + 30, x + 245, top + 30),
            (x, top, x, top + 30),
            (x + 245, top, x + 245, top + 30),
        ):
            pen.canvas.line(x0, y0, x1, y1, width=0.4)
        pen.put(x + 3, top + 9, pen.label(name), size=6.5)
        pen.put(x + 8, top + 23, pen.field(name), size=10, bold=True)
    return y + 34 * 4 + 14


def _heading(pen: Pen, y: float, table: Table) -> float:
    pen.put(50, y, pen.word(table) + (" [%]" if table == "chemistry" else ""), bold=True)
    return y + 16


def _table(
    pen: Pen, y: float, rows: Sequence[Sequence[str]], columns: Sequence[float], *, ruled: bool, step: float = 15
) -> float:
    for number, row in enumerate(rows):
        for x, text in zip(columns, row, strict=False):
            pen.put(x + 2, y + step * number + 10, text, bold=number == 0)
    if ruled:
        right = 550.0
        for number in range(len(rows) + 1):
            pen.canvas.line(50, y + step * number, right, y + step * number, width=0.4)
        for x in (*columns, right):
            pen.canvas.line(x, y, x, y + step * len(rows), width=0.4)
    return y + step * len(rows) + 14


def chemistry_across(order: Sequence[str], *, ruled: bool = True, head: str = "element") -> Block:
    """Elements as columns; rows ``min``, ``max`` and ``value`` in the given order."""

    def block(pen: Pen, y: float) -> float:
        y = _heading(pen, y, "chemistry")
        measured = pen.of.chemistry
        step = min(50.0, 420 / len(measured))
        columns = [50.0, *(130 + step * at for at in range(len(measured)))]
        rows = [[pen.word(head).split(" /")[0], *(one.name for one in measured)]]
        for kind in order:
            cells = {
                "min": lambda one: pen.number(one.least, one.decimals),
                "max": lambda one: pen.number(one.most, one.decimals),
                "value": lambda one: pen.number(one.value, one.decimals),
            }[kind]
            first = pen.of.heat_number if kind == "value" and head == "element" else pen.word(kind).split(" /")[0]
            rows.append([first, *map(cells, measured)])
        return _table(pen, y, rows, columns, ruled=ruled)

    return block


def table_down(table: Table, *, limits: str, ruled: bool = True, unit: bool | None = None) -> Block:
    """Elements or properties as rows.

    Args:
        limits: ``columns`` (min and max) or ``text`` (one requirement).
        ruled: Whether lines are drawn.
        unit: Whether there is a column of units; ``None`` for properties only.
    """

    def block(pen: Pen, y: float) -> float:
        measured, first = (pen.of.chemistry, "element") if table == "chemistry" else (pen.of.mechanical, "property")
        units = table == "mechanical" if unit is None else unit
        return _down(pen, _heading(pen, y, table), measured, first, limits=limits, ruled=ruled, unit=units)

    return block


def _down(
    pen: Pen, y: float, measured: Sequence[CertifiedValue], first: str, *, limits: str, ruled: bool, unit: bool
) -> float:
    heads = [first, "value", *(["unit"] if unit else []), *(["min", "max"] if limits == "columns" else ["limit"])]
    rows = [[pen.word(name).split(" /")[0] for name in heads]]
    for one in measured:
        bounds = (
            [pen.number(one.least, one.decimals), pen.number(one.most, one.decimals)]
            if limits == "columns"
            else [pen.limit(one)]
        )
        name = pen.quantity(one.name)
        stated = _UNITS.get(one.name, "%")
        name = name if unit or first == "element" else f"{name} [{stated}]"
        rows.append([name, pen.number(one.value, one.decimals), *([stated] if unit else []), *bounds])
    columns = [50.0, 215.0, *(295.0 + 85 * at for at in range(len(heads) - 2))]
    return _table(pen, y, rows, columns, ruled=ruled, step=14)


def mechanical_across(
    *, ruled: bool = True, units_row: bool = True, order: Sequence[str] = ("value", "min", "max")
) -> Block:
    """Properties as columns, with a row of units."""

    def block(pen: Pen, y: float) -> float:
        y = _heading(pen, y, "mechanical")
        measured = pen.of.mechanical
        columns = [50.0, *(150 + 100 * at for at in range(len(measured)))]
        short = {"Rp02": "Rp0,2" if pen.of.comma else "Rp0.2", "HB": "HBW"}
        names = [short.get(one.name, one.name) for one in measured]
        rows = [["", *names]]
        if units_row:
            rows.append(["", *(_UNITS[one.name] for one in measured)])
        else:
            rows[0] = ["", *(f"{name} ({_UNITS[one.name]})" for name, one in zip(names, measured, strict=True))]
        for kind in order:
            cells = {"value": "value", "min": "least", "max": "most"}[kind]
            texts = [pen.number(getattr(one, cells), one.decimals) for one in measured]
            rows.append([pen.word(kind).split(" /")[0], *texts])
        return _table(pen, y, rows, columns, ruled=ruled)

    return block


def chemistry_dual(pen: Pen, y: float) -> float:
    """Two tables of element, value and requirement side by side."""
    y = _heading(pen, y, "chemistry")
    half = (len(pen.of.chemistry) + 1) // 2
    head = [pen.word(name).split(" /")[0] for name in ("element", "value", "limit")]
    for at in range(2):
        x = 50 + 260 * at
        for column, text in enumerate(head):
            pen.put(x + 75 * column, y, text, bold=True, size=8)
        for line, one in enumerate(pen.of.chemistry[at * half : (at + 1) * half], 1):
            for column, text in enumerate((one.name, pen.number(one.value, one.decimals), pen.limit(one))):
                pen.put(x + 75 * column, y + 13 * line, text)
    return y + 13 * (half + 1) + 14


def ledger(pen: Pen, y: float) -> float:
    """A narrow ledger: number, label and value with dots between them."""
    for at, name in enumerate(_FIELDS, 1):
        pen.put(50, y, f"{at:02d}")
        pen.put(80, y, pen.label(name))
        pen.put(250, y, ":")
        pen.put(262, y, pen.field(name))
        y += 14
    return y + 14


def framed(pen: Pen, y: float) -> float:
    """Labels of a row above the values of a row, without lines between the columns."""
    for names in (_FIELDS[:4], _FIELDS[4:]):
        for at, name in enumerate(names):
            pen.put(52 + 128 * at, y, pen.label(name), size=7)
            pen.put(52 + 128 * at, y + 13, pen.field(name), bold=True)
        pen.canvas.line(50, y + 18, 550, y + 18)
        y += 32
    return y + 8


LAYOUTS: dict[str, Layout] = {
    "a-pairs": Layout(blocks=(title, pairs, chemistry_across(("min", "max", "value")), mechanical_across())),
    "b-apart": Layout(
        blocks=(
            title,
            pairs_apart,
            table_down("chemistry", limits="columns"),
            table_down("mechanical", limits="columns"),
        )
    ),
    "c-columns": Layout(
        languages=("en", "de"),
        blocks=(
            title_right,
            pairs_two_columns,
            chemistry_across(("value", "min", "max"), head="value"),
            table_down("mechanical", limits="text"),
        ),
        font="Times-Roman",
        size=10,
    ),
    "d-header": Layout(
        languages=("en", "de"),
        blocks=(
            title,
            header_table,
            chemistry_across(("max", "min", "value"), ruled=False),
            mechanical_across(ruled=False),
        ),
    ),
    "e-boxes": Layout(
        blocks=(title_right, boxes, table_down("chemistry", limits="text"), table_down("mechanical", limits="text"))
    ),
    "f-typed": Layout(
        blocks=(title, pairs_apart, chemistry_across(("value", "min", "max")), mechanical_across(units_row=False)),
        font="Courier",
        size=8.5,
        languages=("en", "de"),
    ),
    "g-mechanical-first": Layout(
        languages=("en", "de"),
        blocks=(
            title_right,
            pairs_two_columns,
            mechanical_across(order=("min", "max", "value")),
            chemistry_across(("min", "max", "value")),
        ),
        size=8.5,
    ),
    "h-units": Layout(
        blocks=(
            title,
            pairs,
            table_down("chemistry", limits="columns", unit=True),
            table_down("mechanical", limits="columns"),
        )
    ),
    "i-plain": Layout(
        languages=("en", "de"),
        blocks=(
            title,
            header_table,
            table_down("chemistry", limits="text", ruled=False),
            mechanical_across(ruled=False, units_row=False),
        ),
        font="Times-Roman",
        size=10,
    ),
    "j-brackets": Layout(
        blocks=(
            title_right,
            pairs_apart,
            chemistry_across(("value", "max", "min"), ruled=False, head="value"),
            table_down("mechanical", limits="columns", unit=False),
        )
    ),
    "k-small": Layout(
        blocks=(
            title,
            boxes,
            table_down("mechanical", limits="text", unit=False),
            chemistry_across(("min", "max", "value")),
        ),
        size=8,
    ),
    "l-german": Layout(
        blocks=(
            title,
            pairs_two_columns,
            table_down("chemistry", limits="text", unit=True),
            mechanical_across(order=("min", "value", "max")),
        ),
        languages=("de",),
    ),
    "m-ledger": Layout(
        blocks=(
            title_right,
            ledger,
            chemistry_across(("min", "value", "max"), ruled=False),
            table_down("mechanical", limits="text", ruled=False),
        ),
        font="Courier",
        size=8.5,
    ),
    "n-framed": Layout(
        languages=("en", "de"),
        blocks=(
            title,
            framed,
            mechanical_across(units_row=False, order=("min", "max", "value")),
            table_down("chemistry", limits="columns", ruled=False),
        ),
    ),
    "o-dual": Layout(
        languages=("en", "de"),
        blocks=(
            title,
            pairs_two_columns,
            chemistry_dual,
            mechanical_across(ruled=False, order=("value", "min", "max")),
        ),
        size=9.5,
    ),
    "p-compact": Layout(
        languages=("en", "de"),
        blocks=(
            title_right,
            framed,
            chemistry_across(("max", "value", "min"), head="value"),
            table_down("mechanical", limits="columns", ruled=False),
        ),
        font="Times-Roman",
        size=8,
    ),
}
"""By name."""
