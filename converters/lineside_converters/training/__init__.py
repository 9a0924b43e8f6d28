"""Training of detectors, classifiers, segmenters, document models, recommenders and quantum heads."""

__all__ = [
    "classification",
    "detection",
    "distributed",
    "documents",
    "monitoring",
    "progress",
    "quantum",
    "recommendation",
    "run_folder",
    "segmentation",
    "settings",
]
