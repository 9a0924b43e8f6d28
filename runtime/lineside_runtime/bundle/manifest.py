"""The manifest of a bundle: its structs, and the checks before any of it is used."""

# No `from __future__ import annotations` here and in what the structs are made of: msgspec would compile each of them
# when it makes the decoder, 2 ms of a session's start.

import hashlib
import math
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np

from lineside_runtime.bundle.preprocessing import ManifestStruct, Preprocess, Reference, TextForm
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import BundleFormatError
from lineside_runtime.precision import Precision
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

SCHEMA = 1
"""The manifest's schema number that this release writes and reads."""

CHUNK_BYTES = 64 * 1024
"""Size of a chunk on the link: the fastest that was measured with mosquitto and paho (141 MB/s)."""

WEIGHTS_APART = {"ncnn": ".param", "openvino": ".xml"}
"""Formats of two files: how the graph's name ends, which the manifest names; the weights' ends with ``.bin``."""

MANIFEST_MAX_BYTES = 1 << 20
FILE_MAX_BYTES = 1 << 30
FILES_MAX = 1000
MANIFEST_NAME = "manifest.json"

ELEMENTS_MAX = 1 << 30
"""Of one input or output whose shape is fixed."""

PARAMS_DEPTH_MAX = 16
"""Nesting of a decoder's parameters."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a bundle and its version may be called: safe in topics and as a file's name."""


class FileEntry(ManifestStruct, frozen=True, kw_only=True):
    """One file of the bundle.

    Attributes:
        size: In bytes.
        sha256: Of the whole file, hexadecimal.
        chunks: sha256 of each piece of `CHUNK_BYTES` bytes, in order; the last may be shorter.
    """

    size: int
    sha256: str
    chunks: tuple[str, ...]


class FileList(Protocol):
    """What a fetch needs of a manifest, a bundle's or an agent payload's."""

    @property
    def files(self) -> dict[str, FileEntry]:
        """Every file beside the manifest, by its path."""

    @property
    def size_bytes(self) -> int:
        """Sum of their sizes."""


class Postprocess(ManifestStruct, frozen=True, kw_only=True):
    """How the model's outputs become detections.

    Attributes:
        name: Name of the decoder, such as ``dfl_anchor_free``.
        params: The decoder's own parameters; it checks them.
    """

    name: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)


class Stage(ManifestStruct, frozen=True, kw_only=True):
    """One stage of a model that is split, so that its stages run on several devices at once.

    Attributes:
        name: Such as ``backbone``.
        file: Path of the stage's model inside the bundle.
        inputs: What it takes: inputs of the model, and outputs of stages before it.
        outputs: What it gives: outputs of the model, and inputs of stages after it.
        share: Its share of the model's compute, as measured where the model was cut; 0 to 1.
        sample: Shape of each input when one frame of the smallest size is run, for warming up.
    """

    name: str
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    share: float
    sample: dict[str, tuple[int, ...]]


Terms = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\r\n]*$")]
"""An SPDX identifier, or a short name of other terms."""

STATED_TERMS = {"none": "no licence stated", "research": "research only"}
"""Terms of data that do not allow commercial use or do not say so, and what they mean."""

Format = Literal["onnx", "openvino", "tflite", "ncnn", "mnn", "torch", "tensorrt", "hailo", "rknn", "imx500"]
"""Of a model's file; an engine reads one or several."""


Speed = Literal["measured", "unproven", "by_level"]
"""How the order of a manifest's variants came about, see `Manifest.speed`."""


