from __future__ import annotations

import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.labels import LABELS, PCB, STEEL
from lineside_models.simulator import SimulatedFrame, render, stream
from lineside_runtime.errors import ConfigError

PINNED = {
    ("steel", 1): "d47755d740218715",
    ("steel", 8): "66ecdebf87fe8308",
    ("pcb", 2): "e5c88f24a17befc1",
    ("pcb", 9): "95f2f7006e31f1f0",
}
"""Digests of whole frames, so that a change of the look is seen and meant."""

PINNED_STREAM = "54b633d604a48f88"
"""That of the second frame of ``stream(3)``."""
"""Digests of whole frames, so that a change of the look is seen and meant."""


def _digest(frame: SimulatedFrame) -> str:
    content = frame.image.tobytes() + frame.boxes.tobytes() + frame.labels.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(("kind", "size"), [("steel", (200, 200)), ("pcb", (640, 640))])
def test_frames_have_the_size_of_the_real_ones(kind: Any, size: tuple[int, int]) -> None:
    frame = render(kind, 4)
    assert frame.image.shape == (*size, 3)
    assert [each.dtype.name for each in (frame.image, frame.boxes, frame.labels)] == ["uint8", "float32", "int64"]
    assert (frame.kind, frame.seed) == (kind, 4)


@pytest.mark.parametrize(("kind", "seed"), PINNED)
def test_a_seed_gives_the_same_frame_on_every_machine_and_in_every_process(kind: Any, seed: int) -> None:
    assert _digest(render(kind, seed)) == PINNED[kind, seed]
    assert _digest(next(itertools.islice(stream(3), 1, None))) == PINNED_STREAM


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["steel", "pcb"]),
    seed=st.integers(0, 2**63),
    height=st.integers(96, 300),
    width=st.integers(96, 300),
    defects=st.none() | st.integers(0, 9),
)
def test_true_boxes_lie_in_the_frame_and_bear_labels_of_its_kind(
    kind: Any, seed: int, height: int, width: int, defects: int | None
) -> None:
    frame = render(kind, seed, size=(height, width), defects=defects)
    assert frame.image.shape == (height, width, 3)
    assert len(frame.boxes) == len(frame.labels)
    assert defects is None or len(frame.labels) <= defects
    assert (frame.boxes[:, :2] >= 0).all()
    assert (frame.boxes[:, 2:] <= (width, height)).all()
    assert (frame.boxes[:, 2:] - frame.boxes[:, :2] >= 3).all()
    names = STEEL if kind == "steel" else PCB
    assert {LABELS[label] for label in frame.labels} <= set(names)


@pytest.mark.parametrize("kind", ["steel", "pcb"])
def test_about_one_frame_in_five_is_good_and_no_defects_means_none(kind: Any) -> None:
    clean = sum(not len(render(kind, seed, size=(160, 160)).labels) for seed in range(200))
    assert 20 <= clean <= 65  # four standard deviations around 40
    assert all(not len(render(kind, seed, defects=0).labels) for seed in range(10))


def test_every_type_appears() -> None:
    frames = [render("steel", seed, defects=2) for seed in range(60)]
    frames += [render("pcb", seed, defects=6) for seed in range(10)]
    assert {LABELS[label] for frame in frames for label in frame.labels} == set(LABELS)


def test_defects_change_the_picture_inside_their_boxes_only() -> None:
    """The board is drawn before its defects: with the same seed only the boxes may differ, but for frayed edges."""
    for seed in range(6):
        good, bad = render("pcb", seed, defects=0), render("pcb", seed, defects=6)
        change = np.abs(good.image[..., 0].astype(int) - bad.image[..., 0]) > 0
        for x1, y1, x2, y2 in bad.boxes.astype(int):
            assert change[y1:y2, x1:x2].sum() > 12, "a box without a defect"
            change[y1:y2, x1:x2] = False
        thick = change[1:-1, 1:-1] & change[:-2, 1:-1] & change[2:, 1:-1] & change[1:-1, :-2] & change[1:-1, 2:]
        assert not thick.any(), "a defect without a box"


def test_an_open_cuts_a_trace_and_a_short_joins_two() -> None:
    import cv2

    cut, joined = [], []
    for seed in range(40):
        good, bad = (render("pcb", seed, defects=count).image[..., 0] for count in (0, 1))
        label = render("pcb", seed, defects=1).labels
        pieces = [
            cv2.connectedComponents(cv2.medianBlur(np.where(image < 128, 255, 0).astype(np.uint8), 5))[0]
            for image in (good, bad)
        ]
        if len(label) and LABELS[label[0]] == "open":
            cut.append(pieces[1] - pieces[0])
        if len(label) and LABELS[label[0]] == "short":
            joined.append(pieces[1] - pieces[0])
    assert cut and all(change >= 0 for change in cut)
    assert sum(change >= 1 for change in cut) >= 0.7 * len(cut)
    assert joined and all(change <= 0 for change in joined)


def test_the_stream_alternates_and_each_frame_can_be_drawn_again() -> None:
    frames = list(itertools.islice(stream(11), 6))
    assert [frame.kind for frame in frames] == ["steel", "pcb"] * 3
    assert len({frame.seed for frame in frames}) == 6
    again = render(frames[3].kind, frames[3].seed)
    assert _digest(again) == _digest(frames[3])
    assert {frame.kind for frame in itertools.islice(stream(1, kinds=("pcb",)), 2)} == {"pcb"}


@pytest.mark.parametrize("arguments", [{"kind": "glass"}, {"size": (50, 200)}, {"seed": -1}, {"defects": -1}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        render(**{"kind": "steel", "seed": 1, **arguments})


def test_nothing_machine_dependent_is_called() -> None:
    """The claim of the package's docstring, held by reading the source."""
    folder = Path(sys.modules["lineside_models.simulator"].__file__ or "").parent
    source = "\n".join(path.read_text() for path in sorted(folder.glob("*.py")))
    calls = ("np.sin", "np.cos", "np.exp", "np.log", "np.dot", " @ ", "cv2.resize", "GaussianBlur", "standard_normal")
    assert [name for name in calls if name in source] == []
