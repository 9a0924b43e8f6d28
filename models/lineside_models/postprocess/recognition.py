"""Recognition of the decoder by the shapes of a model's outputs, if only one fits.

Nothing is guessed: where two readings fit, or none, the error names them, and the manifest has to say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lineside_models.postprocess.grids import count_cells
from lineside_models.postprocess.ssd import SSD300_VGG16, SSDLITE320
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import UnknownHeadError
from lineside_runtime.tensors import DYNAMIC, TensorSpec

YOLO_STRIDES = (8, 16, 32)
PYRAMID_STRIDES = (8, 16, 32, 64, 128)  # of FCOS and RetinaNet
ANCHORS_YOLOV5 = 3
ANCHORS_RETINANET = 9
END2END_MAX = 1000  # boxes that a graph with its own suppression gives at most; 300 by default

_TENSORFLOW = {"boxes": "detection_boxes", "scores": "detection_scores", "labels": "detection_classes"}
_SSD = {(300, 8732): SSD300_VGG16, (320, 3234): SSDLITE320}


def recognise(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], classes: int) -> Postprocess:
    """Returns the decoder of a model.

    Args:
        inputs: Of the model; the one with four dimensions is the image, ``(N, C, H, W)``.
        outputs: Of the model.
        classes: Number of labels.

    Raises:
        UnknownHeadError: No reading or several fit.
    """
    canvas = _canvas(inputs)
    found = list(_readings(canvas, outputs, classes))
    if len(found) == 1:
        return found[0]
    shapes = "; ".join(spec.describe() for spec in outputs)
    if not found:
        raise UnknownHeadError(
            f"no decoder fits {classes} labels and these outputs",
            actual=shapes,
            action="Check the labels, or name the decoder in postprocess.name; models/README.md lists them.",
        )
    names = " or ".join(f"{one.name} {one.params}" if one.params else one.name for one in found)
    raise UnknownHeadError(
        "several decoders fit these outputs", expected=f"postprocess to name one of {names}", actual=shapes
    )


def count_classes(outputs: Sequence[TensorSpec], how: Postprocess) -> int | None:
    """Returns the number of labels of a model's outputs; ``None`` if their shapes do not tell."""
    params = how.params
    if how.name == "dfl_anchor_free":
        return _fixed([spec for spec in outputs if spec.name.startswith("cls_")], 1)
    if how.name not in ("classification", "segmentation", "yolov8", "yolov5", "yolox"):
        return None
    named = [spec for spec in outputs if spec.name == (params.get("output") or spec.name)]
    if how.name == "classification":
        first = params.get("first_class", 0)
        return _fixed(named, 1, less=first) if isinstance(first, int) else None  # the decoder refuses what is no number
    if how.name == "segmentation":
        return _fixed(named, 1, less=0 if params.get("background", 0) is None else 1)
    masks = _fixed([spec for spec in outputs if len(spec.shape) == 4], 1) or 0
    flat = [spec for spec in named if len(spec.shape) == 3]
    return _fixed(flat, 1, less=4 + masks) if how.name == "yolov8" else _fixed(flat, 2, less=5 + masks)


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


def _readings(canvas: tuple[int, int] | None, outputs: Sequence[TensorSpec], classes: int) -> Iterator[Postprocess]:
    yield from _by_name(outputs)
    shapes = [spec.shape for spec in outputs]
    flat = [shape for shape in shapes if len(shape) == 3]
    deep = [shape for shape in shapes if len(shape) == 4]
    if len(shapes) == 1 and len(shapes[0]) in (2, 4):
        yield from _whole_frame(shapes[0], classes)
    if len(flat) == 1 and len(deep) == len(shapes) - 1 <= 1:
        yield from _yolo(flat[0], deep[0][1] if deep else 0, canvas, classes)
    if len(flat) == len(shapes) and len(shapes) in (2, 3):
        yield from _dense(flat, canvas, classes)


def _by_name(outputs: Sequence[TensorSpec]) -> Iterator[Postprocess]:
    names = {spec.name for spec in outputs}
    dfl = {spec.name: spec.shape for spec in outputs}
    strides = sorted(int(name[4:]) for name in names if name.startswith("cls_") and name[4:].isdigit())
    if strides and names == {f"{what}_{stride}" for what in ("cls", "box") for stride in strides}:
        bins = dfl[f"box_{strides[0]}"][1] // 4
        yield Postprocess(name="dfl_anchor_free", params={"strides": strides, "reg_bins": bins})
    if names == {"boxes", "scores", "labels"}:  # torchvision's own names; 0 is its background
        yield Postprocess(name="detections", params={"first_class": 1})
    if set(_TENSORFLOW.values()) <= names:
        yield Postprocess(name="detections", params={**_TENSORFLOW, "order": "yxyx", "shares": True, "first_class": 1})


def _whole_frame(shape: tuple[int, ...], classes: int) -> Iterator[Postprocess]:
    if shape[1] == classes and (len(shape) == 2 or shape[2:] == (1, 1)):
        yield Postprocess(name="classification")
    elif len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == 7:
        yield Postprocess(name="detections", params={"shares": True, "first_class": 1})
    elif len(shape) == 4 and shape[2:] != (1, 1):
        if shape[1] == classes + 1:
            yield Postprocess(name="segmentation")
        if shape[1] == classes:
            yield Postprocess(name="segmentation", params={"background": None})
            yield Postprocess(name="segmentation", params={"background": None, "activation": "sigmoid"})


def _yolo(shape: tuple[int, ...], masks: int, canvas: tuple[int, int] | None, classes: int) -> Iterator[Postprocess]:
    cells = _cells(canvas, YOLO_STRIDES)
    _, rows, columns = shape
    if (rows, columns) == (4 + classes + masks, cells):
        yield Postprocess(name="yolov8")
    if (rows, columns) == (ANCHORS_YOLOV5 * cells, 5 + classes + masks):
        yield Postprocess(name="yolov5")
    if (rows, columns) == (cells, 5 + classes) and not masks:
        yield Postprocess(name="yolox")
        yield Postprocess(name="yolox", params={"decoded": True})
    if columns == 6 and 0 < rows <= END2END_MAX and not masks:
        yield Postprocess(name="yolo_end2end")


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
