"""Facts that a bare model file does not state: labels, pre- and post-processing."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from lineside_models.postprocess.recognition import readings, toml_blocks
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.decoding import decode_json, decode_toml
from lineside_runtime.errors import ConfigError, MissingModelFactsError
from lineside_runtime.tensors import DYNAMIC

if TYPE_CHECKING:
    from lineside_runtime.backends.ort.backend import OnnxFacts

METADATA_KEY = "lineside"
"""Key of an ONNX file's metadata under which the facts may stand as JSON."""

SIDECAR_MAX_BYTES = 1 << 20

_DETECTOR = """name = "dfl_anchor_free"

[postprocess.params]
strides = [8, 16, 32]
"""

_CLASSIFIER = 'name = "classification"\n'

EXAMPLE_LABELS_MAX = 20


class ModelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts, each ``None`` if a source does not state it.

    Attributes:
        labels: Class names in the order of the model's outputs.
        preprocess: How an image becomes the input.
        postprocess: How the outputs become detections.
    """

    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None

    def over(self, other: ModelFacts) -> ModelFacts:
        """Returns these facts, completed by those of ``other``."""
        return ModelFacts(
            labels=other.labels if self.labels is None else self.labels,
            preprocess=self.preprocess or other.preprocess,
            postprocess=self.postprocess or other.postprocess,
        )


class CompleteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts when nothing is missing."""

    labels: tuple[str, ...]
    preprocess: Preprocess
    postprocess: Postprocess


def from_arguments(labels: object, preprocess: object, postprocess: object) -> ModelFacts:
    """Reads the facts of a caller: structs, or dictionaries and lists.

    A pre-processing that names no input is that of the model's only one.

    Raises:
        ConfigError: A value breaks the format; it names the path, such as ``$.preprocess.mean``. Or a label is empty or
            there twice.
    """
    given = {"labels": labels, "preprocess": preprocess, "postprocess": postprocess}
    plain = {key: msgspec.to_builtins(value) for key, value in given.items() if value is not None}
    if isinstance(plain.get("preprocess"), dict):
        plain["preprocess"].setdefault("input", "")
    facts = _convert(plain, "arguments")
    _check_distinct(facts.labels or (), "arguments")
    return facts


def from_sidecar(model: Path) -> ModelFacts:
    """Reads the file beside the model with the ending ``.toml``; nothing if there is none.

    Raises:
        ConfigError: It is too large, not TOML, or breaks the format; it names the path in the file.
    """
    path = sidecar_path(model)
    if not path.is_file():
        return ModelFacts()
    with path.open("rb") as file:
        data = file.read(SIDECAR_MAX_BYTES + 1)
    if len(data) > SIDECAR_MAX_BYTES:
        raise ConfigError(f"{path} is too large", expected=f"at most {SIDECAR_MAX_BYTES} bytes")
    try:
        values = decode_toml(data)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", action="Correct the named line.") from error
    return _convert(values, str(path))


def from_metadata(onnx: OnnxFacts, where: str) -> ModelFacts:
    """Reads the JSON under `METADATA_KEY` in an ONNX file's metadata; nothing if there is none.

    Raises:
        ConfigError: It is not JSON or breaks the format.
    """
    text = onnx.metadata.get(METADATA_KEY)
    if text is None:
        return ModelFacts()
    try:
        values = decode_json(text)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{where}: metadata {METADATA_KEY!r} is not JSON: {error}", action="Write it again."
        ) from error
    return _convert(values, f"{where}: metadata {METADATA_KEY!r}")


def from_ultralytics(onnx: OnnxFacts) -> ModelFacts:
    """Reads the metadata of ``ultralytics`` exports: class names, and with them the pre-processing.

    Frames of its detectors and segmenters are RGB, divided by 255 and fitted onto a grey canvas. Its classifiers cut
    the middle out of a frame, which would hide defects at the edge: how frames go into them is for the user to say.

    Source: ``ultralytics/engine/exporter.py`` (metadata) and ``data/augment.py`` (`LetterBox`).
    """
    said = onnx.metadata
    names = names_of(said.get("names", ""))
    if names is None or "ultralytics" not in said.get("description", "").lower() + said.get("author", "").lower():
        return ModelFacts()
    if said.get("task") == "classify":
        return ModelFacts(labels=names, postprocess=Postprocess(name="classification", params={"activation": "none"}))
    image = onnx.inputs[0]
    height, width = image.shape[2:] if len(image.shape) == 4 else (DYNAMIC, DYNAMIC)
    fixed = (height, width) if DYNAMIC not in (height, width) else None
    colour: Literal["grey", "rgb"] = "grey" if image.shape[1:2] == (1,) else "rgb"
    channels = 1 if colour == "grey" else 3
    return ModelFacts(
        labels=names,
        preprocess=Preprocess(
            input=image.name, colour=colour, size=fixed, mean=(0.0,) * channels, std=(255.0,) * channels
        ),
    )


