"""Facts that a bundle states of a trained detector besides its weights."""

from __future__ import annotations

from lineside_models.networks.detector import INPUT, MEAN, REG_BINS, STD, STRIDES
from lineside_runtime.bundle import Postprocess, Preprocess

ARCHITECTURE = "surface_detector_lite0"
OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "box") for stride in STRIDES)
NMS_IOU = 0.45  # of 0.2 to 0.7 the best on the held-out share of the train folds: 0.645 against 0.621 at 0.6 on steel
VOTE_IOU = 0.5  # there, 0.7 to 1.4 points more on steel and -0.1 to 1.0 on boards than no voting
VOTE_FROM = 0.2  # there, within 0.3 points of all having a vote, for half the time of a verdict's decoding

PREPROCESS = Preprocess(input=INPUT, colour="grey", min_side=224, max_side=640, mean=(MEAN,), std=(STD,))
"""Steel images of 200 px are enlarged to 224, boards of 640 px stay as they are: the scales of the training."""


def postprocess(calibration: tuple[tuple[float, float], ...] = (), thresholds: tuple[float, ...] = ()) -> Postprocess:
    """Returns the post-processing of the six maps, with fitted scores if there are some."""
    return Postprocess(
        name="dfl_anchor_free",
        params={
            "strides": list(STRIDES),
            "reg_bins": REG_BINS,
            "nms_iou": NMS_IOU,
            "vote_iou": VOTE_IOU,
            "vote_from": VOTE_FROM,
            "calibration": [list(pair) for pair in calibration],
            "thresholds": list(thresholds),
        },
    )
