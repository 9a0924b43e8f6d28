"""Reads printed or stamped text in a region by text recognition (OCR).

The networks are those that read scanned documents (`lineside_models.nlp.ocr`). The region is looked at as it is; where
no line fits the rule, other forms follow: enlarged for small letters, and with local contrast for stamped ones.
A word of letters and digits counts only if two crops of its line give the same, see `PageOcr`.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from lineside_models.frame import UInt8Array
from lineside_models.identification.found_mark import FindMarks, FoundMark
from lineside_models.identification.rules import TextRule
from lineside_models.preprocess import to_grey

RETRY_PIXELS_MAX = 500_000
"""Pixels of a region; larger ones are looked at once: each look takes a time that grows with them."""


def open_text_reader(rule: TextRule) -> FindMarks:
    """Returns what finds the lines of text in a region, one list for each form of the region.

    Raises:
        InputNotFoundError: This installation lacks the networks.
    """
    from lineside_models.nlp.ocr.page_ocr import shared_ocr

    reader = shared_ocr()
    reader.load()

    def find(image: UInt8Array) -> Iterator[list[FoundMark]]:
        grey = to_grey(image)
        for form, scale in _forms(grey):
            yield [
                FoundMark(content=line.text, outline=tuple((x / scale, y / scale) for x, y in line.outline))
                for line in reader.lines(form)
                if line.score >= rule.min_score
            ]

    return find


def _forms(grey: UInt8Array) -> Iterator[tuple[UInt8Array, float]]:
    """Yields forms of a region, each with its scale."""
    yield grey, 1.0
    if grey.size > RETRY_PIXELS_MAX:
        return
    twice = np.asarray(cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)
    yield twice, 2.0
    yield np.asarray(cv2.createCLAHE(3.0, (4, 4)).apply(twice), np.uint8), 2.0
