"""Folders of annotated images for training, calibration and evaluation.

The layout is recognised from what lies in the folder:

- ``boxes``: one table of boxes, ``boxes.csv`` (`table`);
- ``neu-det`` and ``voc``: Pascal VOC, one XML file an image (`voc`);
- ``deeppcb``: DeepPCB's own (`deeppcb`);
- ``coco``: one JSON file a fold (`coco`);
- ``yolo``: one text file an image (`yolo`);
- ``masks``: images by masks, as boxes around what these show (`masks`);
- ``list``: a list of images with the number of their class, as ImageNet's (`classes`);
- ``folders``: a folder a class (`classes`).

A ``folds.csv`` with the columns ``image`` and ``fold`` says which image belongs to which fold.
"""

from __future__ import annotations

from pathlib import Path

from lineside_models.datasets import classes, coco, deeppcb, masks, table, voc, yolo
from lineside_models.datasets.base import ALL, Dataset, Sample, warn_of_alike_types
from lineside_models.datasets.references import add_references
from lineside_runtime.errors import DatasetError, InputNotFoundError

__all__ = ["ALL", "Dataset", "Sample", "load_dataset"]


def load_dataset(root: Path, fold: str = ALL, *, with_clean: bool = False, references: bool = False) -> Dataset:
    """Reads the annotations of a folder; only images with EXIF data, and all of ``yolo``, are decoded for their size.

    Args:
        fold: Name of a fold, or ``all``. In a folder without folds every fold is everything, with a warning in the log.
        with_clean: Adds the defect-free templates of the fold (deeppcb) as samples without boxes.
        references: Gives each sample the image that it is compared with (`references`).

    Returns:
        The samples of the fold.

    Raises:
        InputNotFoundError: There is no such folder.
        DatasetError: The layout or the fold is unknown, an annotation is damaged, a box lies outside of its image, or
            an image or reference is missing.
    """
    root = Path(root)
    dataset = _read(root, fold, with_clean=with_clean)
    warn_of_alike_types(root, dataset.labels)
    return add_references(dataset, root) if references else dataset


def _read(root: Path, fold: str, *, with_clean: bool) -> Dataset:
    if not root.is_dir():
        raise InputNotFoundError(f"no data folder at {root}", action="Give the folder that holds the images.")
    if table.is_one(root):
        return table.read(root, fold)
    if deeppcb.folder_of(root) is not None:
        return deeppcb.read(root, fold, with_clean=with_clean)
    if coco.files_of(root):
        return coco.read(root, fold)
    if voc.folders_of(root):
        return voc.read(root, fold)
    if masks.is_pairs(root):
        return masks.read(root, fold)
    if yolo.is_one(root):
        return yolo.read(root, fold)
    if classes.list_of(root):
        return classes.read_list(root, fold)
    if classes.has_folders(root):
        return classes.read_folders(root, fold)
    raise DatasetError(
        f"the layout of {root} is not known",
        expected="Pascal VOC, COCO, YOLO, DeepPCB (PCBData/), boxes.csv, images/ by masks/, a list of images with "
        "class numbers, or a folder a class",
        actual=", ".join(sorted(entry.name for entry in root.iterdir())[:10]) or "an empty folder",
        action="Give the data set's own top folder.",
    )
