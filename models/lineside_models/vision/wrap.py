"""Making a bundle of a bare ONNX file, so that everything behind it knows bundles only."""

from __future__ import annotations

import datetime
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_models.good_classes import names_of_good, with_good_classes
from lineside_models.postprocess import recognise
from lineside_models.vision.facts import ModelFacts, complete, from_metadata, from_sidecar, from_ultralytics
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.errors import InputNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from lineside_runtime.backends.ort import OnnxFacts

log = logging.getLogger("lineside.models")

VARIANT = "onnx"
_VARIANT = Variant(name=VARIANT, format="onnx", file=f"{VARIANT}/model.onnx", level=0, precision="fp32")


def wrap_onnx(model: Path, folder: Path, given: ModelFacts, *, origin: Path | None = None) -> Bundle:
    """Makes a bundle of an ONNX file, with no golden input.

    Args:
        model: The ONNX file.
        folder: An empty folder for the bundle.
        given: Facts that come before those of the sidecar and the metadata.
        origin: The file that the user gave, where ``model`` was made of it: its sidecar is read.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: It is no ONNX file, or has no input of the name that the pre-processing fills.
        UnknownHeadError: Nobody names the decoder, and the shapes of the outputs don't tell.
        MissingModelFactsError: Neither the arguments, nor the sidecar, nor the metadata say it all.
        ConfigError: One of them breaks the format.
    """
    from lineside_runtime.backends.ort import read_onnx  # an engine, which a bundle on another one does without

    named = origin or model
    if not model.is_file():
        raise InputNotFoundError(f"no model at {model}", action="Give a bundle, an .onnx or a .pt file.")
    onnx = read_onnx(model)
    facts = complete(_known(given.over(from_sidecar(named)), onnx, str(named)), named)
    names = [spec.name for spec in onnx.inputs]
    if names != [facts.preprocess.input]:
        raise UnsupportedModelError(
            f"inputs of {named}", expected=f"one input, preprocess.input = {facts.preprocess.input!r}", actual=names
        )
    reading = with_good_classes(facts.postprocess, facts.labels)
    if reading is not facts.postprocess:
        log.warning("%s: by its name, %s means a good part", named.name, names_of_good(reading, facts.labels))
    return _written(
        model,
        folder,
        Manifest(
            name=name_of(named.stem),
            version="0",
            task="classification" if facts.postprocess.name == "classification" else "detection",
            created_at=_now(),
            labels=facts.labels,
            inputs=onnx.inputs,
            outputs=onnx.outputs,
            preprocess=facts.preprocess,
            postprocess=reading,
            variants=(_VARIANT,),
        ),
    )


def wrap_generic(model: Path, folder: Path) -> Bundle:
    """Makes a bundle of an ONNX file of which nobody says how its inputs are prepared or its outputs read.

    The caller gives its inputs as tensors and reads its outputs himself.

    Args:
        model: The ONNX file.
        folder: An empty folder for the bundle.

    Raises:
        UnsupportedModelError: It is no ONNX file, or has an input or output that a bundle can't describe.
    """
    from lineside_runtime.backends.ort import read_onnx

    onnx = read_onnx(model)
    return _written(
        model,
        folder,
        Manifest(
            name=name_of(model.stem),
            version="0",
            task="generic",
            created_at=_now(),
            labels=(),
            inputs=onnx.inputs,
            outputs=onnx.outputs,
            preprocess=Preprocess(input=onnx.inputs[0].name if onnx.inputs else "", colour="none"),
            postprocess=Postprocess(name="none"),
            variants=(_VARIANT,),
        ),
    )


def _written(model: Path, folder: Path, manifest: Manifest) -> Bundle:
    (folder / VARIANT).mkdir(parents=True)
    (folder / _VARIANT.file).write_bytes(model.read_bytes())
    return write_manifest(folder, manifest)


def name_of(text: str) -> str:
    """Returns a name that a bundle may have, made of a file's or folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:64] or "model"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _known(given: ModelFacts, onnx: OnnxFacts, where: str) -> ModelFacts:
    """Returns the facts from every source; the decoder is told from the shapes where nobody names it."""
    facts = given.over(from_metadata(onnx, where)).over(from_ultralytics(onnx))
    if facts.labels and facts.preprocess and facts.postprocess is None:
        return facts.over(ModelFacts(postprocess=recognise(onnx.inputs, onnx.outputs, len(facts.labels))))
    return facts
