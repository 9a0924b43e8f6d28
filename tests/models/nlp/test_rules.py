"""Certificates in every layout that rules may be chosen on, what is flagged on them, schemas and reports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_converters.certificates.generator import HELD_OUT, LAYOUTS, TUNED_ON, make_certificate, scan, truth
from lineside_models.nlp.document import Document, DocumentReport, Entity, ReviewItem
from lineside_models.nlp.normalization.dates import date_doubt, parse_date
from lineside_models.nlp.reading import read_document
from lineside_models.nlp.report_writer import write_report
from lineside_models.nlp.rules import extract_by_rules, values
from lineside_models.nlp.schemas import SHIPPED, load_schema
from lineside_runtime.errors import ConfigError, InputNotFoundError

CERTIFICATE = load_schema("certificate")

NUMBERS = {
    "0,17": [("0.17", "", "")],
    "≤ 0,20": [("0.20", "max", "")],
    "max.0.035 %": [("0.035", "max", "%")],
    "min. 355 N/mm²": [("355", "min", "N/mm2")],
    "0,15 – 0,20": [("0.15", "min", ""), ("0.20", "max", "")],
    "470.- 630 MPa": [("470", "min", "MPa"), ("630", "max", "MPa")],
    "1.234,5 kg": [("1234.5", "", "kg")],
    "23 450 kg": [("23450", "", "kg")],
    "0.084*": [("0.084", "", "")],
    "S355": [],
    "A2B347": [],
    "-": [],
}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_keep_their_decimals_units_and_bounds(text: str) -> None:
    assert [(one.text, one.bound, one.unit) for one in values.quantities(text)] == NUMBERS[text]


def test_dates_of_several_forms_and_the_one_that_could_be_two() -> None:
    for text in ("03.04.2026", "2026-04-03", "3-Apr-2026", "3rd day of April, 2026", "April 3, 2026", "3. April 2026"):
        assert parse_date(text, "day-first") == "2026-04-03", text
    assert parse_date("31.02.2026", "day-first") is None
    for text in ("03/04/2026", "03-04-2026", "3 - 4 - 2026", "3-4/2026"):
        assert "exchanged" in date_doubt(text), text
    assert "year" in date_doubt("26/02/01")
    for text in (
        "25/12/2026",
        "25-12-2026",
        "04-04-2026",
        "2026-04-03",
        "03.04.2026",
        "26.02.01",
        "24/12/24",
        "3 March 2026",
    ):
        assert not date_doubt(text), text


def found(report: DocumentReport) -> dict[str, str | None]:
    return {one.type: one.value for one in report.entities if not one.type.endswith((".min", ".max"))}


def relations(report: DocumentReport) -> set[tuple[str, str, str | None]]:
    all_of = report.entities
    return {(one.type, all_of[one.tail].type, all_of[one.head].value) for one in report.relations}


def test_values_in_running_lines_are_found_with_their_unit_and_limits_are_told() -> None:
    lines = (
        "Heat No: A12345",
        "Yield strength Re: 398 MPa",
        "The tests gave tensile strength Rm: 521 N/mm², elongation A: 24,5 %.",
        "Min. hardness: 120 HBW",
        "Room humidity C: 40 %",
        "KV = max. 300 J",
    )
    report = extract_by_rules(read_document("\n".join(lines).encode()), CERTIFICATE)
    measured = {one.type: (one.value, one.unit, one.text) for one in report.entities if "." in one.type}
    assert measured == {
        "mechanical.ReH": ("398", "MPa", "398 MPa"),
        "mechanical.Rm": ("521", "N/mm2", "521 N/mm²"),
        "mechanical.A": ("24.5", "%", "24,5 %"),
    }
    assert reviewed(report) == {
        ("grade", "missing"),
        ("mechanical.HB", "unreadable"),
        ("mechanical.KV", "unreadable"),
    }


IN_LINES = {
    "Yield strength Re: 57.7 ksi": ("57.7", "ksi is none of the units"),
    "Yield strength Re: 57.7ksi": ("57.7", "ksi is none of the units"),
    "Yield strength: 398 MPa at 20 °C": ("398", "at 20 °C follows it"),
    "Re of the sample: 398 MPa": ("398", "its line says Re of the sample"),
    "Max. values: Re: 398 MPa": ("398", "Max stands before it"),
    "Requirements: Rm: 470 MPa; Re: 355 MPa": ("355", "Requirements stands before it"),
    "The following values are required: Rm: 470 MPa, Re: 355 MPa.": ("355", "required stands before it"),
    "Requirements\tRe: 355 MPa": ("355", "Requirements stands before it"),
    "Mechanical requirements\nRm: 470 MPa\nRe: 355 MPa": ("355", "requirements stands before it"),
    "Rm: 470, Re: 355": ("355", "no unit is stated"),
    "Re: 398 MPa (min. 355 MPa)": ("398", "(min. 355 MPa) follows it"),
    "Re: 398/401/402 MPa": ("", "398/401/402 MPa could not be read"),
    "Re: 355 MPa min": ("", "355 MPa min is a limit"),
    "Re: 355 MPa (min.)": ("", "355 MPa (min.) is a limit"),
    "At least Re: 355 MPa must be reached.": ("", "355 MPa must be reached is a limit"),
    "Re: 355 MPa min\nRe: 398 MPa": ("398", ""),
    "Requirements: Rm: 470 MPa. Results: Re: 398 MPa": ("398", ""),
    "Requirements\nResults\nRe: 398 MPa": ("398", ""),
    "Upper yield: 398 MPa": ("398", ""),
}


@pytest.mark.parametrize("line", IN_LINES)
def test_a_number_of_a_line_that_may_be_no_measured_value_goes_to_a_person(line: str) -> None:
    value, doubt = IN_LINES[line]
    report = text_report(line)
    assert found(report).get("mechanical.ReH", "") == value
    told = [one.text for one in report.review if one.field == "mechanical.ReH"]
    assert [text[: len(doubt)] for text in told] == ([doubt] if doubt else [])


@pytest.mark.parametrize("layout", TUNED_ON)
def test_every_value_and_limit_of_a_certificate_is_found(layout: str) -> None:
    pytest.importorskip("pypdfium2")
    certificate, data = make_certificate(7, layout)
    document = read_document(data)
    report = extract_by_rules(document, CERTIFICATE)
    wanted, related = truth(certificate, layout)
    assert {name: value for name, value in found(report).items() if name != "dimensions"} == wanted
    assert relations(report) == related
    assert not [one for one in report.review if one.field == "heat_number"]
    for one in report.entities:
        assert document.text[one.start : one.end] == one.text and one.page == 0 and one.box is not None


def test_two_heat_numbers_are_ambiguous_a_sentence_is_no_value_and_misread_labels_are_known() -> None:
    report = text_report("Heat No.\tA2B347\nGrade: S355MC\nHeat treatment: normalized at 910 C\nCast number: K99120\n")
    assert ("heat_number", "ambiguous") in reviewed(report)
    assert found(report)["heat_number"] in ("A2B347", "K99120")
    assert found(text_report("HeatNo.:A2B347\nSteelgrade\tDC04\n")) == {"heat_number": "A2B347", "grade": "DC04"}
    assert found(text_report("Certiflcate No.: 17-0332\n"))["certificate_number"] == "17-0332"
    assert len(LAYOUTS) >= 12 and len(HELD_OUT) >= 4  # layouts for judging are whole layouts
    assert set(HELD_OUT) | set(TUNED_ON) == set(LAYOUTS) and not set(HELD_OUT) & set(TUNED_ON)


def test_a_scanned_certificate_becomes_a_page_with_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pypdfium2")
    certificate, data = make_certificate(3, "e-boxes")
    (tmp_path / "cert.jpg").write_bytes(scan(data, 3))
    page = tmp_path / "out.html"
    command = ["read", str(tmp_path / "cert.jpg"), "--schema", "certificate", "--html", str(page), "--format", "csv"]
    assert main(command) == 0
    rows = {row["type"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows["heat_number"]["value"] == certificate.heat_number and rows["heat_number"]["page"] == "1"
    html = page.read_text()
    assert html.count('class="frame"') == len(rows) and "data:image/jpeg" in html and certificate.heat_number in html


def text_report(text: str, schema: str = "certificate") -> DocumentReport:
    return extract_by_rules(read_document(text.encode()), load_schema(schema))


def reviewed(report: DocumentReport) -> set[tuple[str, str]]:
    return {(one.field, one.reason) for one in report.review}


def test_what_a_person_must_look_at() -> None:
    table = "Element\tResult\tmin.\tmax.\nC\t0,25\t-\t0,20\nMn\t1,425\t-\t1,600\nP\t45\t-\t0,030\n"
    report = text_report(f"Heat No.: A2B347\nCertificate no. 17-03\nDate: 03/04/2026\n{table}also heat A28347\n")
    assert found(report)["chemistry.C"] == "0.25"
    assert {
        ("chemistry.C", "out_of_limits"),
        ("chemistry.P", "uncertain"),  # 45 % phosphorus
        ("heat_number", "ambiguous"),  # B or 8
        ("date", "uncertain"),  # April or March
        ("grade", "missing"),
    } <= reviewed(report)
    assert ("chemistry.Mn", "uncertain") not in reviewed(report)  # 1425 % would not be plausible


def test_what_of_a_table_could_not_be_read_is_not_left_out_silently() -> None:
    down = text_report("Element\tResult\nC\t0,17\nSi\tO,l\nMn\t1,42\nXq\t0,3\nP\t0,02\n")
    assert {("chemistry.Si", "unreadable"), ("chemistry", "unreadable")} <= reviewed(down)
    across = text_report("Element\tC\tXq\tMn\tP\nHeat\t0,17\t0,3\t1,42\t?\n")
    assert {("chemistry.P", "unreadable"), ("chemistry", "unreadable")} <= reviewed(across)
    assert found(across) == {"chemistry.C": "0.17", "chemistry.Mn": "1.42"}


def test_the_other_shipped_schemas() -> None:
    assert all(load_schema(name).name == name for name in SHIPPED)
    note = text_report("Lieferschein-Nr. LS-20331\nNettogewicht: 12.480 kg\nCoil No.\tC778812\n", "delivery-note")
    assert found(note)["note_number"] == "LS-20331" and found(note)["coil_number"] == "C778812"
    assert ("net_weight", "uncertain") in reviewed(note)  # 12.48 kg, or 12 480 kg
    label = text_report("HEAT A2B347\nGRADE DC04\nNET 4200 kg\n", "label")
    assert found(label) == {"heat_number": "A2B347", "grade": "DC04", "net_weight": "4200"}
    contract = text_report(
        "This Agreement is made as of March 3, 2026 between A and B. It is governed by the laws of the State of Ohio.",
        "contract",
    )
    assert found(contract) == {"agreement_date": "2026-03-03", "governing_law": "State of Ohio"}


def test_a_schema_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema, note = tmp_path / "own.toml", tmp_path / "note.txt"
    schema.write_text(
        'name = "own"\n[[fields]]\nname = "box"\nkind = "identifier"\nlabels = ["Box No"]\n'
        '[[tables]]\nname = "size"\nquantities = [{name = "d", units = ["mm"]}, {name = "h", units = ["mm"]}]\n'
        "limits = {d = {max = 5.1}}\n"
    )
    note.write_text("Box No. K-7\nd\t5,2 mm\nh\t3,0 mm\n")
    assert main(["read", str(note), "--text", "--html", str(tmp_path / "page.html")]) == 1
    assert "--text and --html; expected one of them" in capsys.readouterr().err
    assert main(["read", str(note), "--text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].strip() == note.read_text().strip()
    assert main(["read", str(note), "--schema", str(schema)]) == 0
    told = capsys.readouterr().out
    assert "K-7" in told and "LOOK AT  size.d: out of limits: 5.2 mm, allowed is at most 5.1" in told
    for broken in ('name = "own"\n', schema.read_text() + "\nlabel = 1\n", 'name = "x"\n[[fields]]\nname = "a"\n'):
        schema.write_text(broken)
        with pytest.raises(ConfigError, match="schema"):
            load_schema(schema)
    schema.write_text('name = "own"\n[[fields]]\nname = "a"\nkind = "nummer"\nlabels = ["A"]\n')
    with pytest.raises(ConfigError, match=r"fields\[0\]\.kind.*`number`.*date, identifier, number, text"):
        load_schema(schema)
    with pytest.raises(InputNotFoundError, match="certificate, delivery-note"):
        load_schema("certficate")


@pytest.mark.parametrize(
    "lines",
    [
        "Heat No: A12345, A12346\nGrade: S235JR\n",
        "Heat No: A12345 and B12346\nGrade: S235JR\n",
        "Heat No: A12345 / A12346\nGrade: S235JR\n",
        "Grade: S235JR\nHeat No\tA12345\tA12346\nC\t0.17\t0.18\nMn\t1.4\t1.5\n",
        "Grade: S235JR\nHeat No\tC\tMn\nA12345\t0.17\t1.4\nA12346\t0.18\t1.45\n",
        "Grade: S235JR\nHeat No\tC\tMn\n" + "A12345\t0.17\t1.4\n" * 9 + "A12346\t0.18\t1.45\n",
        "Grade: S235JR\nHeat No\tC\tMn\nA12345\t0.17\t1.4\n776655\t0.18\t1.45\n",
        "Grade: S235JR\nHeat No\tA12345\t776655\nC\t0.17\t0.18\nMn\t1.4\t1.5\n",
        "Heat No: A12345\nHeat\tC\tMn\n\t%\t%\nmax\t0.2\t1.6\nmin\t0\t0\nA12346\t0.18\t1.3\n",
        "Heat\tC\tMn\nA12345\t0.17\t1.2\n\n\tReH\tRm\nA12346\t398\t520\n",
        "Heat No: A12345\nElement\tC\tMn\nmax\t0.2\t1.6\nA12345\t0.17\t1.2\nA12346\t0.18\t1.3\n",
    ],
)
def test_several_heats_are_ambiguous_wherever_they_stand(lines: str) -> None:
    report = text_report(lines)
    assert found(report)["heat_number"] in ("A12345", "A12346", "B12346", "776655")
    assert ("heat_number", "ambiguous") in reviewed(report)


def test_one_heat_beside_other_values_is_not_ambiguous() -> None:
    for lines in (
        "Heat No\tA12345\tGrade\tS235JR\n",
        "Heat No\tA12345\tOrder No\tB12345\tGrade\tS235JR\n",
        "Heat No\tA12345\tCoil\tB12345\tGrade\tS235JR\n",
        "Heat No\tA12345\t12480 kg\t2026-03-01\tS235JR+N\n",
        "Heat\tC\tMn\nA12345\t0.17\t1.2\nCoil\tReH\tRm\nK99999\t398\t520\n",
        "Heat No: A12345\nCoil\tHeat\tReH\tRm\nB77777\tA12345\t398\t520\nB77778\tA12345\t399\t521\n",
        "Heat No\nA12345\nOrder No\nB12346\nDate\n2026-03-01\n",
        "Heat No\tA12345\t12.5 t\nGrade: S235JR\n",
        "Heat No: A 12345, coil 7\nGrade: S235JR\n",
        "Heat No\tC\tMn\nA12345\t0.17\t1.4\nGrade: S235JR\n",
        "Heat No: A12345\nGrade: S235JR\n\tC\tMn\nHeat\t0.171\t1.412\nLadle\t0.172\t1.413\n",
    ):
        report = text_report(lines)
        assert found(report)["heat_number"] == "A12345"
        assert ("heat_number", "ambiguous") not in reviewed(report), lines


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("A12345 Date: 01.02.2026", "A12345", ""),
        ("A12345 Coil 7", "A12345", ""),
        ("A12345 (3 coils)", "A12345", ""),
        ("A 12345 Grade S355", "A12345", ""),
        ("A12345 B77777", "A12345", "uncertain"),
        ("A12345 12.480 kg", "A12345", "uncertain"),
        ("A123 45", "A12345", "uncertain"),
        ("12345 / 2", "12345/2", "uncertain"),
        ("A12345-1 to A12345-4", "A12345-1", "ambiguous"),
    ],
)
def test_an_identifier_ends_before_other_words_and_digits_behind_it_are_doubted(
    text: str, value: str, reason: str
) -> None:
    report = text_report(f"Heat No: {text}\n")
    assert found(report)["heat_number"] == value
    assert {one for field, one in reviewed(report) if field == "heat_number"} == ({reason} if reason else set())


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ("Heat No\tGrade\tC\tMn\nA12345\tS235JR\t0.17\t1.2\nA12345\tDC04\t0.18\t1.3\n", {"grade"}),
        ("Grade\tS235JR\tS355MC\nHeat No\tA12345\n", {"grade"}),
        ("Grade\tDC04\nHeat\tSize\nA12345\t3.0 x 1500\nA12345\t12.0 x 2000\n", {"dimensions"}),
        ("Date\tHeat\tGrade\n2026-03-01\tA12345\tDC04\n2026-03-02\tA12345\tDC04\n", {"date"}),
        ("Grade\nS235JR\n12.0 x 2000\nHeat No: A12345\n", set()),
        ("Grade\nS355J2+N\nSize\n12.0 x 2000\nHeat No: A12345\n", set()),
        ("Grade\tDC04\tA12345\nHeat No\tA12345\t2026-03-01\n", set()),
    ],
)
def test_different_values_below_or_beside_one_label_are_ambiguous(lines: str, fields: set[str]) -> None:
    assert {field for field, reason in reviewed(text_report(lines)) if reason == "ambiguous"} == fields


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("Date: 20260403", "date"),
        ("Date\t32.01.2026", "date"),
        ("Net weight: approx. 5290 kg", "net_weight"),
        ("Order No: 12", "order_number"),
        ("Date: 20260403\nDate: 2026-04-03", ""),
        ("Date: soon", ""),
        ("Weight of the coils by order 4711", ""),
    ],
)
def test_what_stands_behind_a_label_and_is_no_value_of_it_is_told(line: str, field: str) -> None:
    report = text_report(f"Heat No: A12345\nGrade: S235JR\n{line}\n")
    assert reviewed(report) == ({(field, "unreadable")} if field else set())


def test_different_numbers_below_one_label_are_ambiguous() -> None:
    note = load_schema("delivery-note")
    report = extract_by_rules(read_document(b"Delivery note: D-123\nItem\tQty\nCoil\t2\nSheet\t1\n"), note)
    assert ("pieces", "ambiguous") in reviewed(report)
    report = extract_by_rules(read_document(b"Delivery note: D-123\nItem\tQty\tWeight\nCoil\t2\t12480 kg\n"), note)
    assert ("pieces", "ambiguous") not in reviewed(report)


@pytest.mark.parametrize(
    ("line", "value", "is_doubted"),
    [
        ("Thickness: -20 mm", "-20", False),
        ("Thickness: - 20 mm", "20", False),
        ("Thickness: ...... 5 mm", "5", False),
        ("Thickness: .5 mm", "0.5", True),
        ("Thickness: ,5 mm", "0.5", True),
        ("Thickness\t,5 mm", "0.5", True),
        ("Thickness\t,0.5 mm", "0.5", False),
        ("Thickness\t, 12 mm", "12", False),
    ],
)
def test_a_number_keeps_its_sign_and_a_separator_before_it_is_doubted(
    tmp_path: Path, line: str, value: str, is_doubted: bool
) -> None:
    schema = tmp_path / "plate.toml"
    field = 'name = "thickness"\nkind = "number"\nlabels = ["Thickness"]\nunits = ["mm"]\n'
    schema.write_text(f'name = "plate"\n[[fields]]\n{field}')
    found = extract_by_rules(read_document(line.encode()), load_schema(schema))
    assert [one.value for one in found.entities] == [value]
    assert bool(found.review) == is_doubted


@pytest.mark.parametrize(
    ("line", "value", "is_doubted"),
    [
        ("Net weight (t): 12,48\n", ("12.48", "t"), False),
        ("Net weight [t]\t12,48\n", ("12.48", "t"), False),
        ("Net weight (lbs): 27500\n", ("27500", "lbs"), True),
        ("Net weight (t): 12480 kg\n", ("12480", "kg"), True),
        ("Net weight (total): 12480\n", ("12480", "kg"), False),
        ("Net weight: 27500 lbs\n", ("27500", "lbs"), True),
        ("Net weight\t27500lbs\n", ("27500", "lbs"), True),
        ("Net weight: 5290 kg, 2 coils\n", ("5290", "kg"), True),
        ("Net weight: max. 5000 kg\n", ("5000", "kg"), True),
        ("Net weight: 500-600 kg\n", ("500", "kg"), True),
        ("Weight: 30 days\nNet weight: 4200 kg\n", ("4200", "kg"), False),
    ],
)
def test_the_unit_of_a_label_is_that_of_its_value(line: str, value: tuple[str, str], is_doubted: bool) -> None:
    report = text_report(f"Heat No: A12345\nGrade: S235JR\n{line}")
    [weight] = [one for one in report.entities if one.type == "net_weight"]
    assert (weight.value, weight.unit) == value
    assert (("net_weight", "uncertain") in reviewed(report)) == is_doubted


def test_reports_escape_what_a_document_holds() -> None:
    entity = Entity(type="grade", text="=cmd()", value='<script>"', score=0.5, start=0, end=6)
    item = ReviewItem(reason="uncertain", field="grade", text="<u>", entity=0)
    report = DocumentReport(source="<i>", schema="label", entities=(entity,), review=(item,))
    document = Document(pages=(), text="=cmd()")
    assert "'=cmd()" in write_report(report, document, "csv")
    page = write_report(report, document, "html")
    assert "<script>" not in page and "<u>" not in page and "<i>" not in page
    with pytest.raises(ConfigError, match="xml"):
        write_report(report, document, "xml")  # type: ignore[arg-type]
