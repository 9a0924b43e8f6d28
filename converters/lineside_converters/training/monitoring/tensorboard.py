"""Progress of a training as TensorBoard's event files (the ``tensorboard`` extra)."""

from __future__ import annotations

from pathlib import Path

from lineside_converters.training.progress import TrainingProgress
from lineside_runtime.errors import MissingExtraError

FOLDER = "tensorboard"
"""Below the run's folder."""


class TensorboardWriter:
    """Writes loss and learning rate of every step, and the figures of every evaluation."""

    def __init__(self, folder: Path) -> None:
        """Opens the event file at the first report.

        Raises:
            MissingExtraError: tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "tensorboardX is not installed", action="Run pip install 'lineside[tensorboard]'."
            ) from error
        self._open, self._folder = SummaryWriter, folder
        self._writer: SummaryWriter | None = None

    def __call__(self, progress: TrainingProgress) -> None:
        """Writes one step; a resumed run hides older events behind its first step."""
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=progress.step)
        self._writer.add_scalar("loss", progress.loss, progress.step)
        self._writer.add_scalar("learning_rate", progress.learning_rate, progress.step)
        for name, value in progress.held.items():
            self._writer.add_scalar(f"held/{name}", value, progress.step)
        if progress.held:
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
