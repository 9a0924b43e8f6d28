"""Training of a quantum head on frozen features, and its bundle."""

__all__ = ["features", "fitting", "head"]
