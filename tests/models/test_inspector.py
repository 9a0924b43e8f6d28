from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.verdict.rules import Rules
from lineside_runtime.bundle import Bundle, Postprocess, Slicing, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, LinesideError
from lineside_runtime.session import Session
from tests.models.small_detector import detector_bundle, part
from tests.worlds.bundles import make_shade_classifier


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(detector_bundle(tmp_path / "b"), Config(threads=1)) as session:
        yield session


def test_a_verdict_says_what_where_by_whom_and_how_long_and_a_clean_part_passes(session: Session) -> None:
    frame = Frame(image=part((2, 5)), source="cam", sequence=7, part_id="P7", captured_at_ns=123)
    verdict = Inspector(session).inspect(frame)
    assert not verdict.passed
    (found,) = verdict.detections
    assert found.type == "bright"
    assert found.score > 0.99
    assert found.box == pytest.approx((36, 12, 52, 28), abs=0.01)
    assert (verdict.part_id, verdict.source, verdict.sequence, verdict.captured_at_ns) == ("P7", "cam", 7, 123)
    assert (verdict.bundle, verdict.requested_device, verdict.used_device) == ("cells@1", "cpu:0", "ort/cpu:0")
    assert (verdict.width, verdict.height) == (64, 48)
    assert min(verdict.timings.preprocess_ms, verdict.timings.inference_ms, verdict.timings.postprocess_ms) > 0
    clean = Inspector(session).inspect(Frame(image=part()))
    assert clean.passed and clean.detections == ()


def test_logits_that_are_read_as_scores_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make_shade_classifier(tmp_path / "b")
    params = {**made.manifest.postprocess.params, "activation": "none"}
    manifest = msgspec.structs.replace(made.manifest, postprocess=Postprocess(name="classification", params=params))
    with Session(write_manifest(made.path, manifest), Config(threads=1)) as session:
        for _ in range(2):
            Inspector(session).inspect(Frame(image=np.zeros((96, 96, 3), np.uint8)))
    (warning,) = caplog.messages
    assert "scores go above 1" in warning and 'activation = "sigmoid"' in warning


def test_the_threshold_is_the_bundles_by_type_or_the_callers(session: Session) -> None:
    inspector = Inspector(session)
    lightly_dark = Frame(image=part((1, 1), grey=42))  # logit 1.6, score 0.83: below the 0.9 of its type
    assert inspector.inspect(lightly_dark).passed
    assert not inspector.inspect(lightly_dark, confidence_threshold=0.5).passed
    assert inspector.inspect(Frame(image=part((1, 1))), confidence_threshold=1.0).passed


@pytest.mark.parametrize("threshold", [float("nan"), 50.0, -0.1])
def test_a_threshold_that_would_pass_or_reject_everything_is_refused(session: Session, threshold: float) -> None:
    with pytest.raises(ConfigError, match="confidence_threshold"):
        Inspector(session).inspect(Frame(image=part((2, 5))), confidence_threshold=threshold)


def test_an_anomaly_models_score_is_told_of_good_parts_too_and_has_its_band(tmp_path: Path) -> None:
    bundle = detector_bundle(tmp_path / "b")
    how = msgspec.structs.replace(
        bundle.manifest.postprocess, params={**bundle.manifest.postprocess.params, "unsure_from": [0.05, 0.9]}
    )
    manifest = msgspec.structs.replace(bundle.manifest, task="anomaly", postprocess=how)
    with Session(Bundle(bundle.path, manifest, bundle.digest)) as session:
        inspector = Inspector(session)
        good = inspector.inspect(Frame(image=part((2, 5), grey=181)))  # logit -3.8: half its threshold isn't reached
        doubtful = inspector.inspect(Frame(image=part((2, 5), grey=190)))  # logit -2
        bad = inspector.inspect(Frame(image=part((2, 5))))
    assert [each.verdict for each in (good, doubtful, bad)] == ["good", "unsure", "bad"]
    assert good.anomaly_score == pytest.approx(0.022, abs=0.01)
    assert doubtful.anomaly_score == pytest.approx(0.12, abs=0.01)
    assert bad.anomaly_score is not None and bad.anomaly_score > 0.99


def test_slicing_of_the_manifest_gives_what_slicing_by_rules_gives(tmp_path: Path) -> None:
    bundle = detector_bundle(tmp_path / "b")
    image = part((1, 1), (1, 13), (9, 9), size=(96, 128))
    slicing = Slicing(side_px=64, overlap=0.25)
    manifest = bundle.manifest
    how = msgspec.structs.replace(manifest.preprocess, slicing=slicing)
    sliced = Bundle(bundle.path, msgspec.structs.replace(manifest, preprocess=how), bundle.digest)
    with Session(bundle) as plain, Session(sliced) as own:
        by_rules = Inspector(plain, rules=Rules(slicing=slicing)).inspect(Frame(image=image))
        by_manifest = Inspector(own).inspect(Frame(image=image))
        off = Inspector(own, rules=Rules(slicing="off")).inspect(Frame(image=image))
        whole = Inspector(plain).inspect(Frame(image=image))
    assert by_rules.detections == by_manifest.detections
    assert len(by_rules.detections) == 3
    assert off.detections == whole.detections


