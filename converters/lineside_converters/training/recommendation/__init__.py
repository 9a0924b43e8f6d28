"""Training of recommenders."""

__all__ = ["config", "interactions", "model", "trainer"]
