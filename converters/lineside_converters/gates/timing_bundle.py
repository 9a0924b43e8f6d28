"""A bundle of unproved candidates that is timed on a device and then deleted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_converters.gates.runner import CandidateVariant, Terms
from lineside_runtime.bundle import Bundle, files_of, write_manifest


def trial(folder: Path, terms: Terms, forms: Sequence[CandidateVariant], *, version: str = "") -> Bundle:
    """Puts an unproved bundle together, without card, report and golden input.

    Args:
        folder: Of the bundle; what is there goes.
        terms: Say how frames go in.
        forms: What it holds.
        version: Of the bundle; the model's own if empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for form in forms:
        target = folder / form.variant.file
        target.parent.mkdir(parents=True)
        names = files_of(form.variant.format, form.file.name), files_of(form.variant.format, target.name)
        for source, name in zip(*names, strict=True):
            shutil.copyfile(form.file.parent / source, target.parent / name)
    manifest = msgspec.structs.replace(
        terms.manifest,
        version=version or terms.manifest.version,
        variants=tuple(form.variant for form in forms),
        speed="unproven",
        golden=None,
        files={},
    )
    return write_manifest(folder, manifest)
