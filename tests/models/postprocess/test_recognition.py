from __future__ import annotations

from typing import Any

import pytest

from lineside_models.postprocess import DECODERS, count_classes, recognise
from lineside_models.postprocess.recognition import readings, toml_blocks
from lineside_runtime.bundle import Postprocess
from lineside_runtime.decoding import decode_toml
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
        ("detections", 320, COCO, [(-1, 6), (-1,)]),
        ("detr", 640, COCO, [(1, 300, COCO), (1, 300, 4)]),
        ("distances", 416, COCO, [(1, 3598, 112)]),
        ("distances", 320, COCO, [(1, 2100, 112)]),
        ("distances", 320, COCO, [(1, n, c) for c in (COCO, 32) for n in (1600, 400, 100, 25)]),
        ("distances", 640, COCO, [(1, c, n, n) for c in (COCO, 4) for n in (80, 40, 20)]),
        ("box_scores", 320, COCO, [(1, 2125, 4), (1, COCO, 2125)]),
    ],
)
def test_a_head_is_told_from_its_shapes(name: str, side: int, classes: int, shapes: list[tuple[int, ...]]) -> None:
    assert recognise([image(side, side)], outputs(*shapes), classes).name == name
    assert name in DECODERS


def test_names_tell_where_a_project_has_its_own() -> None:
    torchvision = outputs((-1, 4), (-1,), (-1,), names=("boxes", "scores", "labels"))
    with pytest.raises(
        UnknownHeadError, match=r"(?s)several.*first_class = 1 .*first_class = 0 "
    ):  # 0 may be its background
        recognise([image(-1, -1)], torchvision, 90)
    names = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
    tensorflow = recognise([image()], outputs((1, 10, 4), (1, 10), (1, 10), (1,), names=names), 90)
    assert (tensorflow.name, tensorflow.params["order"]) == ("detections", "yxyx")
    own = outputs(*[(1, n, 28, 28) for n in (12, 64)], names=("cls_8", "box_8"))
    assert recognise([image(224, 224)], own, 12).params == {"strides": [8], "reg_bins": 16}


def test_the_last_operators_tell_what_shapes_cannot() -> None:
    yolox = outputs((1, 8400, 85))
    raw = recognise([image()], yolox, COCO, {"output0": frozenset({"Concat", "Sigmoid", "Transpose"})})
    decoded = recognise([image()], yolox, COCO, {"output0": frozenset({"Concat", "Exp", "Mul", "Sigmoid"})})
    assert (raw.params, decoded.params) == ({}, {"decoded": True})
    names = ("logits", "pred_boxes")
    queries = outputs((1, 300, COCO), (1, 300, 4), names=names)
    expected = {"scores": "logits", "boxes": "pred_boxes"}
    assert recognise([image()], queries, COCO, {"logits": frozenset({"Add"})}).params == expected
    found = recognise([image()], queries, COCO, {"logits": frozenset({"Add", "Sigmoid"})})
    assert found.params == {**expected, "activation": "none"}
    maps = outputs(*[(1, c, n, n) for n in (80, 40, 20) for c in (COCO, 4)])  # in pairs, as some exporters write them
    pixels = recognise([image()], maps, COCO, {"output1": frozenset({"Mul"}), "output0": frozenset()})
    assert pixels.params["in_strides"] is False
    assert pixels.params["activation"] == "sigmoid"
    assert pixels.params["scores"] == ["output0", "output2", "output4"]


def test_boxes_times_their_stride_are_decoded_and_a_bias_alone_decodes_nothing() -> None:
    yolo = outputs((1, 8400, 85))
    yolov6 = recognise([image()], yolo, COCO, {"output0": frozenset({"Add", "Concat", "Mul", "Sigmoid", "Sub"})})
    assert yolov6.params == {"decoded": True}
    with pytest.raises(UnknownHeadError, match=r"(?s)several decoders.*decoded = false.*decoded = true"):
        recognise([image()], yolo, COCO, {"output0": frozenset({"Add", "Concat", "Sigmoid"})})


