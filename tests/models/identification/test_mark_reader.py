"""Codes on drawn parts: what is read, what is refused, and what it must agree with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from lineside_models.identification import expected_values
from lineside_models.identification.expected_values import ExpectedValues
from lineside_models.identification.gs1 import parse_elements
from lineside_models.identification.mark_reader import MarkReader
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.identification.part_ids import read_ids
from lineside_models.identification.rules import CodeRule, TextRule
from lineside_models.metrology.locator import Locator, find_part
from lineside_models.nlp.document import DocumentReport, Entity, ReviewItem
from lineside_models.verdict.rules import read_rules
from lineside_runtime.errors import ConfigError, MarkError, MissingExtraError
from tests.worlds.drawn_codes import CodeView, modules, picture

ALL = ("data-matrix", "qr", "code-128", "ean-13")
PLAIN = CodeView(angle=0)


def label(text: str, symbology: str = "data-matrix", *, gs1: bool = False, px: int = 4) -> np.ndarray:
    """A code on white with its quiet zone, ``(H, W) uint8``."""
    dark = np.kron(modules(symbology, text, gs1=gs1), np.ones((px, px), bool))
    return np.pad(np.where(dark, 20, 220).astype(np.uint8), 10 * px, constant_values=220)


def side_by_side(*labels: np.ndarray) -> np.ndarray:
    high = max(one.shape[0] for one in labels)
    return np.hstack([np.pad(one, ((0, high - one.shape[0]), (0, 0)), constant_values=220) for one in labels])


def read(image: np.ndarray, given_id: str = "", **rule: Any) -> MarkReading:
    (one,) = MarkReader((CodeRule(name="mark", **rule),)).read(image, given_id)
    return one


@pytest.mark.parametrize("symbology", ALL)
@pytest.mark.parametrize("view", [PLAIN, CodeView(angle=37, tilt=0.15), CodeView(angle=205, inverted=True, noise=12)])
def test_a_code_is_read_where_it_is_whichever_way_it_lies(symbology: str, view: CodeView) -> None:
    text = "4006381333931" if symbology == "ean-13" else "COIL-7741"
    frame, corners = picture(symbology, text, view, seed=3)
    one = read(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), symbologies=ALL)
    assert (one.text, one.symbology, one.accepted, one.failure, one.error) == (text, symbology, True, None, "")
    middle = np.array(one.outline).mean(axis=0)
    assert np.hypot(*(middle - corners.mean(axis=0))) < 8
    if symbology in ("data-matrix", "qr"):
        assert np.abs(np.array(one.outline) - corners).max() < 6


def stamped(text: str, *, turned: bool = False) -> np.ndarray:
    """Text on a grey part with noise, ``(160, 360) uint8``; upside down if ``turned``."""
    image = np.full((160, 360), 150, np.uint8)
    cv2.putText(image, text, (40, 90), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 60, 2, cv2.LINE_AA)
    noisy = image + np.random.default_rng(5).normal(0, 6, image.shape)
    return np.rot90(np.clip(noisy, 0, 255).astype(np.uint8), 2 if turned else 0)


def test_stamped_text_is_read_either_way_up_and_checked_like_a_code() -> None:
    rule = TextRule(name="stamp", pattern=r"HEAT ?(\w+)", equals="A2B347", unread="reject")
    reader = MarkReader((rule,))
    for turned in (False, True):
        (one,) = reader.read(stamped("HEAT A2B347", turned=turned))
        assert (one.text, one.type, one.accepted, one.symbology) == ("A2B347", "text", True, "")
        across = one.outline[1][0] - one.outline[0][0]
        assert across < -150 if turned else across > 150  # the outline begins where the text does
    (wrong,) = reader.read(stamped("HEAT A2B374"))
    assert (wrong.text, wrong.failure, wrong.error) == ("A2B374", "reject", "A2B347 is expected")
    (none,) = reader.read(stamped(""))
    assert (none.failure, none.error) == ("reject", "nothing was read")
    (unsure,) = MarkReader((msgspec.structs.replace(rule, min_score=1.0),)).read(stamped("HEAT A2B347"))
    assert unsure.text == "" and not unsure.accepted


def test_texts_that_are_not_ascii_or_have_control_characters() -> None:
    assert read(label("Größe 8 Ω 鋼", "qr")).text == "Größe 8 Ω 鋼"
    assert read(label("Prüfling Ä", "data-matrix")).text == "Prüfling Ä"
    envelope = read(label("[)>\x1e06\x1dS1234\x1dP99\x1e\x04"), pattern="\\[\\)>.06\x1dS(\\w+)\x1d.*")
    assert envelope.text == "1234" and envelope.accepted
    assert read(label("A\x1dB")).text == "A<GS>B"


def test_gs1_elements() -> None:
    coded = label("[01]09501101530003[10]LOT/1[21]S(9)", gs1=True)
    assert read(coded, gs1="10").text == "LOT/1"
    assert read(coded, gs1="21").text == "S(9)"
    assert read(coded).text == "010950110153000310LOT/1<GS>21S(9)"
    absent = read(coded, gs1="17")
    assert (absent.failure, absent.error) == ("reject", "it has no GS1 element (17)")
    assert read(label("C1234567"), gs1="21").failure == "reject"
    known = "01095011015300033103000123\x1d3922199\x1d4109501101020917"
    found = {"01": "09501101530003", "3103": "000123", "3922": "199", "410": "9501101020917"}
    assert parse_elements(known) == found
    for bad in ("", "01123", "99", "0509", "10\x1d21A", "10A\x1d10B"):
        with pytest.raises(ValueError, match=r".+"):
            parse_elements(bad)


def test_several_codes_in_a_region() -> None:
    first, second = label("C100"), label("H200", "qr")
    both = side_by_side(first, second)
    two = read(both)
    assert (two.text, two.failure) == ("", "fault") and two.error == "2 marks are in the region: C100, H200"
    assert read(both, pattern=r"H\d+").text == "H200"
    assert read(both, region=(0, 0, first.shape[1], first.shape[0])).text == "C100"
    assert read(both, symbologies=("qr",)).text == "H200"
    wrong = read(both, pattern=r"X\d+", unread="reject", mismatch="fault")
    assert wrong.text and (wrong.failure, wrong.error) == ("fault", r"it does not fit X\d+")
    assert read(side_by_side(first, label("C100", "qr"))).text == "C100", "one text in two codes is one mark"


def test_none_and_a_code_that_the_region_cuts() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (200, 300)).astype(np.uint8)
    none = read(noise, symbologies=(*ALL, "code-39", "itf"))
    assert (none.text, none.failure, none.error) == ("", "fault", "nothing was read")
    assert none.outline == ((0, 0), (300, 0), (300, 200), (0, 200))
    whole, other = label("C100"), label("C999")
    edge = whole.shape[1] + other.shape[1] // 2
    both = side_by_side(whole, other)
    assert read(both, region=(0, 0, edge, both.shape[0])).text == "C100", "the other part's code is half outside"
    assert read(both, region=(whole.shape[1] // 2, 0, edge, both.shape[0])).failure == "fault"
    with pytest.raises(MarkError, match="lies outside the frame"):
        read(both, region=(0, 0, both.shape[1] + 1, both.shape[0]))


def test_texts_that_are_not_what_the_rule_says() -> None:
    assert read(label("C100"), equals="C100").accepted
    wrong = read(label("C100"), equals="C200", unread="reject", mismatch="fault")
    assert (wrong.text, wrong.expected, wrong.failure) == ("C100", "C200", "fault")
    assert not read(label("A" * 129, "qr"), part_id=True).accepted, "a part id has at most 128 characters"
    assert read(label("A" * 129, "qr")).accepted
    assert read(label("HEAT C1 "), pattern=r"HEAT (C\d)\s*").text == "C1", "the group is the text"


def two_rules(**second: Any) -> tuple[CodeRule, CodeRule]:
    return (
        CodeRule(name="label", part_id=True, symbologies=("data-matrix",)),
        CodeRule(name="heat", symbologies=("qr",), **second),
    )


def test_a_mark_agrees_with_another_mark_or_with_the_given_part_id() -> None:
    reader = MarkReader(two_rules(agrees_with="label"))
    same = reader.read(side_by_side(label("C100"), label("C100", "qr")))
    assert all(one.accepted for one in same) and read_ids(same) == ["C100"]
    _, other = reader.read(side_by_side(label("C100"), label("C101", "qr")))
    assert (other.failure, other.expected, other.error) == ("reject", "C100", "label is C100")
    unread, unchecked = reader.read(label("C101", "qr"))
    assert read_ids((unread, unchecked)) == []
    assert (unchecked.text, unchecked.failure) == ("C101", "fault") and "label was not read" in unchecked.error
    assert read(label("C100"), "C100", agrees_with="part_id").accepted
    assert read(label("C100"), "C200", agrees_with="part_id").failure == "reject"
    assert read(label("C100"), "", agrees_with="part_id").failure == "fault"


def test_a_mark_agrees_with_the_certificate_of_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_values, "LOOK_S", 0.0)
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    reader = MarkReader(two_rules(agrees_with="heat_number"), ExpectedValues(certificates))
    frame = side_by_side(label("C100"), label("A2B347", "qr"))
    part, heat = reader.read(frame)
    assert part.accepted and (heat.failure, heat.error) == (
        "fault",
        "can't be checked: part C100 has no heat_number in the expected values",
    )
    (certificates / "8841.json").write_text(json.dumps({"part_id": ["C100", "C101"], "heat_number": "A2B347"}))
    assert all(one.accepted for one in reader.read(frame))
    (certificates / "8841.json").write_text(json.dumps({"part_id": "C100", "heat_number": "AB2347", "n": {"C": 0.2}}))
    _, heat = reader.read(frame)
    assert (heat.text, heat.expected, heat.failure) == ("A2B347", "AB2347", "reject"), "the file is followed"
    (certificates / "orders.csv").write_text("part_id;heat_number\nC100;A2B347\n")
    _, heat = reader.read(frame)
    assert heat.failure == "fault" and "two values" in heat.error
    (certificates / "orders.csv").write_text("part,heat\nC100,A2B347\n")
    _, heat = reader.read(frame)
    assert heat.failure == "fault" and "[2013]" in heat.error and "orders.csv" in heat.error
    (certificates / "orders.csv").unlink()
    (certificates / "8841.json").write_text('{"C100": {"heat_number": "A2B347"}}')
    assert all(one.accepted for one in reader.read(frame))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", "[1]"), ("a.json", "[{}]"), ("a.json", "{"), ("a.json", '[{"part_id": true}]'), ("a.csv", "heat\n1\n"),
     ("a.csv", "part_id,heat\nC1,2,3\n"), ("a.csv", "part_id,heat\n,2\n"), ("a.csv", "part_id,heat\nC\udcff,1\n"),
     ("a.txt", "")],
)  # fmt: skip
def test_expected_values_that_cannot_be_read(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    values = ExpectedValues(tmp_path / name)
    with pytest.raises(MarkError, match=r"a\.(json|csv|txt)"):
        values.check()
    with pytest.raises(MarkError):
        values.find("C1", "heat")
    assert "[2013]" in values.problem


def report(*entities: tuple[str, str], review: tuple[tuple[str, str], ...] = ()) -> str:
    """What ``lineside read --schema certificate --format json`` writes."""
    made = [Entity(type=kind, text=text, value=text, score=0.97, start=0, end=1) for kind, text in entities]
    items = [ReviewItem(reason=reason, field=field, text="look") for field, reason in review]
    written = DocumentReport(source="c.pdf", schema="certificate", entities=tuple(made), review=tuple(items))
    return msgspec.json.encode(written).decode()


def test_reports_of_documents_are_expected_values(tmp_path: Path) -> None:
    heat = ("heat_number", "A2B347")
    (tmp_path / "C100.json").write_text(report(heat, ("grade", "S355J2"), review=(("grade", "uncertain"),)))
    (tmp_path / "cert.json").write_text(report(heat, ("part_id", "C200"), heat, ("grade", "S235"), ("grade", "S355")))
    values = ExpectedValues(tmp_path)
    assert values.find("C100", "heat_number") == values.find("C200", "heat_number") == "A2B347"
    assert values.find("cert", "heat_number") is None
    with pytest.raises(MarkError, match="grade of part C100 needs a person: uncertain: look"):
        values.find("C100", "grade")
    with pytest.raises(MarkError, match="grade of part C200 needs a person: ambiguous: S235 or S355"):
        values.find("C200", "grade")
    (tmp_path / "cert.json").write_text(report(("part_id", "C2O0"), review=(("part_id", "uncertain"),)))
    with pytest.raises(MarkError, match="the part's id needs a person"):
        values.check()


def test_regions_follow_the_part() -> None:
    frame = np.full((400, 600), 30, np.uint8)
    code = label("C100")
    high, wide = code.shape
    frame[100 : 100 + high, 80 : 80 + wide] = code
    found = find_part(frame, "bright", 125)
    locator = Locator(inside="bright", level=125, centre=found.centre, angle=found.angle, area=found.area)
    rule = CodeRule(name="mark", region=(80, 100, 80 + wide, 100 + high))
    reader = MarkReader((rule,), locator=locator)
    moved = np.roll(frame, (150, 300), axis=(0, 1))
    (one,) = reader.read(moved)
    assert one.text == "C100" and one.outline[0][0] > 380
    (lost,) = reader.read(np.full((400, 600), 30, np.uint8))
    assert lost.failure == "fault" and "no part is in the frame" in lost.error


def test_rules_that_are_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"type": "code", "name": "a"}
    for rules, why in (
        ([{**rule, "pattern": "("}], "no regular expression"),
        ([rule, rule], "have the name a"),
        ([{**rule, "region": [10, 10, 10, 40]}], "at least 8 pixels"),
        ([{**rule, "part_id": True}, {**rule, "name": "b", "part_id": True}], "give the part's id: a, b"),
        ([{**rule, "name": "part_id"}], "can't have the name part_id"),
        ([{**rule, "agrees_with": "a"}], "agrees with itself"),
        ([{**rule, "symbologies": ["qrcode"]}], "qrcode"),
        ([{**rule, "gs1": "x"}], r"\$\.read\[0\]\.gs1"),
        ([{**rule, "type": "ocr"}], "ocr"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_rules({"read": rules})
    with pytest.raises(ConfigError, match="agrees with heat_number, and there are no expected values"):
        MarkReader((CodeRule(name="a", agrees_with="heat_number"),))
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lineside\[codes\]'"):
        MarkReader((CodeRule(name="a"),))
