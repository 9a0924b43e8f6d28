"""Settings of the training of a detector."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from lineside_converters.training.slimmable.settings import SlimmableSettings
from lineside_models import zoo

ARCHITECTURE = re.compile(r"lite0(-short)?@([1-9]\d{0,3})")
SHIPPED_START = "surface-12"
"""Shipped bundle that a detector starts from by default."""

MAX_MS = "more than 0, and architectures to choose of"


def channels_of(architecture: str) -> int:
    """Returns the N of ``lite0@N`` or ``lite0-short@N``."""
    found = ARCHITECTURE.fullmatch(architecture)
    return int(found[2]) if found else 0


def is_short(architecture: str) -> bool:
    """Returns whether a name of an architecture means the short trunk."""
    found = ARCHITECTURE.fullmatch(architecture)
    return found is not None and found[1] is not None


class DetectorConfig(SlimmableSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a detector's training, beside those of every training.

    Attributes:
        batch: Canvases a step, of all data sets together.
        canvas_px: Side of a training canvas, a multiple of 32.
        canvas_sizes: Sides of which each batch draws one, multiples of 32; empty for ``canvas_px`` alone.
        framing: How a picture becomes a canvas: ``scale`` shrinks or enlarges it whole, ``cut`` cuts canvases out of it
            at its own scale, ``auto`` takes what its boxes need. By name of the data set's folder, or one for all.
            neu-det and deeppcb have their own.
        balance: Share of the pictures below which a type is shown more often, by the square root of what it lacks
            (repeat-factor sampling: Gupta et al., arXiv:1908.03195); 0 shows every picture alike.
        learning_rate: Peak, of neck and heads; the trunk learns at 0.4 of it.
        pcb_share: Share of a batch that is cut from circuit boards where neu-det and deeppcb are both given.
        simulated_share: Share of neu-det's and deeppcb's canvases that comes from the line simulator; other data sets
            have nobody who draws them.
        held_share: Share of the train folds that is held out to choose the checkpoint and calibrate the scores.
        architecture: ``lite0@N``, an EfficientNet-Lite0 trunk that knows ImageNet, with pyramid and heads of N
            channels, or ``lite0-short@N``, of which a quarter of the trunk is kept; ``None`` for that of ``start``.
        random_weights: Whether the trunk of ``architecture`` begins with random weights too, so that the terms of
            ``data`` alone hold for the network: ImageNet's images are for research only.
        architectures: Of these the best is taken: each is trained for ``trial_epochs``, timed as INT8 in ONNX Runtime
            on one thread and evaluated on the held-out share. ``architecture`` is not looked at then.
        trial_epochs: Length of each of those trainings.
        max_ms: The longest time a frame that an architecture may take on this machine; ``None`` for any.
        labels: Types that the network learns, in the order of its outputs, also such that the data do not show; empty
            for those that the data annotate.
        qat: Whether the network is taught to be INT8 (quantisation-aware fine-tuning) where INT8 costs more than half
            a point of mAP@0.5 on the held-out share.
        qat_epochs: Length of that.
        reference: Whether the network compares each image with its reference (`lineside_models.datasets.references`):
            its input is the grey frame, the registered reference and their difference.
        start: A bundle, ONNX file or finished run whose weights, and whose channels, the run begins with. Its weights
            for types that the data have too are kept. ``None`` for the shipped surface-12, where no architecture is
            chosen.
    """

    canvas_px: int = 224
    canvas_sizes: tuple[int, ...] = ()
    framing: Literal["auto", "scale", "cut"] | dict[str, Literal["auto", "scale", "cut"]] = "auto"
    balance: float = 0.0
    pcb_share: float = 1 / 3
    simulated_share: float = 0.1
    architecture: str | None = None
    architectures: tuple[str, ...] = ()
    random_weights: bool = False
    trial_epochs: int = 5
    max_ms: float | None = None
    labels: tuple[str, ...] = ()
    qat: bool = False
    qat_epochs: int = 6
    reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch", self.batch >= 4, "4 or more")
        for name, sides in (("canvas_px", (self.canvas_px,)), ("canvas_sizes", self.canvas_sizes)):
            self._check(name, all(s % 32 == 0 and s >= 64 for s in sides), "multiples of 32, 64 or more")
        for name in ("pcb_share", "simulated_share", "balance"):
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in filter(None, (self.architecture, *self.architectures)):
            good = ARCHITECTURE.fullmatch(name) is not None and 16 <= channels_of(name) <= 256
            self._check(
                "architectures" if name in self.architectures else "architecture",
                good,
                "lite0@16 to lite0@256, or lite0-short@16 to lite0-short@256",
            )
        for name in ("trial_epochs", "qat_epochs"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        self._check("labels", len(set(self.labels)) == len(self.labels), "each type once")
        self._check("max_ms", self.max_ms is None or (self.max_ms > 0 and bool(self.architectures)), MAX_MS)
        self._check("architectures", not self.architectures or self.start is None, "none beside start")
        self._check("architecture", self.architecture is None or self.start is None, "none beside start")
        chosen = self.architecture is not None or bool(self.architectures)
        self._check("random_weights", chosen or not self.random_weights, "false where no architecture is chosen")
        self._check("qat", not (self.qat and self.widths), "none beside widths")
        if isinstance(self.framing, dict):
            names = {folder.resolve().name for folder in self.data}
            self._check("framing", set(self.framing) <= names, f"names of {sorted(names)}")

    @property
    def first_model(self) -> Path | None:
        """The model that the run begins with; ``None`` for `architecture` with a trunk that knows ImageNet."""
        if self.start is not None or self.architecture is not None or self.architectures:
            return self.start
        return zoo.path(SHIPPED_START)
