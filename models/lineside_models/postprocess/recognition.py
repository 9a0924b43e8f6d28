"""Recognition of the decoder by a model's outputs: their shapes, names and last operators, if only one fits.

Nothing is guessed: where two readings fit, or none, the error names them, and the manifest has to say it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lineside_models.postprocess.decoders.ssd import SSD300_VGG16, SSDLITE320
from lineside_models.postprocess.grids import count_cells
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import UnknownHeadError
from lineside_runtime.tensors import DYNAMIC, TensorSpec

YOLO_STRIDES = (8, 16, 32)
PYRAMID_STRIDES = (8, 16, 32, 64, 128)  # of FCOS and RetinaNet
ANCHORS_YOLOV5 = 3
ANCHORS_RETINANET = 9
LEVEL_STRIDES = ((8, 16, 32), (8, 16, 32, 64))  # of NanoDet, RTMDet; NanoDet-Plus, PicoDet
QUERIES_MAX = 1000  # of a transformer's decoder; 100 to 900 in published ones
SIZES_INPUT = "orig_target_sizes"
"""Second input of RT-DETR's, D-FINE's and DEIM's own exports: width and height that boxes are multiplied by."""
RF_DETR = {"dets", "labels"}
"""Outputs of RF-DETR, whose scores are sigmoids, that of the last column for no object too."""
LOGITS_DETR = "logits"
"""Output of the networks in `transformers`, of which those with a column for no object have a softmax."""
END2END_MAX = 1000  # boxes that a graph with its own suppression gives at most; 300 by default
SELECTIONS = frozenset({"NonMaxSuppression", "TopK"})
"""Operators by one of which such a graph selects its boxes."""

SCALING, SHIFTING = frozenset({"Exp", "Mul"}), frozenset({"Add", "Sub"})
"""Operators that decode boxes: YOLOX has an exponent of width and height, YOLOv6 distances times the stride. Without
the first a layer's bias alone may be added."""

_TENSORFLOW = {"boxes": "detection_boxes", "scores": "detection_scores", "labels": "detection_classes"}
Tails = Mapping[str, frozenset[str]]
"""Types of the operators between an output and the layers before it, by the output's name."""

MEANINGS = {
    "activation": "what makes probabilities of the scores",
    "background": "the channel, or the last column, that means nothing is there",
    "decoded": "whether boxes are in pixels already",
    "first_class": "number that the model gives to the first label",
    "shares": "whether boxes are in shares of the input instead of pixels",
}
"""Parameters by which readings differ, in words for who has to choose."""

_SSD = {(300, 8732): SSD300_VGG16, (320, 3234): SSDLITE320}


def recognise(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], classes: int, tails: Tails | None = None
) -> Postprocess:
    """Returns the decoder of a model.

    Args:
        inputs: Of the model; the one with four dimensions is the image, ``(N, C, H, W)``.
        tails: Of the graph, if it can be read: they tell whether it applies a sigmoid or decodes its boxes.

    Raises:
        UnknownHeadError: No reading fits, or several do: then the action has the block of each for a TOML file.
    """
    found = readings(inputs, outputs, classes, tails)
    if len(found) == 1:
        return found[0]
    shapes = "; ".join(spec.describe() for spec in outputs)
    if not found:
        raise UnknownHeadError(
            f"no decoder fits {classes} labels and these outputs",
            actual=shapes,
            action=_advice(_canvas(inputs), outputs, classes, tails or {})
            or "Check the labels, or name the decoder in postprocess.name; models/README.md lists them.",
        )
    raise UnknownHeadError(
        "several decoders fit these outputs",
        expected=f"one of {len(found)} readings to be named",
        actual=shapes,
        action=f"Paste the block that is right into the .toml file beside the model:\n\n{toml_blocks(found)}",
    )


def readings(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], classes: int, tails: Tails | None = None
) -> list[Postprocess]:
    """Returns all decoders that fit a model, see `recognise`."""
    by_name = _by_name(outputs, has_sizes=any(spec.name == SIZES_INPUT for spec in inputs))
    return [*by_name, *_readings(_canvas(inputs), outputs, classes, tails or {})]