def test_logits_where_a_head_gives_probabilities_are_refused_or_squashed() -> None:
    without, squashed = frozenset({"Concat", "Mul"}), frozenset({"Concat", "Mul", "Sigmoid"})
    for name, shapes in (
        ("yolov8", [(1, 84, 8400)]),
        ("yolov8", [(1, 116, 8400), (1, 32, 160, 160)]),
        ("yolov5", [(1, 25200, 85)]),
    ):
        with pytest.raises(UnknownHeadError, match=r"no decoder fits.*logits of the classes, without a sigmoid"):
            recognise([image()], outputs(*shapes), COCO, {"output0": without})
        assert recognise([image()], outputs(*shapes), COCO, {"output0": squashed}).name == name
    nanodet = outputs((1, 3598, 112))
    assert recognise([image(416, 416)], nanodet, COCO, {"output0": without}).params["activation"] == "sigmoid"
    assert "activation" not in recognise([image(416, 416)], nanodet, COCO, {"output0": squashed}).params


def test_cells_of_a_grid_are_no_queries() -> None:
    with pytest.raises(UnknownHeadError, match="no decoder fits"):  # YOLO-NAS, whose boxes are in pixels
        recognise([image(160, 160)], outputs((1, 525, 4), (1, 525, COCO)), COCO)


def test_four_classes_beside_four_sides_are_told_by_name_or_order_and_detr_by_its_column_of_no_object() -> None:
    rf_detr = outputs((1, 300, 4), (1, 300, 4), names=("dets", "labels"))
    found = recognise([image()], rf_detr, 3)
    assert found.params == {"scores": "labels", "boxes": "dets", "background": True}
    maps = recognise([image()], outputs(*[(1, 4, n, n) for _ in range(2) for n in (80, 40, 20)]), 4)
    assert maps.params["scores"] == ["output0", "output1", "output2"]
    with pytest.raises(UnknownHeadError):
        recognise([image()], outputs((1, 300, 4), (1, 300, 4)), 4)
    detr = outputs((1, 100, COCO + 1), (1, 100, 4), names=("logits", "pred_boxes"))
    found = recognise([image()], detr, COCO)
    assert (found.params["activation"], found.params["background"]) == ("softmax", True)


@pytest.mark.parametrize("names", [("pred_logits", "pred_boxes"), ("scores", "boxes")])
def test_a_column_more_than_labels_may_be_a_softmax_or_a_sigmoid(names: tuple[str, str]) -> None:
    queries = outputs((1, 100, COCO + 1), (1, 100, 4), names=names)
    for tails in (None, {names[0]: frozenset({"Add"})}):
        with pytest.raises(UnknownHeadError, match=r'(?s)several.*"softmax".*"sigmoid"'):
            recognise([image()], queries, COCO, tails)
    known = recognise([image()], queries, COCO, {names[0]: frozenset({"Softmax"})})
    assert known.params["activation"] == "none"


def test_rows_of_six_are_boxes_with_score_and_class_or_boxes_with_two_scores() -> None:
    rows = outputs((1, 300, 6))
    for tails in (None, {"output0": frozenset({"Concat", "Sigmoid"})}):
        with pytest.raises(UnknownHeadError, match=r'(?s)several decoders.*"yolo_end2end".*"detr"'):
            recognise([image()], rows, 2, tails)
    for selection in ("TopK", "NonMaxSuppression"):
        assert recognise([image()], rows, 2, {"output0": frozenset({"Concat", selection})}).name == "yolo_end2end"
    assert recognise([image()], rows, 3).name == "yolo_end2end"
    joined = Postprocess(name="detr", params={"activation": "none"})
    assert count_classes(rows, joined) == 2


@pytest.mark.parametrize(
    ("shapes", "name", "params"),
    [
        ([(1, 300, 4), (1, 300, 7)], "detr", {"boxes": "output0", "scores": "output1"}),
        ([(1, 2125, 4), (1, 7, 2125)], "box_scores", {"boxes": "output0", "scores": "output1"}),
        ([(1, 1344, 11)], "box_scores", {}),
        ([(1, 3598, 39)], "distances", {"reg_bins": 8}),
        ([(1, 7, 8, 8), (1, 4, 8, 8)], "distances", {"scores": ["output0"], "boxes": ["output1"]}),
    ],
)
def test_classes_are_counted(shapes: list[tuple[int, ...]], name: str, params: dict[str, Any]) -> None:
    assert count_classes(outputs(*shapes), Postprocess(name=name, params=params)) == 7