class Variant(ManifestStruct, frozen=True, kw_only=True):
    """One compiled form of the model.

    Attributes:
        name: Folder of the variant inside the bundle.
        format: Which engines can read it.
        file: Path of the model inside the bundle.
        level: Optimisation level, 0 to 3.
        precision: Arithmetic that it computes in.
        device_kinds: Kinds of device that it is for: others serve only where they were measured to be faster.
        requires: Engine name to version range, such as ``{"onnxruntime": ">=1.20"}``.
        memory_bytes: What it needs on the device beside the engine itself; 0 if not measured.
        stages: The same model in stages, in the order in which they run; empty if it is not split. ``file`` is the
            whole model.
        width: Share of the channels, where the bundle holds several widths of one network; left out otherwise, so that
            older agents can read the manifest.
        weights: Path of a file beside ``file`` that several variants read their weights from; left out as `width`.
    """

    name: str
    format: Format
    file: str
    level: int
    precision: Precision
    device_kinds: tuple[Literal["npu", "gpu", "cpu"], ...] = ("cpu",)
    requires: dict[str, str] = msgspec.field(default_factory=dict)
    memory_bytes: int = 0
    stages: tuple[Stage, ...] = ()
    width: Annotated[float, msgspec.Meta(gt=0, le=1)] | msgspec.UnsetType = msgspec.UNSET
    weights: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def files(self) -> tuple[str, ...]:
        """The model's file and those that it reads beside it, by their paths in the bundle."""
        return (*files_of(self.format, self.file), *((self.weights,) if self.weights else ()))

    @property
    def is_narrow(self) -> bool:
        """Whether it has fewer channels, and so lower accuracy, than the bundle's widest one."""
        return (self.width or 1.0) < 1


class Golden(ManifestStruct, frozen=True, kw_only=True):
    """An input with the outputs of the model where the bundle was built.

    Attributes:
        frame: Path of a PNG, the image as a camera would give it; of a model of texts, of a text in UTF-8; of a
            recommender, of a JSON with history and candidates.
        outputs: Output name to path of an ``.npy`` array, as the listed variant gave it there.
        variant: Name of the variant that was measured.
        min_cosine: Least cosine similarity of each output. INT8 kernels of other processors round otherwise, so
            equality is not asked for.
        max_error: Largest mean absolute difference of an output, as a share of the expected output's mean magnitude.
    """

    frame: str
    outputs: dict[str, str]
    variant: str
    min_cosine: float = 0.98
    max_error: float = 0.2


MODELS_MAX = 8
"""Models of one bundle."""

BOXES_MAX = 64
"""Boxes of a frame that a model hands on."""


class ModelRole(ManifestStruct, frozen=True, kw_only=True):
    """How one of several models of a bundle takes part.

    A model whose boxes another one inspects judges nothing itself.

    Attributes:
        name: Such as ``find``; in the order in which they run.
        of: The model whose boxes it inspects, each as an image of its own; empty for the whole frame.
        types: The types of those boxes that it inspects; empty for all.
        margin: Added to each side of such a box, as a share of its width or height.
        boxes_min: Least boxes that it takes; a frame with fewer, such as one without the part, is a fault.
        boxes_max: Most boxes that it takes; a frame with more is a fault.
        inspect: Keys of the agent's ``[inspect]`` for this model: where it runs and what counts as a defect.
    """

    name: str
    of: str = ""
    types: tuple[str, ...] = ()
    margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    boxes_min: Annotated[int, msgspec.Meta(ge=0, le=BOXES_MAX)] = 1
    boxes_max: Annotated[int, msgspec.Meta(ge=1, le=BOXES_MAX)] = 16
    inspect: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.boxes_min > self.boxes_max:
            raise ValueError(f"boxes_min = {self.boxes_min} is above boxes_max = {self.boxes_max}")
        if not self.of and (self.types or self.margin):
            raise ValueError(f"{self.name}: types and margin are for the boxes of the model that `of` names")


class ModelEntry(ModelRole, frozen=True, kw_only=True):
    """One of several models of a bundle, each a bundle of its own in a subfolder.

    Attributes:
        path: Its bundle's folder in this bundle.
    """

    path: str


