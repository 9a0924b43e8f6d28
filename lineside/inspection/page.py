"""A page of verdicts: counts, and the frames with their defects or heat maps, the strangest first."""

from __future__ import annotations

import base64
import collections
import dataclasses
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_models.image_file import encode_jpeg
from lineside_models.inspection import Inspection
from lineside_runtime.files import ensure_writable, write_atomic
from lineside_runtime.reports.markup import document, header, section, tiles
from lineside_runtime.wording import counted

SHOWN = 100
"""Frames on a page: about 4 MB."""

JPEG_QUALITY = 82


@dataclasses.dataclass(frozen=True, slots=True)
class _Picture:
    rank: tuple[int, float]
    verdict: str
    caption: str
    jpeg: bytes


class VerdictPage:
    """Collects drawn verdicts and writes them as one HTML file that loads nothing."""

    def __init__(self, path: Path, title: str) -> None:
        """Checks the place to write to.

        Raises:
            ConfigError: It is not writable.
        """
        ensure_writable(path)
        self._path, self._title = path, title
        self._counts: collections.Counter[str] = collections.Counter()
        self._pictures: list[_Picture] = []

    def add(self, verdict: Inspection, drawn: npt.NDArray[np.uint8]) -> None:
        """Adds a verdict; of too many frames those with the least scores are left out.

        Args:
            drawn: The annotated frame, BGR.
        """
        self._counts[verdict.verdict] += 1
        found = verdict.detections or verdict.doubtful
        score = (
            verdict.anomaly_score if verdict.anomaly_score is not None else max((one.score for one in found), default=0)
        )
        rank = ({"bad": 0, "unsure": 1}.get(verdict.verdict, 2), -score)
        if len(self._pictures) >= SHOWN and rank >= self._pictures[-1].rank:
            return
        types = ", ".join(f"{one.type} {one.score:.2f}" for one in found[:4])
        wrong = [one.text for one in verdict.out_of_tolerance]
        wrong += [one.summary for one in verdict.readings if not one.accepted]
        fine = "no defect found" if verdict.anomaly_score is None else f"score {score:.2f}"
        caption = ", ".join(filter(None, [types, *wrong])) or fine
        jpeg = encode_jpeg(drawn, JPEG_QUALITY)
        self._pictures.append(_Picture(rank, verdict.verdict, f"{verdict.part_id or 'frame'}: {caption}", jpeg))
        self._pictures.sort(key=lambda one: one.rank)
        del self._pictures[SHOWN:]

    def write(self) -> None:
        """Writes the page."""
        total = sum(self._counts.values())
        figures = [(str(total), "frames inspected")]
        figures += [
            (str(self._counts[name]), words) for name, words in _WORDS.items() if self._counts[name] or name != "unsure"
        ]
        note = "" if total <= SHOWN else f"The {SHOWN} strangest of {total} frames."
        pictures = "".join(_figure(one) for one in self._pictures)
        body = header(f"{counted(total, 'frame')} inspected", self._title) + tiles(figures)
        body += section("Frames, the strangest first", f'<div class="gallery">{pictures}</div>', note)
        write_atomic(self._path, document("lineside: verdicts", body).encode(errors="replace"))


_WORDS = {"bad": "rejected", "unsure": "unsure", "good": "passed"}


def _figure(one: _Picture) -> str:
    css = {"bad": "bad", "good": "good"}.get(one.verdict, "")
    image = f'<img alt="{escape(one.caption)}" src="data:image/jpeg;base64,{base64.b64encode(one.jpeg).decode()}">'
    word = _WORDS.get(one.verdict, one.verdict)
    return f'<figure>{image}<figcaption><span class="{css}">{word}</span> {escape(one.caption)}</figcaption></figure>'
