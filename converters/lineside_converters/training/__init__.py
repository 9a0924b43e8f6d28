"""Training of detectors, classifiers, segmenters, document models, recommenders and quantum heads."""

__all__ = [
    "classification",
    "cross_validation",
    "detection",
    "distributed",
    "documents",
    "monitoring",
    "plant_training",
    "progress",
    "quantum",
    "recommendation",
    "run_folder",
    "segmentation",
    "settings",
]
