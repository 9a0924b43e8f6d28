"""What a bare ONNX file must be like, said when it is opened and not in the middle of the work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from lineside_models.vision import ImageInspector
from lineside_models.vision.model_facts import ModelFacts, from_arguments
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.errors import ConfigError, MissingModelFactsError, UnknownHeadError, UnsupportedModelError

RGB = Preprocess(input="pixels", colour="rgb")
CLASSES = Postprocess(name="classification")


def onnx_file(
    path: Path, shape: Sequence[int | str], classes: int | None, nodes: list[Any], weights: dict[str, np.ndarray]
) -> Path:
    value, opset = onnx.helper.make_tensor_value_info, onnx.helper.make_opsetid("", 17)
    ends = [value("pixels", 1, list(shape))], [value("logits", 1, [shape[0], classes])]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "net", *ends, stored)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def classifier(path: Path, shape: Sequence[int | str], *, classes: int = 3) -> Path:
    """A network that looks at nothing: the mean over the frame, once a class."""
    make = onnx.helper.make_node
    nodes = [
        make("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        make("Reshape", ["mean", "column"], ["rows"]),
        make("MatMul", ["rows", "weights"], ["logits"]),
    ]
    weights: dict[str, np.ndarray] = {"column": np.array([-1, 1]), "weights": np.ones((1, classes), np.float32)}
    return onnx_file(path, shape, classes, nodes, weights)


def facts(labels: int = 3, **more: Any) -> ModelFacts:
    names = tuple(f"type {number}" for number in range(labels))
    return ModelFacts(**{"labels": names, "preprocess": RGB, "postprocess": CLASSES, **more})


def ends_with(path: Path, operator: str, biases: Sequence[float]) -> Path:
    """A classifier that gives the same logits for every frame, and applies an operator to them in its graph.

    Args:
        operator: Its name, or ``"written softmax"``.
    """
    make = onnx.helper.make_node
    written = [
        make("Exp", ["sums"], ["powers"]),
        make("ReduceSum", ["powers", "axis"], ["total"], keepdims=1),
        make("Div", ["powers", "total"], ["logits"]),
    ]
    nodes = [
        make("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        make("Reshape", ["mean", "column"], ["rows"]),
        make("Gemm", ["rows", "weights", "biases"], ["sums"]),
        *(written if operator == "written softmax" else [make(operator, ["sums"], ["logits"])]),
    ]
    zeros = np.zeros((1, len(biases)), np.float32)
    weights = {"column": np.array([-1, 1]), "weights": zeros, "biases": np.array(biases, np.float32)}
    weights["axis"] = np.array([1])
    return onnx_file(path, ("n", 3, 64, 64), len(biases), nodes, weights)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("operator", "labels", "biases", "verdict"),
    [
        ("Softmax", ("scratch", "dent", "hole", "good"), (3.0, 0.0, 0.0, 0.0), "bad"),  # twice, it is unsure
        ("Softmax", ("good", "scratch"), (7.0, 0.0), "good"),
        ("written softmax", ("scratch", "dent", "hole", "good"), (3.0, 0.0, 0.0, 0.0), "bad"),
        ("Sigmoid", ("good", "scratch"), (3.0, 3.0), "bad"),
        ("Sigmoid", ("good", "scratch"), (3.0, -7.0), "good"),
    ],
)
def test_probabilities_of_the_graph_are_not_squashed_once_more(
    tmp_path: Path, named: bool, operator: str, labels: tuple[str, ...], biases: tuple[float, ...], verdict: str
) -> None:
    given = CLASSES if named else None
    model = ends_with(tmp_path / "m.onnx", operator, biases)
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with ImageInspector(model, labels=labels, preprocess=RGB, postprocess=given) as inspector:
        assert inspector.predict(frame)[0].verdict == verdict


def test_an_activation_that_contradicts_the_graph_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = Postprocess(name="classification", params={"activation": "softmax"})
    model = ends_with(tmp_path / "m.onnx", "Softmax", (1.0, 0.0))
    manifest = wrap_onnx(model, tmp_path / "b", facts(2, postprocess=said)).manifest
    assert manifest.postprocess.params["activation"] == "softmax"
    assert "applied to them again" in caplog.text


def test_classes_that_all_sound_good_are_refused_unless_options_or_sidecar_say_which_are(tmp_path: Path) -> None:
    model, known = classifier(tmp_path / "m.onnx", (1, 3, 64, 64), classes=2), facts(labels=2)
    known = msgspec.structs.replace(known, labels=("ok", "good"))
    with pytest.raises(ConfigError, match="--good-class"):
        wrap_onnx(model, tmp_path / "refused", known)
    assert not (tmp_path / "refused").exists()
    chosen = wrap_onnx(model, tmp_path / "chosen", known, good_classes=["ok"])
    assert chosen.manifest.postprocess.params["good"] == [0]
    (tmp_path / "m.toml").write_text('[postprocess]\nname = "classification"\n[postprocess.params]\ngood = [1]\n')
    known = msgspec.structs.replace(known, postprocess=None)
    assert wrap_onnx(model, tmp_path / "sidecar", known).manifest.postprocess.params["good"] == [1]


@pytest.mark.parametrize(
    ("labels", "params", "said"),
    [
        (("a", "b", "c"), {"good": [1, 7]}, "postprocess.params.good; expected indices of labels, 0 to 2; got 7"),
        (("a", "b", "c"), {"thresholds": [7, 0.5, 0.5]}, "thresholds[0]"),
        (("a", "b", "c"), {"unsure_from": [0.5, -1, 0.5]}, "unsure_from[1]"),
        (("a", "b", "a"), {}, "expected a name of its own for each class; got 'a' 2 times"),
        (("a", " ", "b"), {}, "got an empty one, number 2"),
    ],
)
def test_labels_and_numbers_that_make_no_sense_are_refused_when_the_model_is_opened(
    tmp_path: Path, labels: tuple[str, ...], params: dict[str, Any], said: str
) -> None:
    model, how = classifier(tmp_path / "m.onnx", (1, 3, 64, 64)), Postprocess(name="classification", params=params)
    with pytest.raises(ConfigError, match=re.escape(said)):
        ImageInspector(model, labels=labels, preprocess=RGB, postprocess=how)
    if not params:  # whoever says it
        with pytest.raises(ConfigError, match=re.escape(said)):
            wrap_onnx(model, tmp_path / "b", ModelFacts(labels=labels).over(facts()))


@pytest.mark.parametrize("kind", [2, 10])
def test_an_input_of_another_type_is_refused(tmp_path: Path, kind: int) -> None:
    model = onnx.load(classifier(tmp_path / "m.onnx", ("n", 3, 64, 64)))
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["pixels"], ["floats"], to=1))
    model.graph.node[1].input[0] = "floats"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match=r"takes (uint8|float16)"):
        wrap_onnx(tmp_path / "m.onnx", tmp_path / "b", facts())


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((8, 3, 64, 64), "batch"),
        (("n", 64, 64, 3), "channels last"),
        (("n", 1, 64, 64), "1 channel"),
        (("n", 3), "four dimensions"),
    ],
)
def test_an_input_that_no_frame_can_become_is_refused_with_the_reason(
    tmp_path: Path, shape: Sequence[int | str], said: str
) -> None:
    axes = classifier(tmp_path / "model.onnx", shape) if len(shape) == 4 else matrix(tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        wrap_onnx(axes, tmp_path / "bundle", facts())
    assert "pixels" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def matrix(path: Path) -> Path:
    return onnx_file(path, ("n", 3), 3, [onnx.helper.make_node("Identity", ["pixels"], ["logits"])], {})


def test_a_fixed_size_is_taken_from_the_model_and_other_sizes_and_numbers_of_labels_are_refused(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model.onnx", (1, 3, 96, 128))
    assert wrap_onnx(model, tmp_path / "bundle", facts()).manifest.preprocess.size == (96, 128)
    wrong = Preprocess(input="pixels", colour="rgb", size=(128, 96))
    with pytest.raises(ConfigError, match=r"preprocess.size.*\(96, 128\).*\(128, 96\)"):
        wrap_onnx(model, tmp_path / "other", facts(preprocess=wrong))
    for labels in (2, 4):
        with pytest.raises(ConfigError, match=rf"labels.*expected 3.*got {labels}"):
            wrap_onnx(model, tmp_path / "other", facts(labels))


def test_a_classifier_gets_the_whole_frame_stretched_unless_somebody_says_that_it_is_padded(tmp_path: Path) -> None:
    model, free = (
        classifier(tmp_path / "m.onnx", (1, 3, 64, 64)),
        classifier(tmp_path / "free.onnx", ("n", 3, "h", "w")),
    )
    found = wrap_onnx(model, tmp_path / "stretched", facts()).manifest.preprocess
    assert (found.resize, found.size) == ("stretch", (64, 64))
    (tmp_path / "m.toml").write_text('[preprocess]\ninput = "pixels"\ncolour = "rgb"\nresize = "fit"\n')
    assert wrap_onnx(model, tmp_path / "fit", facts(preprocess=None)).manifest.preprocess.resize == "fit"
    assert wrap_onnx(free, tmp_path / "free", facts()).manifest.preprocess.resize is msgspec.UNSET
    sized = from_arguments(None, {"colour": "rgb", "size": [32, 48]}, None)
    assert wrap_onnx(free, tmp_path / "sized", sized.over(facts())).manifest.preprocess.resize == "stretch"


def test_the_example_has_the_models_own_names_and_is_enough(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model.onnx", (1, 3, 96, 128))
    with pytest.raises(MissingModelFactsError, match="config schema model") as caught:
        wrap_onnx(model, tmp_path / "bundle", ModelFacts())
    assert caught.value.action is not None
    example = caught.value.action.partition(":\n\n")[2]
    assert 'input = "pixels"' in example and "size = [96, 128]" in example
    (tmp_path / "model.toml").write_text(example)
    found = wrap_onnx(model, tmp_path / "bundle", ModelFacts()).manifest
    assert (found.task, found.labels, found.preprocess.colour) == (
        "classification",
        ("class 0", "class 1", "class 2"),
        "rgb",
    )


def test_where_several_decoders_fit_the_block_of_each_is_shown_and_works_in_the_sidecar(tmp_path: Path) -> None:
    """Boxes of a detector, whose label 0 may be a class or the background."""
    value, make = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    names = ("boxes", "scores", "labels")
    kinds, shapes = (1, 1, 7), (["n", 4], ["n"], ["n"])
    nodes = [
        make("Constant", [], [name], value=onnx.numpy_helper.from_array(array))
        for name, array in zip(
            names, (np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int64)), strict=True
        )
    ]
    ends = [value(name, kind, shape) for name, kind, shape in zip(names, kinds, shapes, strict=True)]
    graph = onnx.helper.make_graph(nodes, "net", [value("pixels", 1, [1, 3, 64, 64])], ends)
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "m.onnx")
    known = facts(postprocess=None)
    with pytest.raises(UnknownHeadError) as caught:
        wrap_onnx(tmp_path / "m.onnx", tmp_path / "b", known)
    assert caught.value.action is not None
    blocks = caught.value.action.partition(":\n\n")[2].split("# or\n\n")
    with pytest.raises(MissingModelFactsError, match="does not say its preprocess, postprocess") as missing:
        wrap_onnx(tmp_path / "m.onnx", tmp_path / "b", msgspec.structs.replace(known, preprocess=None))
    assert missing.value.action is not None and missing.value.action.endswith("# or\n\n".join(blocks))
    found = []
    for number, block in enumerate(blocks):
        (tmp_path / "m.toml").write_text(block)
        how = wrap_onnx(tmp_path / "m.onnx", tmp_path / f"b{number}", known).manifest.postprocess
        found.append((how.name, how.params))
    assert found == [("detections", {"first_class": 1}), ("detections", {"first_class": 0})]


def test_the_only_input_need_not_be_named_and_a_background_column_has_no_label(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model.onnx", ("n", 3, "h", "w"))
    given = from_arguments(("a", "b", "c"), {"colour": "rgb"}, None)
    found = wrap_onnx(model, tmp_path / "bundle", given).manifest
    assert (found.preprocess.input, found.postprocess.name) == ("pixels", "classification")
    how = Postprocess(name="classification", params={"first_class": 1})
    assert wrap_onnx(model, tmp_path / "other", facts(2, postprocess=how)).manifest.labels == ("type 0", "type 1")
