"""From a float model to a bundle: optimizer, evaluation, thresholds, training and search."""

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
