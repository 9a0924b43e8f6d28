"""Names shared by the shipped features, the search graph behind them, and anomaly models."""

from __future__ import annotations

FEATURES_BUNDLE = "patch-features"
"""Shipped in `lineside_models.zoo`."""

OUTPUTS_FILE = "search/outputs.binpb"
SEARCH_FILE = "search/search.binpb"
HEAD_FILE = "search/head.binpb"
MIRROR_FILE = "search/mirror.binpb"
LOOKS = "looks"
"""Of the tensor that holds the frame and its mirror image, upside down, as a batch of two."""

LABEL = "anomaly"
"""Label of what is unlike good parts, and looks like no marked type."""

HEAD = "marked"
"""Of the map and the weights of the head that was trained on marked bad parts."""

TYPES = "types"
"""Of the map and the weights that tell the types of marked defects apart."""

_FEATURES, _MAP = "features_", "map_"


def feature_name(stride: int) -> str:
    """Returns the name of the features ``(B, C, h, w)`` of one stride."""
    return f"{_FEATURES}{stride}"


def map_name(stride: int | str) -> str:
    """Returns the name of the map of one stride, each cell's distance from the bank, of `HEAD`, or of `TYPES`.

    The map of `TYPES` is ``(B, h, w, K)``, the others are ``(B, 1, h, w)``.
    """
    return f"{_MAP}{stride}"


def stride_of(features: str) -> int:
    """Returns the stride of the features of this name."""
    return int(features.removeprefix(_FEATURES))
