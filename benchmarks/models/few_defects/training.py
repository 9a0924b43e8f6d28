"""Networks that `lineside train` fine-tunes on a few defects: what `learn-good --bad` is compared with."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.inputs.tiles import Tile
from lineside_converters.evaluation.bundle_runner import judge
from lineside_converters.loading.training_run import read_training
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import train_classifier
from lineside_converters.training.detection.architecture_selection import train_best
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.trainer import train_segmenter
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.config import Config
from lineside_runtime.session import Session

GOOD = "good"
BATCH = 16
Floats = npt.NDArray[np.float32]


def _classifier(data: Path, out: Path, epochs: int, seed: int) -> None:
    given = {"side_px": 192, "good_classes": [GOOD]}
    config = msgspec.convert(_common(data, out, epochs, seed) | given, ClassifierConfig)
    train_classifier(config, lambda _: None)


def _detector(data: Path, out: Path, epochs: int, seed: int, start: str = "surface-12") -> None:
    given = {"canvas_px": 224, "simulated_share": 0.0, "framing": "scale", "start": zoo.path(start)}
    config = msgspec.convert(_common(data, out, epochs, seed) | given, DetectorConfig)
    train_best(config, lambda _: None, lambda _: None)


def _segmenter(data: Path, out: Path, epochs: int, seed: int) -> None:
    given = {"side_px": 256}
    config = msgspec.convert(_common(data, out, epochs, seed) | given, SegmenterConfig)
    train_segmenter(config, lambda _: None)


def _common(data: Path, out: Path, epochs: int, seed: int) -> dict[str, Any]:
    common = {"data": [data], "out": out, "epochs": epochs, "seed": seed, "threads": 1, "batch": BATCH}
    return common | {"held_share": 0.2, "evaluate_every": max(1, epochs // 3)}


METHODS: dict[str, Callable[[Path, Path, int, int], None]] = {
    "classifier": _classifier,
    "detector": _detector,
    "starter": functools.partial(_detector, start="surface-starter"),
    "segmenter": _segmenter,
}
"""How each is trained: the data, the run's folder, epochs, seed. ``starter`` is a detector, too."""

IMAGES_A_MINUTE = {"classifier": 1800, "detector": 1200, "starter": 1200, "segmenter": 780}
"""Images that one thread trains on in a minute of processor time."""


def fine_tune(
    method: str, learned: Sequence[Tile], judged: Sequence[Tile], seed: int, minutes: float
) -> tuple[Floats, npt.NDArray[np.bool_], float]:
    """Trains on good and bad tiles, and judges others.

    Returns:
        The score of each judged tile, whether its strongest find meets the defect, and the processor time in seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        (_write_classes if method == "classifier" else _write_masks)(learned, data)
        epochs = max(1, round(minutes * IMAGES_A_MINUTE[method] / len(learned)))
        started_s = time.process_time()
        METHODS[method](data, run, epochs, seed)
        seconds = time.process_time() - started_s
        facts, _ = read_training(run)
        bundle = wrap_onnx(run / "float.onnx", Path(folder) / "bundle", facts)
        scores, hits = [], []
        with Session(bundle, Config(engines=("ort",), threads=1)) as session:
            labels = session.manifest.labels
            for tile in judged:
                found = judge(session, Frame(image=tile.image())).candidates
                bad = np.flatnonzero([labels[label] != GOOD for label in found.labels])
                first = bad[found.scores[bad].argmax()] if len(bad) else None
                scores.append(0.0 if first is None else float(found.scores[first]))
                hits.append(first is not None and meets(found.boxes[first], tile.boxes()))
        return np.array(scores, np.float32), np.array(hits, np.bool_), seconds


def meets(box: Floats, defects: Floats) -> bool:
    """Returns whether a box holds the middle of one of the boxes, or one of them its middle."""
    middles, mine = (defects[:, :2] + defects[:, 2:]) / 2, (box[:2] + box[2:]) / 2
    inside = ((middles >= box[:2]) & (middles <= box[2:])).all(axis=1)
    around = ((mine >= defects[:, :2]) & (mine <= defects[:, 2:])).all(axis=1)
    return bool((inside | around).any())


def _write_classes(tiles: Sequence[Tile], root: Path) -> None:
    rows = []
    for tile in tiles:
        place = Path(tile.kind or GOOD, tile.path.name)
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tile.path, root / place)
        rows.append((place.as_posix(), tile.tile))
    _write_folds(root, rows)


def _write_masks(tiles: Sequence[Tile], root: Path) -> None:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for tile in tiles:
        shutil.copy(tile.path, root / "images" / tile.path.name)
        cv2.imwrite(str(root / "masks" / f"{tile.path.stem}.png"), tile.pixels().astype(np.uint8) * 255)
    _write_folds(root, [(tile.path.name, tile.tile) for tile in tiles])


def _write_folds(root: Path, rows: Sequence[tuple[str, int]]) -> None:
    lines = ["image,group,fold", *(f"{name},{group},train" for name, group in rows)]
    (root / "folds.csv").write_text("\n".join(lines) + "\n")
