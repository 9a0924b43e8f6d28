"""Accuracy of a bundle for `lineside.Benchmark`, measured by the converters' evaluation."""

from __future__ import annotations

from pathlib import Path

from lineside.extras import needs
from lineside_runtime.benchmark import Accuracy, Judge
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config


def on_data(folder: Path | str, fold: str = "all", *, max_frames: int | None = None) -> Judge:
    """Returns a function that measures a bundle on an annotated dataset, for ``Benchmark(judge=…)``.

    Args:
        fold: Of its ``folds.csv``.
        max_frames: At most so many frames, evenly spread; ``None`` for all.

    Raises:
        DatasetError: The folder has none of the known layouts.
        MissingExtraError: The extra ``convert`` is not installed.
    """
    with needs("convert"):
        from lineside_converters.evaluation.bundle_accuracy import evaluate
    from lineside_models.datasets import load_dataset

    dataset = load_dataset(Path(folder), fold)

    def judge(bundle: Bundle, config: Config) -> Accuracy:
        """Returns the mAP@0.5 of a bundle on the dataset."""
        found = evaluate(bundle, dataset, fold=fold, max_frames=max_frames, config=config)
        return Accuracy(
            name="mAP@0.5",
            value=found.map50,
            source=f"{found.frames} frames of {found.dataset}, fold {fold}, measured here on {found.used_device}",
        )

    return judge
