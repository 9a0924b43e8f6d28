"""What a training run is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineside_runtime.errors import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one run of the detector's training.

    Attributes:
        data: Folders of data sets that `lineside_models.datasets` knows; only their train folds are read.
        out: Folder for checkpoints and results; made if it is not there.
        epochs: Passes over the largest data set.
        minutes: Wall time after which the schedule ends early but whole: the learning rate still falls to its end.
        seed: Of everything random; with ``minutes=None`` two runs on one machine give the same weights.
        batch: Canvases a step, of all domains together.
        canvas_px: Side of a training canvas, a multiple of 32.
        learning_rate: Peak, of neck and heads; the trunk learns at 0.4 of it.
        pcb_share: Share of a batch that is cut from circuit boards where both domains are given.
        simulated_share: Share of each domain's canvases that comes from the line simulator.
        held_share: Share of the train folds that is kept out to choose the checkpoint and calibrate the scores.
        evaluate_every: Epochs between evaluations on that share.
        threads: Of torch.
        start: A bundle or ONNX file whose weights, and whose channels, the run begins with; ``None`` for the
            architecture with a trunk that knows ImageNet.
        resume: Go on from ``out/checkpoint.pt``.
    """

    data: tuple[Path, ...]
    out: Path
    epochs: int = 60
    minutes: float | None = None
    seed: int = 0
    batch: int = 24
    canvas_px: int = 224
    learning_rate: float = 1.2e-3
    pcb_share: float = 0.5
    simulated_share: float = 0.1
    held_share: float = 0.08
    evaluate_every: int = 4
    threads: int = 2
    start: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        self._check("data", bool(self.data), "at least one folder")
        self._check("epochs", self.epochs >= 1, "1 or more")
        self._check("minutes", self.minutes is None or self.minutes > 0, "more than 0, or None")
        self._check("batch", self.batch >= 4, "4 or more")
        self._check("canvas_px", self.canvas_px % 32 == 0 and self.canvas_px >= 64, "a multiple of 32, 64 or more")
        self._check("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1")
        for name in ("pcb_share", "simulated_share"):
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._check("held_share", 0.01 <= self.held_share <= 0.5, "between 0.01 and 0.5")
        self._check("evaluate_every", self.evaluate_every >= 1, "1 or more")
        self._check("threads", self.threads >= 1, "1 or more")

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise TrainingError(f"{name} is not usable", expected=expected, actual=getattr(self, name))

    def as_dict(self) -> dict[str, Any]:
        """Returns the settings for ``training.json``; of folders only the names: no machine's paths travel."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        start = None if self.start is None else self.start.name
        return values | {"data": [folder.name for folder in self.data], "out": self.out.name, "start": start}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """What a run reports after each step.

    Attributes:
        epoch: Counted from 0.
        step: Counted from 0 over the whole run.
        steps: Steps of the whole run if no time budget cuts it.
        loss: Of this step.
        elapsed_s: Training time so far, resumed parts included.
        remaining_s: Estimate.
        held: Figures on the held-out share, by name, after an evaluation; empty otherwise.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    elapsed_s: float
    remaining_s: float
    held: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        weights: ``best.pt``, a state dict of ``surface_detector_lite0``, or of what the run started from.
        onnx: ``float.onnx``, the same weights as a graph.
        facts: ``training.json``.
        held_map50: Per domain, of the chosen weights on the held-out share of the train folds.
        calibration: Per label ``(a, b)``: probability of being right = sigmoid(a × logit + b).
        thresholds: Per label, on the calibrated score.
    """

    weights: Path
    onnx: Path
    facts: Path
    held_map50: dict[str, float]
    calibration: tuple[tuple[float, float], ...]
    thresholds: tuple[float, ...]
