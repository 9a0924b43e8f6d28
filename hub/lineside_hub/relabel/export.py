"""Export frames for annotation tools: COCO with the model's boxes."""

from __future__ import annotations

import hashlib
import shutil
import struct
import time
from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.relabel import catalogue, coco
from lineside_hub.relabel.catalogue import Catalogue, ExportedImage, exported_image, labels_of
from lineside_hub.relabel.selection import SelectedResult, Selection, count_without_frame, select_results
from lineside_hub.results.frames.storage import frame_blobs
from lineside_runtime.errors import DatasetError, InputNotFoundError
from lineside_runtime.files import fsync_folder, write_atomic

ANNOTATIONS = "annotations.json"
IMAGES = "images"


class FrameExport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export wrote.

    Attributes:
        folder: Holds ``annotations.json``, ``images/`` and ``export.json``.
        boxes: Of the model, on all of them.
        marked: How many of the images a person called wrong.
        without_frame: Results that were chosen and of which the hub has no image.
        missing: Images that a result speaks of and that are gone or damaged at the hub.
        labels: The types that the model knows.
    """

    folder: Path
    images: int
    boxes: int
    marked: int
    without_frame: int
    missing: int
    labels: tuple[str, ...]


def export(config: HubConfig, choice: Selection, folder: Path, *, bundle: Path | None = None) -> FrameExport:
    """Writes the frames that are chosen, each image once, and the model's boxes as annotations with scores.

    The folder appears under its name when it is whole.

    Args:
        folder: A new one, or an empty one.
        bundle: Whose types count, where the hub doesn't know the bundle that judged.

    Raises:
        DatasetError: The folder holds something already.
        InputNotFoundError: Nothing is chosen, or nobody here knows the types of a bundle that judged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} is there already", expected="a new or empty folder", action="Name another one.")
    results = select_results(config, choice)
    first: dict[str, SelectedResult] = {}
    for result in sorted(results, key=lambda one: not one.wrong):  # what a person called wrong stands first in the file
        first.setdefault(result.frame, result)
    without = count_without_frame(config, choice)
    if not first:
        raise _nothing(choice, without)
    labels = labels_of(Path(config.folder), results, bundle)
    labels += tuple(dict.fromkeys(box[0] for one in first.values() for box in one.boxes if box[0] not in labels))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        known = _write_images(config, list(first.values()), part / IMAGES)
        _write_texts(part, Catalogue(labels=labels, images=tuple(known)), first)
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
    """Writes what is there and whole; what isn't is left out, and counted by whoever compares."""
    folder.mkdir(parents=True)
    place = frame_blobs(config)
    known = []
    for result in results:
        data = place.read(result.frame)
        if data is None or hashlib.sha256(data).hexdigest() != result.frame:
            continue
        write_atomic(folder / f"{result.frame}.png", data)
        known.append(
            exported_image(result, size=struct.unpack(">II", data[16:24]))
        )  # a PNG, as was checked when it came
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
        images.append(_image(image_id, image, first[image.sha256].note))
        for label, score, *box in image.boxes:
            category = known.labels.index(label) + 1
            made = coco.annotation(len(annotations) + 1, image_id, category, box=tuple(box), score=score)
            annotations.append(made)
    info = {"description": "frames from the line with the model's boxes", "date_created": coco.utc(time.time_ns())}
    file = coco.File(
        images=tuple(images),
        annotations=tuple(annotations),
        categories=coco.categories(known.labels),
        info={**info, "bundles": sorted({image.bundle for image in known.images if image.bundle})},
    )
    write_atomic(folder / ANNOTATIONS, coco.encode(file))
    catalogue.write(folder, known)


def _image(number: int, image: ExportedImage, note: str) -> coco.Image:
    return coco.Image(
        id=number,
        file_name=f"{image.sha256}.png",
        width=image.width,
        height=image.height,
        date_captured=coco.utc(image.captured_at_ns),
        device=image.device,
        part_id=image.part_id,
        bundle=image.bundle,
        bundle_sha256=image.bundle_sha256,
        verdict=image.verdict,
        note=note,
    )
