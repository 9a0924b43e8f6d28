"""Facts of detectors' well-known exports: how their projects prepare a frame, and the labels of COCO.

An export says neither its labels nor how frames go into it. Both follow from the project that wrote it, which is told
by names and shapes of inputs and outputs and by the last operators of the graph.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from lineside_models.postprocess import count_classes, recognise
from lineside_models.postprocess.grids import count_cells
from lineside_models.postprocess.recognition import LEVEL_STRIDES, SIZES_INPUT, activation_in_graph
from lineside_models.vision.model_facts import ModelFacts, names_of
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.errors import MissingModelFactsError, UnknownHeadError
from lineside_runtime.tensors import DYNAMIC

if TYPE_CHECKING:
    from lineside_runtime.backends.ort.backend import OnnxFacts


COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""All 80 in the order of their numbers."""

UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers from 1 to 90 that COCO gives to no type."""

_NAMES = iter(COCO)

COCO_NUMBERED = tuple(f"unused {number}" if number in UNUSED else next(_NAMES) for number in range(1, 91))
"""One label for each number from 1 to 90, as networks have that number their classes as COCO does."""


log = logging.getLogger("lineside.models")

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, as all these projects write them
_SHARES: dict[str, Any] = {"colour": "rgb", "resize": "stretch", "mean": (0.0,) * 3, "std": (255.0,) * 3}
_IMAGENET: dict[str, Any] = {"colour": "rgb", "resize": "stretch", "mean": _MEAN, "std": _STD}
_BGR: dict[str, Any] = {"colour": "bgr", "mean": _MEAN[::-1], "std": _STD[::-1]}

PREPARED: dict[str, dict[str, Any]] = {
    "D-FINE, DEIM or RT-DETR": _SHARES,
    "DEIMv2 with a vision transformer": _IMAGENET,
    "NanoDet": {**_BGR, "resize": "stretch"},
    "PicoDet": _IMAGENET,
    "RF-DETR": _IMAGENET,
    "RTMDet": {**_BGR, "resize": "fit"},
    "YOLOX": {"colour": "bgr", "resize": "fit", "mean": (0.0,) * 3, "std": (1.0,) * 3},
}
"""Pre-processing by project, from the projects' own code:

- RT-DETR, D-FINE, DEIM: ``tools/inference/onnx_inf.py``; DEIMv2: its configurations ``deimv2_dinov3_*`` normalise
- NanoDet: ``config/nanodet-plus-m_416.yml``; PicoDet: ``configs/picodet/_base_/picodet_320_reader.yml``
- RF-DETR: ``rfdetr/detr.py``, ``means`` and ``stds``
- RTMDet: ``configs/rtmdet/rtmdet_l_8xb32-300e_coco.py``; YOLOX: ``demo/ONNXRuntime/onnx_inference.py``
"""

_DISTRIBUTIONS = 32
"""Columns of NanoDet's distributions beside its scores."""

_LIBREYOLO = {
    "deim": "D-FINE, DEIM or RT-DETR",
    "dfine": "D-FINE, DEIM or RT-DETR",
    "picodet": "PicoDet",
    "rfdetr": "RF-DETR",
    "rtdetr": "D-FINE, DEIM or RT-DETR",
    "rtdetrv2": "D-FINE, DEIM or RT-DETR",
    "rtmdet": "RTMDet",
    "yolox": "YOLOX",
}
"""Families of ``model_family`` in the metadata of LibreYOLO's exports."""


def from_libreyolo(onnx: OnnxFacts) -> ModelFacts:
    """Reads the metadata of LibreYOLO's exports: class names, and the family where its boxes come decoded.

    Source: ``libreyolo/export/exporter.py``, ``_build_onnx_metadata``.
    """
    said = onnx.metadata
    names = names_of(said.get("names", ""))
    if names is None or "libreyolo_version" not in said:
        return ModelFacts()
    family = said.get("model_family", "")
    project = _vision_transformer(onnx) if family == "deimv2" else _LIBREYOLO.get(family)
    how = Postprocess(name="box_scores") if family in ("picodet", "rtmdet") else None
    return ModelFacts(labels=names, preprocess=_prepared(project, onnx), postprocess=how)


