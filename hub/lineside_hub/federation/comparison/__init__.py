"""Comparisons of plants without showing their counts: who is worst, by secure multi-party computation."""

__all__ = ["rounds"]
