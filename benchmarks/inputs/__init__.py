"""Data sets, images and networks that several benchmarks use."""