def from_export(onnx: OnnxFacts, known: ModelFacts, where: str) -> ModelFacts:
    """Completes the facts of a model from its outputs.

    Args:
        onnx: Inputs, outputs and operators of the file.
        known: From arguments, sidecar and metadata; what they say stays.
        where: Name of the file, for the log.

    Raises:
        UnknownHeadError: Labels and pre-processing are known, and no decoder or several fit.
        MissingModelFactsError: It is an export of a known project, and only its labels are missing or too few or many.
    """
    known = msgspec.structs.replace(known, postprocess=_with_activation(onnx, known.postprocess, where))
    labels, how = known.labels, known.postprocess
    if labels is None:
        labels, how = _coco(onnx, how)
        if labels is None and known.postprocess is None:
            _ask_for_labels(onnx, where)
    elif how is None:
        try:
            how = recognise(onnx.inputs, onnx.outputs, len(labels), onnx.tails)
        except UnknownHeadError:
            if known.preprocess is not None:
                raise
            _ask_for_labels(onnx, where, given=len(labels))
    if labels is None or how is None:
        return known
    project = _project(onnx, how)
    prepared = known.preprocess or _prepared(project, onnx)
    if prepared is None:
        return known.over(ModelFacts(labels=known.labels, postprocess=how if known.labels else None))
    if known.preprocess is None or known.labels is None:
        log.warning(
            "%s: taken for an export of %s%s; give labels and pre-processing if that is wrong",
            where,
            project or how.name,
            "" if known.labels else f" with the {len(labels)} labels of COCO",
        )
    return ModelFacts(labels=labels, preprocess=prepared, postprocess=how)


def _with_activation(onnx: OnnxFacts, how: Postprocess | None, where: str) -> Postprocess | None:
    """Returns what a caller says of a classifier or segmenter, completed by what the graph's end tells."""
    if how is None or how.name not in ("classification", "segmentation") or not onnx.outputs:
        return how
    name = how.params.get("output") or onnx.outputs[0].name
    done = activation_in_graph(onnx.tails.get(str(name), frozenset()))
    said = how.params.get("activation")
    if done and said in ("softmax", "sigmoid"):
        log.warning("%s: its graph ends with probabilities, and activation = %r is applied to them again", where, said)
    return Postprocess(name=how.name, params={**done, **how.params})


def _coco(onnx: OnnxFacts, how: Postprocess | None) -> tuple[tuple[str, ...] | None, Postprocess | None]:
    """Returns the labels of COCO where a known detector has as many classes as COCO."""
    if how is not None:
        return (COCO if count_classes(onnx.outputs, how) == len(COCO) else None), how
    for labels in (COCO, COCO_NUMBERED):
        try:
            found = recognise(onnx.inputs, onnx.outputs, len(labels), onnx.tails)
        except UnknownHeadError:
            continue
        if labels is COCO_NUMBERED:  # RF-DETR numbers its classes as COCO does, from 1 to 90
            if found.name != "detr" or not found.params.get("background"):
                continue
            params = {key: value for key, value in found.params.items() if key != "background"}
            found = Postprocess(name=found.name, params={**params, "first_class": 1})
        if _project(onnx, found):
            return labels, found
    return None, None


