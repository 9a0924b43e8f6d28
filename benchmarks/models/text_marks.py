"""Printed text on drawn parts, read in a region: read rate, wrong texts and time, by the rule ``type = "text"``.

Each region of 200 x 400 pixels shows a letter and seven digits on brushed metal, at most 10 degrees askew, in OpenCV's
stroke font. Each condition changes one property of a good view. The views are those of `codes`, and a module is a 21st
of a letter's height. Nothing was chosen on these pictures.

``lineside`` is the rule with a pattern and its default score, which looks at a region in up to three forms; ``one
look`` reads the region once, and takes the lines that fit the pattern, whatever their score.

- ``read``: share of regions of which the text was read; ``interval``: its 95 % interval (Wilson).
- ``wrong``: regions for which another text was accepted. O and I are among the letters, which look like 0 and 1.
- ``ms``: processor time of one core for one region.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks.models.mark_outcomes import Outcome, Picture, Read, all_rates, outcome_of, rates
from benchmarks.smoke import scaled
from lineside_models.identification.mark_reader import MarkReader
from lineside_models.identification.rules import TextRule
from lineside_models.nlp.ocr.page_ocr import shared_ocr
from tests.worlds.drawn_codes import CodeView, empty
from tests.worlds.drawn_text import text_picture

FRAMES = scaled(8, smoke=1)
SIZE = (200, 400)
PATTERN = "[A-Z][0-9]{7}"

PLAIN = CodeView(module_px=1.2, blur=0.5)
CONDITIONS: dict[str, CodeView] = {
    "plain, letters of 25 px": PLAIN,
    "letters of 15 px": dataclasses.replace(PLAIN, module_px=0.7),
    "letters of 10 px": dataclasses.replace(PLAIN, module_px=0.5),
    "blur of 2 modules": dataclasses.replace(PLAIN, blur=2.0),
    "motion of 5 modules": dataclasses.replace(PLAIN, motion=5.0),
    "contrast of 30 levels": dataclasses.replace(PLAIN, contrast=30.0),
    "noise of 25 levels": dataclasses.replace(PLAIN, noise=25.0),
    "glare on 10 %": dataclasses.replace(PLAIN, glare=0.1),
    "damage of 5 %": dataclasses.replace(PLAIN, damage=0.05),
    "damage of 12 %": dataclasses.replace(PLAIN, damage=0.12),
    "perspective of 20 %": dataclasses.replace(PLAIN, tilt=0.2),
    "around a cylinder, 25 %": dataclasses.replace(PLAIN, bend=0.25),
    "bright on dark": dataclasses.replace(PLAIN, inverted=True),
    "separate dots": dataclasses.replace(PLAIN, dots=True),
}
MEASURED = scaled(len(CONDITIONS), smoke=2)


def run() -> dict[str, Any]:
    """Measures all conditions, and regions without text."""
    cv2.setNumThreads(1)
    readers: dict[str, Read] = {"lineside": _rule(), "one look": _one_look}
    conditions: dict[str, Any] = {}
    for number, (name, view) in enumerate(list(CONDITIONS.items())[:MEASURED]):
        print(f"text_marks: {name}", file=sys.stderr, flush=True)
        conditions[name] = _condition(view, 500_000 + 1000 * number, readers)
    nothing = [outcome_of(readers["lineside"], empty(800_000 + number, size=SIZE), "") for number in range(FRAMES)]
    return {
        "baseline": "one look by the same networks, without the rule's further forms and its least score",
        "frames": FRAMES,
        "conditions": conditions,
        "all": {name: _total([one[name] for one in conditions.values()]) for name in readers},
        "empty": _summary(nothing),
    }


def _condition(view: CodeView, seed: int, readers: dict[str, Read]) -> dict[str, Any]:
    outcomes: dict[str, list[Outcome]] = collections.defaultdict(list)
    for number in range(FRAMES):
        rng = np.random.default_rng([seed + number, 1])
        text = chr(65 + int(rng.integers(26))) + "".join(map(str, rng.integers(0, 10, 7)))
        askew = dataclasses.replace(view, angle=float(rng.uniform(-10, 10)))
        region = text_picture(text, askew, seed + number, size=SIZE)
        for name, read in readers.items():
            outcomes[name].append(outcome_of(read, region, text))
    return {name: _summary(outcomes[name]) for name in readers}


def _rule() -> Read:
    reader = MarkReader((TextRule(name="number", pattern=PATTERN),))
    return lambda region: [one.text for one in reader.read(region) if one.accepted]


def _one_look(region: Picture) -> list[str]:
    return [line.text for line in shared_ocr().lines(region) if re.fullmatch(PATTERN, line.text)]


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {"regions": len(outcomes), **rates(outcomes), "ms": float(np.mean([one.ms for one in outcomes]))}


def _total(conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "regions": sum(one["regions"] for one in conditions),
        **all_rates(conditions),
        "ms": float(np.mean([one["ms"] for one in conditions])),
    }
