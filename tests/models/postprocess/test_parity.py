from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lineside_models import zoo
from lineside_models.postprocess import Candidates, decode, least_wanted, select
from lineside_models.preprocess import Letterbox, prepare
from lineside_models.simulator import Kind, render
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.rules import Rules
from lineside_runtime.bundle import Postprocess
from lineside_runtime.config import Config
from lineside_runtime.session import Session
from tests.models import slow_dfl


@pytest.fixture(scope="module", params=["surface-12", "surface-12-float"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with Session(zoo.path(request.param), Config(threads=1)) as opened:
        yield opened


def outputs_of(session: Session, kind: Kind, seed: int) -> tuple[dict[str, NDArray[Any]], Letterbox]:
    tensor, letterbox = prepare(render(kind, seed).image, session.manifest.preprocess)
    return {name: np.array(value) for name, value in session.predict(tensor).items()}, letterbox


def full_params(session: Session, **changed: Any) -> dict[str, Any]:
    return {"score_min": 0.01, **session.manifest.postprocess.params, **changed}


def assert_same(found: Candidates, plain: list[slow_dfl.Found]) -> None:
    assert [(label, pytest.approx(score, abs=1e-6)) for label, score, _ in plain] == list(
        zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    )
    assert found.boxes == pytest.approx(np.array([box for *_, box in plain]).reshape(-1, 4), abs=2e-3)


@pytest.mark.parametrize(("kind", "seed"), [("steel", 3), ("pcb", 4)])
def test_fast_decoding_finds_what_plain_decoding_finds(session: Session, kind: Kind, seed: int) -> None:
    outputs, letterbox = outputs_of(session, kind, seed)
    how = session.manifest.postprocess
    scale = letterbox.scale_x
    plain = slow_dfl.decode(outputs, full_params(session), letterbox.width * scale, letterbox.height * scale)
    (found,) = decode(outputs, how, [Letterbox(1.0, 1.0, *letterbox.whole[2:].astype(int).tolist())])
    assert len(found) > 20
    assert_same(found, plain)


@pytest.mark.parametrize(("kind", "seed"), [("steel", 5), ("steel", 6), ("pcb", 5), ("pcb", 6)])
def test_what_is_decoded_for_a_verdict_is_what_everything_has_from_there_on(
    session: Session, kind: Kind, seed: int
) -> None:
    outputs, letterbox = outputs_of(session, kind, seed)
    how, labels = session.manifest.postprocess, session.manifest.labels
    (everything,) = decode(outputs, how, [letterbox])
    for threshold in (None, 0.9, 0.2):
        least = least_wanted(how, len(labels), threshold=threshold)
        (found,) = decode(outputs, how, [letterbox], least_score=least)
        from_there = everything.reaching(least)
        assert len(from_there) == int((everything.scores >= least[everything.labels]).sum())
        assert np.array_equal(found.labels, from_there.labels)
        assert np.array_equal(found.scores, from_there.scores)
        assert found.boxes == pytest.approx(from_there.boxes, abs=1e-3)
        defects, all_defects = (select(each, how, labels, threshold=threshold) for each in (found, everything))
        assert [(one.type, one.score) for one in defects] == [(one.type, one.score) for one in all_defects]
        decider = VerdictPolicy(session.manifest, Rules(confidence_threshold=threshold))
        size = (letterbox.height, letterbox.width)
        near, exact = (decider.decide(each, size).near_miss for each in (found, everything))
        assert near == exact if exact >= 0.5 else near <= exact


@pytest.mark.parametrize("kind", ["steel", "pcb"])
@pytest.mark.parametrize(("vote_iou", "vote_from"), [(1.0, 0.0), (0.5, 0.3)])
def test_who_has_no_vote_moves_no_box(session: Session, kind: Kind, vote_iou: float, vote_from: float) -> None:
    outputs, letterbox = outputs_of(session, kind, 12)
    params = full_params(session, vote_iou=vote_iou, vote_from=vote_from)
    how, scale = Postprocess(name="dfl_anchor_free", params=params), letterbox.scale_x
    plain = slow_dfl.decode(outputs, params, letterbox.width * scale, letterbox.height * scale)
    whole = Letterbox(1.0, 1.0, *letterbox.whole[2:].astype(int).tolist())
    (found,) = decode(outputs, how, [whole])
    assert_same(found, plain)
    (sure,) = decode(outputs, how, [whole], least_score=0.05)
    assert 0 < len(sure) < len(found)
    assert sure.boxes == pytest.approx(found.boxes[: len(sure)], abs=1e-3)


def test_of_equal_scores_the_first_are_kept() -> None:
    """INT8 outputs have few values: the limit on cells falls among equals."""
    random = np.random.default_rng(5)
    params = {"strides": (8, 16), "reg_bins": 16, "score_min": 0.01, "nms_iou": 0.5, "vote_iou": 0.6}
    params["max_detections"] = 1000
    params["calibration"] = [(2.0, 0.3)] * 4
    outputs = {}
    for stride, cells in ((8, 40), (16, 20)):
        outputs[f"cls_{stride}"] = random.integers(-6, 1, (1, 4, cells, cells)).astype(np.float32) / 2
        outputs[f"box_{stride}"] = random.normal(0, 2, (1, 64, cells, cells)).astype(np.float32)
    plain = slow_dfl.decode(outputs, params, 320, 320)
    (found,) = decode(outputs, Postprocess(name="dfl_anchor_free", params=params), [Letterbox(1.0, 1.0, 320, 320)])
    rows = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    ranked = sorted((round(score, 5), label, box) for score, label, box in rows)
    expected = sorted((round(score, 5), label, list(box)) for label, score, box in plain)
    assert [one[:2] for one in ranked] == [one[:2] for one in expected]
    assert np.array([box for *_, box in ranked]) == pytest.approx(np.array([box for *_, box in expected]), abs=2e-3)


def test_what_another_head_finds_is_cut_at_the_score_that_is_wanted() -> None:
    scores = np.array([[0.7, 0.2, 0.1]], np.float32)
    how = Postprocess(name="classification", params={"activation": "none"})
    (everything,) = decode({"out": scores}, how, [Letterbox(1.0, 1.0, 8, 8)])
    (found,) = decode({"out": scores}, how, [Letterbox(1.0, 1.0, 8, 8)], least_score=0.15)
    assert len(everything) > len(found) == int((everything.scores >= 0.15).sum())
