"""Training a student network on a teacher's outputs."""

__all__ = ["distill"]
