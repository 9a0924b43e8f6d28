"""Opening what the `Optimizer` was given: a bundle, an ONNX file or a ``.pt``, as a float model with its facts."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec

from lineside_converters.importing import import_pt
from lineside_converters.report import REPORT_NAME, SourceFacts, read_report
from lineside_models.vision.facts import ModelFacts
from lineside_models.vision.wrap import wrap_onnx
from lineside_runtime.archive import unpack_archive
from lineside_runtime.bundle import Bundle, Manifest, open_bundle
from lineside_runtime.errors import BundleFormatError, InputNotFoundError, UnsupportedModelError
from lineside_runtime.session import ARCHIVE_SUFFIX

log = logging.getLogger("lineside.convert")

CARD_NAME = "model_card.md"
_CARD_MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class SourceModel:
    """The float model to start from.

    Attributes:
        bundle: It as a bundle, with its float variant alone.
        model: Its ONNX file.
        card: Its model card; empty if it has none.
        facts: Name, hash and size for the report.
        training: What its own report says of its training.
    """

    bundle: Bundle
    model: Path
    card: str
    facts: SourceFacts
    training: dict[str, Any]

    @property
    def manifest(self) -> Manifest:
        """The manifest, with its float variant alone."""
        return self.bundle.manifest


def open_source(path: Path, work: Path, *, given: ModelFacts, trust: bool) -> SourceModel:
    """Opens a model file of any kind that lineside reads.

    Args:
        path: A bundle's folder, ``.lsb``, ``.onnx`` or ``.pt``.
        work: An existing folder for temporary files.
        given: What a bare file doesn't say.
        trust: As for `import_pt`.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: A file of another kind, or a bundle without a float ONNX variant.
        MissingModelFactsError: A bare file doesn't say how to prepare its input or read its output.
        LinesideError: As for `open_bundle` and `import_pt`.
    """
    if path.is_dir():
        return _from_bundle(open_bundle(path), path.name)
    if not path.is_file():
        raise InputNotFoundError(f"no model at {path}", action="Give a bundle, an .onnx or a .pt file.")
    if path.suffix == ARCHIVE_SUFFIX:
        return _from_bundle(unpack_archive(path, work / "archive"), path.name)
    if path.suffix in (".pt", ".pth"):
        exported = import_pt(path, trust)
        try:
            return _from_bundle(wrap_onnx(exported, work / "wrapped", given, origin=path), path.name)
        finally:
            shutil.rmtree(exported.parent, ignore_errors=True)
    if path.suffix == ".onnx":
        return _from_bundle(wrap_onnx(path, work / "wrapped", given), path.name)
    raise UnsupportedModelError(f"model {path}", expected="a bundle's folder, .lsb, .onnx or .pt")


def _from_bundle(bundle: Bundle, name: str) -> SourceModel:
    floats = [v for v in bundle.manifest.variants if v.format == "onnx" and v.precision == "fp32"]
    if not floats:
        raise UnsupportedModelError(
            f"{bundle.manifest.identity} has no float model to start from",
            expected="a variant of format onnx and precision fp32",
            actual=[f"{v.name}: {v.format} {v.precision}" for v in bundle.manifest.variants],
            action="Give the float bundle that it was made of.",
        )
    model = bundle.file(floats[0].file)
    data = model.read_bytes()
    alone = msgspec.structs.replace(bundle.manifest, variants=(floats[0],))
    facts = SourceFacts(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return SourceModel(Bundle(bundle.path, alone, bundle.digest), model, _card_of(bundle), facts, _training_of(bundle))


def _training_of(bundle: Bundle) -> dict[str, Any]:
    if REPORT_NAME not in bundle.manifest.files:
        return {}
    try:
        return read_report(bundle.path).training
    except BundleFormatError as error:  # a bundle of another maker may bring a report of its own kind
        log.warning("%s: its report is not taken over: %s", bundle.manifest.identity, error.message)
        return {}


def _card_of(bundle: Bundle) -> str:
    entry = bundle.manifest.files.get(CARD_NAME)
    if entry is None or entry.size > _CARD_MAX_BYTES:
        return ""
    return bundle.file(CARD_NAME).read_text(errors="replace")
