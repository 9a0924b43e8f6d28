from __future__ import annotations

import pytest

from lineside_models.postprocess import DECODERS, recognise
from lineside_runtime.errors import UnknownHeadError
from lineside_runtime.tensors import TensorSpec

COCO = 80


def image(height: int = 640, width: int = 640) -> TensorSpec:
    return TensorSpec(name="images", shape=(1, 3, height, width), layout="NCHW")


def outputs(*shapes: tuple[int, ...], names: tuple[str, ...] = ()) -> list[TensorSpec]:
    labels = names or tuple(f"output{index}" for index in range(len(shapes)))
    return [TensorSpec(name=name, shape=shape) for name, shape in zip(labels, shapes, strict=True)]


@pytest.mark.parametrize(
    ("name", "side", "classes", "shapes"),
    [
        # The shapes that each project's own export gives.
        ("yolov5", 640, COCO, [(1, 25200, 85)]),
        ("yolov5", 320, 1, [(1, 6300, 6)]),
        ("yolov5", 640, COCO, [(1, 25200, 117), (1, 32, 160, 160)]),
        ("yolov8", 640, COCO, [(1, 84, 8400)]),
        ("yolov8", 640, COCO, [(-1, 84, 8400)]),
        ("yolov8", 640, 3, [(1, 39, 8400), (1, 32, 160, 160)]),
        ("yolo_end2end", 640, COCO, [(1, 300, 6)]),
        ("classification", 224, 1000, [(1, 1000)]),
        ("classification", 224, 1000, [(1, 1000, 1, 1)]),
        ("segmentation", 512, 5, [(1, 6, 512, 512)]),
        ("fcos", 640, 90, [(1, 8525, 90), (1, 8525, 4), (1, 8525, 1)]),
        ("retinanet", 640, 90, [(1, 76725, 4), (1, 76725, 90)]),
        ("ssd", 300, 90, [(1, 8732, 91), (1, 8732, 4)]),
        ("ssd", 320, 90, [(1, 3234, 4), (1, 3234, 91)]),
        ("detections", 300, 90, [(1, 1, 200, 7)]),
    ],
)
def test_a_head_is_told_from_its_shapes(name: str, side: int, classes: int, shapes: list[tuple[int, ...]]) -> None:
    found = recognise([image(side, side)], outputs(*shapes), classes)
    assert found.name == name
    assert name in DECODERS


def test_names_tell_where_a_project_has_its_own() -> None:
    torchvision = outputs((-1, 4), (-1,), (-1,), names=("boxes", "scores", "labels"))
    assert recognise([image(-1, -1)], torchvision, 90).params == {"first_class": 1}
    names = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
    tensorflow = recognise([image()], outputs((1, 10, 4), (1, 10), (1, 10), (1,), names=names), 90)
    assert (tensorflow.name, tensorflow.params["order"]) == ("detections", "yxyx")
    own = outputs(*[(1, n, 28, 28) for n in (12, 64)], names=("cls_8", "box_8"))
    assert recognise([image(224, 224)], own, 12).params == {"strides": [8], "reg_bins": 16}


def test_what_shapes_cannot_tell_is_asked_for() -> None:
    with pytest.raises(UnknownHeadError) as caught:
        recognise([image()], outputs((1, 8400, 85)), COCO)  # YOLOX with its boxes decoded in the graph or not
    assert "yolox" in str(caught.value)
    assert "decoded" in str(caught.value)
    assert caught.value.code == 2010


@pytest.mark.parametrize(
    "shapes", [[(1, 85, 22, 22), (1, 2)], [(1, 7, 13, 9)], [(3,)], [(1, 84, 8400)], [(1, 25200, 84)], []]
)
def test_what_fits_nothing_is_refused_with_what_was_seen(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(UnknownHeadError, match="no decoder fits"):
        recognise([image()], outputs(*shapes), 5)


def test_without_the_size_of_the_input_cells_cannot_be_counted() -> None:
    with pytest.raises(UnknownHeadError):
        recognise([image(-1, -1)], outputs((1, 84, 8400)), COCO)
