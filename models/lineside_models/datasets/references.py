"""References of a dataset: the image of a good part that each image is compared with.

- ``references/<name>``: of an image ``<name>``, with any ending;
- ``golden.png`` (or another ending) in the data set's folder: of all other images;
- DeepPCB: ``<num>_temp.jpg`` of ``<num>_test.jpg``.

An image whose reference shows nothing at all, such as one plain board of DeepPCB, can be compared with nothing and is
left out, with a warning in the log.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import cv2

from lineside_models.datasets.base import Dataset, Sample, image_beside, log, read_pixels
from lineside_runtime.errors import DatasetError

FOLDER, GOLDEN = "references", "golden"
PLAIN = 2.0
"""Standard deviation of the grey values below which an image shows nothing."""

_DEEPPCB = re.compile(r"_(test|temp)$")


def add_references(dataset: Dataset, root: Path) -> Dataset:
    """Returns a data set whose samples name their references.

    Raises:
        DatasetError: An image has no reference, or all references are plain.
    """
    golden = image_beside(root, GOLDEN)
    common = golden if golden.is_file() else None
    frames = (one for one in dataset.samples if one.path != common and one.path.parent != root / FOLDER)
    samples = [_with_reference(sample, root, common) for sample in frames]
    plain = {path for path in {one.reference for one in samples} if path is not None and _is_plain(path)}
    for path in sorted(plain):
        log.warning("%s shows nothing to compare with: its images are left out", path)
    kept = tuple(sample for sample in samples if sample.reference not in plain)
    if samples and not kept:
        raise DatasetError(f"no reference of {root} shows anything", expected="an image of a good part with edges")
    return dataclasses.replace(dataset, samples=kept)


def _is_plain(path: Path) -> bool:
    return float(read_pixels(path, cv2.IMREAD_GRAYSCALE).std()) < PLAIN


def _with_reference(sample: Sample, root: Path, common: Path | None) -> Sample:
    own = image_beside(root / FOLDER, sample.path.stem)
    template = sample.path.with_name(_DEEPPCB.sub("_temp", sample.path.stem) + sample.path.suffix)
    if own.is_file():
        found = own
    elif _DEEPPCB.search(sample.path.stem) and template.is_file():
        found = template
    elif common is not None:
        found = common
    else:
        raise DatasetError(
            f"{sample.path.name} has no reference to be compared with",
            expected=f"{FOLDER}/{sample.path.name} or {GOLDEN}.png in {root}",
            actual="none",
            action="Put an image of a good part there, taken as the frames are.",
        )
    return dataclasses.replace(sample, reference=found)