def test_what_shapes_cannot_tell_is_asked_for_and_what_fits_nothing_is_refused() -> None:
    with pytest.raises(UnknownHeadError) as caught:
        recognise([image()], outputs((1, 8400, 85)), COCO)  # YOLOX with its boxes decoded in the graph or not
    assert "yolox" in str(caught.value) and "decoded" in str(caught.value)
    assert caught.value.code == 2010
    with pytest.raises(UnknownHeadError):  # the cells can't be counted
        recognise([image(-1, -1)], outputs((1, 84, 8400)), COCO)
    nothing: tuple[list[tuple[int, ...]], ...] = (
        [(1, 85, 22, 22), (1, 2)], [(1, 7, 13, 9)], [(3,)], [(1, 84, 8400)], [(1, 25200, 84)], []
    )  # fmt: skip
    for shapes in nothing:
        with pytest.raises(UnknownHeadError, match="no decoder fits"):
            recognise([image()], outputs(*shapes), 5)


@pytest.mark.parametrize(
    ("shape", "operator", "activation"),
    [
        ((1, 4), "Softmax", "none"),
        ((1, 4, 8, 8), "Softmax", "none"),
        ((1, 4), "Sigmoid", "sigmoid_in_graph"),
        ((1, 4, 8, 8), "Sigmoid", "sigmoid_in_graph"),
        ((1, 3, 8, 8), "Sigmoid", "sigmoid_in_graph"),
    ],
)
def test_a_graph_that_ends_with_probabilities_is_known_by_its_end(
    shape: tuple[int, ...], operator: str, activation: str
) -> None:
    classes = 4 if len(shape) == 2 else 3
    found = recognise([image(64, 64)], outputs(shape), classes, {"output0": frozenset({"Reshape", operator})})
    assert found.params["activation"] == activation


def test_a_softmax_of_as_many_channels_as_labels_and_numbers_of_classes_are_refused_with_advice() -> None:
    softmax = {"output0": frozenset({"Resize", "Softmax"})}
    with pytest.raises(UnknownHeadError, match=r"(?s)no decoder fits.*leave its label out.*background = \"none\""):
        recognise([image(64, 64)], outputs((1, 3, 8, 8)), 3, softmax)
    without = Postprocess(name="segmentation", params={"background": "none", "activation": "none"})
    assert count_classes(outputs((1, 3, 8, 8)), without) == 3
    numbers = {"output0": frozenset({"ArgMax", "Cast", "Softmax"})}
    for shape, classes in (((1, 1, 8, 8), 1), ((1, 2, 8, 8), 1), ((1, 1), 1)):
        with pytest.raises(UnknownHeadError, match="ends with ArgMax"):
            recognise([image(64, 64)], outputs(shape), classes, numbers)


def test_each_reading_is_a_block_of_a_sidecar() -> None:
    for shapes, names, classes in (
        ([(1, 8400, 85)], (), COCO),
        ([(1, 3, 8, 8)], (), 3),
        ([(1, 300, 6)], (), 2),
        ([(-1, 4), (-1,), (-1,)], ("boxes", "scores", "labels"), 3),
        ([(1, 100, 4), (1, 100, 4)], ("boxes", 'pred_\u00e4"'), 3),
    ):
        ends = outputs(*shapes, names=names)
        found = readings([image()], ends, classes)
        assert len(found) > 1
        with pytest.raises(UnknownHeadError) as caught:
            recognise([image()], ends, classes)
        assert caught.value.action is not None and caught.value.action.endswith(toml_blocks(found))
        for block, how in zip(toml_blocks(found).split("# or\n\n"), found, strict=True):
            table = decode_toml(block)["postprocess"]
            assert table.pop("name") == how.name
            assert table.pop("params", {}) == {key: "none" if it is None else it for key, it in how.params.items()}
            assert not table
            decoded = Postprocess(name=how.name, params=decode_toml(block)["postprocess"].get("params", {}))
            assert count_classes(ends, decoded) in (classes, None)


def test_boxes_that_may_be_in_pixels_are_asked_about() -> None:
    own = outputs((1, 5, 4), (1, 5), (1, 5), names=("boxes", "scores", "labels"))
    with pytest.raises(UnknownHeadError, match="several decoders fit"):
        recognise([image(64, 64)], own, 2)
    sizes = TensorSpec(name="orig_target_sizes", shape=(1, 2))
    assert recognise([image(64, 64), sizes], own, 2).params == {"shares": True}