def test_pieces_of_several_frames_share_batches_and_find_their_frames(session: Session) -> None:
    inspector = Inspector(session, batch_size=5, rules=Rules(slicing=Slicing(side_px=64, overlap=0.0, whole=False)))
    frames = [Frame(image=part((4, column), size=(128, 128)), sequence=column) for column in range(0, 16, 3)]
    for frame, verdict in zip(frames, inspector.inspect_batch(frames), strict=True):
        (found,) = verdict.detections
        column = frame.sequence
        assert found.box == pytest.approx((max(0, column * 8 - 4), 28, min(128, column * 8 + 12), 44), abs=8)
        assert verdict.sequence == column
    assert session.calls == 5  # six frames of four pieces, five at once


def test_boxes_are_in_pixels_of_the_frame_and_colour_frames_are_taken_too(session: Session) -> None:
    large = np.kron(part((2, 5)), np.ones((4, 4), np.uint8))
    for image in (large, np.dstack([large] * 3)):
        (found,) = Inspector(session).inspect(Frame(image=image)).detections
        assert found.box == pytest.approx((144, 48, 208, 112), abs=2)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_a_batch_of_mixed_sizes_gives_what_single_frames_give_in_their_order(session: Session, batch_size: int) -> None:
    sizes = [(48, 64), (64, 48), (48, 64), (40, 40), (48, 64), (64, 48), (48, 64)]
    frames = [Frame(image=part((number % 5, 1), size=size), sequence=number) for number, size in enumerate(sizes)]
    inspector = Inspector(session, batch_size=batch_size)
    together = inspector.inspect_batch(frames)
    assert [verdict.sequence for verdict in together] == list(range(len(frames)))
    for frame, verdict in zip(frames, together, strict=True):
        alone = inspector.inspect(frame)
        assert verdict.detections[0].box == pytest.approx(alone.detections[0].box, abs=1e-3)
        assert len(verdict.detections) == len(alone.detections)


def test_frames_go_through_the_model_together_up_to_so_many_pixels_on_a_cpu(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Inspector(session, batch_size=4).inspect_batch([Frame(image=part())] * 10)
    assert session.calls == 3
    assert Inspector(session).inspect_batch([]) == []
    with pytest.raises(ConfigError):
        Inspector(session, batch_size=0)
    tensor = Inspector(session).prepare(Frame(image=part()))
    assert set(session.predict(tensor)) == {"cls_8", "box_8"}
    pixels = int(np.prod(tensor.shape[-2:]))
    for limit, calls in ((3 * pixels, 2), (pixels - 1, 5)):
        monkeypatch.setattr("lineside_models.inspector.CPU_BATCH_PIXELS", limit)
        before = session.calls
        Inspector(session).inspect_batch([Frame(image=part())] * 5)
        assert session.calls - before == calls
    with Session(detector_bundle(tmp_path / "one", batch=1)) as single:  # the model's own batch
        assert len(Inspector(single).inspect_batch([Frame(image=part((1, 1)))] * 3)) == 3
        assert single.calls == 3


def test_frames_are_judged_by_one_bundle_each_while_it_is_swapped(tmp_path: Path) -> None:
    """The second bundle's scores are lower; each verdict's score must be that of the bundle that it names."""
    first = detector_bundle(tmp_path / "first")
    second = detector_bundle(tmp_path / "second", gain=0.1, version="2")
    scores = {"cells@1": 1 / (1 + np.exp(-11.0)), "cells@2": 1 / (1 + np.exp(-1.1))}
    frame = Frame(image=part((2, 5)))
    stop = threading.Event()
    problems: list[object] = []
    seen: set[str] = set()
    with Session(first, Config(threads=1, engines=("ort",))) as session:
        inspector = Inspector(session)

        def work() -> None:
            try:
                while not stop.is_set():
                    verdict = inspector.inspect(frame)
                    seen.add(verdict.bundle)
                    if abs(verdict.detections[0].score - scores[verdict.bundle]) > 1e-4:
                        problems.append(verdict)
            except LinesideError as error:
                problems.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline, pause = time.monotonic() + 60, threading.Event()
        for turn in range(20):
            session.reload(first if turn % 2 else second)
            wanted = session.calls + 6
            while session.calls < wanted:
                assert time.monotonic() < deadline, "no more frames are judged"
                pause.wait(0.001)
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
    assert not problems
    assert seen == set(scores)
