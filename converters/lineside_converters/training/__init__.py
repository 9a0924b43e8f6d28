"""Training of detectors, classifiers, segmenters and recommenders, alone or on several workers."""

__all__ = [
    "classification",
    "detection",
    "distributed",
    "monitoring",
    "progress",
    "recommendation",
    "run_folder",
    "segmentation",
    "settings",
]