class Manifest(ManifestStruct, frozen=True, kw_only=True):
    """The description of a bundle.

    Attributes:
        name: Name of the model, such as ``surface-12``.
        version: Version of the bundle, such as ``1.0.0``.
        created_at: ISO 8601 time in UTC.
        task: What the model does; ``anomaly`` where it knows good parts only; ``spans`` where it gives each token of a
            text its entity; ``generic`` where only the caller reads its outputs.
        labels: Class names in the order of the model's outputs.
        preprocess: How an image becomes the input.
        postprocess: How the outputs become detections.
        variants: The compiled forms, best first.
        speed: ``unproven`` where the variants' order was not measured on the device that they are for: then the device
            measures it when the bundle is staged. ``by_level`` where the levels are in their order and the fastest
            variant of a level differs between processors: then the device measures those of the first level.
        golden: What the health check replays.
        files: Every file beside the manifest, by its path in the bundle.
        licence: Of the weights, an SPDX identifier; left out where nobody stated it, so that older agents can
            read the manifest.
        data_terms: Terms of each data set that the weights were trained on, by its name: an SPDX identifier, ``none``
            where its authors state no licence, or ``research`` where they allow research only. Left out as `licence`.
        models: Several models that inspect one part with one verdict; left out where the bundle is one model. A bundle
            of several has no variants, inputs and outputs, and its ``labels`` are those of the models that judge.
    """

    schema: int = SCHEMA
    name: str
    version: str
    created_at: str
    task: Literal["detection", "classification", "anomaly", "spans", "generic"] = "detection"
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    postprocess: Postprocess
    variants: tuple[Variant, ...]
    speed: Speed = "measured"
    golden: Golden | None = None
    files: dict[str, FileEntry] = msgspec.field(default_factory=dict)
    licence: Terms | msgspec.UnsetType = msgspec.UNSET
    data_terms: dict[Terms, Terms] | msgspec.UnsetType = msgspec.UNSET
    models: tuple[ModelEntry, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def several(self) -> tuple[ModelEntry, ...]:
        """Its models, in the order in which they run; empty where the bundle is one model."""
        return self.models or ()

    @property
    def identity(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def to_time(self) -> tuple[Variant, ...]:
        """The variants of which a device takes the fastest; with ``by_level`` those of the first one's level.

        Of several widths that is the first one's: a narrower network is faster, and another model.
        """
        first = self.variants[0]
        alike = [one for one in self.variants if one.is_narrow == first.is_narrow]
        return tuple(one for one in alike if self.speed != "by_level" or one.level == first.level)

    @property
    def restricted_data(self) -> dict[str, str]:
        """Data sets whose terms are restricted, with these; empty if none is, or none is stated."""
        stated = self.data_terms or {}
        return {name: terms for name, terms in stated.items() if terms in STATED_TERMS}

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of all files beside the manifest."""
        return sum(entry.size for entry in self.files.values())


_MANIFEST = JsonDecoder(Manifest)
"""Made in the thread that imports this: msgspec 0.22 crashes where two threads decode a class for the first time."""


def parse_manifest(data: bytes) -> Manifest:
    """Reads and checks the bytes of a manifest.

    Raises:
        BundleFormatError: It is too large, not JSON, has an unknown field, a wrong type, another schema,
            a path that leaves the folder, or names a file that it does not list.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise BundleFormatError("manifest too large", expected=f"at most {MANIFEST_MAX_BYTES} bytes", actual=len(data))
    try:
        manifest = _MANIFEST.decode(data)
    except msgspec.DecodeError as error:
        raise BundleFormatError(f"manifest: {error}", action="Build the bundle again with this release.") from error
    if manifest.schema != SCHEMA:
        raise BundleFormatError(
            "manifest of another schema",
            expected=SCHEMA,
            actual=manifest.schema,
            action="Update the agent, or build the bundle with the release that the device runs.",
        )
    _check_manifest(manifest)
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    for name, what in ((manifest.name, "name"), (manifest.version, "version")):
        if not NAME.fullmatch(name):
            expected = "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
            raise BundleFormatError(f"{what} of a bundle", expected=expected, actual=repr(name[:80]))
    if _depth(manifest.postprocess.params) > PARAMS_DEPTH_MAX:
        raise BundleFormatError("postprocess.params are nested too deeply", expected=f"{PARAMS_DEPTH_MAX} levels")
    for spec in (*manifest.inputs, *manifest.outputs):
        _check_elements(spec.name, spec.shape)
    if len(manifest.files) > FILES_MAX:
        raise BundleFormatError("too many files", expected=f"at most {FILES_MAX}", actual=len(manifest.files))
    for relative, entry in manifest.files.items():
        check_relative(relative)
        pieces = -(-entry.size // CHUNK_BYTES)
        if not 0 <= entry.size <= FILE_MAX_BYTES or len(entry.chunks) != pieces:
            raise BundleFormatError(
                f"file {relative!r}", expected=f"{pieces} chunks for {entry.size} bytes", actual=len(entry.chunks)
            )
        if not all(_is_sha256(digest) for digest in (entry.sha256, *entry.chunks)):
            raise BundleFormatError(f"file {relative!r}", expected="sha256 as 64 hexadecimal digits")
    named: list[str] = []
    for variant in manifest.variants:
        named += variant.files
        for stage in variant.stages:
            named += files_of(variant.format, stage.file)
        if variant.weights and PurePosixPath(variant.weights).parent != PurePosixPath(variant.file).parent:
            raise BundleFormatError(
                f"weights of {variant.name!r}", expected=f"a file beside {variant.file}", actual=variant.weights
            )
        _check_stages(variant, manifest)
    if manifest.golden is not None:
        named += [manifest.golden.frame, *manifest.golden.outputs.values()]
    named += _reference_files(manifest.preprocess)
    if isinstance(manifest.preprocess.text, TextForm):
        named.append(manifest.preprocess.text.tokenizer)
    named += manifest.preprocess.rows.tables.values() if manifest.preprocess.rows else ()
    for relative in named:
        if relative not in manifest.files:
            raise BundleFormatError(f"manifest names {relative!r} but does not list it under files")
    if manifest.several:
        _check_models(manifest)
    elif not manifest.variants:
        raise BundleFormatError("manifest has no variant")


def _check_models(manifest: Manifest) -> None:
    """Checks that the models have names and folders of their own, and take boxes of a model before them."""
    if manifest.variants or manifest.inputs or manifest.outputs or manifest.golden is not None:
        raise BundleFormatError("a bundle of several models has no variant, input, output or golden input of its own")
    if len(manifest.several) > MODELS_MAX:
        raise BundleFormatError("models of a bundle", expected=f"at most {MODELS_MAX}", actual=len(manifest.several))
    before: list[str] = []
    for model in manifest.several:
        if not NAME.fullmatch(model.name) or model.name in before:
            expected = "a name of its own of letters, digits, '.', '_' or '-'"
            raise BundleFormatError("name of a model", expected=expected, actual=repr(model.name[:80]))
        if model.of and model.of not in before:
            raise BundleFormatError(
                f"of = {model.of!r} of the model {model.name!r}",
                expected=f"a model before it: {', '.join(before) or 'none'}",
                actual=repr(model.of[:80]),
            )
        check_relative(model.path)
        if f"{model.path}/{MANIFEST_NAME}" not in manifest.files:
            raise BundleFormatError(f"manifest names the model {model.path!r} but does not list its {MANIFEST_NAME}")
        if _depth(model.inspect) > PARAMS_DEPTH_MAX:
            raise BundleFormatError("inspect of a model is nested too deeply", expected=f"{PARAMS_DEPTH_MAX} levels")
        before.append(model.name)


def _reference_files(how: Preprocess) -> list[str]:
    if not isinstance(how.reference, Reference):
        return []
    if how.colour != "bgr":
        raise BundleFormatError(
            "preprocess.colour with a reference", expected="bgr: the channels as composed", actual=how.colour
        )
    return [path for image in how.reference.images for path in image.files]


def _depth(value: object) -> int:
    """Returns how deeply lists and objects are nested, counted up to one more than is allowed."""
    level, depth = [value], 0
    while depth <= PARAMS_DEPTH_MAX and (inner := [one for one in level if isinstance(one, (dict, list))]):
        level = [item for one in inner for item in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def _check_elements(name: str, shape: tuple[int, ...]) -> None:
    sizes = [size for size in shape if size != DYNAMIC]
    if len(shape) > 16 or any(size < 0 for size in sizes) or math.prod(sizes) > ELEMENTS_MAX:
        raise BundleFormatError(
            f"shape of {name!r}", expected=f"at most {ELEMENTS_MAX} elements", actual=str(shape[:16])
        )


def _check_stages(variant: Variant, manifest: Manifest) -> None:
    """Checks that every stage finds its inputs and that the model's outputs come out."""
    if not variant.stages:
        return
    known = {spec.name for spec in manifest.inputs}
    for stage in variant.stages:
        for name, shape in stage.sample.items():
            _check_elements(name, shape)
        wanted = {spec.name for spec in stage.inputs}
        if not wanted <= known or wanted != set(stage.sample):
            raise BundleFormatError(
                f"stage {stage.name!r} of {variant.name!r}: inputs", expected=sorted(known), actual=sorted(wanted)
            )
        known |= {spec.name for spec in stage.outputs}
    missing = {spec.name for spec in manifest.outputs} - known
    names = {stage.name for stage in variant.stages}
    if missing or not 1 < len(variant.stages) == len(names) or any(not 0 <= one.share <= 1 for one in variant.stages):
        raise BundleFormatError(
            f"stages of {variant.name!r}",
            expected="two or more with names of their own, shares from 0 to 1, and all outputs of the model",
            actual=f"{sorted(names)}, without {sorted(missing)}" if missing else sorted(names),
        )


def files_of(model_format: str, file: str) -> tuple[str, ...]:
    """Returns a model's file, and its weights beside it where the format keeps them apart."""
    ending = WEIGHTS_APART.get(model_format)
    if ending is None or not file.endswith(ending):
        return (file,)
    return file, file.removesuffix(ending) + ".bin"


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def check_relative(relative: str) -> None:
    """Checks that a path stays inside its folder.

    Raises:
        BundleFormatError: It is absolute, climbs out, has a backslash, or is the manifest itself.
    """
    inside = not {"", ".", ".."}.intersection(relative.split("/"))
    if not inside or "\\" in relative or "\0" in relative or relative == MANIFEST_NAME:
        raise BundleFormatError(f"path {relative!r} is not allowed in a bundle")


def describe_bytes(data: bytes) -> FileEntry:
    """Returns the `FileEntry` of a file's content."""
    chunks = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
    return FileEntry(
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        chunks=tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks),
    )


def sample_inputs(manifest: Manifest) -> dict[str, Array]:
    """Returns zeros in the shape that one frame has: batch 1, height and width from the pre-processing."""
    stages = manifest.variants[0].stages
    sample = stages[0].sample if len(stages) == 1 else {}  # one alone: this is the bundle of a stage, see split/plan.py
    return {
        spec.name: np.zeros(sample.get(spec.name) or _concrete(spec, manifest), spec.dtype) for spec in manifest.inputs
    }


def _concrete(spec: TensorSpec, manifest: Manifest) -> tuple[int, ...]:
    form = manifest.preprocess.text
    if isinstance(form, TextForm):
        return tuple((1, form.tokens)[place] if size == DYNAMIC else size for place, size in enumerate(spec.shape[:2]))
    side = manifest.preprocess.min_side
    height, width = manifest.preprocess.size or (side, side)
    sizes = {"H": height, "W": width}
    letters = spec.layout.ljust(len(spec.shape), "?")
    return tuple(
        sizes.get(letter, 1) if size == DYNAMIC else size for letter, size in zip(letters, spec.shape, strict=True)
    )
