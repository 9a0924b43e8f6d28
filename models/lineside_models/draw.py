"""Drawing of a verdict on its frame."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array, check_image
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.inspection import Detection
from lineside_models.labels import PCB, STEEL
from lineside_models.metrology.measurement import Measurement
from lineside_runtime.errors import BadInputFormatError

Colour = tuple[int, int, int]

READABLE_SIDE = 480
"""Frames with a shorter long side are enlarged by a whole number, so that the labels don't hide them."""

HEAT_WEIGHT = 0.45
"""Of a heat map's colour where it is hottest; the rest is the frame."""

_PALETTE: tuple[Colour, ...] = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (0, 94, 213),
    (167, 121, 204),
)
"""BGR. Six colours of Okabe and Ito (2008) that people with any colour vision tell apart."""

DOUBT: Colour = (150, 40, 110)
"""BGR of what the verdict was unsure of, whatever its type: dashed, in the colour of the verdict."""

_VERDICTS: dict[str, tuple[str, Colour]] = {
    "pass": ("PASS", (84, 130, 0)),
    "reject": ("REJECT", (40, 40, 190)),
    "unsure": ("UNSURE: a person must look", DOUBT),
    "fault": ("FAULT: no verdict", (0, 120, 200)),
}

IN_TOLERANCE: Colour = (84, 130, 0)
OUT_OF_TOLERANCE: Colour = (40, 40, 190)
NOT_MEASURED: Colour = (0, 120, 200)
"""BGR of measured lines: the colours of pass, reject and fault."""

_TICK_PX = 7
_DASH_PX = 7
_BANNER_PX = 34
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_SCALE = 0.5
_DARK: Colour = (24, 24, 24)
_LIGHT: Colour = (255, 255, 255)


def annotate(
    image: UInt8Array,
    detections: Sequence[Detection],
    *,
    doubtful: Sequence[Detection] = (),
    measurements: Sequence[Measurement] = (),
    readings: Sequence[MarkReading] = (),
    verdict: str | None = None,
    title: str = "",
    heat: npt.NDArray[np.float32] | None = None,
) -> UInt8Array:
    """Draws detections and verdict.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey; it is not changed.
        detections: What was found, boxes in pixels of ``image``.
        doubtful: What the verdict was unsure of; drawn dashed.
        measurements: Measured values; each is drawn where it was measured, with its name and value.
        readings: Marks; each is outlined, or the region where it was looked for, with its name and text.
        verdict: ``pass``, ``reject``, ``unsure`` or ``fault``; ``None``: reject if anything was found, is out of
            tolerance or a mark rejects, else fault if anything could not be measured or read, else unsure if anything
            is doubtful.
        title: Stands at the right of the banner, such as the part's number.
        heat: ``(H, W)``, 0 to 1: how unlike good parts each pixel is; laid over the frame where it is above 0.

    Returns:
        ``(H', W', 3) uint8`` BGR: the frame, small ones enlarged, below a banner with the verdict in words.

    Raises:
        BadInputFormatError: ``image`` is no image, or the verdict is unknown.
    """
    image = check_image(image)
    verdict = verdict or _verdict_of(detections, doubtful, measurements, readings)
    if verdict not in _VERDICTS:
        raise BadInputFormatError("verdict", expected=" or ".join(_VERDICTS), actual=verdict, action="")
    canvas, factor = _canvas(image, heat)
    for detection in doubtful:
        _draw_dashed(canvas, _corners(detection, factor))
    for detection in detections:
        _draw_box(canvas, detection, factor)
    for measurement in measurements:
        _draw_measured(canvas, measurement, factor)
    for reading in readings:
        _draw_outline(canvas, reading, factor)
    taken: list[tuple[int, int, int, int]] = []
    for measurement in measurements:
        _draw_text(canvas, measurement.label, _box_of(measurement, factor), _colour_of(measurement), taken)
    for reading in readings:
        box = cv2.boundingRect(_outline(reading, factor))
        place = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        _draw_text(canvas, _ascii(reading.label), place, _colour_of_mark(reading), taken)
    for detection in detections:  # after all boxes, so that none runs through a label
        _draw_label(canvas, detection, factor, taken)
    for detection in doubtful:
        _draw_label(canvas, detection, factor, taken, doubt=True)
    out = sum(not one.in_tolerance and not one.error for one in measurements)
    wrong = sum(one.failure == "reject" for one in readings)
    return np.vstack([_banner(canvas.shape[1], verdict, (len(detections), out, wrong), title), canvas])


