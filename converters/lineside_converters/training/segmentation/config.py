"""Settings of the training of a segmenter."""

from __future__ import annotations

from lineside_converters.training.settings import TrainingSettings


class SegmenterConfig(TrainingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a segmenter's training, beside those of every training.

    Attributes:
        data: Folders of images with masks, as `lineside_models.datasets.masks` reads them.
        side_px: Long side of the input, at the line as in training; a multiple of 32.
        channels: Width of the head.
        balance: Share of the pictures below which a type is sampled more often (repeat-factor sampling); 0 for none.
        start: A segmenter to start from, with its channels: a bundle, ONNX file or finished run. Its weights for types
            that the data have too are kept. ``None`` for a trunk that knows ImageNet.
    """

    epochs: int = 20
    batch: int = 16
    side_px: int = 256
    channels: int = 64
    balance: float = 0.1
    learning_rate: float = (
        4e-3  # held-out mean IoU of magnetic-tile at 96 px: 0.234 after 6 passes; at 1e-3 0.000 after 4
    )
    held_share: float = 0.12

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch", self.batch >= 2, "2 or more")
        self._check("side_px", self.side_px % 32 == 0 and self.side_px >= 64, "a multiple of 32, 64 or more")
        self._check("channels", 16 <= self.channels <= 256, "between 16 and 256")
        self._check("balance", 0 <= self.balance <= 1, "between 0 and 1")
