"""Folders of annotated images: what the detector is trained and judged on.

Two layouts are recognised from what lies in the folder:

- ``neu-det``: ``images/*.jpg`` and ``annotations/*.xml`` (Pascal VOC);
- ``deeppcb``: ``PCBData/group<G>/<G>/<num>_test.jpg`` with ``<G>_not/<num>.txt`` (``x1 y1 x2 y2 type``).

A ``folds.csv`` with the columns ``image`` and ``fold`` says which image belongs to which fold.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import xml.sax
import xml.sax.handler
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_models.labels import LABELS, PCB, STEEL
from lineside_runtime.errors import DatasetError, InputNotFoundError

ALL = "all"
"""The fold that means every annotated image."""

_ANNOTATION_MAX_BYTES = 1 << 20
_log = logging.getLogger("lineside.datasets")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One annotated image.

    Attributes:
        path: The image file.
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels, x2 and y2 exclusive.
        labels: ``(N,) int64``, indices into `lineside_models.labels.LABELS`.
        part_id: The file's name without its ending.
    """

    path: Path
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    part_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of one fold of one folder.

    Attributes:
        name: ``neu-det`` or ``deeppcb``: the layout, not the folder's name.
        labels: The types that this data set annotates; a detector's other types cannot be judged on it.
        samples: In the order of their paths.
    """

    name: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]


def load_dataset(root: Path, fold: str = ALL, *, with_clean: bool = False) -> Dataset:
    """Reads the annotations of a folder; no image is decoded.

    Args:
        root: The folder.
        fold: Name of a fold in ``folds.csv``, or ``all``. In a folder without ``folds.csv`` every fold is
            everything, with a warning in the log.
        with_clean: Adds the defect-free templates of the fold (deeppcb) as samples without boxes.

    Returns:
        The samples of the fold.

    Raises:
        InputNotFoundError: There is no such folder.
        DatasetError: The layout or the fold is unknown, an annotation is damaged, or an image is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputNotFoundError(f"no data folder at {root}", action="Give the folder that holds the images.")
    if (root / "annotations").is_dir() and (root / "images").is_dir():
        return Dataset("neu-det", STEEL, _read_neu_det(root, fold))
    if (root / "PCBData").is_dir():
        return Dataset("deeppcb", PCB, _read_deeppcb(root, fold, with_clean))
    raise DatasetError(
        f"the layout of {root} is not known",
        expected="images/ with annotations/ (Pascal VOC), or PCBData/ (DeepPCB)",
        actual=", ".join(sorted(entry.name for entry in root.iterdir())[:10]) or "an empty folder",
        action="Give the data set's own top folder.",
    )


def _read_neu_det(root: Path, fold: str) -> tuple[Sample, ...]:
    annotated = sorted((root / "annotations").glob("*.xml"))
    everything = [_image_beside(root / "images", path.stem) for path in annotated]
    images = _choose(root, fold, everything, root / "images")
    return tuple(_voc_sample(image, root / "annotations" / f"{image.stem}.xml") for image in images)


def _image_beside(folder: Path, stem: str) -> Path:
    candidates = [folder / f"{stem}{ending}" for ending in (".jpg", ".png", ".bmp", ".jpeg")]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _read_deeppcb(root: Path, fold: str, with_clean: bool) -> tuple[Sample, ...]:
    data = root / "PCBData"
    annotated = sorted(data.glob("group*/*_not/*.txt"))
    everything = [_pcb_image(path) for path in annotated]
    samples = []
    for image in _choose(root, fold, everything, data):
        number = image.stem.removesuffix("_test")
        samples.append(_pcb_sample(image, image.parent.parent / f"{image.parent.name}_not" / f"{number}.txt"))
        template = image.with_name(f"{number}_temp{image.suffix}")
        if with_clean and template.is_file():
            samples.append(_sample(template, [], []))
    return tuple(samples)


def _pcb_image(annotation: Path) -> Path:
    board = annotation.parent.name.removesuffix("_not")
    return annotation.parent.parent / board / f"{annotation.stem}_test.jpg"


def _choose(root: Path, fold: str, everything: list[Path], folder: Path) -> list[Path]:
    """Returns the images of ``fold``, in the order of their paths."""
    table = root / "folds.csv"
    if fold == ALL:
        return _not_empty(everything, root)
    if not table.is_file():
        _log.warning("%s has no folds.csv: fold %r is taken as all %d images", root, fold, len(everything))
        return _not_empty(everything, root)
    fold_of = _read_folds(table)
    if fold not in fold_of.values():
        raise DatasetError(
            f"{table} has no fold {fold!r}",
            expected=" or ".join(sorted({*fold_of.values(), ALL})),
            actual=fold,
            action="Name one of the folds there are.",
        )
    return sorted(folder / name for name, its_fold in fold_of.items() if its_fold == fold)


