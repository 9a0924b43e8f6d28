"""Measuring rules on drawn parts of known size: errors, repeatability and time.

A plate with a bore and a slot is drawn with sizes, place and angle that are new in each frame, under cameras that
differ in blur, noise, perspective and distortion; its edges are exact to 1/200 pixel. Each camera is calibrated by its
own drawn chequerboard. The sizes are not on the pixel grid, and nothing was chosen on these frames.

Methods: ``rules``, ours; ``scale``, the same edges by the scale at the frame's centre alone. Baselines: OpenCV's
contours of plate and bore at Otsu's threshold, by that scale: ``box``, the upright bounding box; ``rectangle``, the
rectangle of least area and the circle of the bore's area. They have no slot.

- ``error_px``, ``error_mm``: bias, standard deviation, root mean square and 95th percentile of the absolute error.
- ``rr_percent``: ten parts, each laid down three times at another place: Gage R&R in percent of a tolerance of
  ±0.05 mm by `lineside_models.metrology.studies`; ``null`` where all values are the same.
- ``times``: processor time of one core for one frame, in ms.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, spread
from lineside_models.metrology.calibration import board_calibration, scale_calibration
from lineside_models.metrology.measurement import measure
from lineside_models.metrology.rules import DiameterRule, GapRule, LengthRule, MeasureRule
from lineside_models.metrology.studies import repeatability_by_anova
from tests.worlds.drawn_parts import Board, DrawnCamera, Plate

FRAMES = scaled(40, smoke=2)
PARTS, TRIALS = scaled((10, 3), smoke=(2, 2))
ROUNDS = scaled(60, smoke=2)
TOLERANCE_MM = 0.1
BARS = {"rms_px": 0.1}

PLAIN = DrawnCamera(subpixels=scaled(10, smoke=3))
CAMERAS = {
    "sharp, little noise": PLAIN,
    "noise of 8 grey levels": dataclasses.replace(PLAIN, noise=8.0),
    "out of focus, blur of 2.5 px": dataclasses.replace(PLAIN, blur=2.5),
    "perspective of 8 %": dataclasses.replace(PLAIN, tilt=0.08),
    "perspective and distortion of 3 %": dataclasses.replace(PLAIN, tilt=0.08, radial=0.03),
}
RULES: dict[str, MeasureRule] = {
    "width": LengthRule(name="width", line=((25, 342), (614, 342)), inside="dark", width=41, min=0),
    "slot": GapRule(name="slot", line=((300, 160), (570, 160)), inside="bright", width=41, min=0),
    "bore": DiameterRule(name="bore", centre=(200, 240), radius=60, search=30, inside="bright", min=0),
}
Frame = npt.NDArray[np.uint8]
Measured = dict[str, float | None]


def run() -> dict[str, Any]:
    """Measures all cameras."""
    cameras = {}
    for seed, (name, camera) in enumerate(CAMERAS.items()):
        print(f"measurement: {name}", file=sys.stderr, flush=True)
        cameras[name] = _camera(camera, seed)
    ours = [of for found in cameras.values() for of in found["rules"].values()]
    problems = [f"{of['failed']} frames were not measured" for of in ours if of["failed"]]
    return {
        "baseline": "OpenCV contours at Otsu's threshold, by the scale at the frame's centre",
        "bars": BARS,
        "tolerance_mm": TOLERANCE_MM,
        "cameras": cameras,
        "times": _times(),
        "problems": problems,
    }


def _camera(camera: DrawnCamera, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(1000 + seed)
    board = Board(columns=9, rows=7, square=4.5)
    calibration = board_calibration(camera.picture(board.brightness, seed), board.columns, board.rows, board.square)

    def rules(frame: Frame) -> Measured:
        return {one.name: one.value for one in measure(frame, tuple(RULES.values()), calibration)}

    methods: dict[str, Callable[[Frame], Measured]] = {
        "rules": rules,
        "scale": lambda frame: _by_scale(frame, camera),
        "box": lambda frame: _contours(frame, camera, upright=True),
        "rectangle": lambda frame: _contours(frame, camera, upright=False),
    }
    plates = [_plate(rng) for _ in range(FRAMES)]
    found = [_all(methods, camera.picture(plate.brightness, 100 * seed + n)) for n, plate in enumerate(plates)]
    repeated = _repeated(methods, camera, rng)
    summary: dict[str, Any] = {"error_of_board_mm": calibration.error_mm}
    for method in methods:
        summary[method] = {}
        for name in [name for name in RULES if name in found[0][method]]:
            values, true = [one[method][name] for one in found], [float(getattr(plate, name)) for plate in plates]
            rr = _repeatability([[one[method][name] for one in part] for part in repeated])
            summary[method][name] = {**_errors(values, true, camera), "rr_percent": rr}
    return summary


def _plate(rng: np.random.Generator) -> Plate:
    return Plate(
        width=40 + rng.uniform(-0.2, 0.2),
        bore=10 + rng.uniform(-0.2, 0.2),
        slot=4 + rng.uniform(-0.2, 0.2),
        **_place(rng),
    )


def _place(rng: np.random.Generator) -> dict[str, Any]:
    x, y = rng.uniform(-0.5, 0.5, 2).tolist()
    return {"angle": float(rng.uniform(-1.5, 1.5)), "shift": (x, y)}


def _all(methods: dict[str, Callable[[Frame], Measured]], frame: Frame) -> dict[str, Measured]:
    return {name: method(frame) for name, method in methods.items()}


def _repeated(
    methods: dict[str, Callable[[Frame], Measured]], camera: DrawnCamera, rng: np.random.Generator
) -> list[list[dict[str, Measured]]]:
    """Measures each of some parts several times, laid down anew each time."""
    parts = []
    for part in range(PARTS):
        plate = _plate(rng)
        laid = [dataclasses.replace(plate, **_place(rng)) for _ in range(TRIALS)]
        frames = [camera.picture(one.brightness, 5000 + 10 * part + n) for n, one in enumerate(laid)]
        parts.append([_all(methods, frame) for frame in frames])
    return parts


def _errors(values: list[float | None], true: list[float], camera: DrawnCamera) -> dict[str, Any]:
    errors = np.array([value - size for value, size in zip(values, true, strict=True) if value is not None])
    if not len(errors):
        return {"failed": len(values)}
    in_mm = {
        "bias": float(errors.mean()),
        "sd": float(errors.std()),
        "rms": float(np.sqrt((errors**2).mean())),
        "p95": float(np.quantile(np.abs(errors), 0.95)),
    }
    return {
        "frames": len(errors),
        "failed": len(values) - len(errors),
        "error_mm": in_mm,
        "error_px": {name: value * camera.px_per_mm for name, value in in_mm.items()},
    }


def _repeatability(values: list[list[float | None]]) -> float | None:
    known = [[value for value in part if value is not None] for part in values]
    if any(len(part) < TRIALS for part in known) or not np.ptp(known):
        return None
    return repeatability_by_anova(np.array([known]), tolerance=TOLERANCE_MM).rr_percent


def _by_scale(frame: Frame, camera: DrawnCamera) -> Measured:
    """The same edges without the board, to show the gain of the calibration."""
    plain = scale_calibration(camera.px_per_mm, (camera.width, camera.height))
    return {one.name: one.value for one in measure(frame, tuple(RULES.values()), plain)}


def _contours(frame: Frame, camera: DrawnCamera, *, upright: bool) -> Measured:
    """Returns the sizes of the plate and its bore by OpenCV's contours."""
    _, mask = cv2.threshold(frame, 0, 255, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    contours, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(one) for one in contours]
    inside = [at for at in range(len(contours)) if levels[0][at][3] >= 0]
    plate = contours[int(np.argmax(areas))]
    width = cv2.boundingRect(plate)[2] if upright else max(cv2.minAreaRect(plate)[1])
    if not inside:
        return {"width": width / camera.px_per_mm, "bore": None}
    hole = max(inside, key=lambda at: areas[at])
    # A hole's contour runs over the pixels around it.
    bore = cv2.boundingRect(contours[hole])[2] - 2 if upright else 2 * np.sqrt(areas[hole] / np.pi) - 1
    return {"width": width / camera.px_per_mm, "bore": float(bore) / camera.px_per_mm}


def _times() -> dict[str, Any]:
    frame = PLAIN.picture(Plate().brightness)
    calibration = scale_calibration(PLAIN.px_per_mm, (PLAIN.width, PLAIN.height))
    calls: dict[str, Callable[[], object]] = {
        name: functools.partial(measure, frame, (rule,), calibration) for name, rule in RULES.items()
    }
    calls["all three"] = lambda: measure(frame, tuple(RULES.values()), calibration)
    calls["contours"] = lambda: _contours(frame, PLAIN, upright=False)
    cv2.setNumThreads(1)
    found = interleaved(calls, rounds=ROUNDS, clock=time.thread_time_ns)
    return {name: spread(times) for name, times in found.items()}
