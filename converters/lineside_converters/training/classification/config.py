"""Settings of the training of a classifier."""

from __future__ import annotations

from typing import Literal

from lineside_converters.training.slimmable.settings import SlimmableSettings

Architecture = Literal["lite0", "resnet18"]


class ClassifierConfig(SlimmableSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a classifier's training, beside those of every training.

    Attributes:
        out: Folder for checkpoints and results; made if it is not there. An existing run is resumed only with
            ``resume``.
        side_px: Side of the square input, a multiple of 32.
        colour: Whether the input has colours; grey trains faster.
        architecture: ``lite0``, an EfficientNet-Lite0 that begins with ImageNet's weights, or ``resnet18`` with random
            ones; ``None`` for ``lite0``, or for ``resnet18`` where a ``width`` is given.
        width: Factor on the ResNet-18's channels; ``None`` for 1.
        start: A classifier to start from instead: a bundle, ONNX file or finished run. Its network, colours and
            normalisation are taken, and its weights for classes that the data have too are kept.
        bf16: Multiply in bfloat16: faster on processors that support it.
        good_classes: Classes that mean a good part; ``None`` recognises names such as ``good``, ``ok`` or ``free``.
            Empty: every class is a defect, and no part passes.
    """

    epochs: int = 12
    batch: int = 32
    side_px: int = 128
    colour: Literal["grey", "rgb"] = "grey"
    architecture: Architecture | None = None
    width: float | None = None
    learning_rate: float = 1.5e-3
    held_share: float = 0.1
    evaluate_every: int = 2
    bf16: bool = False
    good_classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch", self.batch >= 2, "2 or more")
        self._check("side_px", self.side_px % 32 == 0 and self.side_px >= 32, "a multiple of 32")
        self._check("width", self.width is None or 0.1 <= self.width <= 4, "between 0.1 and 4")
        fits = self.width is None or self.network == "resnet18"
        self._check("start", self.start is None or not (self.architecture or self.width), "none beside architecture")
        self._check("width", fits, "none with architecture lite0, whose channels are ImageNet's")

    @property
    def network(self) -> Architecture:
        """The architecture that is trained."""
        return self.architecture or ("lite0" if self.width is None else "resnet18")
