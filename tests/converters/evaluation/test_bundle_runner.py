"""A bundle under judgement sees a frame as the line does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from lineside_converters.evaluation.bundle_runner import judge
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle, Slicing
from lineside_runtime.session import Session
from tests.converters import nets


def test_frames_that_the_line_looks_at_in_pieces_are_judged_in_pieces(tmp_path: Path) -> None:
    plain = nets.bundle(tmp_path / "b", nets.cell_detector())
    how = msgspec.structs.replace(plain.manifest.preprocess, slicing=Slicing(side_px=96, overlap=0.34, whole=False))
    sliced = Bundle(plain.path, msgspec.structs.replace(plain.manifest, preprocess=how), plain.digest)
    image = np.full((320, 320), 127, np.uint8)
    image[160:168, 200:208] = 255
    frame = Frame(image=image)
    with Session(sliced) as session:
        judged = judge(session, frame)
        found = Inspector(session).find([frame])[0]
    with Session(plain) as session:
        whole = judge(session, frame)
    np.testing.assert_array_equal(judged.candidates.boxes, found.candidates.boxes)
    assert judged.candidates.scores.max() > 0.9
    assert len(whole.candidates) == 0 or whole.candidates.scores.max() < judged.candidates.scores.max()
    assert judged.timings.inference_ms > 0
