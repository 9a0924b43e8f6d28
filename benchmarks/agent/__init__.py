"""Benchmarks of the agent on a device."""