def toml_blocks(found: Sequence[Postprocess]) -> str:
    """Returns the ``[postprocess]`` table of each reading as it is written into a model's TOML file."""
    return "\n# or\n\n".join(_block(one) for one in found)


def _block(how: Postprocess) -> str:
    lines = ["[postprocess]", f"name = {json.dumps(how.name)}"]
    lines += ["", "[postprocess.params]"] if how.params else []
    for name, value in how.params.items():
        written = json.dumps("none" if value is None else value, ensure_ascii=False)  # TOML has no null
        lines.append(f"{name} = {written}" + (f"  # {MEANINGS[name]}" if name in MEANINGS else ""))
    return "\n".join(lines) + "\n"


def _advice(canvas: tuple[int, int] | None, outputs: Sequence[TensorSpec], classes: int, tails: Tails) -> str:
    """Returns what to do about outputs that look like known ones and cannot be read; empty if there is nothing."""
    if any(how.name in ("yolov5", "yolov8") for how in _readings(canvas, outputs, classes, {})):
        return "The graph gives logits of the classes, without a sigmoid: export the model with its last operators."
    if len(outputs) != 1:
        return ""
    shape, tail = outputs[0].shape, tails.get(outputs[0].name, frozenset())
    if "ArgMax" in tail:
        return "The graph ends with ArgMax, which leaves no scores: export the model without it."
    if len(shape) == 4 and shape[1] == classes and activation_in_graph(tail) == SOFTMAX_IN_GRAPH:
        return (
            f"Each pixel is one of {classes} classes (softmax): if channel 0 is the background, leave its label out. "
            "If no channel is, paste this into the .toml file beside the model:\n\n"
            + _block(Postprocess(name="segmentation", params={"background": None, **SOFTMAX_IN_GRAPH}))
        )
    return ""


def count_classes(outputs: Sequence[TensorSpec], how: Postprocess) -> int | None:
    """Returns the number of labels of a model's outputs; ``None`` if their shapes do not tell."""
    params = how.params
    if how.name == "dfl_anchor_free":
        return _fixed([spec for spec in outputs if spec.name.startswith("cls_")], 1)
    if how.name in ("detr", "box_scores", "distances"):
        return _count_scores(outputs, how)
    if how.name not in ("classification", "segmentation", "yolov8", "yolov5", "yolox"):
        return None
    named = [spec for spec in outputs if spec.name == (params.get("output") or spec.name)]
    if how.name == "classification":
        first = params.get("first_class", 0)
        return _fixed(named, 1, less=first) if isinstance(first, int) else None  # the decoder refuses what is no number
    if how.name == "segmentation":
        return _fixed(named, 1, less=0 if params.get("background", 0) in (None, "none") else 1)
    masks = _fixed([spec for spec in outputs if len(spec.shape) == 4], 1) or 0
    flat = [spec for spec in named if len(spec.shape) == 3]
    return _fixed(flat, 1, less=4 + masks) if how.name == "yolov8" else _fixed(flat, 2, less=5 + masks)


def _count_scores(outputs: Sequence[TensorSpec], how: Postprocess) -> int | None:
    """Returns the number of labels of the outputs that ``postprocess.params.scores`` names, or of the joined one."""
    params, named = how.params, how.params.get("scores")
    if how.name == "distances":
        scores = [spec for spec in outputs if not named or spec.name in named]
        deep = [spec for spec in scores if len(spec.shape) == 4]
        less = 0 if named else 4 * params.get("reg_bins", 1)
        return _fixed(deep, 1, less=less) if deep else _fixed(scores, 2, less=less)
    boxes = [spec for spec in outputs if named and spec.name == params.get("boxes")]
    score = next((spec for spec in outputs if spec.name == named), None)
    if boxes and score is not None and score.shape[1] != boxes[0].shape[1] == score.shape[2]:
        return _fixed([score], 1)
    less = params.get("first_class", 0) + params.get("background", False) + (0 if named else 4)
    return _fixed([spec for spec in outputs if spec.name == (named or spec.name)], 2, less=less)


