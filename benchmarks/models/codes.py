"""Codes on drawn parts: read rate, wrong texts and time, beside bare zxing-cpp, OpenCV and ZBar.

Each frame of 640 x 480 pixels has one code of a random text on brushed metal, at any angle, drawn by segno (QR) or
zxing-cpp's writer. Each condition changes one property of a good view, in steps from easy to hopeless. The forms of the
image that our reader tries, and their parameters, were chosen on frames of other seeds under views of the same kinds.

Readers: ``lineside``, the rule ``code`` for the code's symbology; ``zxing-cpp`` alone; ``opencv``, `QRCodeDetector` and
`barcode.BarcodeDetector`, which has no Data Matrix and no Code 128; ``zbar`` by pyzbar, which has no Data Matrix;
``null`` where a reader has no such symbology or is not installed.

- ``read``: share of frames of which the text was read; ``interval``: its 95 % interval (Wilson).
- ``wrong``: frames for which another text was given.
- ``ms``: processor time of one core for one frame: mean over all, over frames that were read and over those that were
  not; ``codes_a_second``: frames divided by the time for all of them, unread ones included.
- ``region``: the same for the plain view in a region of 240 x 240 pixels, as a rule would have.
- ``empty``: frames and regions without a code, by one rule for all four symbologies: ``ms`` is the longest that a part
  can take; ``wrong`` counts texts that were read from nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks.models.mark_outcomes import Outcome, Picture, Read, all_rates, outcome_of, rates
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_models.identification.mark_reader import MarkReader
from lineside_models.identification.rules import CodeRule, Symbology
from tests.worlds.drawn_codes import CodeView, empty, picture

FRAMES = scaled(16, smoke=2)
SYMBOLOGIES: tuple[Symbology, ...] = ("data-matrix", "qr", "code-128", "ean-13")
LINEAR = ("code-128", "ean-13")
LINEAR_MODULE_PX = 3.0
"""Largest module of linear codes, so that they fit the frame."""

BARS = {"codes_a_second": 20.0}
REGION = 240

PLAIN = CodeView()
CONDITIONS: dict[str, CodeView] = {
    "plain": PLAIN,
    "module of 2 px": dataclasses.replace(PLAIN, module_px=2.0),
    "module of 1.5 px": dataclasses.replace(PLAIN, module_px=1.5),
    "blur of 0.5 modules": dataclasses.replace(PLAIN, blur=0.5),
    "blur of 0.7 modules": dataclasses.replace(PLAIN, blur=0.7),
    "motion of 1.5 modules": dataclasses.replace(PLAIN, motion=1.5),
    "motion of 2.5 modules": dataclasses.replace(PLAIN, motion=2.5),
    "contrast of 30 levels": dataclasses.replace(PLAIN, contrast=30.0),
    "contrast of 15 levels": dataclasses.replace(PLAIN, contrast=15.0),
    "noise of 25 levels": dataclasses.replace(PLAIN, noise=25.0),
    "glare on 10 %": dataclasses.replace(PLAIN, glare=0.1),
    "glare on 25 %": dataclasses.replace(PLAIN, glare=0.25),
    "damage of 5 %": dataclasses.replace(PLAIN, damage=0.05),
    "damage of 12 %": dataclasses.replace(PLAIN, damage=0.12),
    "perspective of 20 %": dataclasses.replace(PLAIN, tilt=0.2),
    "perspective of 40 %": dataclasses.replace(PLAIN, tilt=0.4),
    "around a cylinder, 25 %": dataclasses.replace(PLAIN, bend=0.25),
    "bright on dark": dataclasses.replace(PLAIN, inverted=True),
    "separate dots": dataclasses.replace(PLAIN, dots=True),
}

MEASURED = scaled(len(CONDITIONS), smoke=3)


def run() -> dict[str, Any]:
    """Measures all conditions."""
    cv2.setNumThreads(1)
    readers = {symbology: _readers(symbology) for symbology in SYMBOLOGIES}
    conditions: dict[str, Any] = {}
    for number, (name, view) in enumerate(list(CONDITIONS.items())[:MEASURED]):
        print(f"codes: {name}", file=sys.stderr, flush=True)
        conditions[name] = {
            symbology: _condition(view, symbology, 200_000 + 1000 * number, readers[symbology])
            for symbology in SYMBOLOGIES
        }
    totals = {symbology: _total([found[symbology] for found in conditions.values()]) for symbology in SYMBOLOGIES}
    regions = {symbology: _region(symbology, readers[symbology]["lineside"]) for symbology in SYMBOLOGIES}
    speeds = {symbology: of["lineside"]["codes_a_second"] for symbology, of in totals.items()}
    slow = [f"{one}: {speed:.0f} codes a second" for one, speed in speeds.items() if speed < BARS["codes_a_second"]]
    return {
        "baseline": "zxing-cpp alone, OpenCV's QR and barcode detectors, and ZBar by pyzbar",
        "bars": BARS,
        "frames": FRAMES,
        "conditions": conditions,
        "all": totals,
        "region": regions,
        "empty": {"frame": _empty((480, 640)), "region": _empty((REGION, REGION))},
        "zbar": _zbar() is not None,
        "problems": slow,
    }


def _condition(view: CodeView, symbology: Symbology, seed: int, readers: dict[str, Read | None]) -> dict[str, Any]:
    """Reads the frames of one condition and symbology by all readers."""
    if symbology in LINEAR:
        view = dataclasses.replace(view, module_px=min(view.module_px, LINEAR_MODULE_PX))
    outcomes: dict[str, list[Outcome]] = collections.defaultdict(list)
    for number in range(FRAMES):
        at = seed + 100 * SYMBOLOGIES.index(symbology) + number
        text = _text(symbology, np.random.default_rng([at, 1]))
        frame, _ = picture(symbology, text, view, at)
        for name, read in readers.items():
            if read is not None:
                outcomes[name].append(outcome_of(read, frame, text))
    return {name: _summary(outcomes[name]) if name in outcomes else None for name in readers}


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    times = [one.ms for one in outcomes]
    of_read, of_unread = ([one.ms for one in outcomes if one.read is wanted] for wanted in (True, False))
    return {
        "frames": len(outcomes),
        **rates(outcomes),
        "ms": {"all": _mean(times), "read": _mean(of_read), "unread": _mean(of_unread)},
        "codes_a_second": 1000 / float(np.mean(times)),
    }


def _total(conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the counts over all conditions by reader."""
    totals: dict[str, Any] = {}
    for name in conditions[0]:
        found = [one[name] for one in conditions]
        if found[0] is None:
            totals[name] = None
            continue
        mean_ms = float(np.mean([one["ms"]["all"] for one in found]))
        totals[name] = {
            "frames": sum(one["frames"] for one in found),
            **all_rates(found),
            "ms": mean_ms,
            "codes_a_second": 1000 / mean_ms,
        }
    return totals


