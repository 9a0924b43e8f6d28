"""Few labelled defects of one kind and good parts, on magnetic tiles: fine-tuned networks of `lineside train`.

The frames, the judged tiles and the figures are those of `few_defects.labels`. The networks are float, and each is
trained by one thread for about ``--minutes`` of processor time. The classifier begins with ImageNet's weights, the
detector with ``surface-12``, a second one with ``surface-starter``, the segmenter with ImageNet's trunk. anomalib and
YOLOX-Nano are in `few_defects.peers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.inputs.tiles import Tile, tiles
from benchmarks.models.few_defects.splits import (
    KINDS,
    SEEDS,
    TOLERATED,
    Split,
    judged_frames,
    of_kind,
    rates_of,
    say,
    summarize,
)
from benchmarks.models.few_defects.training import METHODS, fine_tune
from benchmarks.smoke import scaled

KIND = KINDS[0]
COUNTS: dict[str, tuple[int, ...]] = scaled(dict.fromkeys(METHODS, (25,)), smoke={})
MINUTES = 3.0


def run(minutes: float = MINUTES) -> dict[str, Any]:
    """Trains each kind of network.

    Args:
        minutes: Processor time of each training, about.
    """
    images = tiles()
    splits = [Split(images, seed) for seed in range(SEEDS)]
    return {
        "baseline": "learn-good --bad, in few_defects.labels",
        "seeds": SEEDS,
        "good_frames": [len(split.good) for split in splits],
        "tolerated": TOLERATED,
        "minutes": minutes,
        "rows": list(_rows(images, splits, minutes)),
    }


def _rows(images: Sequence[Tile], splits: Sequence[Split], minutes: float) -> Iterator[dict[str, Any]]:
    for method, counts in COUNTS.items():
        for count in counts:
            outcomes = []
            for seed, split in enumerate(splits):
                chosen = of_kind(images, split.candidates, KIND)[:count]
                judged, good = judged_frames(images, split, KIND)
                learned = [images[place] for place in np.concatenate([split.good, chosen])]
                scores, hits, seconds = fine_tune(method, learned, [images[place] for place in judged], seed, minutes)
                outcomes.append({"labels": len(chosen), "seconds": seconds, **rates_of(scores, good, hits[~good])})
                say(f"{method}, {count} labelled, {seed}: {outcomes[-1]}")
            yield {"method": method, "kind": KIND, "count": count, **summarize(outcomes)}
