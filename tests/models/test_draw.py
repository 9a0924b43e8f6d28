from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lineside_models.draw import DOUBT, IN_TOLERANCE, NOT_MEASURED, READABLE_SIDE, annotate, colour_of
from lineside_models.draw import OUT_OF_TOLERANCE as OUT
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.inspection import Detection
from lineside_models.labels import PCB, STEEL
from lineside_runtime.errors import BadInputFormatError

BANNER = 34


def _detection(box: tuple[float, float, float, float], name: str = "scratches") -> Detection:
    return Detection(type=name, score=0.87, box=box)


def test_small_frames_are_enlarged_and_large_ones_are_not_and_the_frame_itself_is_untouched() -> None:
    small, large = np.full((200, 200, 3), 90, np.uint8), np.full((640, 480, 3), 90, np.uint8)
    assert annotate(small[..., 0], ()).shape == annotate(small, ()).shape == (600 + BANNER, 600, 3)
    assert annotate(large, ()).shape == (640 + BANNER, 480, 3)
    assert max(annotate(small, ()).shape) >= READABLE_SIDE
    drawn = annotate(small, [_detection((50, 60, 100, 120))])
    assert (small == 90).all()
    assert (drawn[BANNER:] != 90).any()
    assert (annotate(small, ())[BANNER:] == 90).all()


def test_the_box_lies_where_the_defect_is() -> None:
    image = np.full((640, 640, 3), 90, np.uint8)
    drawn = annotate(image, [_detection((100, 300, 200, 400))])[BANNER:]
    colour = np.array(colour_of("scratches"))
    for y, x in ((300, 150), (399, 150), (350, 100), (350, 199)):
        assert (drawn[y, x] == colour).all()
    assert (drawn[350, 150] == 90).all()


def test_verdicts_differ_in_words_and_colour_and_without_one_a_finding_rejects() -> None:
    image = np.full((500, 500), 90, np.uint8)
    banners = [annotate(image, (), verdict=verdict)[:BANNER] for verdict in ("pass", "reject", "fault")]
    grounds = [banner[2, -2].astype(int) for banner in banners]
    assert grounds[0][1] > grounds[0][2], "pass is green"
    assert grounds[1][2] > grounds[1][1], "reject is red"
    texts = [(banner == 255).all(axis=2).sum() for banner in banners]
    assert len(set(texts)) == 3
    assert min(texts) > 20
    for found, verdict in (((), "pass"), ([_detection((10, 10, 90, 90))], "reject")):
        np.testing.assert_array_equal(annotate(image, found), annotate(image, found, verdict=verdict))


def test_what_is_doubtful_is_dashed_in_the_colour_of_its_verdict() -> None:
    image = np.full((500, 500), 90, np.uint8)
    doubts = [_detection((100, 300, 200, 400))]
    drawn = annotate(image, (), doubtful=doubts)
    np.testing.assert_array_equal(drawn, annotate(image, (), doubtful=doubts, verdict="unsure"))
    assert (drawn[2, -2] == np.array(DOUBT)).all()
    side = (drawn[BANNER:][350:360, 100:101] == np.array(DOUBT)).all(axis=2)
    along = (drawn[BANNER:][320:380, 100] == np.array(DOUBT)).all(axis=1)
    assert side.any() or along.any()
    assert not along.all()
    solid = annotate(image, doubts)[BANNER:]
    assert not (solid == np.array(DOUBT)).all(axis=2).any()


def test_types_of_one_line_have_colours_of_their_own() -> None:
    assert len({colour_of(name) for name in STEEL}) == len({colour_of(name) for name in PCB}) == 6
    assert colour_of("somebody's own type") == colour_of("somebody's own type")


@pytest.mark.parametrize(
    "box", [(0, 0, 640, 640), (-5, -5, 20, 20), (630, 630, 640, 640), (0, 639, 1, 640), (300, 0, 640, 2)]
)
def test_labels_stay_in_the_frame(box: tuple[float, float, float, float]) -> None:
    image = np.full((640, 640, 3), 90, np.uint8)
    drawn = annotate(image, [_detection(box, "rolled-in_scale")])[BANNER:]
    filled = (drawn == np.array(colour_of("rolled-in_scale"))).all(axis=2)
    assert filled.sum() > 1000, "the label's ground is seen"


def test_labels_of_neighbours_do_not_hide_one_another() -> None:
    image = np.full((640, 640, 3), 90, np.uint8)
    pair = [_detection((100, 200, 180, 300), "open"), _detection((100, 203, 180, 303), "short")]
    drawn = annotate(image, pair)[BANNER:]
    areas = [(drawn == np.array(colour_of(each.type))).all(axis=2).sum() for each in pair]
    alone = [(annotate(image, [each])[BANNER:] == np.array(colour_of(each.type))).all(axis=2).sum() for each in pair]
    assert all(area > 0.6 * single for area, single in zip(areas, alone, strict=True))


def test_a_title_is_drawn_where_there_is_room_also_if_it_is_no_utf8_and_nonsense_is_refused() -> None:
    wide, narrow = np.full((500, 640), 90, np.uint8), np.full((500, 60), 90, np.uint8)
    assert (annotate(wide, (), title="part 12") != annotate(wide, ())).any()
    np.testing.assert_array_equal(annotate(narrow, (), title="part 12"), annotate(narrow, ()))
    assert (annotate(wide, (), title="\udcff\udcfe") == annotate(wide, (), title="??")).all()
    with pytest.raises(BadInputFormatError, match="pass or reject or unsure or fault"):
        annotate(np.zeros((9, 9), np.uint8), (), verdict="maybe")
    with pytest.raises(BadInputFormatError):
        annotate(np.zeros((9, 9), np.float32), ())


def test_a_mark_is_outlined_in_the_colour_of_its_result() -> None:
    frame = np.full((480, 640), 90, np.uint8)
    outline = ((200.0, 200.0), (300.0, 200.0), (300.0, 300.0), (200.0, 300.0))
    results: tuple[tuple[dict[str, Any], str, Any], ...] = (
        ({"text": "Größe", "accepted": True}, "pass", IN_TOLERANCE),
        ({"text": "C2", "failure": "reject", "error": "x"}, "reject", OUT),
        ({"failure": "fault", "error": "x"}, "fault", NOT_MEASURED),
    )
    for result, verdict, colour in results:
        mark = MarkReading(name="label", type="code", outline=outline, **result)
        drawn = annotate(frame, (), readings=(mark,))
        assert (drawn == annotate(frame, (), readings=(mark,), verdict=verdict)).all()
        assert tuple(drawn[-480 + 250, 200]) == colour
