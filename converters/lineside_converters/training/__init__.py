"""Training of detectors, classifiers, segmenters, document models and recommenders, alone or on several workers."""

__all__ = [
    "classification",
    "detection",
    "distributed",
    "documents",
    "monitoring",
    "plant_training",
    "progress",
    "recommendation",
    "run_folder",
    "segmentation",
    "settings",
]
