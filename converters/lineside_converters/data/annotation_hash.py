"""Hash of annotated data, by which finished work on other data is told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lineside_models.datasets import ALL, load_dataset
from lineside_models.datasets.folds import has_fold


def hash_data(folders: Sequence[Path], fold: str) -> str:
    """Returns a hash of the annotations of a fold, and of the names and sizes of its images.

    Args:
        fold: Of a folder without it, all images count.

    Raises:
        DatasetError: A folder is of no known layout, or damaged.
    """
    digest = hashlib.sha256()
    for root in folders:
        dataset = load_dataset(root, fold if has_fold(root, fold) else ALL, with_clean=True)
        for sample in sorted(dataset.samples, key=lambda one: one.path):
            labels = sample.labels.tolist()
            names = labels if dataset.numbered else [dataset.vocabulary[label] for label in labels]
            boxes = np.asarray(sample.boxes, np.float32).tolist()
            digest.update(repr((root.name, sample.path.name, sample.path.stat().st_size, names, boxes)).encode())
    return digest.hexdigest()
