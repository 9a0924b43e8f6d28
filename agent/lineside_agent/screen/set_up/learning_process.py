"""Learn good parts in a process of its own, behind the line.

python -m lineside_agent.screen.set_up.learning_process learn FOLDER NAME VERSION SOURCE
python -m lineside_agent.screen.set_up.learning_process move FOLDER NAME VERSION SOURCE SCORE
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np

from lineside_agent.deployment.child_process import FAILED, lower_priority
from lineside_models.anomaly.extension import read_model
from lineside_models.anomaly.learning import AnomalyModel, LearningOptions, learn
from lineside_models.anomaly.packaging import write_bundle
from lineside_models.anomaly.threshold import moved_threshold
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import InputNotFoundError, LinesideError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

GOOD, BAD, BUNDLE, ACCEPTED, PROGRESS, RESULT = "good", "bad", "bundle", "accepted", "progress", "result.json"


class LearningResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned.

    Attributes:
        warning: If there are few parts, or if they vary too much; else empty.
        good: Scores of the good parts by number, each as if it had not been learned; 0.5 is the threshold.
        bad: Scores of the last rejects.
    """

    frames: int
    seconds: float
    warning: str
    good: dict[int, float]
    bad: tuple[float, ...]


def main() -> int:
    """Learns, or moves the threshold of what was learned."""
    how, place, name, version, source, *more = sys.argv[1:]
    lower_priority()
    cv2.setNumThreads(1)
    folder = Path(place)
    try:
        if how == "learn":
            _learn(folder, name, version, source)
        else:
            write_moved(folder, name, version, source, float(more[0]))
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return 0


def _learn(folder: Path, name: str, version: str, source: str) -> None:
    paths = sorted((folder / GOOD).glob("*.png"))

    def report(text: str) -> None:
        write_atomic(folder / PROGRESS, text.encode())

    model = learn((_frame(path) for path in paths), LearningOptions(), on_progress=report)
    bundle = write_bundle(model, folder / BUNDLE, name=name, version=version, source=source, overwrite=True)
    report("scores")
    write_atomic(folder / RESULT, msgspec.json.encode(_result(model, bundle, paths, sorted((folder / BAD).glob("*")))))


def _result(model: AnomalyModel, bundle: Bundle, good: list[Path], bad: list[Path]) -> LearningResult:
    steepness, offset = model.threshold.calibration
    scores = [1 / (1 + math.exp(-(steepness * value + offset))) for value in model.threshold.left_out]
    with Session(bundle, Config(engines=("ort",), threads=1)) as session:
        inspector = Inspector(session)
        found = [inspector.inspect(_frame(path)).anomaly_score or 0.0 for path in bad]
    return LearningResult(
        frames=model.frames,
        seconds=round(sum(model.seconds.values()), 1),
        warning=model.warning,
        good={int(path.stem): round(score, 4) for path, score in zip(good, scores, strict=True)},
        bad=tuple(round(score, 4) for score in found),
    )


def write_moved(folder: Path, name: str, version: str, source: str, score: float) -> None:
    """Writes the bundle to be deployed, with the threshold at a score of what was learned.

    Raises:
        ConfigError: Half of the good parts or more would be rejected.
    """
    model = read_model(open_bundle(folder / BUNDLE))
    steepness, offset = model.threshold.calibration
    value = (math.log(score / (1 - score)) - offset) / steepness
    moved = dataclasses.replace(model, threshold=moved_threshold(model.threshold, value))
    source = f"{source}; the threshold was moved from {model.threshold.value:.3f} to {value:.3f}"
    write_bundle(moved, folder / ACCEPTED, name=name, version=version, source=source, overwrite=True)


def _frame(path: Path) -> Frame:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputNotFoundError(f"{path} is no image that can be read", action="Collect the parts again.")
    return Frame(image=np.asarray(image, np.uint8), source=path.name)


if __name__ == "__main__":
    sys.exit(main())
