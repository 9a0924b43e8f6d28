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
