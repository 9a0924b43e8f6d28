"""Lines that are read twice: which reading is kept, and where its words stand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lineside_models.nlp.ocr import page_ocr
from lineside_models.nlp.ocr.page_ocr import UNCONFIRMED, _surer_reading, shared_ocr
from lineside_models.nlp.ocr.text_recognition import LineWord

TEXTS = ("Heat A2B347 of 12 coils", "tensile strength 431 MPa", "delivered to Linz in May")


def line(text: str, mean: float, least: float = 0.6) -> list[LineWord]:
    return [LineWord(word, at / 10, at / 10 + 0.08, least, mean) for at, word in enumerate(text.split())]


def test_the_surer_reading_is_kept_and_what_the_other_does_not_confirm_is_doubtful() -> None:
    first, second = line("Lot Sctia A2B347", 0.90), line("Lot Setia A28347", 0.95)
    kept = _surer_reading(first, second)
    assert [word.text for word in kept] == ["Lot", "Setia", "A28347"]
    assert [word.score for word in kept] == [0.6, 0.6, UNCONFIRMED]
    assert _surer_reading(second, first) == kept
    assert [word.score for word in _surer_reading(first, line("Lot Sctia A2B347", 0.80))] == [0.6, 0.6, 0.6]
    assert [word.score for word in _surer_reading(first, [])] == [0.6, 0.6, UNCONFIRMED]
    surer = _surer_reading(first, line("Lot Setia a2b347", 0.95))  # no identifier any more, and not trusted either
    assert [(word.text, word.score) for word in surer][1:] == [("Setia", 0.6), ("a2b347", UNCONFIRMED)]


def test_words_of_a_second_reading_stand_where_those_of_the_first_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((200, 640), 235, np.uint8)
    for row, text in enumerate(TEXTS):
        cv2.putText(image, text, (30, 50 + 55 * row), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 30, 2, cv2.LINE_AA)
    monkeypatch.setattr(page_ocr, "DOUBTFUL", 0.0)
    once = shared_ocr().read(image).words
    monkeypatch.setattr(page_ocr, "DOUBTFUL", 1.1)
    monkeypatch.setattr(page_ocr, "_mean_probability", _later_is_surer())
    twice = shared_ocr().read(image).words
    assert sorted(text for text, *_ in twice) == sorted(text for text, *_ in once) == sorted(" ".join(TEXTS).split())
    places = {text: box for text, box, _ in once}
    assert max(np.abs(np.subtract(box, places[text])).max() for text, box, _ in twice) < 8
    assert {box for _, box, _ in twice} != {box for _, box, _ in once}  # it was another crop


def _later_is_surer() -> object:
    """Returns a sureness by which the second reading is kept, which `_surer_reading` asks first."""
    scores = iter(range(1000, 0, -1))
    return lambda _: next(scores)
