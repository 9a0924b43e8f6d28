"""Choose the frames whose correction teaches a model most, in two stages, as PPAL does (arXiv:2211.11612).

1. Of all frames the most uncertain ones, four times as many as are wanted: the entropy of the best score, weighted so
   that rare types count more.
2. Of these the ones that differ most, by ``patch-features`` (k-centre greedy).

A share is drawn at random, so that frames that the model is wrongly sure of, or finds nothing on, are seen too. The
benchmark ``relabel_selection`` compares it with drawing all at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from lineside_hub.config import HubConfig
from lineside_hub.relabel.selection import SelectedResult, Selection
from lineside_hub.results.frames.storage import frame_blobs
from lineside_models.anomaly.coreset import choose_spread
from lineside_models.anomaly.features import cells_of, features_bundle
from lineside_models.image_file import decode_image
from lineside_models.preprocess import prepare
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

RANDOM_SHARE = 0.15
CANDIDATES = 4
"""Candidates of the second stage for each frame that is wanted."""

NO_TYPE = -1
GREATEST = 3
SAY_EVERY = 100

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def choose_results(
    config: HubConfig,
    results: Sequence[SelectedResult],
    choice: Selection,
    *,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[SelectedResult]:
    """Returns as many results as the limit says, in their order; those that a person marked as wrong come first.

    Args:
        results: Each with another frame.

    Raises:
        ConfigError: There is no limit.
    """
    if choice.select == "newest":
        return list(results)
    if choice.limit is None:
        raise ConfigError(
            f"--select {choice.select} without a limit",
            expected="--limit N",
            action="Say how many frames people can correct, such as --limit 200.",
        )
    wrong = [one for one in results if one.wrong][-choice.limit :]
    others = [one for one in results if not one.wrong]
    count = min(choice.limit - len(wrong), len(others))
    if choice.select == "random":
        places = np.random.default_rng(choice.seed).choice(len(others), count, replace=False)
    else:
        best = [max(one.boxes, key=lambda box: box[1], default=None) for one in others]
        names = sorted({box[0] for box in best if box is not None})
        places = choose(
            uncertainty(np.array([0.0 if box is None else box[1] for box in best])),
            np.array([NO_TYPE if box is None else names.index(box[0]) for box in best], np.int64),
            count,
            lambda chosen: _describe_frames(config, [others[place].sha256 for place in chosen], on_progress),
            seed=choice.seed,
        )
    return [*wrong, *(others[place] for place in np.sort(places))]


def uncertainty(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Returns the entropy in nats of each frame's best score; 0 of a frame on which nothing was found."""
    known = np.clip(scores.astype(np.float64), 1e-9, 1 - 1e-9)
    entropy = -known * np.log(known) - (1 - known) * np.log(1 - known)
    return np.where(scores > 0, entropy, 0.0)


def choose(
    uncertain: npt.NDArray[np.float64], types: Ints, count: int, describe: Callable[[Ints], Floats], *, seed: int
) -> Ints:
    """Returns the indices of ``count`` frames, in no order.

    Args:
        uncertain: ``(N,)``: of each frame.
        types: ``(N,)``: type of its best find, or `NO_TYPE`.
        describe: Returns ``(K, C)``, what each of K frames looks like, by their indices.
    """
    random = np.random.default_rng(seed)
    drawn = round(RANDOM_SHARE * count)
    frequency = np.bincount(types[types >= 0], minlength=1)
    weights = np.sqrt(frequency[frequency > 0].mean() / np.maximum(frequency, 1)) if frequency.any() else np.ones(1)
    weighted = uncertain * np.where(types >= 0, weights[np.maximum(types, 0)], 1.0)
    candidates = np.argsort(-weighted, kind="stable")[: CANDIDATES * (count - drawn)]
    if len(candidates) > count - drawn:
        looks = describe(candidates)
        looks = (looks - looks.mean(axis=0)) / (looks.std(axis=0) + 1e-4)
        candidates = candidates[np.sort(choose_spread(np.asarray(looks, np.float32), count - drawn, seed=seed))]
    rest = np.setdiff1d(np.arange(len(uncertain)), candidates)
    return np.concatenate([candidates, random.choice(rest, count - len(candidates), replace=False)])


def descriptor(outputs: Sequence[Array]) -> Floats:
    """Returns what a frame looks like: mean, deviation and mean of the greatest values of each feature of each scale.

    Args:
        outputs: Of ``patch-features`` for one frame, ``(1, C, h, w)`` each.
    """
    found = []
    for each in outputs:
        cells = cells_of(each)
        found += [cells.mean(axis=0), cells.std(axis=0), np.sort(cells, axis=0)[-GREATEST:].mean(axis=0)]
    return np.concatenate(found)


def _describe_frames(config: HubConfig, frames: Sequence[str], on_progress: Callable[[str], None]) -> Floats:
    """Returns the descriptor of each frame, by its sha256; zeros for one that is gone or damaged."""
    source, place = features_bundle(), frame_blobs(config)
    how, names = source.manifest.preprocess, [spec.name for spec in source.manifest.outputs]
    found: list[Floats | None] = []
    with Session(source, Config(threads=1)) as session:
        for number, sha256 in enumerate(frames, 1):
            data = place.read(sha256)
            try:
                image = np.asarray(decode_image(data or b"", how=cv2.IMREAD_GRAYSCALE), np.uint8)
            except ValueError:
                found.append(None)
                continue
            outputs = session.predict({how.input: prepare(image, how)[0]})
            found.append(descriptor([outputs[name] for name in names]))
            if number % SAY_EVERY == 0:
                on_progress(f"{number} of {len(frames)} frames compared")
    known = [each for each in found if each is not None]
    nothing = np.zeros_like(known[0]) if known else np.zeros(1, np.float32)
    return np.stack([nothing if each is None else each for each in found])
