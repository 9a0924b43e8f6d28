"""The dataset of corrected frames, with its history.

::

    <folder>/
    ├── relabel.json                     settings: types, share of val, groups
    ├── corrections.jsonl                history: a line for each correction of a frame
    ├── folds.csv                        image, fold, group
    ├── images/<sha256>.png
    └── annotations/instances_<fold>.json

The annotations are made from the last line of each image in the history, so that the next import repairs the files
after a kill. ``folds.csv`` may be edited by hand: an image stays in its fold there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from lineside_hub.folder_lock import LOCK_NAME
from lineside_hub.relabel import coco, folds
from lineside_hub.relabel.box_changes import Change
from lineside_hub.relabel.selection import ExportedImage
from lineside_hub.relabel.validation import PersonBox
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, DatasetError
from lineside_runtime.files import write_atomic

NAME, HISTORY, FOLDS, IMAGES, ANNOTATIONS = "relabel.json", "corrections.jsonl", "folds.csv", "images", "annotations"
FORMAT = 1
VAL_SHARE = 0.2


class CollectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the dataset.

    Attributes:
        labels: The model's types in the order of its outputs, then those that people added.
        val_share: Share of the groups that go to the fold ``val``.
        group: Finds the group in a part's id; see `folds.group_of`.
    """

    labels: tuple[str, ...]
    val_share: float = VAL_SHARE
    group: str = ""
    format: int = FORMAT


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """A correction of an image: one line of the history.

    Attributes:
        at: When, ISO 8601, UTC.
        image: The exported image, with the model's boxes.
    """

    at: str
    by: str
    image: ExportedImage
    changes: tuple[Change, ...]

    @property
    def boxes(self) -> tuple[PersonBox, ...]:
        """The person's boxes, sorted."""
        return tuple(sorted(change.person for change in self.changes if change.person is not None))