def _canvas(image: UInt8Array, heat: npt.NDArray[np.float32] | None) -> tuple[UInt8Array, int]:
    """Returns the frame in colour, with the heat, and enlarged by a whole factor if it is small; and that factor."""
    factor = max(1, -(-READABLE_SIDE // max(image.shape[:2])))
    coloured = image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    coloured = coloured if heat is None else overlay_heat(coloured, heat)
    return np.asarray(coloured.repeat(factor, axis=0).repeat(factor, axis=1), np.uint8), factor


def _verdict_of(
    detections: Sequence[Detection],
    doubtful: Sequence[Detection],
    measurements: Sequence[Measurement],
    readings: Sequence[MarkReading],
) -> str:
    if detections or any(not one.in_tolerance and not one.error for one in measurements):
        return "reject"
    if any(one.failure == "reject" for one in readings):
        return "reject"
    if any(one.error for one in measurements) or any(one.error for one in readings):
        return "fault"
    return "unsure" if doubtful else "pass"


def overlay_heat(image: UInt8Array, heat: npt.NDArray[np.float32]) -> UInt8Array:
    """Returns the frame under a heat map, ``(H, W)`` from 0 to 1; ``(H, W, 3) uint8`` BGR."""
    if heat.shape != image.shape[:2]:
        raise BadInputFormatError("heat map", expected=image.shape[:2], actual=heat.shape, action="")
    share = np.clip(heat, 0, 1)
    colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = (HEAT_WEIGHT * np.sqrt(share))[..., None]
    return np.asarray(image * (1 - weight) + colours * weight, np.uint8)


def colour_of(defect_type: str) -> Colour:
    """Returns the colour of a type, BGR; of other models' types by their name."""
    for group in (STEEL, PCB):
        if defect_type in group:
            return _PALETTE[group.index(defect_type)]
    return _PALETTE[zlib.crc32(defect_type.encode()) % len(_PALETTE)]


def _corners(detection: Detection, factor: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(side * factor) for side in detection.box)
    return x1, y1, x2 - 1, y2 - 1


def _draw_box(canvas: UInt8Array, detection: Detection, factor: int) -> None:
    x1, y1, x2, y2 = _corners(detection, factor)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _DARK, 4)  # a dark rim, so that the box shows on any ground
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour_of(detection.type), 2)
    if detection.outline:
        corners = np.round(np.array(detection.outline) * factor).astype(np.int32)
        cv2.polylines(canvas, [corners], True, _DARK, 3)
        cv2.polylines(canvas, [corners], True, colour_of(detection.type), 1)