def _not_empty(images: list[Path], root: Path) -> list[Path]:
    if not images:
        raise DatasetError(f"{root} has no annotated image", action="Give the data set's own top folder.")
    return images


def _read_folds(table: Path) -> dict[str, str]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = {"image", "fold"} - set(rows.fieldnames or ())
        if missing:
            raise DatasetError(
                f"{table}: line 1", expected="the columns image and fold", actual=", ".join(rows.fieldnames or ())
            )
        fold_of: dict[str, str] = {}
        for row in rows:
            if not row["image"] or not row["fold"] or Path(row["image"]).is_absolute() or ".." in row["image"]:
                raise DatasetError(f"{table}: line {rows.line_num}", expected="an image and its fold", actual=row)
            fold_of[row["image"]] = row["fold"]
    return fold_of


def _sample(image: Path, boxes: list[tuple[float, ...]], labels: list[int]) -> Sample:
    if not image.is_file():
        raise DatasetError(f"the image {image} is missing", action="Copy the whole data set again.")
    return Sample(
        path=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        part_id=image.stem,
    )


def _check_box(box: tuple[float, ...], where: str) -> None:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 < np.inf and 0 <= y1 < y2 < np.inf):
        raise DatasetError(where, expected="a box 0 <= x1 < x2, 0 <= y1 < y2 in pixels", actual=box)


def _annotation_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _ANNOTATION_MAX_BYTES:
            raise DatasetError(f"{path} is too large", expected=f"{_ANNOTATION_MAX_BYTES} bytes at most", actual=size)
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"the annotation {path} cannot be read", actual=error.strerror) from error


def _pcb_sample(image: Path, annotation: Path) -> Sample:
    boxes: list[tuple[float, ...]] = []
    labels: list[int] = []
    for number, line in enumerate(_annotation_bytes(annotation).splitlines(), start=1):
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
        _check_box(tuple(box), where)
        boxes.append(tuple(box))
    return _sample(image, boxes, labels)


def _voc_sample(image: Path, annotation: Path) -> Sample:
    handler = _VocHandler(annotation)
    try:
        xml.sax.parseString(_annotation_bytes(annotation), handler)
    except xml.sax.SAXParseException as error:
        where = f"{annotation}: line {error.getLineNumber()}"
        raise DatasetError(where, expected="Pascal VOC XML", actual=error.getMessage()) from error
    if not handler.is_voc:
        raise DatasetError(f"{annotation}: line 1", expected="the root element annotation", actual="another")
    return _sample(image, handler.boxes, handler.labels)


class _VocHandler(xml.sax.handler.ContentHandler):
    """Collects the objects of a Pascal VOC file; SAX, because its locator knows the line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.boxes: list[tuple[float, ...]] = []
        self.labels: list[int] = []
        self.is_voc = False
        self._path = path
        self._tags: list[str] = []
        self._text = ""
        self._object: dict[str, str] = {}
        self._locator: xml.sax.xmlreader.Locator | None = None

    def setDocumentLocator(self, locator: xml.sax.xmlreader.Locator) -> None:  # noqa: N802  SAX's own name
        self._locator = locator

    def startElement(self, name: str, attrs: xml.sax.xmlreader.AttributesImpl) -> None:  # noqa: N802  SAX's own name
        self._tags.append(name)
        self._text = ""
        self.is_voc |= self._tags == ["annotation"]
        if self._tags == ["annotation", "object"]:
            self._object = {}

    def characters(self, content: str) -> None:
        self._text += content

    def endElement(self, name: str) -> None:  # noqa: N802  SAX's own name
        if self._tags[1:-1] in (["object"], ["object", "bndbox"]):
            self._object[name] = self._text.strip()
        if self._tags == ["annotation", "object"]:
            self._end_object()
        self._tags.pop()

    def _end_object(self) -> None:
        line = self._locator.getLineNumber() if self._locator else 0
        where = f"{self._path}: object that ends in line {line}"
        name = self._object.get("name", "")
        if name not in STEEL:
            raise DatasetError(where, expected=f"a name of {', '.join(STEEL)}", actual=repr(name))
        try:
            box = tuple(float(self._object[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except (KeyError, ValueError) as error:
            raise DatasetError(where, expected="numbers xmin, ymin, xmax, ymax", actual=self._object) from error
        box = (box[0] - 1, box[1] - 1, box[2], box[3])  # Pascal VOC counts from 1 and includes xmax, ymax
        _check_box(box, where)
        self.boxes.append(box)
        self.labels.append(LABELS.index(name))
