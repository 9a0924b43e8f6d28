"""Curves of training runs, their comparison, and TensorBoard."""
