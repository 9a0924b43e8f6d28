"""A bundle of variants that are only to be timed, and then deleted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_converters.candidate import CandidateVariant
from lineside_runtime.bundle import Bundle, Manifest, files_of, write_manifest


def write_timing_bundle(
    folder: Path, manifest: Manifest, variants: Sequence[CandidateVariant], *, version: str = ""
) -> Bundle:
    """Writes a bundle without card, report and golden input; what stands in ``folder`` is deleted.

    Args:
        version: Version of the bundle; the manifest's if empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for one in variants:
        target = folder / one.variant.file
        target.parent.mkdir(parents=True)
        names = files_of(one.variant.format, one.file.name), files_of(one.variant.format, target.name)
        for source, name in zip(*names, strict=True):
            shutil.copyfile(one.file.parent / source, target.parent / name)
    return write_manifest(
        folder,
        msgspec.structs.replace(
            manifest,
            version=version or manifest.version,
            variants=tuple(one.variant for one in variants),
            speed="unproven",
            golden=None,
            files={},
        ),
    )
