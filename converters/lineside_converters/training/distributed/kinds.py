"""What several workers can train, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lineside_converters.training.classification.classifier import learn_classifier
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.config import TrainConfig, TrainProgress
from lineside_converters.training.detection.detector import learn
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.segmenter import learn_segmenter
from lineside_converters.training.settings import TrainingSettings
from lineside_converters.training.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model.

    Attributes:
        settings: Of its training.
        learn: Does what all workers do, and returns the rest, which only the first one calls.
    """

    settings: type[TrainingSettings]
    learn: Callable[[Any, Callable[[TrainProgress], None], Strategy], Callable[[], Any]]


KINDS = {
    "detector": Kind(TrainConfig, learn),
    "classifier": Kind(ClassifierConfig, learn_classifier),
    "segmenter": Kind(SegmenterConfig, learn_segmenter),
}
