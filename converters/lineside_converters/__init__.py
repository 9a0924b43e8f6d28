"""From a float model to a bundle: optimizer, evaluation, thresholds, training and search."""

__all__ = [
    "combination",
    "distillation",
    "evaluation",
    "formats",
    "gates",
    "loading",
    "optimizer",
    "options",
    "progress",
    "release",
    "reports",
    "split",
    "test_time_augmentation",
    "thresholds",
    "training",
]
