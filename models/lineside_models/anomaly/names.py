"""Names that the shipped features, the search that is joined to them, and what is learnt must agree on."""

from __future__ import annotations

FEATURES_BUNDLE = "patch-features"
"""Shipped in `lineside_models.zoo`."""

OUTPUTS_FILE = "search/outputs.binpb"
SEARCH_FILE = "search/search.binpb"

_FEATURES, _MAP = "features_", "map_"


def feature_name(stride: int) -> str:
    """Returns the name of the features ``(B, C, h, w)`` of one stride."""
    return f"{_FEATURES}{stride}"


def map_name(stride: int) -> str:
    """Returns the name of the map ``(B, 1, h, w)`` of one stride: how far each cell is from all that is known."""
    return f"{_MAP}{stride}"


def stride_of(features: str) -> int:
    """Returns the stride of the features of this name."""
    return int(features.removeprefix(_FEATURES))
