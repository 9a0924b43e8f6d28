"""From a float model to a bundle: optimizer, evaluation, thresholds, training and search."""

import lineside_runtime  # noqa: F401  it turns the telemetry of engines off before one is imported

__all__ = [
    "bundles",
    "cluster",
    "distillation",
    "evaluation",
    "evolution",
    "formats",
    "gates",
    "loading",
    "optimizer",
    "options",
    "progress",
    "reports",
    "split",
    "thresholds",
    "training",
]
