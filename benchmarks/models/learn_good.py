"""``lineside learn-good`` on magnetic tiles by the published protocol and by tile.

``published``: 80 % of the good images, drawn at random, are learned; the others and all bad ones are judged. Photos of
one tile at other exposures are then in both. ``by_tile``: four folds that divide no tile; judged are the good and the
bad images of tiles of which nothing was learned. Every figure is of the INT8 features and the INT8 bank, by the code
that `learn` runs. Intervals are of 95 %, by bootstrap over tiles; those of shares are never narrower than Wilson's of
the judged frames. Times are processor time of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.inputs.tiles import Ints, Tile, draw, folds, tiles
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_models.anomaly.copy_paste import squared
from lineside_models.anomaly.defect_head import MarkedFrame, collect_marked
from lineside_models.anomaly.extension import extend
from lineside_models.anomaly.features import FrameFeatures, collect_features
from lineside_models.anomaly.learning import PASTED_ON, PEAK_CELLS, AnomalyModel, LearningOptions, fit, learn
from lineside_models.anomaly.packaging import write_bundle
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.metrics import auroc, wilson
from lineside_runtime.config import Config
from lineside_runtime.session import Session

SEEDS = scaled((0, 1), smoke=(0,))
FOLDS = scaled(4, smoke=2)
DRAWS = scaled(2, smoke=1)
FRAMES = scaled((50, 155), smoke=(24,))
BAD_SHARES = (0.01, 0.05)
SHOWN = 5
MARKED = scaled((10, 20, 80), smoke=(2,))
LEARNED_SHARE = 0.8
PEAKS = (1, PEAK_CELLS, 8)
"""Numbers of greatest cells whose mean is a frame's distance."""

