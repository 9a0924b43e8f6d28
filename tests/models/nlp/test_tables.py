"""Tables as they stand in real certificates: units and factors in heads, columns of unknown heads, several pages."""

from __future__ import annotations

import pytest

from lineside_converters.certificates.pdf_writer import PdfCanvas, write_pdf
from lineside_models.nlp.document import DocumentReport
from lineside_models.nlp.reading import read_document
from lineside_models.nlp.rules import extract_by_rules
from lineside_models.nlp.schemas import load_schema

CERTIFICATE = load_schema("certificate")
HEAD = "INSPECTION CERTIFICATE 3.1\nCertificate No: C-1\nGrade: S235JR\nHeat No: A12345\n"


def read(table: str) -> DocumentReport:
    return extract_by_rules(read_document((HEAD + table).encode()), CERTIFICATE)


def measured(report: DocumentReport) -> list[tuple[str, str | None, str]]:
    """Name without its table, value and unit, of values and limits."""
    return [(one.type.partition(".")[2], one.value, one.unit) for one in report.entities if "." in one.type]


def doubted(report: DocumentReport) -> dict[str, str]:
    """Text by field of what a person must look at in tables."""
    return {one.field: one.text for one in report.review if one.field.startswith(("chemistry", "mechanical"))}


UNITS = {
    "in_brackets": (
        "ReH (ksi)\tRm (N/mm²)\tA (%)\tKV (ft-lb)\n57.7\t510\t26\t45\n",
        [("ReH", "57.7", "ksi"), ("Rm", "510", "N/mm2"), ("A", "26", "%"), ("KV", "45", "ft-lb")],
        {"mechanical.ReH": "ksi is none of the units", "mechanical.KV": "ft-lb is none of the units"},
    ),
    "behind_the_label": (
        "ReH, ksi\tRm MPa\n57.7\t510\n",
        [("ReH", "57.7", "ksi"), ("Rm", "510", "MPa")],
        {"mechanical.ReH": "ksi is none of the units"},
    ),
    "in_a_row": (
        "ReH\tRm\tKV\nksi\tMPa\tft-lb\n57.7\t510\t45\n",
        [("ReH", "57.7", "ksi"), ("Rm", "510", "MPa"), ("KV", "45", "ft-lb")],
        {"mechanical.ReH": "ksi is none of the units", "mechanical.KV": "ft-lb is none of the units"},
    ),
    "of_rows": (
        "\tresult\nReH (ksi)\t57.7\nRm\t510\n",
        [("ReH", "57.7", "ksi"), ("Rm", "510", "MPa")],
        {"mechanical.ReH": "ksi is none of the units"},
    ),
    "ppm": (
        "C (%)\tMn\tN (ppm)\n0.17\t1.20\t0.009\n",
        [("C", "0.17", "%"), ("Mn", "1.20", "%"), ("N", "0.009", "ppm")],
        {"chemistry.N": "ppm is none of the units"},
    ),
    "factor_in_the_head": (
        "C (% x100)\tCr x 100\tMn (10⁻² %)\tNi\n17\t15\t12\t0.1\n",
        [("C", "17", "% x100"), ("Cr", "15", "x100"), ("Mn", "12", "% 10-2"), ("Ni", "0.1", "%")],
        {
            "chemistry.C": "% x100 is none of the units",
            "chemistry.Cr": "x100 is none of the units",
            "chemistry.Mn": "% 10-2 is none of the units",
        },
    ),
    **{
        f"title_{title}": (
            f"{title}\nElement\tC\tMn\nresult\t1.7\t12\n",
            [("C", "1.7", unit), ("Mn", "12", unit)],
            {"chemistry.C": f"{unit} is none of the units", "chemistry.Mn": f"{unit} is none of the units"},
        )
        for title, unit in (
            ("Chemical composition (% x 100)", "% x100"),
            ("Chemical analysis in 10⁻² %", "% 10-2"),
            ("Heat analysis, 1/100 %", "% 1/100"),
            ("Ladle analysis [% x 0.01]", "% x0.01"),
            ("Chemical composition x 1000", "x1000"),
            ("Chemical composition in ppm", "ppm"),
            ("Chemical composition (% x 100)\nHeat analysis", "% x100"),
        )
    },
    "title_of_rows": (
        "Chemical composition [% x 100]\nElement\tresult\nC\t1.7\nMn (%)\t12\nTests\tresult\nReH\t398\nRm\t520\n",
        [("C", "1.7", "% x100"), ("Mn", "12", "% x100"), ("ReH", "398", "MPa"), ("Rm", "520", "MPa")],
        {"chemistry.C": "% x100 is none of the units", "chemistry.Mn": "% x100 is none of the units"},
    ),
    "head_of_values": (
        "Element\tresult (x 100)\tTest (°C)\nC\t1.7\nMn\t12\n",
        [("C", "1.7", "x100"), ("Mn", "12", "x100")],
        {"chemistry.C": "x100 is none of the units", "chemistry.Mn": "x100 is none of the units"},
    ),
    "titles_that_state_a_unit_of_some": (
        "Tensile test [MPa]\nReH\tRm\tA\n398\t520\t26\nTests [ksi]\nRp0.2\tKV\n57\t45\n",
        [("ReH", "398", "MPa"), ("Rm", "520", "MPa"), ("A", "26", "%"), ("Rp02", "57", "ksi"), ("KV", "45", "ksi")],
        {"mechanical.Rp02": "ksi is none of the units", "mechanical.KV": "ksi is none of the units"},
    ),
    "lines_above_that_state_no_unit_of_the_table": (
        "Plate 12 mm x 1000 mm\tsheet 10-3\nThickness (mm)\tC\tMn\n12.0\t0.17\t1.2\n",
        [("C", "0.17", "%"), ("Mn", "1.2", "%")],
        {},
    ),
    "behind_the_numbers": (
        "ReH\t57.7 ksi\nRm\t398kp\nKV\t-20 °C\t45 J\n",
        [("ReH", "57.7", "ksi"), ("Rm", "398", "kp"), ("KV", "45", "J")],
        {"mechanical.ReH": "ksi is none of the units", "mechanical.Rm": "kp is none of the units"},
    ),
    "behind_the_numbers_of_columns": (
        "ReH\tRm\n398 kp\t520 MPa\n",
        [("ReH", "398", "kp"), ("Rm", "520", "MPa")],
        {"mechanical.ReH": "kp is none of the units"},
    ),
    "not_readable": (
        "\tresult\nReH\t398 N/mm² (L)\nRm\t520\nKV\t45 47 51\n",
        [("Rm", "520", "MPa")],
        {"mechanical.ReH": "398 N/mm² (L) could not be read", "mechanical.KV": "45 47 51 could not be read"},
    ),
    "not_readable_beside_a_number": (
        "C\t0.17 wt%\t0.20\nMn\t1.2\n",
        [("C", "0.20", "%"), ("Mn", "1.2", "%")],
        {"chemistry.C": "no head tells whether this or 0.17 wt% is the value"},
    ),
    "powers_in_a_row": (
        "\tCr\tNi\n%\t10^-2\t10^-2\nA12345\t17\t12\n",
        [("Cr", "17", "10^-2"), ("Ni", "12", "10^-2")],
        {"chemistry.Cr": "10^-2 is none of the units", "chemistry.Ni": "10^-2 is none of the units"},
    ),
    "factors_as_numbers_in_a_row": (
        "\tCr\tNi\nx\t100\t1000\nA12345\t17\t12\n",
        [("Cr", "17", "x100"), ("Ni", "12", "x1000")],
        {"chemistry.Cr": "x100 is none of the units", "chemistry.Ni": "x1000 is none of the units"},
    ),
    "limits_behind_the_numbers": (
        "\tC\tMn\n\t0.17 (max. 0.20)\tca. 1.2\n",
        [],
        {"chemistry.C": "0.17 (max. 0.20) could not be read", "chemistry.Mn": "ca. 1.2 could not be read"},
    ),
    "three_specimens": (
        "Property\tResult\nKV\t45/47/51\nRm\t520\n",
        [("Rm", "520", "MPa")],
        {"mechanical.KV": "45/47/51 could not be read"},
    ),
    "one_unknown_unit_in_a_row": (
        "\tC\tCr\tNi\n\tx100\tfoo\t%\n\t1.7\t15\t0.1\n",
        [("C", "1.7", "x100"), ("Cr", "15", "foo"), ("Ni", "0.1", "%")],
        {"chemistry.C": "x100 is none of the units", "chemistry.Cr": "foo is none of the units"},
    ),
    "factors_in_a_row": (
        "\tC\tCr\tNi\n\tx100\tx100\t%\n\t1.7\t15\t0.1\n",
        [("C", "1.7", "x100"), ("Cr", "15", "x100"), ("Ni", "0.1", "%")],
        {"chemistry.C": "x100 is none of the units", "chemistry.Cr": "x100 is none of the units"},
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_or_factor_of_a_head_is_that_of_its_values_and_doubted_if_the_schema_does_not_know_it(
    name: str,
) -> None:
    table, values, doubts = UNITS[name]
    report = read(table)
    assert measured(report) == values
    assert doubted(report).keys() == doubts.keys()
    assert all(doubts[field] in text for field, text in doubted(report).items())


HEADS = {
    "samples": (
        "\tmin\tmax\tSample 1\tSample 2\nReH\t355\t\t398\t401\nRm\t470\t630\t521\t530\n",
        [
            *(("ReH.min", "355"), ("ReH", "398"), ("ReH", "401")),
            *(("Rm.min", "470"), ("Rm.max", "630"), ("Rm", "521"), ("Rm", "530")),
        ],
        {},
    ),
    "range": (
        "\tmin - max\tresult\nReH\t355 - 510\t398\nRm\t470 - 630\t521\n",
        [
            *(("ReH.max", "510"), ("ReH.min", "355"), ("ReH", "398")),
            *(("Rm.max", "630"), ("Rm.min", "470"), ("Rm", "521")),
        ],
        {},
    ),
    "limit_of_no_direction": (
        "\tSoll\tIst\nReH\t355\t398\nRm\t470 - 630\t521\n",
        [("ReH", "398"), ("Rm.max", "630"), ("Rm.min", "470"), ("Rm", "521")],
        {"mechanical.ReH": "355 is a limit, and neither least nor largest value is stated"},
    ),
    "limits_of_no_direction_in_a_row": (
        "\tC\tMn\nSoll\t0.20\t1.40\nIst\t0.17\t1.20\n",
        [("C", "0.17"), ("Mn", "1.20")],
        {"chemistry.C": "0.20 is a limit", "chemistry.Mn": "1.40 is a limit"},
    ),
    "unknown_head": (
        "\tmin\tXyz\nReH\t355\t398\nRm\t470\t521\n",
        [("ReH.min", "355"), ("ReH", "398"), ("Rm.min", "470"), ("Rm", "521")],
        {"mechanical.ReH": "its column says Xyz", "mechanical.Rm": "its column says Xyz"},
    ),
    "unknown_head_beside_a_result": (
        "\tmin\tresult\tXyz\nReH\t355\t398\t77\nRm\t470\t521\t78\n",
        [("ReH.min", "355"), ("ReH", "398"), ("Rm.min", "470"), ("Rm", "521")],
        {"mechanical.ReH": "the head of the column of 77", "mechanical.Rm": "the head of the column of 78"},
    ),
    "no_heads": (
        "ReH\t355\t398\nRm\t470\t521\n",
        [("ReH", "355"), ("Rm", "470")],
        {"mechanical.ReH": "no head tells", "mechanical.Rm": "no head tells"},
    ),
    "limits_of_columns": (
        "ReH (min)\tReH\tRm min.\tRm max\tRm\n355\t398\t470\t630\t521\n",
        [("ReH.min", "355"), ("ReH", "398"), ("Rm.min", "470"), ("Rm.max", "630"), ("Rm", "521")],
        {},
    ),
    "limits_of_rows": (
        "ReH (min)\t355\nTensile strength min\t470\nReH\t398\nRm (measured)\t521\n",
        [("ReH.min", "355"), ("Rm.min", "470"), ("ReH", "398"), ("Rm", "521")],
        {},
    ),
    "minima_alone": (
        "ReH (min)\tRm (min)\n355\t470\n",
        [("ReH.min", "355"), ("Rm.min", "470")],
        {"mechanical.ReH": "no value could be read", "mechanical.Rm": "no value could be read"},
    ),
    "upper_yield_is_no_limit": (
        "Upper yield\tRm\n398\t521\n",
        [("ReH", "398"), ("Rm", "521")],
        {},
    ),
    "specimens_of_columns": (
        "KV\tKV\tKV\tRm\n45\t47\t51\t520\n",
        [("KV", "45"), ("KV", "47"), ("KV", "51"), ("Rm", "520")],
        {},
    ),
    "heading_of_rows": (
        "Requirements\nReH\t355\nRm\t470\n",
        [("ReH", "355"), ("Rm", "470")],
        {"mechanical.ReH": "Requirements stands above it", "mechanical.Rm": "Requirements stands above it"},
    ),
    "heading_of_columns": (
        "Minimum values\nMechanical tests\nReH\tRm\n355\t470\n",
        [("ReH", "355"), ("Rm", "470")],
        {"mechanical.ReH": "Minimum stands above it", "mechanical.Rm": "Minimum stands above it"},
    ),
    "heading_of_rows_below_others": (
        "Results\nProperty\tvalue\nReH\t398\nRequirements\nRm\t470\n",
        [("ReH", "398"), ("Rm", "470")],
        {"mechanical.Rm": "Requirements stands above it"},
    ),
    "heading_of_met_requirements": (
        "Requirements fulfilled\nReH\tRm\n398\t521\n",
        [("ReH", "398"), ("Rm", "521")],
        {},
    ),
    "heading_above_heads": (
        "Specification and results\nProperty\tmin\tresult\nReH\t355\t398\nRm\t470\t521\n",
        [("ReH.min", "355"), ("ReH", "398"), ("Rm.min", "470"), ("Rm", "521")],
        {},
    ),
    "row_of_a_standard": (
        "\tC\tMn\nEN 10025-2\t0.20\t1.60\n112233\t0.17\t1.20\n",
        [("C", "0.20"), ("Mn", "1.60"), ("C", "0.17"), ("Mn", "1.20")],
        {"chemistry.C": "its row says EN 10025-2", "chemistry.Mn": "its row says EN 10025-2"},
    ),
    "row_of_a_grade": (
        "\tC\tMn\nS235JR\t0.20\t1.60\nA12345\t0.17\t1.20\n",
        [("C", "0.20"), ("Mn", "1.60"), ("C", "0.17"), ("Mn", "1.20")],
        {"chemistry.C": "its row says S235JR", "chemistry.Mn": "its row says S235JR"},
    ),
    "column_of_a_standard": (
        "\tEN 10025-2\tresult\nC\t0.20\t0.17\nMn\t1.60\t1.20\n",
        [("C", "0.17"), ("Mn", "1.20")],
        {"chemistry.C": "0.20 is a limit", "chemistry.Mn": "1.60 is a limit"},
    ),
    "one_column": (
        "Rm (min)\n470\n",
        [("Rm.min", "470")],
        {"mechanical.Rm.min": "no column stands beside it", "mechanical.Rm": "only limits"},
    ),
    "unknown_rows": (
        "\tmin\tresult\nYield Rp1.0\t300\t355\nReH\t355\t398\nRm\t470\t521\n"
        "Temperature\t\t20 °C\nNet weight\t\t6560 kg\n",
        [("ReH.min", "355"), ("ReH", "398"), ("Rm.min", "470"), ("Rm", "521")],
        {"mechanical": "the head of the row of Yield Rp1.0 300 355 is not known"},
    ),
    "one_row": (
        "Tensile strength\t521\n",
        [("Rm", "521")],
        {"mechanical.Rm": "no other quantity of its table"},
    ),
    "one_row_of_a_letter_with_its_unit": (
        "A\t26 %\n",
        [("A", "26")],
        {"mechanical.A": "no other quantity of its table"},
    ),
    "a_title_is_no_column": (
        "Tensile strength\nReH\t398\nRm\t521\n",
        [("ReH", "398"), ("Rm", "521")],
        {},
    ),
    "a_letter_is_no_quantity": ("Item\tA\n\t5\nA\t12\n", [], {}),
    "several_numbers_in_a_cell": (
        "\tReH\tRm\n\t355 510 398\t470 630 520\n",
        [("ReH", "355"), ("Rm", "470")],
        {"mechanical.ReH": "stand in one column", "mechanical.Rm": "stand in one column", "mechanical": "not known"},
    ),
    "unknown_row": (
        "\tC\tMn\nXyz\t0.20\t1.40\nresult\t0.17\t1.20\n",
        [("C", "0.20"), ("Mn", "1.40"), ("C", "0.17"), ("Mn", "1.20")],
        {"chemistry.C": "its row says Xyz", "chemistry.Mn": "its row says Xyz"},
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_what_a_row_or_column_holds_is_told_by_its_head_or_goes_to_a_person(name: str) -> None:
    table, values, doubts = HEADS[name]
    report = read(table)
    assert sorted(one[:2] for one in measured(report)) == sorted(values)
    assert doubted(report).keys() == doubts.keys()
    assert all(doubts[field] in text for field, text in doubted(report).items())


def test_a_table_of_many_rows_is_read_to_its_end() -> None:
    rows = [f"H{number:05}\t0.{10 + number}\t1.{10 + number}" for number in range(30)]
    values = [one for one in measured(read("Heat\tC\tMn\n" + "\n".join(rows) + "\n")) if one[0] == "C"]
    assert [value for _, value, _ in values] == [f"0.{10 + number}" for number in range(30)]


def pages_of(*pages: str) -> DocumentReport:
    """Reads a PDF; a tab begins a column."""
    drawn: list[PdfCanvas] = []
    for text in pages:
        canvas = PdfCanvas()
        for row, line in enumerate(text.split("\n")):
            for column, cell in enumerate(line.split("\t")):
                canvas.text(40 + 110 * column, 60 + 16 * row, cell)
        drawn.append(canvas)
    return extract_by_rules(read_document(write_pdf(drawn)), CERTIFICATE)


def test_a_table_that_goes_on_on_the_next_page_keeps_its_heads() -> None:
    down = pages_of(
        HEAD + "\nProperty\tmin\tmax\tresult\nReH\t355\t\t398\n\nPage 1 of 2",
        "Works GmbH\nInspection certificate\nSheet 2\n\nRm\t470\t630\t521\nKV\t27\t\t45\n\nPage 2 of 2",
    )
    assert {one[:2] for one in measured(down)} == {
        *(("ReH.min", "355"), ("ReH", "398"), ("Rm.min", "470"), ("Rm.max", "630"), ("Rm", "521")),
        *(("KV.min", "27"), ("KV", "45")),
    }
    across = pages_of(
        HEAD + "\nHeat\tC\tMn\tSi\nA12345\t0.17\t1.20\t0.31\nPage 1 of 2",
        "Works GmbH\nInspection certificate\nSheet 2\n\nA12345\t0.18\t1.21\t0.32\nPage 2 of 2",
    )
    assert [one[1] for one in measured(across)] == ["0.17", "1.20", "0.31", "0.18", "1.21", "0.32"]


def test_what_may_go_on_on_the_next_page_is_doubted_where_its_head_is_too_far() -> None:
    text = "\n".join(f"Paragraph {'abcdefghijkl'[number]} of the terms" for number in range(12))
    report = pages_of(
        HEAD + "\nProperty\tmin\tmax\tresult\nReH\t355\t\t398\n" + text,
        text + "\nRm\t470\t630\t521",
    )
    assert ("Rm", "521") not in {one[:2] for one in measured(report)}
    assert "no head tells" in doubted(report)["mechanical.Rm"]


@pytest.mark.parametrize(
    ("table", "kept", "texts"),
    [
        ("\tresult\nReH\t245/280\nRm\t470\n", [("Rm", "470")], {"ReH": "245/280"}),
        ("\tResult\nReH\t398\nRm\t470/480\nA\t22-26\n", [("ReH", "398")], {"Rm": "470/480", "A": "22-26"}),
        ("ReH\tRm\n245/280\t500\n", [("Rm", "500")], {"ReH": "245/280"}),
        ("\tReH\tRm\nA12345\t245-280\t500\n", [("Rm", "500")], {"ReH": "245-280"}),
        ("C\t0.17\nB\t<0.0005\n", [("C", "0.17")], {"B": "<0.0005"}),
        ("\tC\tB\nmax\t0.2\t0.005\nresult\t0.17\t<0.0005\n", [("C", "0.17")], {"B": "<0.0005"}),
        ("Rm\t470 MPa min\nReH\t355 MPa (min)\n", [], {"Rm": "470 MPa min", "ReH": "355 MPa (min)"}),
        ("ReH\t245/280\t398\nRm\t470/480\t510\n", [], {"ReH": "245/280", "Rm": "470/480"}),
        ("ReH\tRm\n245/280\t470/480\n", [], {"ReH": "245/280", "Rm": "470/480"}),
        ("\tmin\tmax\nReH\t355\t\nRm\t470\t630\n", [], {"ReH": "only limits", "Rm": "only limits"}),
    ],
)
def test_two_numbers_or_a_bound_in_place_of_a_value_go_to_a_person(
    table: str, kept: list[tuple[str, str]], texts: dict[str, str]
) -> None:
    report = read(table)
    values = [one[:2] for one in measured(report) if not one[0].endswith((".min", ".max"))]
    told = {field.partition(".")[2]: text for field, text in doubted(report).items()}
    assert [one for one in values if one[0] not in told] == kept
    assert all("no head tells" in told[name] for name, _ in values if name in told)
    assert told.keys() == texts.keys()
    assert all(text in told[name] for name, text in texts.items())
