"""Import a corrected annotation file into the dataset, its history, and the hub's reviews."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.folder_lock import folder_lock
from lineside_hub.relabel import box_changes, catalogue, coco
from lineside_hub.relabel.catalogue import Catalogue, labels_of
from lineside_hub.relabel.collection import Collection, Correction, open_collection
from lineside_hub.relabel.export import ANNOTATIONS, IMAGES
from lineside_hub.relabel.reviews import open_reviews
from lineside_hub.relabel.validation import CorrectedImage, PersonBox, check, frames_of
from lineside_hub.results.frames.image import size_of
from lineside_hub.results.frames.storage import frame_blobs
from lineside_runtime.errors import DatasetError, InputError, InputNotFoundError

FOLDER = "relabelled"
"""Default name of the dataset in the hub's folder."""


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of an import.

    Attributes:
        new: Images that are new in the dataset.
        corrected: Images with other boxes than before.
        unchanged: Images with the same boxes as before.
        replaced_at_hub: Images that another person corrected at the hub after the export; new boxes of the file count
            instead.
        kept_at_hub: Images with the same boxes as before that got others at the hub after the export, and keep those.
        left_out: Exported images that are not in the corrected file.
        repeated_boxes: Duplicate boxes; one of each was used.
        boxes: Count of each kind of change, on all images of the file: ``kept``, ``moved``, ``type``, ``added``,
            ``deleted``.
        confusion: Boxes by the model's type and the person's type; ``-`` stands for no box.
    """

    dataset: Path
    images: int
    new: int
    corrected: int
    unchanged: int
    replaced_at_hub: int = 0
    kept_at_hub: int = 0
    left_out: int
    repeated_boxes: int
    boxes: dict[str, int]
    confusion: dict[str, dict[str, int]]
    folds: dict[str, int]


def import_corrections(
    source: Path,
    *,
    hub: HubConfig | None = None,
    into: Path | None = None,
    by: str,
    new_types: Sequence[str] = (),
    bundle: Path | None = None,
    val_share: float | None = None,
    group: str | None = None,
) -> ImportReport:
    """Imports a corrected COCO file; a repeat changes nothing.

    Boxes that the file adds to the dataset count from now on, also where another person has corrected the frame at the
    hub since the export. Boxes that the dataset has already are stored at the hub unless the frame was corrected there
    since.

    Args:
        source: The exported folder with its corrected ``annotations.json``, or the corrected file alone.
        hub: Receives the corrections, and provides images that are not in the folder; ``None`` for none.
        into: The dataset's folder; ``None`` for ``relabelled`` in the hub's.
        new_types: Further types that people may have used.
        bundle: A bundle whose types are used instead of the exported ones.
        val_share: In a new dataset, the share of the groups in fold ``val``.
        group: In a new dataset, the pattern of the group in a part's id.

    Raises:
        DatasetError: The file, an image or the dataset is not usable; nothing was written.
        InputNotFoundError: There is no such file, image or hub.
        ConfigError: A setting is out of range, or differs from the dataset's.
    """
    if hub is None and into is None:
        raise InputError("nowhere to import into", expected="a hub, a dataset's folder, or both")
    folder = source if source.is_dir() else source.parent
    file = coco.read(source / ANNOTATIONS if source.is_dir() else source)
    known = _catalogue(folder, file, hub, bundle)
    found = check(file, known, new_types=new_types)
    images = _Images(folder / IMAGES, hub)
    return _store(
        found,
        known,
        images,
        hub=hub,
        into=into,
        by=by,
        new_types=new_types,
        since_ns=known.exported_at_ns,
        val_share=val_share,
        group=group,
    )


def correct_frame(
    hub: HubConfig, sha256: str, boxes: Sequence[PersonBox], *, by: str, new_types: Sequence[str] = ()
) -> ImportReport:
    """Stores a person's boxes of one frame of a hub, as `import_corrections` does for a file of them.

    Args:
        boxes: In pixels of the frame; none for a good part.
        new_types: Types among them that the model does not know.

    Raises:
        DatasetError: A box is outside the frame or of an unknown type, or the dataset is damaged.
        InputNotFoundError: The hub has no such frame, or the types of its bundle are not known.
    """
    known = catalogue.from_hub(hub, [sha256])
    labels = (*known.labels, *new_types)
    for label, *_ in boxes:
        if label not in labels:
            raise DatasetError(f"type {label!r} is not known", expected=", ".join(labels), actual=label)
    images = _Images(Path(hub.folder) / FOLDER / IMAGES, hub)
    width, height = size_of(images.read(sha256))
    image = msgspec.structs.replace(known.images[0], width=width, height=height)
    known = msgspec.structs.replace(known, images=(image,))
    annotations = tuple(
        coco.annotation(number, 1, labels.index(label) + 1, box=tuple(sides), score=1.0)
        for number, (label, *sides) in enumerate(boxes, 1)
    )
    file = coco.File(images=(image.as_coco(1),), annotations=annotations, categories=coco.categories(labels))
    return _store(
        check(file, known, new_types=new_types),
        known,
        images,
        hub=hub,
        into=None,
        by=by,
        new_types=new_types,
        since_ns=None,
    )


def _store(
    found: Sequence[CorrectedImage],
    known: Catalogue,
    images: _Images,
    *,
    hub: HubConfig | None,
    into: Path | None,
    by: str,
    new_types: Sequence[str],
    since_ns: int | None,
    val_share: float | None = None,
    group: str | None = None,
) -> ImportReport:
    """Adds checked corrections to the dataset and to the hub's reviews.

    Args:
        since_ns: When the corrected file was exported, Unix time; ``None`` for corrections that are made now.
    """
    for one in found:
        images.read(one.known.sha256)
    place = into if into is not None else Path(hub.folder if hub is not None else "") / FOLDER
    used = [label for label in new_types if any(box[0] == label for one in found for box in one.boxes)]
    settings = functools.partial(open_collection, labels=(*known.labels, *used), val_share=val_share, group=group)
    settings(place)  # its errors come before anything is written
    place.mkdir(parents=True, exist_ok=True)
    with folder_lock(place):
        collection = settings(place)
        before = collection.current()
        lines = [_correction(one, by) for one in found]
        since = None if since_ns is None else coco.utc(since_ns)
        fresh = [line for line in lines if collection.add(line, since=since)]
        collection.write((one.known.sha256 for one in found), images.read)
    done = _imported(place, collection, found, lines=lines, fresh=fresh, had=set(before), exported=len(known.images))
    if hub is None:
        return done
    replaced, kept = _add_to_reviews(hub, lines, fresh, since_ns)
    return msgspec.structs.replace(done, replaced_at_hub=replaced, kept_at_hub=kept)


def _catalogue(folder: Path, file: coco.File, hub: HubConfig | None, bundle: Path | None) -> Catalogue:
    known = catalogue.read(folder)
    if known is not None:
        return known if bundle is None else msgspec.structs.replace(known, labels=labels_of(folder, (), bundle))
    if hub is None:
        raise InputNotFoundError(
            f"{folder / catalogue.NAME} is not there, which says what was exported",
            action="Put the corrected file into the exported folder, or name the hub with --hub.",
        )
    return catalogue.from_hub(hub, frames_of(file), bundle)


class _Images:
    """Reads the images one by one, since all of them may exceed the memory."""

    def __init__(self, folder: Path, hub: HubConfig | None) -> None:
        self._folder = folder
        self._place = frame_blobs(hub) if hub is not None else None

    def read(self, sha256: str) -> bytes:
        """Returns the content of an image, whose hash is its name."""
        path = self._folder / f"{sha256}.png"
        data = path.read_bytes() if path.is_file() else self._place.read(sha256) if self._place is not None else None
        if data is None:
            action = "Keep the folder that was exported together, or name the hub with --hub."
            raise InputNotFoundError(f"the image {path} is gone", action=action)
        actual = hashlib.sha256(data).hexdigest()
        if actual != sha256:
            action = "Export again: a model must not learn from another image than the line saw."
            raise DatasetError(f"the image {path} was changed", expected=sha256, actual=actual, action=action)
        return data


def _correction(one: CorrectedImage, by: str) -> Correction:
    at = coco.utc(time.time_ns())
    return Correction(at=at, by=by, image=one.known, changes=box_changes.compare(one.known.boxes, one.boxes))


def _add_to_reviews(
    hub: HubConfig, lines: Sequence[Correction], fresh: Sequence[Correction], since_ns: int | None
) -> tuple[int, int]:
    """Stores corrections; returns `ImportReport.replaced_at_hub` and `ImportReport.kept_at_hub`."""
    now_ns, new = time.time_ns(), {line.image.sha256 for line in fresh}
    replaced = kept = 0
    with open_reviews(hub) as reviews:
        for line in lines:
            sha256, boxes = line.image.sha256, msgspec.json.encode(line.boxes).decode()
            unless_since_ns = None
            if since_ns is not None:
                people = reviews.other_boxes_by(sha256, boxes, since_ns)
                replaced += sha256 in new and bool(people - {line.by})
                kept += sha256 not in new and bool(people)
                unless_since_ns = None if sha256 in new else since_ns
            reviews.correct(sha256, boxes=boxes, by=line.by, at_ns=now_ns, unless_since_ns=unless_since_ns)
    return replaced, kept


def _imported(
    place: Path,
    collection: Collection,
    found: Sequence[CorrectedImage],
    *,
    lines: Sequence[Correction],
    fresh: Sequence[Correction],
    had: set[str],
    exported: int,
) -> ImportReport:
    every = [change for line in lines for change in line.changes]
    folds = list(collection.folds().values())
    return ImportReport(
        dataset=place,
        images=len(found),
        new=sum(line.image.sha256 not in had for line in fresh),
        corrected=sum(line.image.sha256 in had for line in fresh),
        unchanged=len(lines) - len(fresh),
        left_out=exported - len(found),
        repeated_boxes=sum(one.repeated for one in found),
        boxes=box_changes.count(every),
        confusion=box_changes.confusion(every),
        folds={fold: folds.count(fold) for fold in sorted(set(folds))},
    )
