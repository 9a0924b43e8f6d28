"""Training on several workers: bytes, waiting, prediction, accuracy, deaths: ``python -m benchmarks training``."""
