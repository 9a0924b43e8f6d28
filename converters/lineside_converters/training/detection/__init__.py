"""Training of detectors."""

__all__ = ["architecture_selection", "config", "trainer"]
