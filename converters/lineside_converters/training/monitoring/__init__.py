"""Curves of training runs, their comparison, and TensorBoard."""

__all__ = ["comparison", "tensorboard"]
