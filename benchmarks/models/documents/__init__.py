"""Benchmarks of documents."""