RESAMPLES = scaled(500, smoke=20)
PIXELS_SIDE = 128
TIMED = scaled(60, smoke=3)
BARS = {
    "published": 0.975,
    "by_tile": 0.85,
    "shown": 0.92,
    "marked": {"10": 0.88, "20": 0.90, "80": 0.92},
    "pixels": 0.95,
    "false_rejects": 0.015,
    "latency_ms": 50,
    "learning_s": 60,
}

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Data:
    """All images and their features.

    Attributes:
        images: In the order of the features.
        features: Of all of them; of bad ones, too.
        numbers: Tile of each.
        seconds: Of computing the features of one image.
    """

    images: Sequence[Tile]
    features: FrameFeatures
    good: Bools
    numbers: Ints
    seconds: float

    def rows(self, chosen: Ints) -> tuple[Floats, ...]:
        """Returns the features of some images, ``(looks, frames, cells, C)`` a scale."""
        return tuple(cells[:, chosen] for cells in self.features.scales)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Scores of a model on images that it was not fitted to.

    Attributes:
        chosen: Indices of the images.
    """

    chosen: Ints
    sums: Floats
    value: float


def run() -> dict[str, Any]:
    """Measures both protocols and what helps."""
    data = _data()
    _say(f"features: {data.seconds:.3f} s a frame")
    published, models = _protocol(data, _random_splits(data))
    splits = _tile_splits(data)
    by_tile, by_tile_models = _protocol(data, splits)
    return {
        "baseline": "annotations; PatchCore 0.979, DifferNet 0.977, CS-Flow 0.993 report the published protocol",
        "bars": BARS,
        "images": {"good": int(data.good.sum()), "bad": int((~data.good).sum()), "tiles": len(set(data.numbers))},
        "published": published,
        "by_tile": by_tile,
        "frames": {f"{frames}": _few_frames(data, frames) for frames in FRAMES},
        "shown": _shown(data, splits, by_tile_models),
        "marked": {f"{count}": _marked(data, splits, by_tile_models, count) for count in MARKED},
        "speed": _speed(data, models[0]),
    }


def _say(text: str) -> None:
    print(f"learn_good: {text}", file=sys.stderr, flush=True)


def _data() -> Data:
    images = tiles()
    started_s = time.process_time()
    features = collect_features(
        Frame(image=each.image(), source=each.path.name, part_id=f"{each.tile:06d}") for each in images
    )
    seconds = (time.process_time() - started_s) / len(images)
    good = np.array([not each.kind for each in images])
    return Data(images, features, good, np.array([each.tile for each in images], np.int64), seconds)


def _random_splits(data: Data) -> list[tuple[Ints, Ints]]:
    """Returns the images that are learned, and those that are judged, of each split."""
    splits = []
    for seed in SEEDS:
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(data.good))
        count = int(LEARNED_SHARE * len(drawn))
        splits.append((np.sort(drawn[:count]), np.concatenate([np.sort(drawn[count:]), np.flatnonzero(~data.good)])))
    return splits


def _tile_splits(data: Data) -> list[tuple[Ints, Ints]]:
    held = [np.isin(data.numbers, fold) for fold in folds(data.numbers, FOLDS, 0)]
    return [(np.flatnonzero(data.good & ~mine), np.flatnonzero(mine)) for mine in held]


def _protocol(data: Data, splits: Sequence[tuple[Ints, Ints]]) -> tuple[dict[str, Any], list[AnomalyModel]]:
    judged, pixels, peaks, seconds, models = [], [], [], [], []
    for number, (learned, tested) in enumerate(splits):
        started_s = time.process_time()
        model = fit(data.features.of(learned), LearningOptions(seed=number))
        seconds.append(time.process_time() - started_s + data.seconds * len(learned))
        maps = model.maps(data.rows(tested))
        _say(f"fitted {number + 1} of {len(splits)}")
        judged.append(Judged(tested, model.sums_of(maps), model.threshold.value))
        pixels.append(_of_pixels(data, maps, tested))
        peaks.append(_of_peaks(model, maps, data.good[tested]))
        models.append(model)
    return {
        "learned": [len(learned) for learned, _ in splits],
        "entries": [len(model.banks[0].entries) for model in models],
        "bank_bytes": max(model.bank_bytes for model in models),
        "learning_s": round(max(seconds), 1),
        **_figures(data, judged),
        "auroc_peaks": {f"{cells}": round(statistics.mean(each[cells] for each in peaks), 4) for cells in PEAKS},
        "auroc_pixels": _mean_of(pixels, ""),
        "types": _types(data, judged, pixels),
    }, models


def _judge(data: Data, model: AnomalyModel, tested: Ints) -> Judged:
    return Judged(tested, model.sums(data.rows(tested)), model.threshold.value)


def _figures(data: Data, judged: Sequence[Judged]) -> dict[str, Any]:
    """Returns AUROC, false rejects and found bad frames; means over the splits, with intervals."""
    drawn = [[_rates(data, each, seed) for seed in range(RESAMPLES)] for each in judged]
    found = [_rates(data, each, None) for each in judged]
    figures: dict[str, Any] = {}
    for place, name in enumerate(("auroc", "false_rejects", "recall")):
        resampled = np.nanmean([[rates[place] for rates in each] for each in drawn], axis=0)
        figures[name] = round(float(np.mean([rates[place] for rates in found])), 4)
        low, high = np.nanpercentile(resampled, (2.5, 97.5))
        if name != "auroc":  # no reject at all says less than that there never is one
            every = np.unique(np.concatenate([each.chosen for each in judged]))
            frames = int((data.good[every] == (name == "false_rejects")).sum())
            ends = wilson(round(figures[name] * frames), frames)
            low, high = min(low, ends[0]), max(high, ends[1])
        figures[f"{name}_interval"] = [round(float(low), 4), round(float(high), 4)]
    figures["good"] = sum(int(data.good[each.chosen].sum()) for each in judged)
    figures["bad"] = sum(int((~data.good[each.chosen]).sum()) for each in judged)
    return figures


def _rates(data: Data, judged: Judged, seed: int | None) -> tuple[float, float, float]:
    """Returns the figures of one split; with a seed, of its tiles drawn with replacement."""
    places = np.arange(len(judged.chosen))
    if seed is not None:
        numbers = data.numbers[judged.chosen]
        known = np.unique(numbers)
        times = np.random.default_rng(seed).multinomial(len(known), np.full(len(known), 1 / len(known)))
        places = np.repeat(places, times[np.searchsorted(known, numbers)])
    good, sums = data.good[judged.chosen[places]], judged.sums[places]
    if good.all() or not good.any():
        return (float("nan"),) * 3
    above = sums >= judged.value
    return auroc(sums[good], sums[~good]), float(above[good].mean()), float(above[~good].mean())


def _of_peaks(model: AnomalyModel, maps: tuple[Floats, ...], good: Bools) -> dict[int, float]:
    """Returns the AUROC of frames by numbers of greatest cells that are averaged."""
    found = {}
    for cells in PEAKS:
        sums = dataclasses.replace(model, peak_cells=cells).sums_of(maps)
        found[cells] = auroc(sums[good], sums[~good])
    return found


def _types(data: Data, judged: Sequence[Judged], pixels: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = {}
    for kind in sorted({each.kind for each in data.images if each.kind}):
        rates, frames = [], 0
        for each in judged:
            mine = np.array([data.images[place].kind == kind for place in each.chosen])
            good = data.good[each.chosen]
            frames += int(mine.sum())
            if mine.any():
                rates.append(auroc(each.sums[good], each.sums[mine]))
        types[kind] = {
            "auroc": round(statistics.mean(rates), 4),
            "frames": frames,
            "auroc_pixels": _mean_of(pixels, kind),
        }
    return types


def _mean_of(pixels: Sequence[dict[str, float]], kind: str) -> float | None:
    """Returns the mean over the splits that have masks of the kind, if there is one."""
    known = [each[kind] for each in pixels if kind in each]
    return round(statistics.mean(known), 4) if known else None


def _of_pixels(data: Data, maps: tuple[Floats, ...], tested: Ints) -> dict[str, float]:
    """Returns the AUROC of pixels, of all images (``""``) and of good ones with those of each kind of defect.

    Bad images without a mask are left out; nothing is returned if none is left.
    """
    kept = np.array([data.good[place] or data.images[place].mask is not None for place in tested])
    chosen = tested[kept]
    if data.good[chosen].all():
        return {}
    heats = sum(
        np.stack(
            [cv2.resize(_square(one), (PIXELS_SIDE, PIXELS_SIDE), interpolation=cv2.INTER_LINEAR) for one in cells]
        )
        for cells in (one[kept] for one in maps)
    )
    defects = np.stack([data.images[place].defect(PIXELS_SIDE) for place in chosen])
    kinds = np.array([data.images[place].kind for place in chosen])
    found = {}
    for kind in ("", *sorted(set(kinds) - {""})):
        shown = np.isin(kinds, ("", kind)) if kind else np.full(len(kinds), True)
        defect = defects[shown]
        if defect.any():
            heat = np.asarray(heats)[shown]
            found[kind] = auroc(heat[~defect], heat[defect])
    return found


def _square(cells: Floats) -> Floats:
    side = round(len(cells) ** 0.5)
    return cells.reshape(side, side)


def _few_frames(data: Data, frames: int) -> dict[str, Any]:
    """Learns from so many frames of whole tiles, a share of bad ones among them, and judges all other tiles."""
    shares = (0.0, *BAD_SHARES) if frames == FRAMES[-1] else (0.0,)
    return {f"{share:g} bad": _few(data, frames, share) for share in shares}


def _few(data: Data, frames: int, share: float) -> dict[str, Any]:
    _say(f"{frames} frames, {share:g} bad")
    judged, entries, named, bad_ones, parts = [], [], [], [], []
    good = np.flatnonzero(data.good)
    for seed in range(DRAWS):
        learned = good[draw(data.numbers[good], frames, seed)]
        candidates = np.flatnonzero(~data.good)
        mixed = np.random.default_rng(seed).permutation(candidates)[: round(share * frames)]
        tested = np.flatnonzero(~np.isin(data.numbers, data.numbers[np.concatenate([learned, mixed])]))
        model = fit(data.features.of(np.concatenate([learned, mixed])), LearningOptions(seed=seed))
        names = {data.images[place].path.name for place in mixed}
        named.append(sum(name in names for name in model.suspects))
        bad_ones.append(len(mixed))
        parts.append(model.parts)
        entries.append(len(model.banks[0].entries))
        judged.append(_judge(data, model, tested))
    counts = {"bad_learned": sum(bad_ones), "bad_named": sum(named)}
    return {"parts": parts, "entries": max(entries), **counts, **_figures(data, judged)}


def _shown(data: Data, splits: Sequence[tuple[Ints, Ints]], models: Sequence[AnomalyModel]) -> dict[str, Any]:
    """Shows five good frames of each tile that has more, and judges its other frames."""
    before, after = [], []
    random = np.random.default_rng(0)
    above = []
    for (_, tested), model in zip(splits, models, strict=True):
        chosen: list[int] = []
        sums: list[float] = []
        for tile in np.unique(data.numbers[tested]):
            mine = tested[data.numbers[tested] == tile]
            good = random.permutation(mine[data.good[mine]])
            if len(good) <= SHOWN:
                continue
            found = extend(model, data.features.of(np.sort(good[:SHOWN])))
            others = np.setdiff1d(mine, good[:SHOWN])
            chosen += others.tolist()
            sums += found.model.sums(data.rows(others)).tolist()
            above.append(found.above_left_out)
        if chosen and not data.good[chosen].all():
            places = np.array(chosen, np.int64)
            before.append(_judge(data, model, places))
            after.append(Judged(places, np.array(sums, np.float32), model.threshold.value))
    if not after:
        return {"left_out": "no tile has five good frames, further ones and bad ones"}
    return {"shown": SHOWN, "before": _figures(data, before), "after": _figures(data, after)}


def _marked(
    data: Data, splits: Sequence[tuple[Ints, Ints]], models: Sequence[AnomalyModel], count: int
) -> dict[str, Any]:
    """Learns also from so many bad frames with boxes, of as many tiles as there are, none of them judged."""
    _say(f"{count} marked")
    judged, seconds, tiles_marked = [], [], []
    for number, ((learned, tested), model) in enumerate(zip(splits, models, strict=True)):
        bad = np.setdiff1d(np.flatnonzero(~data.good), tested)
        drawn = np.random.default_rng(number).permutation(bad)
        first = np.unique(data.numbers[drawn], return_index=True)[1]
        order = np.concatenate([drawn[np.sort(first)], np.delete(drawn, first)])
        chosen = np.sort(order[:count])
        sample = np.random.default_rng(number).permutation(learned)[:PASTED_ON]
        how = data.features.source.manifest.preprocess
        started_s = time.process_time()
        marked = collect_marked(
            [MarkedFrame(Frame(image=data.images[place].image()), data.images[place].boxes()) for place in chosen],
            [squared(data.images[place].image(), how) for place in sample],
            seed=number,
        )
        found = fit(data.features.of(learned), LearningOptions(seed=number), marked=marked, banks=model.banks)
        seconds.append(time.process_time() - started_s)
        judged.append(_judge(data, found, tested))
        tiles_marked.append(len(set(data.numbers[chosen])))
    return {"tiles": tiles_marked, "fit_s": round(max(seconds), 1), **_figures(data, judged)}


def _speed(data: Data, largest: AnomalyModel) -> dict[str, Any]:
    """Times one thread: learning from 50 frames, and a frame by a bundle of the largest and of the smallest bank."""
    good = np.flatnonzero(data.good)
    chosen = good[:: max(1, len(good) // FRAMES[0])][: FRAMES[0]]
    started_s = time.process_time()
    small = learn(Frame(image=data.images[place].image(), part_id=f"{place}") for place in chosen)
    learning_s = time.process_time() - started_s
    found: dict[str, Any] = {"frames": len(chosen), "learning_s": round(learning_s, 1)}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in {"smallest": small, "largest": largest}.items():
            bundle = write_bundle(model, Path(folder) / name, name=name)
            found[name] = {
                "entries": len(model.banks[0].entries),
                "bundle_bytes": bundle.manifest.size_bytes,
                "latency_ms": _latency(data, bundle.path),
            }
    return found


def _latency(data: Data, bundle: Path) -> dict[str, float]:
    times = []
    with Session(bundle, Config(threads=1, engines=("ort",))) as session:
        inspector = Inspector(session, batch_size=1)
        for place in range(TIMED + 3):
            frame = Frame(image=data.images[place % len(data.images)].image())
            started_s = time.process_time()
            inspector.inspect(frame)
            times.append(1000 * (time.process_time() - started_s))
    return spread(times[3:])
