"""Training of detectors, classifiers, segmenters and document models, alone or on several workers."""

__all__ = [
    "classification",
    "detection",
    "distributed",
    "documents",
    "monitoring",
    "progress",
    "run_folder",
    "segmentation",
    "settings",
]
