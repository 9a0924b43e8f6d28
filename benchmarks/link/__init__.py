"""Benchmarks of transfers between hub and device."""
