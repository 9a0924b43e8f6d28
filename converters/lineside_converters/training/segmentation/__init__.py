"""Training of segmenters."""

__all__ = ["config", "trainer"]
