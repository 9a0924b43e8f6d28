"""What to evaluate on, and what to write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lineside_converters.cluster.tasks import ALONE, TaskRunner
from lineside_models.datasets import ALL
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError
from lineside_runtime.progress import CountListener


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate on, and what to write.

    Attributes:
        max_frames: At most so many frames, spread over all; ``None`` for all.
        clean_simulated: So many clean simulator frames are good parts too.
        choose_on: Fold that the factor for a wanted recall is chosen on; ``None`` for the train fold, if there is one.
            It is left out where it is the one that is judged.
        predictions: File for all finds in COCO's result format; ``None`` for none.
        config: Where the bundle may run.
        on_progress: Told how many frames of how many are done.
        tasks: Runs the frames; of a cluster, where latencies are those of its nodes with a task on every core.
    """

    fold: str = ALL
    max_frames: int | None = None
    clean_simulated: int = 0
    choose_on: str | None = None
    predictions: Path | None = None
    config: Config | None = None
    on_progress: CountListener | None = None
    tasks: TaskRunner = ALONE

    def refuse_detector_options(self, actual: str) -> None:
        """Refuses options that only a detector has.

        Raises:
            ConfigError: One of them is given.
        """
        if self.predictions is not None or self.clean_simulated or self.choose_on is not None:
            what = "predictions, clean simulator frames and a fold to choose on"
            raise ConfigError(what, expected="a detector", actual=actual)


class CombinedProgress:
    """Adds up the progress over several sets of frames."""

    def __init__(self, on_progress: CountListener | None, total: int) -> None:
        self._on_progress, self._total = on_progress, total
        self._before = self._done = 0

    def update(self, done: int, _of: int) -> None:
        """Takes the progress within one set."""
        self._before += self._done if done <= self._done else 0
        self._done = done
        if self._on_progress is not None:
            self._on_progress(self._before + done, self._total)
