"""Benchmarks of optimization and training."""