def _region(symbology: Symbology, read: Read | None) -> dict[str, Any] | None:
    """Reads plain codes in a cut of the frame."""
    if read is None:
        return None
    outcomes = []
    view = dataclasses.replace(PLAIN, module_px=1.8 if symbology in LINEAR else PLAIN.module_px)
    for number in range(FRAMES):
        at = 900_000 + 100 * SYMBOLOGIES.index(symbology) + number
        text = _text(symbology, np.random.default_rng([at, 1]))
        frame, _ = picture(symbology, text, view, at)
        top, left = (frame.shape[0] - REGION) // 2, (frame.shape[1] - REGION) // 2
        cut = np.ascontiguousarray(frame[top : top + REGION, left : left + REGION])
        outcomes.append(outcome_of(read, cut, text))
    return _summary(outcomes)


def _empty(size: tuple[int, int]) -> dict[str, Any]:
    """Reads frames without a code."""
    reader = MarkReader((CodeRule(name="code", symbologies=SYMBOLOGIES),))

    def read(frame: Picture) -> list[str]:
        return [one.text for one in reader.read(frame) if one.text]

    outcomes = [outcome_of(read, empty(700_000 + number, size=size), "") for number in range(FRAMES)]
    times = [one.ms for one in outcomes]
    return {"frames": len(outcomes), "wrong": sum(one.wrong for one in outcomes), "ms": spread(times)}


def _text(symbology: str, rng: np.random.Generator) -> str:
    if symbology != "ean-13":
        return "C" + "".join(map(str, rng.integers(0, 10, 7)))
    digits = rng.integers(0, 10, 12).tolist()
    check = -sum(digit * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10
    return "".join(map(str, [*digits, check]))


def _readers(symbology: Symbology) -> dict[str, Read | None]:
    reader = MarkReader((CodeRule(name="code", symbologies=(symbology,)),))

    def lineside(frame: Picture) -> list[str]:
        return [one.text for one in reader.read(frame) if one.text]

    return {"lineside": lineside, "zxing-cpp": _bare(symbology), "opencv": _opencv(symbology), "zbar": _zbar(symbology)}


def _bare(symbology: Symbology) -> Read:
    import zxingcpp

    kinds = {"data-matrix": "DataMatrix", "qr": "QRCode", "code-128": "Code128", "ean-13": "EAN13"}
    formats = [getattr(zxingcpp.BarcodeFormat, kinds[symbology])]
    return lambda frame: [one.text for one in zxingcpp.read_barcodes(frame, formats=formats)]


def _opencv(symbology: Symbology) -> Read | None:
    detector: Any = {"qr": cv2.QRCodeDetector, "ean-13": cv2.barcode.BarcodeDetector}.get(symbology)
    if detector is None:
        return None
    made = detector()
    return lambda frame: [text for text in made.detectAndDecodeMulti(frame)[1] if text]


def _zbar(symbology: Symbology = "qr") -> Read | None:
    kind = {"qr": "QRCODE", "code-128": "CODE128", "ean-13": "EAN13"}.get(symbology)
    try:
        from pyzbar import pyzbar
    except ImportError:  # the package or Debian's libzbar0
        return None
    if kind is None:
        return None
    symbols = [getattr(pyzbar.ZBarSymbol, kind)]
    return lambda frame: [one.data.decode() for one in pyzbar.decode(frame, symbols=symbols)]


def _mean(times: Sequence[float]) -> float | None:
    return float(np.mean(times)) if times else None
