"""Which types a bundle knows, in the order of its outputs: from what the hub published, or what is shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from lineside_hub.relabel.selection import Picked
from lineside_hub.repository.repository import Repository
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle, parse_manifest
from lineside_runtime.errors import BundleError, InputNotFoundError, LinesideError, RolloutError


def labels_of(folder: Path, results: Iterable[Picked], given: Path | None = None) -> tuple[str, ...]:
    """Returns the types of the bundles that judged, each once; those of the newest bundle first.

    Args:
        folder: Of the hub.
        results: Oldest first.
        given: A bundle whose types count instead, where the hub doesn't know the one that judged.

    Raises:
        InputNotFoundError: Nobody here knows the bundle of a result.
        LinesideError: ``given`` is no bundle.
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
