"""Make a bundle of a bare ONNX file."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import msgspec

from lineside_models.anomaly.onnx_tail import with_weights
from lineside_models.postprocess import count_classes
from lineside_models.preprocess import CHANNELS
from lineside_models.verdict.good_classes import good_of, names_of_good, with_good_classes
from lineside_models.vision.export_families import constant_inputs, from_export, from_libreyolo
from lineside_models.vision.model_facts import (
    CompleteFacts,
    ModelFacts,
    complete,
    from_metadata,
    from_sidecar,
    from_ultralytics,
)
from lineside_runtime.bundle import (
    Bundle,
    Manifest,
    Postprocess,
    Preprocess,
    TextForm,
    Variant,
    check_relative,
    time_now,
    write_manifest,
)
from lineside_runtime.errors import ConfigError, InputNotFoundError, UnsupportedModelError
from lineside_runtime.tensors import DYNAMIC, TensorSpec

if TYPE_CHECKING:
    from lineside_runtime.backends.ort.backend import OnnxFacts

log = logging.getLogger("lineside.models")

VARIANT = "onnx"
_TASKS: Mapping[str, Literal["classification", "spans"]] = {"classification": "classification", "spans": "spans"}
"""By the post-processing; all others are detectors."""

_VARIANT = Variant(name=VARIANT, format="onnx", file=f"{VARIANT}/model.onnx", level=0, precision="fp32")


def wrap_onnx(
    model: Path,
    folder: Path,
    given: ModelFacts,
    *,
    origin: Path | None = None,
    good_classes: Sequence[str] | None = None,
) -> Bundle:
    """Makes a bundle of an ONNX file, with no golden input.

    Args:
        folder: An empty folder for the bundle.
        given: Facts that come before those of the sidecar and the metadata.
        origin: The file that the user gave, where ``model`` was made of it: its sidecar is read.
        good_classes: As for `with_good_classes`.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: It is no ONNX file, or has no input of the name that the pre-processing fills, or one
            that a frame cannot become.
        UnknownHeadError: Nobody names the decoder, and the shapes of the outputs don't tell.
        MissingModelFactsError: Neither the arguments, nor the sidecar, nor the metadata say it all.
        ConfigError: One of them breaks the format, or contradicts the model's own shapes.
    """
    from lineside_runtime.backends.ort.backend import read_onnx  # an engine, which a bundle on another one does without

    named = origin or model
    if not model.is_file():
        raise InputNotFoundError(f"no model at {model}", action="Give a bundle, an .onnx or a .pt file.")
    onnx = read_onnx(model)
    constants = constant_inputs(onnx)
    known = _known(given.over(from_sidecar(named)), onnx, named)
    onnx = msgspec.structs.replace(onnx, inputs=tuple(spec for spec in onnx.inputs if spec.name not in constants))
    facts = complete(known, named, onnx)
    _check_labels(onnx, facts.postprocess, facts.labels, named)
    preprocess = _resized(_sized(onnx.inputs, facts.preprocess, named), facts.postprocess)
    return _written(
        with_weights(model.read_bytes(), constants),  # an initializer with the name of an input is its value
        folder,
        Manifest(
            name=name_of(named.stem),
            version="0",
            task=_TASKS.get(facts.postprocess.name, "detection"),
            created_at=time_now(),
            labels=facts.labels,
            inputs=onnx.inputs,
            outputs=onnx.outputs,
            preprocess=preprocess,
            postprocess=_with_good_classes(facts, good_classes, named),
            variants=(_VARIANT,),
        ),
        _files_beside(named, preprocess),
    )


def _with_good_classes(facts: CompleteFacts, good_classes: Sequence[str] | None, model: Path) -> Postprocess:
    reading = with_good_classes(facts.postprocess, facts.labels, good_classes)
    if good_classes is None and reading is not facts.postprocess:
        log.warning("%s: by its name, %s means a good part", model.name, names_of_good(reading, facts.labels))
    return reading


def _files_beside(model: Path, how: Preprocess) -> dict[str, Path]:
    """Returns the files that the pre-processing needs, by their names in the bundle: they lie beside the model.

    Raises:
        InputNotFoundError: One is missing.
    """
    if not isinstance(how.text, TextForm):
        return {}
    found = model.parent / Path(how.text.tokenizer).name
    if not found.is_file():
        raise InputNotFoundError(f"no {found.name} beside {model}", action="Put the model's tokenizer there.")
    return {how.text.tokenizer: found}


def wrap_generic(model: Path, folder: Path) -> Bundle:
    """Makes a bundle of an ONNX file without pre- and post-processing.

    The caller gives its inputs as tensors and reads its outputs himself.

    Args:
        folder: An empty folder for the bundle.

    Raises:
        UnsupportedModelError: It is no ONNX file, or has an input or output that a bundle can't describe.
    """
    from lineside_runtime.backends.ort.backend import read_onnx

    onnx = read_onnx(model)
    return _written(
        model.read_bytes(),
        folder,
        Manifest(
            name=name_of(model.stem),
            version="0",
            task="generic",
            created_at=time_now(),
            labels=(),
            inputs=onnx.inputs,
            outputs=onnx.outputs,
            preprocess=Preprocess(input=onnx.inputs[0].name if onnx.inputs else "", colour="none"),
            postprocess=Postprocess(name="none"),
            variants=(_VARIANT,),
        ),
    )


def _sized(inputs: Sequence[TensorSpec], how: Preprocess, model: Path) -> Preprocess:
    """Returns the pre-processing with the name of the only input, and its size if that is fixed.

    Raises:
        UnsupportedModelError: There is no such input, or several, or no frame can become it: another type, number of
            dimensions, frames in a batch or channels than the pre-processing gives, or channels last.
        ConfigError: The pre-processing says another size.
    """
    names = [spec.name for spec in inputs]
    if not how.input and len(names) == 1:
        how = msgspec.structs.replace(how, input=names[0])
    if names != [how.input]:
        raise UnsupportedModelError(
            f"inputs of {model}", expected=f"one input, preprocess.input = {how.input!r}", actual=names
        )
    return how if how.colour == "none" else _fitting(inputs[0], how, model)


def _resized(how: Preprocess, reading: Postprocess) -> Preprocess:
    """Returns a classifier's pre-processing with the whole frame stretched to its size, unless it says how to resize.

    Padding that it has not seen in training would change its answers.
    """
    if reading.name != "classification" or how.resize is not msgspec.UNSET or how.size is None:
        return how
    return msgspec.structs.replace(how, resize="stretch")


def _fitting(image: TensorSpec, how: Preprocess, model: Path) -> Preprocess:
    """Returns the pre-processing with the size of a fixed input; raises as `_sized` does."""
    wanted = CHANNELS[how.colour]
    expected = f"(1 or free, {wanted}, height, width) for colour {how.colour!r}"

    def refusal(reason: str, action: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{model}: input {image.name!r} {reason}", expected=expected, actual=image.shape, action=action
        )

    if image.dtype != "float32":
        raise refusal(f"takes {image.dtype}", "Export the model with a float32 input, or insert a Cast behind one.")
    if len(image.shape) != 4:
        raise refusal("has not the four dimensions of an image", "Give a model that takes images.")
    batch, channels, height, width = image.shape
    if channels not in (DYNAMIC, wanted):
        if width == wanted:
            raise refusal("has its channels last (NHWC)", "Export the model with channels first (NCHW).")
        raise refusal(
            f"takes {channels} channel{'s' * (channels != 1)}", "Set preprocess.colour (--colour) to the model's."
        )
    if batch not in (DYNAMIC, 1):
        raise refusal(
            f"takes a batch of exactly {batch} frames", "Export the model with a free batch dimension, or with 1."
        )
    if DYNAMIC in (height, width):
        return how
    if how.size is None:
        return msgspec.structs.replace(how, size=(height, width))
    if how.size != (height, width):
        raise ConfigError(
            f"{model}: preprocess.size", expected=f"the model's {(height, width)} (height, width)", actual=how.size
        )
    return how


def _check_labels(onnx: OnnxFacts, how: Postprocess, labels: tuple[str, ...], model: Path) -> None:
    """Refuses labels whose number differs from the classes of the model, and classes of good parts without a label."""
    classes = count_classes(onnx.outputs, how)
    if classes is not None and classes != len(labels):
        raise ConfigError(
            f"{model}: labels",
            expected=f"{classes}, as many as the model's outputs have classes "
            f"({'; '.join(spec.describe() for spec in onnx.outputs)})",
            actual=len(labels),
            action="Name every class of the model, in the order of its outputs.",
        )
    if wrong := [index for index in good_of(how) if index >= len(labels)]:
        raise ConfigError(
            f"{model}: postprocess.params.good", expected=f"indices of labels, 0 to {len(labels) - 1}", actual=wrong[0]
        )


def _written(
    model: bytes, folder: Path, manifest: Manifest, files: Mapping[str, Path] = MappingProxyType({})
) -> Bundle:
    (folder / VARIANT).mkdir(parents=True)
    for name, file in files.items():
        check_relative(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(file.read_bytes())
    (folder / _VARIANT.file).write_bytes(model)
    return write_manifest(folder, manifest)


def name_of(text: str) -> str:
    """Returns a valid bundle name made of the name of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:64] or "model"


def _known(given: ModelFacts, onnx: OnnxFacts, named: Path) -> ModelFacts:
    """Returns the facts of all sources, completed from the outputs."""
    said = given.over(from_metadata(onnx, str(named))).over(from_ultralytics(onnx)).over(from_libreyolo(onnx))
    return from_export(onnx, said, named.name)
