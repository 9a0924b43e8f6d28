"""Pascal VOC: one XML file an image, in ``annotations/`` by ``images/``, or ``Annotations/`` by ``JPEGImages/``.

Folds come from ``folds.csv``, or from ``ImageSets/Main/<fold>.txt`` as the data set's own authors give them. A set that
shows NEU-DET's types and no others is taken for NEU-DET; of all others the types are those that any of their images
shows, whatever the fold.
"""

from __future__ import annotations

import dataclasses
import xml.sax
import xml.sax.handler
from pathlib import Path

from lineside_models.datasets.base import (
    ALL,
    Dataset,
    Size,
    annotation_bytes,
    check_box,
    choose,
    image_beside,
    not_empty,
    read_text,
    sample_of,
    shared_image,
    size_in_file,
    unknown_fold,
    warn_of_sizes,
)
from lineside_models.labels import LABELS, STEEL
from lineside_runtime.errors import DatasetError

_APART = {"train", "val", "test"}
"""Lists that share no image; ``trainval`` and those of one type do."""

FOLDERS = (("annotations", "images"), ("Annotations", "JPEGImages"))


@dataclasses.dataclass(frozen=True, slots=True)
class _Object:
    name: str
    box: tuple[float, ...]
    where: str


def folders_of(root: Path) -> tuple[Path, Path] | None:
    """Returns the folders of the annotations and of the images; ``None`` if this is no such layout."""
    for texts, images in FOLDERS:
        if (root / texts).is_dir() and (root / images).is_dir():
            return root / texts, root / images
    return None


def read(root: Path, fold: str) -> Dataset:
    """Reads one fold."""
    annotations, images = folders_of(root) or (root, root)
    everything = [image_beside(images, path.stem) for path in sorted(annotations.glob("*.xml"))]
    chosen = _choose(root, fold, everything, images)
    files = {
        image: _read_file(annotations / f"{image.stem}.xml", size_in_file(image))
        for image in sorted({*everything, *chosen})
    }
    objects = {image: file.objects for image, file in files.items()}
    warn_of_sizes(root, [(image, *file.differs) for image, file in files.items() if file.differs and file.objects])
    shown = {one.name for found in objects.values() for one in found}
    steel = shown <= set(STEEL)
    names, vocabulary = (STEEL, LABELS) if steel else (tuple(sorted(shown)), tuple(sorted(shown)))
    samples = tuple(
        sample_of(image, [one.box for one in objects[image]], [vocabulary.index(one.name) for one in objects[image]])
        for image in chosen
    )
    return Dataset("neu-det" if steel else "voc", names, samples, vocabulary)


def _choose(root: Path, fold: str, everything: list[Path], images: Path) -> list[Path]:
    lists = root / "ImageSets" / "Main"
    if fold == ALL or not lists.is_dir() or (root / "folds.csv").is_file():
        return choose(root, fold, everything, images)
    known = {path.stem for path in lists.glob("*.txt")}
    if fold not in known:
        raise unknown_fold(lists, fold, known)
    listed = {name: _stems(lists / f"{name}.txt") for name in {fold, *(known & _APART)}}
    for name in sorted(_APART & known - {fold}) if fold in _APART else ():
        if both := listed[name] & listed[fold]:
            raise shared_image(str(lists), min(both), f"{fold}.txt and {name}.txt")
    return not_empty([image_beside(images, stem) for stem in sorted(listed[fold])], root)


def _stems(path: Path) -> set[str]:
    return {line.split()[0] for line in read_text(path).splitlines() if line.split()}


def _read_file(annotation: Path, size: Size | None) -> _Handler:
    handler = _Handler(annotation, size)
    try:
        xml.sax.parseString(annotation_bytes(annotation), handler)
    except xml.sax.SAXParseException as error:
        where = f"{annotation}: line {error.getLineNumber()}"
        raise DatasetError(where, expected="Pascal VOC XML", actual=error.getMessage()) from error
    if not handler.is_voc:
        raise DatasetError(f"{annotation}: line 1", expected="the root element annotation", actual="another")
    return handler


class _Handler(xml.sax.handler.ContentHandler):
    """Collects the objects of a Pascal VOC file, with SAX, whose locator has the line.

    Args:
        size: Of the image's file, if it is known.
    """

    def __init__(self, path: Path, size: Size | None) -> None:
        super().__init__()
        self.objects: list[_Object] = []
        self.is_voc = False
        self._path = path
        self._size = size
        self._stated: dict[str, int] = {}
        self._tags: list[str] = []
        self._text = ""
        self._object: dict[str, str] = {}
        self._locator: xml.sax.xmlreader.Locator | None = None

    @property
    def stated(self) -> Size | None:
        """The image's size by the annotation; tools that don't know it leave it out or write 0."""
        width, height = self._stated.get("width", 0), self._stated.get("height", 0)
        return (width, height) if width and height else None

    @property
    def differs(self) -> tuple[Size, Size] | None:
        """The stated size and that of the file, where these differ."""
        return (self.stated, self._size) if self.stated and self._size and self.stated != self._size else None

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
        if self._tags[1:-1] == ["size"] and self._text.strip().isdecimal():
            self._stated[name] = int(self._text)
        if self._tags == ["annotation", "object"]:
            self._end_object()
        self._tags.pop()

    def _end_object(self) -> None:
        line = self._locator.getLineNumber() if self._locator else 0
        where = f"{self._path}: object that ends in line {line}"
        try:
            box = tuple(float(self._object[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except (KeyError, ValueError) as error:
            raise DatasetError(where, expected="numbers xmin, ymin, xmax, ymax", actual=self._object) from error
        if not self._object.get("name"):
            raise DatasetError(where, expected="a name: the type", actual=self._object)
        box = (box[0] - 1, box[1] - 1, box[2], box[3])  # Pascal VOC counts from 1 and includes xmax, ymax
        box = check_box(box, where, self._size, self.stated)
        self.objects.append(_Object(self._object["name"], box, where))