def names_of(text: str) -> tuple[str, ...] | None:
    """Reads ``{0: 'person', 1: 'car'}``, Python's own notation of a dictionary, or JSON; nothing is run."""
    try:
        given = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(given, dict) or not given:
        return None
    given = {int(key) if isinstance(key, str) and key.isdigit() else key: name for key, name in given.items()}
    if set(given) != set(range(len(given))):
        return None
    return tuple(str(given[index]) for index in range(len(given)))


def sidecar_path(model: Path) -> Path:
    """Returns ``model.toml`` for ``model.onnx``."""
    return model.with_suffix(".toml")


def complete(facts: ModelFacts, model: Path, onnx: OnnxFacts) -> CompleteFacts:
    """Returns the facts if none is missing.

    Args:
        model: The file that the user gave.
        onnx: What it says of itself, for the example in the error.

    Raises:
        MissingModelFactsError: It names what is missing and shows how to give it.
        ConfigError: A label is empty or there twice.
    """
    missing = [key for key in ("labels", "preprocess", "postprocess") if not getattr(facts, key)]
    if missing or facts.labels is None or facts.preprocess is None or facts.postprocess is None:
        raise MissingModelFactsError(
            f"{model} does not say its {', '.join(missing)}",
            expected=f"{', '.join(missing)} as arguments, in {sidecar_path(model)}, or as JSON under "
            f"{METADATA_KEY!r} in the ONNX metadata",
            action=f"For example, write {sidecar_path(model).name} (`lineside config schema model` lists what can be "
            f"said; `lineside optimize` takes --labels, --colour, --size, --mean and --std too):\n\n"
            + example_of(onnx, facts),
        )
    _check_distinct(facts.labels, str(model))
    return CompleteFacts(labels=facts.labels, preprocess=facts.preprocess, postprocess=facts.postprocess)


def _check_distinct(labels: Sequence[str], where: str) -> None:
    """Refuses labels that rules, thresholds and reports could not tell from one another."""
    empty = [f"an empty one, number {number}" for number, label in enumerate(labels, 1) if not label.strip()]
    twice = [f"{label!r} {times} times" for label, times in Counter(labels).items() if times > 1]
    if problem := next(iter(empty + twice), None):
        raise ConfigError(
            f"{where}: labels",
            expected="a name of its own for each class",
            actual=problem,
            action="Name every class of the model, in the order of its outputs.",
        )


def example_of(onnx: OnnxFacts, known: ModelFacts) -> str:
    """Returns an example sidecar file with the names and shapes of a model, and all decoders that fit its labels."""
    found = [known.postprocess] if known.postprocess else []
    if known.labels and not found:
        found = readings(onnx.inputs, onnx.outputs, len(known.labels), onnx.tails)
    image = next((spec for spec in onnx.inputs if len(spec.shape) == 4), None)
    channels = image.shape[1] if image is not None else 1
    whole = len(onnx.outputs) == 1 and len(onnx.outputs[0].shape) == 2
    classes = onnx.outputs[0].shape[1] if whole else DYNAMIC
    names = (
        ["scratch", "dent"] if classes == DYNAMIC else [f"class {n}" for n in range(min(classes, EXAMPLE_LABELS_MAX))]
    )
    listed = ", ".join(f'"{name}"' for name in names) + (", …" if classes > EXAMPLE_LABELS_MAX else "")
    colour = "rgb" if channels == 3 else "grey"
    size = () if image is None or DYNAMIC in image.shape[2:] else (f"size = {list(image.shape[2:])}",)
    each = 3 if colour == "rgb" else 1
    return "\n".join(
        [
            f"labels = [{listed}]",
            "",
            "[preprocess]",
            f'input = "{image.name if image is not None else "image"}"',
            f'colour = "{colour}"',
            *size,
            f"mean = {[127.0] * each}",
            f"std = {[128.0] * each}",
            "",
            toml_blocks(found) if found else f"[postprocess]\n{_CLASSIFIER if whole else _DETECTOR}",
        ]
    )


def _convert(values: Any, where: str) -> ModelFacts:
    try:
        return msgspec.convert(values, ModelFacts)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}", action="Correct the named key.") from error
