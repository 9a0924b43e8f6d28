"""Training on several workers with Ray."""

__all__ = ["config", "driver"]