def _fixed(specs: Sequence[TensorSpec], axis: int, *, less: int = 0) -> int | None:
    """Returns the size that all the outputs have along an axis; ``None`` where it is free or they differ."""
    sizes = {spec.shape[axis] for spec in specs if len(spec.shape) > axis}
    size = sizes.pop() if len(sizes) == 1 else DYNAMIC
    return None if size == DYNAMIC else size - less


def _canvas(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    sizes = [spec.shape[2:] for spec in inputs if len(spec.shape) == 4 and DYNAMIC not in spec.shape[2:]]
    return (sizes[0][0], sizes[0][1]) if len(sizes) == 1 else None


def _cells(canvas: tuple[int, int] | None, strides: Sequence[int]) -> int:
    """Returns the number of cells of the grids; 0 if the input's size is unknown, which fits no output."""
    return count_cells(canvas, strides) if canvas else 0


def _readings(
    canvas: tuple[int, int] | None, outputs: Sequence[TensorSpec], classes: int, tails: Tails
) -> Iterator[Postprocess]:
    shapes = [spec.shape for spec in outputs]
    flat = [spec for spec in outputs if len(spec.shape) == 3]
    deep = [spec for spec in outputs if len(spec.shape) == 4]
    if len(shapes) == 1 and len(shapes[0]) in (2, 4):
        yield from _whole_frame(outputs[0], classes, tails)
    if len(flat) == 1 and len(deep) == len(shapes) - 1 <= 1:
        yield from _yolo(flat[0], deep[0].shape[1] if deep else 0, canvas, classes, tails)
    if len(flat) == len(shapes) == 1:
        yield from _joined_distances(flat[0], canvas, classes, tails)
    if len(flat) == len(shapes) and len(shapes) in (2, 3):
        yield from _dense([spec.shape for spec in flat], canvas, classes)
    if len(flat) == len(shapes) == 2:
        yield from _queries(flat[0], flat[1], canvas, classes, tails)
        yield from _box_scores(flat[0], flat[1], canvas, classes)
    if len(shapes) in (6, 8) and len(shapes) in (len(flat), len(deep)):
        yield from _level_distances(outputs, canvas, classes, tails)


def _by_name(outputs: Sequence[TensorSpec], *, has_sizes: bool) -> Iterator[Postprocess]:
    """Yields readings by names.

    Args:
        has_sizes: Whether the model has the input `SIZES_INPUT`.
    """
    names = {spec.name for spec in outputs}
    dfl = {spec.name: spec.shape for spec in outputs}
    strides = sorted(int(name[4:]) for name in names if name.startswith("cls_") and name[4:].isdigit())
    if strides and names == {f"{what}_{stride}" for what in ("cls", "box") for stride in strides}:
        bins = dfl[f"box_{strides[0]}"][1] // 4
        yield Postprocess(name="dfl_anchor_free", params={"strides": strides, "reg_bins": bins})
    if names == {"boxes", "scores", "labels"}:
        if len(dfl["boxes"]) == 2:  # 0 is the background in torchvision, and the first class in other projects
            for first in (1, 0):
                yield Postprocess(name="detections", params={"first_class": first})
        else:  # of RT-DETR, D-FINE and DEIM, whose `SIZES_INPUT` is 1 by 1; else boxes may be in pixels
            yield Postprocess(name="detections", params={"shares": True})
            if not has_sizes:
                yield Postprocess(name="detections", params={"shares": False})
    if [len(spec.shape) for spec in outputs] == [2, 1] and outputs[0].shape[1] == 6:  # PaddleDetection with suppression
        yield Postprocess(name="detections", params={"rows": outputs[0].name})
    if names == {"dets", "labels"} and dfl["dets"][2:] == (5,):  # mmdeploy
        yield Postprocess(name="detections", params={"boxes": "dets"})
    if set(_TENSORFLOW.values()) <= names:
        yield Postprocess(name="detections", params={**_TENSORFLOW, "order": "yxyx", "shares": True, "first_class": 1})


SOFTMAX_IN_GRAPH = {"activation": "none"}
WRITTEN_SOFTMAX = frozenset({"Exp", "ReduceSum", "Div"})
"""Operators of a softmax that is written out."""


def activation_in_graph(tail: frozenset[str]) -> dict[str, str]:
    """Returns the parameter of a classifier or segmenter whose graph ends with probabilities; empty if none does."""
    if "Softmax" in tail or tail >= WRITTEN_SOFTMAX:
        return dict(SOFTMAX_IN_GRAPH)
    return {"activation": "sigmoid_in_graph"} if "Sigmoid" in tail else {}


def _whole_frame(output: TensorSpec, classes: int, tails: Tails) -> Iterator[Postprocess]:
    shape, tail = output.shape, tails.get(output.name, frozenset())
    done = activation_in_graph(tail)
    if len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == 7:
        yield Postprocess(name="detections", params={"shares": True, "first_class": 1})
    elif "ArgMax" in tail:  # numbers of classes, without scores
        return
    elif shape[1] == classes and (len(shape) == 2 or shape[2:] == (1, 1)):
        yield Postprocess(name="classification", params=dict(done))
    elif len(shape) == 4 and shape[2:] != (1, 1):
        if shape[1] == classes + 1:
            yield Postprocess(name="segmentation", params=dict(done))
        if shape[1] == classes and done != SOFTMAX_IN_GRAPH:  # else one of the labels may be the background's
            squash = done or {"activation": "softmax"}
            yield Postprocess(name="segmentation", params={"background": None, **squash})
        if shape[1] == classes and not done:
            yield Postprocess(name="segmentation", params={"background": None, "activation": "sigmoid"})


def _yolo(
    output: TensorSpec, masks: int, canvas: tuple[int, int] | None, classes: int, tails: Tails
) -> Iterator[Postprocess]:
    cells = _cells(canvas, YOLO_STRIDES)
    _, rows, columns = output.shape
    tail = tails.get(output.name)
    squashed = tail is None or "Sigmoid" in tail
    if (rows, columns) == (4 + classes + masks, cells) and squashed:
        yield Postprocess(name="yolov8")
    if (rows, columns) == (ANCHORS_YOLOV5 * cells, 5 + classes + masks) and squashed:
        yield Postprocess(name="yolov5")
    if (rows, columns) == (cells, 5 + classes) and not masks:
        decoded = tail is None or bool(tail & (SCALING | SHIFTING))
        if tail is None or not tail & SCALING:
            yield Postprocess(name="yolox", params={"decoded": False} if decoded else {})
        if decoded:
            yield Postprocess(name="yolox", params={"decoded": True})
    if columns == 6 and 0 < rows <= END2END_MAX and not masks:
        yield Postprocess(name="yolo_end2end")
        if classes == 2 and not SELECTIONS & tails.get(output.name, frozenset()):  # or a box and two scores
            yield Postprocess(name="detr", params={"activation": "none"})


def _dense(shapes: Sequence[tuple[int, ...]], canvas: tuple[int, int] | None, classes: int) -> Iterator[Postprocess]:
    widths, rows = sorted(shape[2] for shape in shapes), shapes[0][1]
    if any(shape[1] != rows for shape in shapes):
        return
    cells = _cells(canvas, PYRAMID_STRIDES)
    if widths == sorted((1, 4, classes)) and rows == cells:
        yield Postprocess(name="fcos")
    if widths == sorted((4, classes)) and rows == ANCHORS_RETINANET * cells:
        yield Postprocess(name="retinanet")
    side = canvas[0] if canvas and canvas[0] == canvas[1] else 0
    if widths == sorted((4, classes + 1)) and (side, rows) in _SSD:
        yield Postprocess(name="ssd", params=dict(_SSD[side, rows]))


def _queries(
    one: TensorSpec, other: TensorSpec, canvas: tuple[int, int] | None, classes: int, tails: Tails
) -> Iterator[Postprocess]:
    """Yields ``detr`` for two outputs of as many rows as a transformer has queries."""
    rows = one.shape[1]
    cells = [_cells(canvas, strides) for strides in (PYRAMID_STRIDES, YOLO_STRIDES)]  # RetinaNet's, YOLO-NAS's
    if other.shape[1] != rows or rows > QUERIES_MAX or rows in cells:
        return
    wide = [spec for spec in (one, other) if spec.shape[2] in (classes, classes + 1)]
    boxes = [spec for spec in (one, other) if spec.shape[2] == 4]
    if len(boxes) == 2:  # as many classes: the boxes' name tells, as each of these projects has one
        boxes = [spec for spec in boxes if "box" in spec.name or "dets" in spec.name]
    scores = [spec for spec in wide if spec not in boxes]
    if len(boxes) != 1 or len(scores) != 1:
        return
    params: dict[str, Any] = {"scores": scores[0].name, "boxes": boxes[0].name}
    if scores[0].shape[2] == classes + 1:
        params["background"] = True
    tail = tails.get(scores[0].name, frozenset())
    if activation_in_graph(tail):
        params["activation"] = "none"
    elif "background" in params and {one.name, other.name} != RF_DETR:  # a softmax in DETR, sigmoids in others
        yield Postprocess(name="detr", params={**params, "activation": "softmax"})
        if scores[0].name == LOGITS_DETR:
            return
        params["activation"] = "sigmoid"
    yield Postprocess(name="detr", params=params)


def _box_scores(
    one: TensorSpec, other: TensorSpec, canvas: tuple[int, int] | None, classes: int
) -> Iterator[Postprocess]:
    """Yields ``box_scores`` for PaddleDetection's boxes ``(B, N, 4)`` and scores ``(B, C, N)`` of all cells."""
    for boxes, scores in ((one, other), (other, one)):
        cells = boxes.shape[1]
        known = any(cells == _cells(canvas, strides) for strides in LEVEL_STRIDES)
        if known and boxes.shape[2] == 4 and scores.shape[1:] == (classes, cells):
            yield Postprocess(name="box_scores", params={"scores": scores.name, "boxes": boxes.name})


def _joined_distances(
    output: TensorSpec, canvas: tuple[int, int] | None, classes: int, tails: Tails
) -> Iterator[Postprocess]:
    """Yields ``distances`` for NanoDet's one output of scores and distributions."""
    bins, rest = divmod(output.shape[2] - classes, 4)
    squash = {} if "Sigmoid" in tails.get(output.name, {"Sigmoid"}) else {"activation": "sigmoid"}
    for strides in LEVEL_STRIDES:
        if output.shape[1] == _cells(canvas, strides) and not rest and bins > 1:
            offset = 0.0 if len(strides) > 3 else 0.5
            params = {"strides": list(strides), "reg_bins": bins, "offset": offset, **squash}
            yield Postprocess(name="distances", params=params)


def _level_distances(
    outputs: Sequence[TensorSpec], canvas: tuple[int, int] | None, classes: int, tails: Tails
) -> Iterator[Postprocess]:
    """Yields ``distances`` for scores and distances of each level: of PicoDet and NanoDet, or maps of RTMDet."""
    strides = LEVEL_STRIDES[len(outputs) // 2 - 3]
    maps = len(outputs[0].shape) == 4
    levels = []
    for stride in strides:
        size = _cells(canvas, (stride,))
        level = [spec for spec in outputs if (math.prod(spec.shape[2:]) if maps else spec.shape[1]) == size]
        scores = [spec for spec in level if spec.shape[1 if maps else 2] == classes]
        if len(level) != 2 or not scores:
            return
        levels.append((scores[0], level[1] if level[0] is scores[0] else level[0]))  # scores come first
    bins, rest = divmod(levels[0][1].shape[1 if maps else 2], 4)
    if rest or (bins == 1) != maps:
        return
    params: dict[str, Any] = {"strides": list(strides), "reg_bins": bins, "offset": 0.0 if maps else 0.5}
    tail, side = tails.get(levels[0][0].name), tails.get(levels[0][1].name, frozenset())
    if (tail is None and maps) or (tail is not None and "Sigmoid" not in tail):
        params["activation"] = "sigmoid"
    if maps and "Mul" in side:  # by the stride
        params["in_strides"] = False
    yield Postprocess(
        name="distances",
        params={**params, "scores": [score.name for score, _ in levels], "boxes": [side.name for _, side in levels]},
    )