def _draw_dashed(canvas: UInt8Array, corners: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = corners
    for colour, thick in ((_LIGHT, 4), (DOUBT, 2)):
        for x in range(x1, x2 + 1, 2 * _DASH_PX):
            for y in (y1, y2):
                cv2.line(canvas, (x, y), (min(x + _DASH_PX, x2), y), colour, thick)
        for y in range(y1, y2 + 1, 2 * _DASH_PX):
            for x in (x1, x2):
                cv2.line(canvas, (x, y), (x, min(y + _DASH_PX, y2)), colour, thick)


def _draw_label(
    canvas: UInt8Array,
    detection: Detection,
    factor: int,
    taken: list[tuple[int, int, int, int]],
    *,
    doubt: bool = False,
) -> None:
    text = f"{detection.type} {detection.score:.2f}{'?' if doubt else ''}"
    _draw_text(canvas, text, _corners(detection, factor), DOUBT if doubt else colour_of(detection.type), taken)


def _colour_of(one: Measurement) -> Colour:
    return NOT_MEASURED if one.error else IN_TOLERANCE if one.in_tolerance else OUT_OF_TOLERANCE


def _box_of(one: Measurement, factor: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round((side + 0.5) * factor) for side in one.line)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _draw_measured(canvas: UInt8Array, one: Measurement, factor: int) -> None:
    """Draws the line from edge to edge with a tick at each end, a circle with its diameter, or the area's box."""
    colour = _colour_of(one)
    x1, y1, x2, y2 = ((side + 0.5) * factor for side in one.line)
    begin, end = (round(x1), round(y1)), (round(x2), round(y2))
    for tone, thick in ((_DARK, 4), (colour, 2)):
        if one.type in ("presence", "count"):
            cv2.rectangle(canvas, begin, end, tone, thick)
            continue
        cv2.line(canvas, begin, end, tone, thick, cv2.LINE_AA)
        long = float(np.hypot(x2 - x1, y2 - y1)) or 1.0
        if one.type == "diameter":
            middle = (round((x1 + x2) / 2), round((y1 + y2) / 2))
            cv2.circle(canvas, middle, round(long / 2), tone, thick, cv2.LINE_AA)
            continue
        aside_x, aside_y = -(y2 - y1) / long * _TICK_PX, (x2 - x1) / long * _TICK_PX
        for x, y in ((x1, y1), (x2, y2)):
            ticks = (round(x - aside_x), round(y - aside_y)), (round(x + aside_x), round(y + aside_y))
            cv2.line(canvas, *ticks, tone, thick, cv2.LINE_AA)


def _colour_of_mark(one: MarkReading) -> Colour:
    return IN_TOLERANCE if one.accepted else OUT_OF_TOLERANCE if one.failure == "reject" else NOT_MEASURED


def _outline(one: MarkReading, factor: int) -> npt.NDArray[np.int32]:
    return np.round((np.array(one.outline) + 0.5) * factor).astype(np.int32)


def _draw_outline(canvas: UInt8Array, one: MarkReading, factor: int) -> None:
    for tone, thick in ((_DARK, 4), (_colour_of_mark(one), 2)):
        cv2.polylines(canvas, [_outline(one, factor)], True, tone, thick, cv2.LINE_AA)


def _ascii(text: str) -> str:
    """Returns a text as OpenCV's font can draw it, at most 60 characters."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return short.encode("ascii", "replace").decode()


def _drawable(text: str) -> str:
    """Returns a text without lone surrogates, as in a file name that is no UTF-8: OpenCV ends the process at one."""
    return text.encode("utf-8", "replace").decode()


def _draw_text(
    canvas: UInt8Array,
    text: str,
    box: tuple[int, int, int, int],
    colour: Colour,
    taken: list[tuple[int, int, int, int]],
) -> None:
    text = _drawable(text)
    (width, height), below = cv2.getTextSize(text, _FONT, _TEXT_SCALE, 1)
    wide, high = width + 8, height + below + 5
    x, y = _label_place(canvas.shape[:2], box, (wide, high), taken)
    taken.append((x, y, x + wide, y + high))
    cv2.rectangle(canvas, (x, y), (x + wide, y + high), _DARK, -1)
    cv2.rectangle(canvas, (x + 1, y + 1), (x + wide - 1, y + high - 1), colour, -1)
    cv2.putText(canvas, text, (x + 4, y + height + 3), _FONT, _TEXT_SCALE, _on(colour), 1, cv2.LINE_AA)


def _label_place(
    canvas: tuple[int, ...],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int]:
    """Returns a free place for a label: above its box, below or inside; above if none is free."""
    x1, y1, _, y2 = box
    wide, high = size
    x = max(0, min(x1 - 1, canvas[1] - wide - 1))
    places = [y1 - high - 2, y2 + 2, y1 + 3, y2 - high - 3]
    inside = [y for y in places if 0 <= y <= canvas[0] - high - 1] or [max(0, min(y1, canvas[0] - high - 1))]
    for y in inside:
        if all(x + wide < left or x > right or y + high < top or y > bottom for left, top, right, bottom in taken):
            return x, y
    return x, inside[0]


def _banner(width: int, verdict: str, counts: tuple[int, int, int], title: str) -> UInt8Array:
    """Draws the verdict in words.

    Args:
        counts: Defects, values out of tolerance and marks that reject the part.
    """
    defects, out, wrong = counts
    text, colour = _VERDICTS[verdict]
    banner = np.empty((_BANNER_PX, width, 3), np.uint8)
    banner[:] = colour
    found = [f"{defects} defect{'s' * (defects > 1)}"] if defects else []
    found += [f"{out} out of tolerance"] if out else []
    found += [f"{wrong} wrong mark{'s' * (wrong > 1)}"] if wrong else []
    if verdict == "reject" and found:
        text = f"{text}: {', '.join(found)}"
    cv2.putText(banner, text, (10, 24), _FONT, 0.7, _LIGHT, 2, cv2.LINE_AA)
    used = cv2.getTextSize(text, _FONT, 0.7, 2)[0][0] + 30
    title = _drawable(title)
    title_width = cv2.getTextSize(title, _FONT, _TEXT_SCALE, 1)[0][0]
    if title and used + title_width + 10 <= width:
        cv2.putText(banner, title, (width - title_width - 10, 22), _FONT, _TEXT_SCALE, _LIGHT, 1, cv2.LINE_AA)
    return banner


def _on(colour: Colour) -> Colour:
    """Returns black or white, whichever has more contrast on the colour (ITU-R BT.601 luma)."""
    luma = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    return _DARK if luma > 110 else _LIGHT
