"""What the training of a classifier is told."""

from __future__ import annotations

from lineside_converters.training.settings import Settings


class ClassifierConfig(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one run of the classifier's training, beside those of every training.

    Attributes:
        out: Folder for checkpoints and results; made if it is not there. A run that stands there is gone on with only
            with ``resume``.
        side_px: Side of the square input, a multiple of 32.
        width: Factor on the ResNet-18's channels.
        bf16: Multiply in bfloat16: faster where the processor does it itself.
        good_classes: Classes that mean a good part; ``None`` goes by their names, such as ``good``, ``ok`` or ``free``.
            Empty: every class is a defect, and no part passes.
    """

    epochs: int = 30
    batch: int = 32
    side_px: int = 64
    width: float = 1.0
    learning_rate: float = 1.5e-3
    held_share: float = 0.1
    evaluate_every: int = 2
    bf16: bool = False
    good_classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch", self.batch >= 2, "2 or more")
        self._check("side_px", self.side_px % 32 == 0 and self.side_px >= 32, "a multiple of 32")
        self._check("width", 0.1 <= self.width <= 4, "between 0.1 and 4")
