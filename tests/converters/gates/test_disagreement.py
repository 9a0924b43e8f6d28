"""What two models say differently: the confusion, and the frames to look at."""

from __future__ import annotations

from typing import Any

import numpy as np

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.gates.disagreement import NOTHING, OTHERS, ModelJudgement, confusion_of, disagreeing_frames
from lineside_models.frame import Frame
from lineside_models.postprocess import Candidates

LABELS = ("dent", "hole", "stain")
A, B, FAR = (0, 0, 20, 20), (30, 30, 60, 60), (70, 70, 90, 90)


def _true(*rows: tuple[int, tuple[int, ...]], part: str = "p") -> AnnotatedFrame:
    boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
    frame = Frame(image=np.full((96, 96), 90, np.uint8), source="test", part_id=part)
    return AnnotatedFrame(frame, boxes, np.array([label for label, _ in rows], np.int64))


def _found(*rows: tuple[int, float, tuple[int, ...]]) -> Candidates:
    return Candidates(
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.int64),
    )


def _judgement(
    frames: list[AnnotatedFrame], before: list[Candidates], after: list[Candidates], **more: Any
) -> ModelJudgement:
    bars = np.array([0.5, 0.5, 0.3])
    return ModelJudgement(frames=frames, before=before, after=after, labels=LABELS, thresholds=bars, **more)


def test_a_miss_a_false_find_and_a_wrong_type_are_told_apart_and_types_that_never_occur_have_no_row() -> None:
    frames = [_true((0, A), (1, B))]
    before = [_found((0, 0.9, A), (1, 0.8, B))]
    after = [_found((2, 0.9, A), (0, 0.7, FAR), (1, 0.4, B))]  # the last is below its threshold
    found = confusion_of(_judgement(frames, before, after))
    assert found.labels == (*LABELS, NOTHING)
    assert found.before == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
    assert found.after == ((0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0), (1, 0, 0, 0))
    found = confusion_of(_judgement([_true((1, B))], [_found((1, 0.8, B))], [_found()]))
    assert found.labels == ("hole", NOTHING)
    assert (found.before, found.after) == (((1, 0), (0, 0)), ((0, 1), (0, 0)))


def test_every_truth_and_every_finding_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    frames, before = [], []
    for _ in range(30):
        boxes = [tuple(np.concatenate([c, c + 20]).tolist()) for c in rng.uniform(0, 70, (6, 2))]
        frames.append(_true(*[(int(rng.integers(3)), box) for box in boxes[:3]]))
        before.append(_found(*[(int(rng.integers(3)), 0.9, box) for box in boxes[1:]]))
    matrix = np.array(confusion_of(_judgement(frames, before, before)).before)
    assert matrix[:-1].sum() == sum(len(frame.labels) for frame in frames)
    assert matrix[:, :-1].sum() == sum(len(found) for found in before)


def test_frames_that_differ_come_with_the_surest_difference_first() -> None:
    frames = [_true((0, A), part="same"), _true((0, A), part="a little"), _true((1, B), part="a lot")]
    before = [_found((0, 0.9, A)), _found((0, 0.9, A), (2, 0.35, FAR)), _found((1, 0.95, B))]
    after = [_found((0, 0.6, A)), _found((0, 0.9, A)), _found()]
    found = disagreeing_frames(_judgement(frames, before, after))
    assert [each.row.frame for each in found] == ["a lot", "a little"]
    assert (found[0].row.truth, found[0].row.before, found[0].row.after) == ("hole", "hole 0.95", NOTHING)
    # one type at two places is a difference
    assert len(disagreeing_frames(_judgement([_true()], [_found((0, 0.9, A))], [_found((0, 0.9, FAR))]))) == 1


def test_a_classifier_is_judged_by_its_first_answer() -> None:
    whole = (0, 0, 96, 96)
    frames = [_true((0, whole), part="one"), _true((1, whole), part="two")]
    before = [_found((0, 0.6, whole), (1, 0.4, whole)), _found((1, 0.9, whole))]
    after = [_found((1, 0.51, whole), (0, 0.49, whole)), _found((1, 0.2, whole))]  # below every threshold
    judged = _judgement(frames, before, after, whole=True)
    found = confusion_of(judged)
    assert found.labels == ("dent", "hole")
    assert (found.before, found.after) == (((1, 0), (0, 1)), ((0, 1), (0, 1)))
    assert [each.row.frame for each in disagreeing_frames(judged)] == ["one"]


def test_many_types_become_those_that_are_confused_most() -> None:
    labels = tuple(f"class {number}" for number in range(200))
    whole = (0, 0, 96, 96)
    truth = [number % 200 for number in range(300)]
    frames = [_true((label, whole)) for label in truth]
    right = [_found((label, 0.9, whole)) for label in truth]
    wrong = [_found((7 if label == 3 else label, 0.9, whole)) for label in truth]
    judged = ModelJudgement(
        frames=frames, before=right, after=wrong, labels=labels, thresholds=np.full(200, 0.5), whole=True
    )
    found = confusion_of(judged)
    assert len(found.labels) == 20
    assert found.labels[-1] == OTHERS
    three, seven = found.labels.index("class 3"), found.labels.index("class 7")
    assert found.after[three][seven] == 2
    assert sum(map(sum, found.after)) == 300
