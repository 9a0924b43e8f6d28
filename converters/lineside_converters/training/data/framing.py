"""Framing: how pictures become training canvases, and how a frame becomes the model's input.

- ``scale``: the whole picture is brought to the canvas; right where defects are large in the picture.
- ``cut``: canvases are cut out at the picture's own scale; right where defects would shrink to nothing.

A network does not generalise to another scale. The pre-processing in the bundle therefore follows from the framing, and
data sets that would need two of them are not trained together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_models.networks.detector import INPUT, MEAN, STD
from lineside_runtime.bundle import Preprocess, Reference
from lineside_runtime.errors import TrainingError

SMALLEST_PX = 12.0
"""Short side that three quarters of the boxes must keep on the canvas for pictures to be scaled: a cell and a half of
the finest map. At 224 pixels neu-det has 27, deeppcb 9.6, magnetic-tile 7.1."""

LARGEST_SIDE_PX = 1280
"""Pictures that are cut at their own scale are reduced to this on their long side before, at the line as in training.
1280 pixels cost about 30 times the time of 224."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How pictures of one data set become canvases.

    Attributes:
        kept_share: A box that keeps less of its area on the canvas is dropped. Textures stay themselves when cut; a
            circuit defect that has lost half of itself does not.
        zoom: Range of the random scale.
        turn: Whether canvases are mirrored along their diagonal too.
    """

    kind: Literal["scale", "cut"]
    kept_share: float
    zoom: tuple[float, float]
    turn: bool = False


STEEL = Framing("scale", kept_share=0.25, zoom=(0.8, 1.5))
PCB = Framing("cut", kept_share=0.5, zoom=(1.0, 1.0), turn=True)  # the scale of the pixels is the camera's and stays
OWN = {
    "scale": Framing("scale", kept_share=0.35, zoom=(0.8, 1.4)),
    "cut": Framing("cut", kept_share=0.5, zoom=(0.9, 1.1)),
}
"""Framings of data sets other than neu-det and deeppcb."""


def choose_framing(pictures: Sequence[TrainingPicture], canvas_px: int) -> Literal["scale", "cut"]:
    """Returns ``scale`` if the boxes stay large enough on the canvas, else ``cut``."""
    sides = [
        (picture.boxes[:, 2:] - picture.boxes[:, :2]).min(1) * min(1.0, canvas_px / max(picture.image.shape[:2]))
        for picture in pictures
        if len(picture.boxes)
    ]
    fits = max(max(picture.image.shape[:2]) for picture in pictures) <= canvas_px
    return "scale" if fits or np.percentile(np.concatenate(sides), 25) >= SMALLEST_PX else "cut"


def preprocess_for(
    kinds: Sequence[str], longest_px: Sequence[int], canvas_px: int, *, reference: bool = False
) -> Preprocess:
    """Returns how frames, or frames composed with their reference, are brought to the scale of the training.

    Raises:
        TrainingError: One data set is scaled, another is cut, and pictures of the first are larger than the canvas: no
            pre-processing brings both to the scale that they were learnt at.
    """
    largest = max([px for kind, px in zip(kinds, longest_px, strict=True) if kind == "cut"], default=canvas_px)
    if len(set(kinds)) > 1:
        whole = max(px for kind, px in zip(kinds, longest_px, strict=True) if kind == "scale")
        if whole > canvas_px:
            raise TrainingError(
                "one data set is to be scaled and another to be cut",
                expected=f"scaled pictures of at most {canvas_px} pixels beside those that are cut",
                actual=f"{whole} pixels",
                action="Train them apart, give one framing for all, or a larger canvas_px.",
            )
    high = min(max(canvas_px, -(-largest // 32) * 32), LARGEST_SIDE_PX)
    return Preprocess(
        input=INPUT,
        colour="bgr" if reference else "grey",  # three grey images as they are composed, in that order
        min_side=canvas_px,
        max_side=max(high, canvas_px),
        mean=(MEAN,),
        std=(STD,),
        reference=Reference() if reference else msgspec.UNSET,
    )
