"""Training of classifiers."""

__all__ = ["config", "trainer"]
