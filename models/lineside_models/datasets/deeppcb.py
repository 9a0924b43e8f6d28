"""DeepPCB: ``PCBData/group<G>/<G>/<num>_test.jpg`` with ``<G>_not/<num>.txt`` (``x1 y1 x2 y2 type``)."""

from __future__ import annotations

from pathlib import Path

from lineside_models.datasets.base import (
    Dataset,
    Sample,
    annotation_bytes,
    check_box,
    choose,
    sample_of,
    size_in_file,
)
from lineside_models.labels import LABELS, PCB
from lineside_runtime.errors import DatasetError


def read(root: Path, fold: str, *, with_clean: bool = False) -> Dataset:
    """Reads one fold.

    Args:
        root: The folder with ``PCBData``, or that folder itself.
        with_clean: Adds the defect-free templates of the fold as samples without boxes.
    """
    data = folder_of(root) or root
    annotated = sorted(data.glob("group*/*_not/*.txt"))
    everything = [_image_of(path) for path in annotated]
    samples = []
    for image in choose(root, fold, everything, data):
        number = image.stem.removesuffix("_test")
        samples.append(_sample(image, image.parent.parent / f"{image.parent.name}_not" / f"{number}.txt"))
        template = image.with_name(f"{number}_temp{image.suffix}")
        if with_clean and template.is_file():
            samples.append(sample_of(template, [], []))
    return Dataset("deeppcb", PCB, tuple(samples))


def folder_of(root: Path) -> Path | None:
    """Returns the folder of the boards' groups; ``None`` if this is no DeepPCB."""
    if (root / "PCBData").is_dir():
        return root / "PCBData"
    return root if next(root.glob("group*/*_not/*.txt"), None) else None


def _image_of(annotation: Path) -> Path:
    board = annotation.parent.name.removesuffix("_not")
    return annotation.parent.parent / board / f"{annotation.stem}_test.jpg"


def _sample(image: Path, annotation: Path) -> Sample:
    boxes: list[tuple[float, ...]] = []
    labels: list[int] = []
    size = size_in_file(image)
    for number, line in enumerate(annotation_bytes(annotation).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{annotation}: line {number}"
        try:
            *box, kind = (int(word) for word in line.split())
            labels.append(LABELS.index(PCB[kind - 1] if kind > 0 else ""))
        except (ValueError, IndexError) as error:
            raise DatasetError(where, expected="'x1 y1 x2 y2 type', type 1 to 6", actual=line) from error
        if len(box) != 4:
            raise DatasetError(where, expected="'x1 y1 x2 y2 type', type 1 to 6", actual=line)
        boxes.append(check_box(tuple(box), where, size))
    return sample_of(image, boxes, labels)
