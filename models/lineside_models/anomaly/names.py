"""Names shared by the shipped features, the search graph behind them, and anomaly models."""

from __future__ import annotations

FEATURES_BUNDLE = "patch-features"
"""Shipped in `lineside_models.zoo`."""

OUTPUTS_FILE = "search/outputs.binpb"
SEARCH_FILE = "search/search.binpb"
HEAD_FILE = "search/head.binpb"
HEAD = "marked"
"""Of the map and the weights of the head that was trained on marked bad parts."""

_FEATURES, _MAP = "features_", "map_"


def feature_name(stride: int) -> str:
    """Returns the name of the features ``(B, C, h, w)`` of one stride."""
    return f"{_FEATURES}{stride}"


def map_name(stride: int | str) -> str:
    """Returns the name of the map ``(B, 1, h, w)`` of one stride, each cell's distance from the bank, or of `HEAD`."""
    return f"{_MAP}{stride}"


def stride_of(features: str) -> int:
    """Returns the stride of the features of this name."""
    return int(features.removeprefix(_FEATURES))
