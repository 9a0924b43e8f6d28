"""Draw frames on which two models disagree, side by side and small enough for a page."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.gates.disagreement import DisagreeingFrame
from lineside_models.draw import annotate
from lineside_models.frame import UInt8Array
from lineside_models.image_file import encode_jpeg
from lineside_models.inspection import Detection

SHOWN_MAX = 12
"""Frames on a page; more would make it heavy without telling more."""

SIDE_MAX = 420
"""Pixels of a picture's long side."""

JPEG_QUALITY = 80


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShownFrame:
    """A frame with both models' answers drawn on it.

    Attributes:
        before: Answers of the source model.
        after: Answers of the new one.
        before_jpeg: Its picture, base64.
        after_jpeg: Its picture, base64.
    """

    frame: str
    truth: str
    before: str
    after: str
    before_jpeg: str
    after_jpeg: str


def draw_frames(
    differing: Sequence[DisagreeingFrame], frames: Sequence[AnnotatedFrame], *, whole: bool
) -> list[ShownFrame]:
    """Draws the first few disagreeing frames.

    Args:
        frames: All that were judged, with their pictures.
        whole: The answers are of the frame as a whole: there are no boxes to draw.
    """
    return [
        ShownFrame(
            frame=each.row.frame,
            truth=each.row.truth,
            before=each.row.before,
            after=each.row.after,
            before_jpeg=jpeg_of(frames[each.number].frame.image, () if whole else each.before, whole),
            after_jpeg=jpeg_of(frames[each.number].frame.image, () if whole else each.after, whole),
        )
        for each in differing[:SHOWN_MAX]
    ]


def jpeg_of(image: UInt8Array, found: Sequence[Detection], whole: bool) -> str:
    """Returns a small frame in base64, with the detections drawn unless they are of the whole frame."""
    drawn = image if whole else annotate(image, found)
    return base64.b64encode(encode_jpeg(drawn, JPEG_QUALITY, side_max=SIDE_MAX)).decode()