class Collection:
    """A dataset of corrected frames.

    Args:
        folder: Its own; see `open_collection`.
        history: Oldest first.
        folds_known: Image to fold, by ``folds.csv``.
    """

    def __init__(
        self, folder: Path, settings: CollectionSettings, history: Sequence[Correction], folds_known: Mapping[str, str]
    ) -> None:
        self.settings = settings
        self.history = list(history)
        self._folder = folder
        self._folds_known = dict(folds_known)

    def current(self) -> dict[str, Correction]:
        """Returns the last correction of each image, by its sha256."""
        return {line.image.sha256: line for line in self.history}

    def add(self, correction: Correction, *, since: str | None = None) -> bool:
        """Adds a correction; a repeat changes nothing. Returns whether it was new.

        A repeat has the present boxes, or those that the same person gave last at or after ``since``: another person's
        correction after them stays.

        Args:
            correction: Its types are among the settings' labels.
            since: ISO 8601, UTC; ``None`` to compare with the present boxes alone.
        """
        before = [line for line in self.history if line.image.sha256 == correction.image.sha256]
        own = [line for line in before if since is not None and line.by == correction.by and line.at >= since]
        if any(lines and lines[-1].boxes == correction.boxes for lines in (before, own)):
            return False
        self.history.append(correction)
        return True

    def folds(self) -> dict[str, str]:
        """Returns the fold of each image, by its file's name."""
        return folds.assign(self._groups(), self._folds_known, val_share=self.settings.val_share)

    def _groups(self) -> dict[str, str]:
        pattern = self.settings.group
        return {line.image.file_name: folds.group_of(line.image.part_id, pattern) for line in self.current().values()}

    def write(self, images: Iterable[str], read: Callable[[str], bytes]) -> None:
        """Writes all files: first the images, then the history, then folds and annotations.

        Args:
            images: sha256 of those that may be missing.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        # First: without it the next import would refuse the folder as foreign.
        _put(self._folder / NAME, msgspec.json.format(msgspec.json.encode(self.settings), indent=1) + b"\n")
        for name in (IMAGES, ANNOTATIONS):
            (self._folder / name).mkdir(exist_ok=True)
        for sha256 in images:
            if not (path := self._folder / IMAGES / f"{sha256}.png").is_file():
                write_atomic(path, read(sha256))
        _put(self._folder / HISTORY, b"".join(msgspec.json.encode(line) + b"\n" for line in self.history))
        fold_of = self.folds()
        _put(self._folder / FOLDS, folds.encode(fold_of, self._groups()))
        for fold in sorted(set(fold_of.values())):
            lines = [line for line in self.current().values() if fold_of[line.image.file_name] == fold]
            _put(
                self._folder / ANNOTATIONS / f"instances_{fold}.json",
                coco.encode(_file_of(lines, self.settings.labels)),
            )
        self._remove_empty(set(fold_of.values()))

    def _remove_empty(self, used: set[str]) -> None:
        """Deletes the annotations of empty folds, after an edit of ``folds.csv``."""
        for path in (self._folder / ANNOTATIONS).glob("instances_*.json"):
            if path.stem.removeprefix("instances_") not in used:
                path.unlink()


def open_collection(
    folder: Path, *, labels: Sequence[str], val_share: float | None = None, group: str | None = None
) -> Collection:
    """Opens a dataset, or starts one in a new or empty folder.

    Args:
        labels: Required types; new ones are appended.
        val_share: Share of fold ``val`` in a new dataset; ``None`` for the present one, or a fifth.
        group: As for ``val_share``; ``None`` for the present one, or a group for each part.
    """
    if val_share is not None and not 0 <= val_share < 1:
        raise ConfigError("share of val", expected="from 0 to below 1", actual=val_share)
    folds.check_pattern(group or "")
    check_place(folder)
    if not (folder / NAME).is_file():
        share = VAL_SHARE if val_share is None else val_share
        return Collection(folder, CollectionSettings(labels=tuple(labels), val_share=share, group=group or ""), [], {})
    settings = _settings(folder / NAME)
    for name, given, there in (("val share", val_share, settings.val_share), ("group", group, settings.group)):
        if given is not None and given != there:
            raise ConfigError(f"{name} of {folder} can't be changed", expected=there, actual=given)
    more = tuple(label for label in labels if label not in settings.labels)
    settings = msgspec.structs.replace(settings, labels=settings.labels + more)
    return Collection(folder, settings, _history(folder / HISTORY), folds.read(folder / FOLDS))


def check_place(folder: Path) -> None:
    """Refuses a folder with other files."""
    if not folder.exists() or (folder / NAME).is_file():
        return
    if not folder.is_dir() or any(map(_is_foreign, folder.iterdir())):
        action = "Name another folder; `lineside train --data` takes several."
        raise DatasetError(f"{folder} holds something that relabel import didn't make", action=action)


def _is_foreign(path: Path) -> bool:
    """Whether a file is neither the lock nor a temporary file of a killed import."""
    return path.name != LOCK_NAME and not path.name.startswith(f".{NAME}.")


def _settings(path: Path) -> CollectionSettings:
    try:
        settings = decode_json(path.read_bytes(), type=CollectionSettings)
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    if settings.format > FORMAT:
        raise DatasetError(f"{path} is of a newer release", expected=f"format {FORMAT}", actual=settings.format)
    return settings


def _history(path: Path) -> list[Correction]:
    found: list[Correction] = []
    try:
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            found.append(decode_json(line, type=Correction))  # noqa: PERF401 - its length says which line
    except msgspec.DecodeError as error:
        raise DatasetError(f"{path}: line {len(found) + 1}: {error}") from error
    return found


def _file_of(lines: Sequence[Correction], labels: tuple[str, ...]) -> coco.File:
    images: list[coco.Image] = []
    annotations: list[coco.Annotation] = []
    for image_id, line in enumerate(sorted(lines, key=lambda line: line.image.sha256), 1):
        images.append(line.image.as_coco(image_id))
        for label, *box in line.boxes:
            number = len(annotations) + 1
            category = labels.index(label) + 1
            annotations.append(coco.annotation(number, image_id, category, box=tuple(box), score=1.0))
    return coco.File(images=tuple(images), annotations=tuple(annotations), categories=coco.categories(labels))


def _put(path: Path, data: bytes) -> None:
    """Writes a file if its content changes."""
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
