"""Recommendation on the device: `Recommender` ranks items for a history with a bundle, without torch."""

from __future__ import annotations

from lineside_models.recommendation.recommender import Recommendation, Recommender

__all__ = ["Recommendation", "Recommender"]
