"""Benchmarks of the shipped models."""
