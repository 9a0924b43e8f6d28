"""``lineside.recommendation``: `DINModel` on a host, `Recommender` on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lineside.extras import needs
from lineside_models.recommendation import Recommendation, Recommender

if TYPE_CHECKING:
    from lineside_converters.training.recommendation.model import DINModel

__all__ = ["DINModel", "Recommendation", "Recommender"]


def __getattr__(name: str) -> Any:
    if name != "DINModel":
        raise AttributeError(f"module 'lineside.recommendation' has no attribute {name!r}")
    with needs("train"):  # torch, which no device has
        from lineside_converters.training.recommendation.model import DINModel
    return DINModel
