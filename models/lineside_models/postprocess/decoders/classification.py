"""``classification``: one score a class for the whole frame, as classifiers of torchvision and timm export it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import (
    Candidates,
    HeadParams,
    Ints,
    Outputs,
    check_shape,
    only,
    place,
    read,
    sigmoid,
    softmax,
)
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import ConfigError


class ClassificationParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``classification``, beside those of all heads.

    Attributes:
        activation: What makes probabilities of the output: ``softmax`` where one class is right, ``sigmoid`` where
            several may be; ``none`` and ``sigmoid_in_graph`` where the graph ends with these probabilities.
        good: Indices of the classes that mean a good part: they are never a defect.
        none_of_them: What a part is if no class reaches its threshold and no class of good parts is the likeliest:
            ``unsure``, or ``good`` where somebody has measured that. Only where classes exclude each other.
        first_class: Column of the first label; 1 where column 0 is a background class without a label.
        output: Name of the output; ``None`` where it is the only one.
    """

    activation: Literal["softmax", "sigmoid", "none", "sigmoid_in_graph"] = "softmax"
    good: tuple[int, ...] = ()
    none_of_them: Literal["unsure", "good"] = "unsure"
    first_class: int = 0
    output: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_class < 0 or any(index < 0 for index in self.good):
            raise ValueError("first_class and good must not be negative")

    @property
    def excludes(self) -> bool:
        """Whether exactly one class is right (softmax)."""
        return self.activation in ("softmax", "none") and self.none_of_them == "unsure"


def classification(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes each class above the floor, also of good parts, as a candidate that covers the frame."""
    checked = read(params, ClassificationParams)
    scores = _scores(outputs, checked, len(letterboxes))
    return [_frame(frame, checked, letterbox) for frame, letterbox in zip(scores, letterboxes, strict=True)]


def class_scores(outputs: Outputs, params: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Returns the probability of each label, ``(frames, labels)``."""
    return _scores(outputs, read(params, ClassificationParams), None)


def _scores(outputs: Outputs, params: ClassificationParams, frames: int | None) -> npt.NDArray[np.float64]:
    logits = only(outputs, params.output, "the scores")
    if logits.shape[2:] == (1, 1):  # some exports keep the pooled map's height and width
        logits = logits[:, :, 0, 0]
    check_shape(logits, (frames, None), "the scores")
    classes = logits.shape[1] - params.first_class
    if classes < 1 or any(index >= classes for index in params.good):
        raise ConfigError("postprocess.params.good and first_class", expected=f"indices below {logits.shape[1]}")
    return _probabilities(logits, params.activation)[:, params.first_class :]


def _probabilities(logits: npt.NDArray[Any], activation: str) -> npt.NDArray[np.float64]:
    if activation == "sigmoid":
        return sigmoid(logits)
    return softmax(logits, axis=1) if activation == "softmax" else logits.astype(np.float64)


def _frame(scores: npt.NDArray[np.float64], params: ClassificationParams, letterbox: Letterbox) -> Candidates:
    labels: Ints = np.arange(len(scores), dtype=np.int64)
    boxes = np.tile(letterbox.whole, (len(scores), 1))
    return place(boxes, scores, labels, np.flatnonzero(scores >= params.score_min), params, letterbox)[0]
