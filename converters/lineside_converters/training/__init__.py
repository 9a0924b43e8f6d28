"""Training of detectors, classifiers and segmenters, alone or on several workers."""

__all__ = [
    "classification",
    "detection",
    "distributed",
    "monitoring",
    "progress",
    "run_folder",
    "segmentation",
    "settings",
]
