"""Catalogue of exported images: ``export.json`` beside them, or made from the hub; types of the bundles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.relabel.selection import ExportedImage, SelectedResult, results_of_frames
from lineside_hub.repository.repository import Repository
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle, parse_manifest
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BundleError, DatasetError, InputNotFoundError, LinesideError, RolloutError
from lineside_runtime.files import write_atomic

NAME = "export.json"
FORMAT = 1


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """All exported images.

    Attributes:
        labels: The types that the model knows, in the order of its outputs.
        exported_at_ns: Unix time; 0 if it is not known.
    """

    labels: tuple[str, ...]
    images: tuple[ExportedImage, ...]
    exported_at_ns: int = 0
    format: int = FORMAT

    def by_name(self) -> dict[str, ExportedImage]:
        """Returns the images by their sha256."""
        return {image.sha256: image for image in self.images}


def write(folder: Path, catalogue: Catalogue) -> None:
    """Writes ``export.json`` into a folder."""
    write_atomic(folder / NAME, msgspec.json.format(msgspec.json.encode(catalogue), indent=1))


def read(folder: Path) -> Catalogue | None:
    """Reads ``export.json`` of a folder; ``None`` if there is none."""
    path = folder / NAME
    try:
        catalogue = decode_json(path.read_bytes(), type=Catalogue)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{path} can't be read: {error}", action="Export again.") from error
    if catalogue.format > FORMAT:
        raise DatasetError(f"{path} is of a newer release", expected=f"format {FORMAT}", actual=catalogue.format)
    return catalogue


def from_hub(config: HubConfig, frames: list[str], bundle: Path | None = None) -> Catalogue:
    """Makes a catalogue of a hub's frames by their sha256; unknown ones are left out.

    Args:
        bundle: As in `labels_of`.
    """
    found = results_of_frames(config, frames)
    first: dict[str, SelectedResult] = {}
    for result in found:
        first.setdefault(result.sha256, result)
    if not first:
        raise InputNotFoundError(
            "none of the images is a frame of this hub", action="Give the folder that `lineside relabel export` made."
        )
    labels = labels_of(Path(config.folder), found, bundle)
    return Catalogue(labels=labels, images=tuple(result.image() for result in first.values()))


def labels_of(folder: Path, results: Iterable[SelectedResult], given: Path | None = None) -> tuple[str, ...]:
    """Returns the types of the bundles of some results, each once; those of the newest bundle first.

    Args:
        results: Oldest first.
        given: A bundle whose types are used instead.
    """
    if given is not None:
        return open_bundle(given, verify=False).manifest.labels
    judged = dict.fromkeys((one.bundle, one.bundle_sha256) for one in reversed(list(results)) if one.bundle)
    labels: dict[str, None] = {}
    for identity, digest in judged:
        found = _published(folder, identity, digest) or _shipped(digest)
        if found is None:
            raise InputNotFoundError(
                f"the types of {identity} are not known: it was not published here",
                action="Give the bundle's folder with --bundle.",
            )
        labels |= dict.fromkeys(found)
    return tuple(labels)


def _published(folder: Path, identity: str, digest: str) -> tuple[str, ...] | None:
    name, _, version = identity.partition("@")
    try:
        repository = Repository.open(folder)
    except InputNotFoundError:  # a hub that only collects
        return None
    for group in repository.groups():
        with contextlib.suppress(BundleError, RolloutError):  # not for this group, or withdrawn
            reference = repository.find(group, name=name, version=version, sha256=digest or None)
            return parse_manifest(repository.target_bytes(reference.target, reference.sha256)).labels
    return None


def _shipped(digest: str) -> tuple[str, ...] | None:
    for name in zoo.NAMES:
        with contextlib.suppress(LinesideError):  # an installation without it
            bundle = open_bundle(zoo.path(name), verify=False)
            if bundle.digest == digest:
                return bundle.manifest.labels
    return None
