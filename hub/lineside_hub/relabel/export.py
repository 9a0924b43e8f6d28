"""Export frames for annotation tools: COCO with the model's boxes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.relabel import catalogue, coco
from lineside_hub.relabel.active_learning import choose_results
from lineside_hub.relabel.catalogue import Catalogue, labels_of
from lineside_hub.relabel.selection import ExportedImage, SelectedResult, Selection, count_without_frame, select_results
from lineside_hub.results.frames.image import size_of
from lineside_hub.results.frames.storage import frame_blobs
from lineside_runtime.errors import DatasetError, InputNotFoundError
from lineside_runtime.files import fsync_folder, write_atomic

ANNOTATIONS = "annotations.json"
IMAGES = "images"


class FrameExport(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of an export.

    Attributes:
        folder: Holds ``annotations.json``, ``images/`` and ``export.json``.
        boxes: Boxes of the model on all of them.
        marked: Images whose verdict a person marked as wrong.
        without_frame: Selected results without an image at the hub.
        missing: Images that are missing or damaged at the hub.
        labels: The model's types.
    """

    folder: Path
    images: int
    boxes: int
    marked: int
    without_frame: int
    missing: int
    labels: tuple[str, ...]


def export(
    config: HubConfig,
    choice: Selection,
    folder: Path,
    *,
    bundle: Path | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> FrameExport:
    """Exports selected frames, each image once, with the model's boxes as annotations with scores.

    The folder appears under its name when it is complete.

    Args:
        folder: A new one, or an empty one.
        bundle: A bundle whose types are used, if the hub does not know those of the results.

    Raises:
        ConfigError: The limit is below 1, or missing where frames are chosen by another order than the newest.
        DatasetError: The folder holds something already.
        InputNotFoundError: Nothing is selected, or the types of a bundle are not known here.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} is there already", expected="a new or empty folder", action="Name another one.")
    at_ns = time.time_ns()  # before the reviews are read: a correction in between is later than the export
    results = select_results(config, choice)
    first: dict[str, SelectedResult] = {}
    for result in sorted(results, key=lambda one: not one.wrong):  # those marked as wrong are first in the file
        first.setdefault(result.sha256, result)
    without = count_without_frame(config, choice)
    if not first:
        raise _nothing(choice, without)
    unique = [one for one in results if first[one.sha256] is one]
    chosen = choose_results(config, unique, choice, on_progress=on_progress)
    first = {one.sha256: one for one in sorted(chosen, key=lambda one: not one.wrong)}
    labels = labels_of(Path(config.folder), results, bundle)
    labels += tuple(dict.fromkeys(box[0] for one in first.values() for box in one.boxes if box[0] not in labels))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        known = _write_images(config, list(first.values()), part / IMAGES)
        _write_texts(part, Catalogue(labels=labels, images=tuple(known), exported_at_ns=at_ns), first)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    fsync_folder(folder.parent)
    return FrameExport(
        folder=folder,
        images=len(known),
        boxes=sum(len(image.boxes) for image in known),
        marked=sum(bool(first[image.sha256].wrong) for image in known),
        without_frame=without,
        missing=len(first) - len(known),
        labels=labels,
    )


def _nothing(choice: Selection, without_frame: int) -> InputNotFoundError:
    if without_frame:
        return InputNotFoundError(
            f"none of the {without_frame} chosen results has a frame at the hub",
            action="They come behind the results; which ones a device keeps say keep_images and keep_unsure_from under "
            "[store] in its agent.toml.",
        )
    action = "Widen the choice: --verdict all, an earlier --since, or --again for what was corrected already."
    return InputNotFoundError(f"no result is to be looked at (--verdict {choice.verdict})", action=action)


def _write_images(config: HubConfig, results: list[SelectedResult], folder: Path) -> list[ExportedImage]:
    """Writes the intact images; returns their entries."""
    folder.mkdir(parents=True)
    place = frame_blobs(config)
    known = []
    for result in results:
        data = place.read(result.sha256)
        if data is None or hashlib.sha256(data).hexdigest() != result.sha256:
            continue
        write_atomic(folder / f"{result.sha256}.png", data)
        known.append(result.image(size=size_of(data)))
    if not known:
        raise InputNotFoundError(
            f"all {len(results)} frames are gone at the hub",
            action="Its retention removes frames: [frames] in hub.toml.",
        )
    return known


def _write_texts(folder: Path, known: Catalogue, first: dict[str, SelectedResult]) -> None:
    images: list[coco.Image] = []
    annotations: list[coco.Annotation] = []
    for image_id, image in enumerate(known.images, 1):
        images.append(image.as_coco(image_id, verdict=image.verdict, note=first[image.sha256].note))
        for label, score, *box in image.boxes:
            category = known.labels.index(label) + 1
            made = coco.annotation(len(annotations) + 1, image_id, category, box=tuple(box), score=score)
            annotations.append(made)
    info = {
        "description": "frames from the line with the model's boxes",
        "date_created": coco.utc(known.exported_at_ns),
    }
    file = coco.File(
        images=tuple(images),
        annotations=tuple(annotations),
        categories=coco.categories(known.labels),
        info={**info, "bundles": sorted({image.bundle for image in known.images if image.bundle})},
    )
    write_atomic(folder / ANNOTATIONS, coco.encode(file))
    catalogue.write(folder, known)
