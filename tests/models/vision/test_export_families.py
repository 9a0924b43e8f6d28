"""Bare exports of known projects: what is recognised, and what the user is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from lineside_models.vision import ImageInspector
from lineside_models.vision.model_facts import ModelFacts
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import MissingModelFactsError

SIDE = 64
LABELS = ("dent", "hole", "stain")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Output = tuple[str, tuple[int, ...], int]


def export(
    path: Path,
    *outputs: Output,
    values: dict[str, Any] | None = None,
    sizes: str = "",
    nodes: tuple[Any, ...] = (),
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a graph with the inputs and outputs of an export: each output is a constant plus 0 times the image.

    Args:
        outputs: Name, shape and type of each.
        values: Of the constants; else zeros.
        sizes: Name of a second input ``(1, 2)``, by whose two numbers, twice, the output ``boxes`` is multiplied.
        nodes: In place of the constants.
    """
    made, weights = list(nodes), []
    made.append(helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0))
    made.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    weights.append(numpy_helper.from_array(np.float32(0), "zero"))
    for name, shape, kind in outputs:
        array = np.asarray((values or {}).get(name, np.zeros(shape)), np.float32).reshape(shape)
        weights.append(numpy_helper.from_array(array, f"{name}_value"))
        scaled = sizes and name == "boxes"
        made.append(helper.make_node("Add", [f"{name}_value", "nothing"], [f"{name}_sum"]))
        made.append(helper.make_node("Cast", [f"{name}_sum"], [f"{name}_raw" if scaled else name], to=kind))
        if scaled:
            made.append(helper.make_node("Concat", [sizes, sizes], ["size"], axis=1))
            made.append(helper.make_node("Cast", ["size"], ["scale"], to=FLOAT))
            made.append(helper.make_node("Mul", ["boxes_raw", "scale"], ["boxes"]))
    inputs = [helper.make_tensor_value_info("images", FLOAT, ["N", 3, SIDE, SIDE])]
    inputs += [helper.make_tensor_value_info(sizes, INT64, ["N", 2])] if sizes else []
    typed = [helper.make_tensor_value_info(name, kind, shape) for name, shape, kind in outputs]
    built = helper.make_graph(made, "export", inputs, typed, weights)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    save(model, path)
    return path


def wrapped(model: Path, folder: Path, labels: tuple[str, ...] | None = LABELS) -> Bundle:
    folder.mkdir(exist_ok=True)
    return wrap_onnx(model, folder / "bundle", ModelFacts(labels=labels))


def test_the_input_of_sizes_becomes_a_constant_and_boxes_lie_in_the_frame(tmp_path: Path) -> None:
    boxes = [[[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]]]
    model = export(
        tmp_path / "d-fine.onnx",
        ("labels", (1, 2), INT64),
        ("boxes", (1, 2, 4), FLOAT),
        ("scores", (1, 2), FLOAT),
        values={"labels": [[2, 0]], "boxes": boxes, "scores": [[0.9, 0.001]]},
        sizes="orig_target_sizes",
    )
    bundle = wrapped(model, tmp_path)
    assert [spec.name for spec in bundle.manifest.inputs] == ["images"]
    with ImageInspector(bundle.path) as inspector:
        (found,) = inspector.predict([np.full((100, 200, 3), 90, np.uint8)])
    (detection,) = found.detections
    assert detection.type == "stain"
    assert detection.box == pytest.approx((50, 25, 100, 75))
    assert bundle.manifest.preprocess.resize == "stretch"
    assert bundle.manifest.preprocess.std == (255.0,) * 3


def test_as_many_classes_as_coco_are_those_of_coco_and_libreyolo_says_labels_and_family(tmp_path: Path) -> None:
    model = export(tmp_path / "yolox.onnx", ("output", (1, 84, 85), FLOAT))
    manifest = wrapped(model, tmp_path / "coco", labels=None).manifest
    assert manifest.labels[:2] == ("person", "bicycle")
    assert (manifest.postprocess.name, manifest.preprocess.colour) == ("yolox", "bgr")
    assert manifest.preprocess.size == (SIDE, SIDE)
    names = json.dumps({str(index): name for index, name in enumerate(LABELS)})
    said = {"libreyolo_version": "1.6.0", "model_family": "rtmdet", "names": names}
    model = export(tmp_path / "m.onnx", ("output", (1, 84, 7), FLOAT), metadata=said)
    manifest = wrapped(model, tmp_path / "libreyolo", labels=None).manifest
    assert manifest.labels == LABELS
    assert (manifest.postprocess.name, manifest.preprocess.colour) == ("box_scores", "bgr")
    model = export(tmp_path / "m.onnx", ("dets", (1, 9, 5), FLOAT), ("labels", (1, 9), INT64))  # any of mmdeploy's
    with pytest.raises(MissingModelFactsError) as caught:
        wrapped(model, tmp_path / "ambiguous")
    assert caught.value.message.endswith("its preprocess")


def test_rf_detr_numbers_the_types_of_coco_from_1_to_90(tmp_path: Path) -> None:
    logits = np.full((1, 2, 91), -9.0)
    logits[0, 0, 90] = 2.0
    model = export(
        tmp_path / "rf-detr.onnx",
        ("dets", (1, 2, 4), FLOAT),
        ("labels", (1, 2, 91), FLOAT),
        values={"labels": logits, "dets": np.full((1, 2, 4), 0.5)},
    )
    with ImageInspector(wrapped(model, tmp_path, labels=None).path) as inspector:
        (found,) = inspector.predict([np.full((64, 64, 3), 90, np.uint8)])
    assert [one.type for one in found.detections] == ["toothbrush"]


@pytest.mark.parametrize(
    ("project", "outputs"),
    [
        ("YOLOX", [("output", (1, 84, 8))]),
        ("NanoDet", [("output", (1, 85, 35))]),
        ("RF-DETR", [("dets", (1, 9, 4)), ("labels", (1, 9, 4))]),
        ("D-FINE", [("logits", (1, 9, 3)), ("pred_boxes", (1, 9, 4))]),
    ],
)
def test_only_the_labels_of_other_networks_are_asked_for(
    project: str, outputs: list[tuple[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    model = export(tmp_path / "m.onnx", *[(name, shape, FLOAT) for name, shape in outputs])
    with pytest.raises(MissingModelFactsError) as caught:
        wrapped(model, tmp_path, labels=None)
    assert project in caught.value.message
    assert caught.value.message.endswith("does not say its labels")
    assert str(caught.value.expected).startswith("3 labels")
    (tmp_path / "again").mkdir()
    with pytest.raises(MissingModelFactsError, match="another number of classes; expected 3 labels") as caught:
        wrapped(model, tmp_path / "again", labels=tuple("abcdef"))
    assert project in caught.value.message


def test_a_vision_transformer_in_front_is_normalised_as_imagenet(tmp_path: Path) -> None:
    patches = helper.make_node("Conv", ["images", "patch"], ["patches"], kernel_shape=[16, 16], strides=[16, 16])
    weight = helper.make_node("Constant", [], ["patch"], value=numpy_helper.from_array(np.zeros((1, 3, 16, 16), "f4")))
    model = export(
        tmp_path / "deimv2.onnx",
        ("pred_logits", (1, 9, 3), FLOAT),
        ("pred_boxes", (1, 9, 4), FLOAT),
        nodes=(weight, patches),
    )
    assert wrapped(model, tmp_path).manifest.preprocess.mean == pytest.approx((123.675, 116.28, 103.53))