def _ask_for_labels(onnx: OnnxFacts, where: str, *, given: int = 0) -> None:
    """Refuses an export of which only the labels are unknown, or are more or fewer than its classes.

    Args:
        given: How many labels there are.

    Raises:
        MissingModelFactsError: It is one; the message says how many labels it has.
    """
    sizes = {size for spec in onnx.outputs for size in spec.shape[1:] if size != DYNAMIC}
    found = set()
    for classes in sorted({size - more for size in sizes for more in (0, 1, 5, _DISTRIBUTIONS) if size > more}):
        try:
            how = recognise(onnx.inputs, onnx.outputs, classes, onnx.tails)
        except UnknownHeadError:
            continue
        project = _project(onnx, how)
        if project == "RF-DETR" and not how.params.get("background"):
            continue  # its last column is no object
        if project is not None and how.name != "detections":  # whose outputs have no column a class
            found.add((project, classes))
    if len(found) == 1:
        ((project, classes),) = found
        raise MissingModelFactsError(
            f"{where} is an export of {project} "
            + ("with another number of classes" if given else "and does not say its labels"),
            expected=f"{classes} labels, in the order of its outputs",
            actual=given or None,
            action="Give them in a .toml file beside the model, as labels=[…], or by --labels of lineside optimize.",
        )


def _project(onnx: OnnxFacts, how: Postprocess) -> str | None:
    """Returns the project whose exports look like this; ``None`` if several of different kinds do."""
    outputs = {spec.name for spec in onnx.outputs}
    if how.name == "yolox":
        return "YOLOX"
    if how.name == "distances":
        flat = len(onnx.outputs[0].shape) == 3
        joined = len(onnx.outputs) == 1
        return "NanoDet" if joined or (flat and len(how.params["strides"]) == 3) else "PicoDet" if flat else "RTMDet"
    if how.name == "box_scores":  # of PaddleDetection; PP-YOLOE's versions, with three strides, differ
        rows = next((spec.shape[1] for spec in onnx.outputs if spec.name == how.params.get("boxes")), 0)
        sizes = [(spec.shape[2], spec.shape[3]) for spec in onnx.inputs if len(spec.shape) == 4]
        return "PicoDet" if sizes and rows == count_cells(sizes[0], LEVEL_STRIDES[1]) else None
    if how.name == "detr" and how.params.get("activation") != "softmax":
        return "RF-DETR" if outputs == {"dets", "labels"} else _vision_transformer(onnx)
    if how.name == "detections" and outputs == {"labels", "boxes", "scores"} and how.params.get("shares"):
        return _vision_transformer(onnx)
    return None


def _vision_transformer(onnx: OnnxFacts) -> str:
    return "DEIMv2 with a vision transformer" if onnx.patch_size else "D-FINE, DEIM or RT-DETR"


def _prepared(project: str | None, onnx: OnnxFacts) -> Preprocess | None:
    """Returns the pre-processing of a project for the model's input; ``None`` if either is unknown."""
    images = [spec for spec in onnx.inputs if len(spec.shape) == 4]
    if project is None or len(images) != 1:
        return None
    height, width = images[0].shape[2:]
    size = (height, width) if DYNAMIC not in (height, width) else None
    how = PREPARED[project]
    if size is None and how["resize"] == "stretch":
        return None
    return msgspec.convert({"input": images[0].name, "size": size, **how}, Preprocess)


def constant_inputs(onnx: OnnxFacts) -> dict[str, Any]:
    """Returns values for inputs beside the image that known exports have, by name.

    Boxes are multiplied by ``orig_target_sizes`` or divided by ``scale_factor``; 1 leaves them in shares of the input
    or in its pixels, and lineside maps them to the frame.
    """
    import numpy as np

    found: dict[str, Any] = {}
    image = next((spec for spec in onnx.inputs if len(spec.shape) == 4), None)
    for spec in onnx.inputs:
        if spec.name == SIZES_INPUT and spec.dtype in ("int64", "float32"):
            found[spec.name] = np.ones((1, 2), spec.dtype)
        elif spec.name == "scale_factor" and spec.dtype == "float32":
            found[spec.name] = np.ones((1, 2), np.float32)
        elif spec.name == "im_shape" and spec.dtype == "float32" and image and DYNAMIC not in image.shape[2:]:
            found[spec.name] = np.array([image.shape[2:]], np.float32)
    return found
