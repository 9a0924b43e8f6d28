"""Cutting a model in two: where it can be cut, where it is cut, and that nothing else changes."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside.cli import main
from lineside_converters.split import bundle as split_bundles
from lineside_converters.split import cut_selection
from lineside_converters.split.bundle import REPORT_NAME, sample_feeds, split_bundle
from lineside_converters.split.cut_selection import CutSearch
from lineside_converters.split.graph import TENSORS_MAX, Cut, cut_in_two, find_cuts
from lineside_converters.split.timing import StagePlace, StageWork, time_together
from lineside_models import zoo
from lineside_models.golden import replay
from lineside_runtime.backend import Executable
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, open_bundle, write_manifest
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    EngineMissingError,
    GraphError,
    IncompatibleBundleError,
    InputError,
    NoDeviceError,
    ParityGateError,
    SpeedGateError,
)
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.worlds.bundles import make_bundle

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
ORT_TWICE = (StagePlace("ort"), StagePlace("ort"))


def model(
    nodes: list[Any], initializers: Mapping[str, np.ndarray[Any, Any]], inputs: list[Any], outputs: list[Any]
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        initializer=[numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def convolutions(layers: list[int], *, channels: int = 8) -> onnx.ModelProto:
    """Convolutions with so many output channels each, on a grey image (1, 1, H, W); the last one's output is ``y``."""
    random = np.random.default_rng(5)
    nodes, weights, last, before = [], {}, "image", 1
    for number, size in enumerate(layers):
        name = "y" if number == len(layers) - 1 else f"t{number}"
        weights[f"w{number}"] = (random.normal(size=(size, before, 3, 3)) / np.sqrt(9 * before)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [name], pads=[1, 1, 1, 1], name=f"conv{number}"))
        last, before = name, size
    image = ("image", FLOAT, ["n", 1, "h", "w"])
    return model(nodes, weights, [image], [("y", FLOAT, ["n", layers[-1], "h", "w"])])


def names(cuts: list[Cut]) -> list[tuple[str, ...]]:
    return [cut.tensors for cut in cuts]


# Where a graph can be cut.


def test_a_chain_can_be_cut_between_any_two_nodes() -> None:
    cuts = find_cuts(convolutions([4, 4, 4, 2]))
    assert names(cuts) == [("t0",), ("t1",), ("t2",)]
    assert [cut.done for cut in cuts] == [0.25, 0.5, 0.75]
    assert all(cut.second == ("y",) and not cut.first for cut in cuts)


def network(
    text: str, weights: Mapping[str, np.ndarray[Any, Any]] | None = None, outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    """Returns a graph of nodes that are written as ``Operator inputs output``; its input is ``x``."""
    nodes = [helper.make_node(kind, inputs.split(","), [out]) for kind, inputs, out in map(str.split, text.split(";"))]
    return model(nodes, weights or {}, [("x", FLOAT, [1, 4])], [(name, FLOAT, [1, 4]) for name in outputs])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Relu x a; Neg a b; Abs b c; Add a,c d; Exp d y", [("a",), ("a", "b"), ("a", "c"), ("d",)]),  # a residual
        ("Neg w v; Abs v u; Add x,u a; Exp a y", [("a",)]),  # what computes constants is no place to cut
    ],
)
def test_the_tensors_that_cross_are_those_of_the_data(text: str, wanted: list[tuple[str, ...]]) -> None:
    weights = {"w": np.ones(4, np.float32)} if "w" in text else {}
    assert names(find_cuts(network(text, weights))) == wanted


def test_early_outputs_stay_in_the_first_piece() -> None:
    last = find_cuts(network("Relu x a; Neg a early; Abs a b; Exp b late", outputs=("early", "late")))[-1]
    assert (last.tensors, last.first, last.second) == (("b",), ("early",), ("late",))


def test_inputs_that_are_needed_to_the_end_and_more_tensors_than_a_neck_has_are_no_cut() -> None:
    with pytest.raises(GraphError, match="no place"):
        find_cuts(network("Relu x a; Add a,x y"))
    many = TENSORS_MAX + 1
    nodes = [helper.make_node("Split", ["x"], [f"s{n}" for n in range(many)], axis=0)]
    nodes.append(helper.make_node("Sum", [f"s{n}" for n in range(many)], ["z"]))
    nodes.append(helper.make_node("Exp", ["z"], ["y"]))
    assert names(find_cuts(model(nodes, {}, [("x", FLOAT, [many, 4])], [("y", FLOAT, [1, 4])]))) == [("z",)]


def quantised() -> onnx.ModelProto:
    """Relu, quantised to uint8, dequantised twice over, and two more operators."""
    facts: dict[str, np.ndarray] = {"scale": np.array(0.1, np.float32), "zero": np.array(3, np.uint8)}
    back = "QuantizeLinear a,scale,zero q; DequantizeLinear q,scale,zero d"
    return network(f"Relu x a; {back}; Neg d b; Add d,b c; Exp c y", facts)


def test_quantised_tensors_cross_before_they_are_dequantised() -> None:
    assert names(find_cuts(quantised())) == [("q",), ("q", "b"), ("c",)]


def test_control_flow_is_refused() -> None:
    constant = helper.make_node("Constant", [], ["o"], value=helper.make_tensor("c", FLOAT, [1], [1.0]))
    branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("o", FLOAT, [1])])
    nodes = [helper.make_node("If", ["x"], ["a"], then_branch=branch, else_branch=branch)]
    nodes.append(helper.make_node("Exp", ["a"], ["y"]))
    with pytest.raises(GraphError, match="control flow"):
        find_cuts(model(nodes, {}, [("x", TensorProto.BOOL, [])], [("y", FLOAT, [1])]))


@pytest.mark.parametrize("made", [quantised(), convolutions([4, 6, 4, 2])], ids=["quantised", "convolutions"])
def test_the_pieces_compute_what_the_whole_does(made: onnx.ModelProto, tmp_path: Path) -> None:
    source = tmp_path / "whole.onnx"
    onnx.save(made, source)
    name = made.graph.input[0].name
    shape = (1, 4) if name == "x" else (1, 1, 20, 24)
    feed = {name: np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    wanted = run(source, feed)
    for cut in find_cuts(made):
        first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
        cut_in_two(source, cut, first, second)
        crossing = run(first, feed)
        found = run(second, {tensor: crossing[tensor] for tensor in cut.tensors})
        np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6, err_msg=str(cut))


def test_the_shipped_detector_can_be_cut_without_changing_a_bit(tmp_path: Path) -> None:
    source = zoo.path("surface-12") / "onnx-int8" / "model.onnx"
    cuts = find_cuts(onnx.load(source))
    feed = sample_feeds(open_bundle(zoo.path("surface-12"), verify=False))[0]
    wanted = run(source, feed)
    for cut in cuts[:: len(cuts) // 4]:
        cut_in_two(source, cut, tmp_path / "1.onnx", tmp_path / "2.onnx")
        first = run(tmp_path / "1.onnx", feed)
        found = first | run(tmp_path / "2.onnx", {name: first[name] for name in cut.tensors})
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name} at {cut}")


def run(path: Path, feed: Mapping[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))


# Where it runs, and how long that takes.


def test_places_are_read_as_they_are_written_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert StagePlace.parse("ort") == StagePlace("ort")
    assert StagePlace.parse("openvino/cpu:0@1") == StagePlace("openvino", "cpu:0", (1,))
    assert StagePlace.parse("ncnn@0,2") == StagePlace("ncnn", cores=(0, 2))
    assert str(StagePlace.parse("openvino/cpu:0@0,1")) == "openvino/cpu:0 on core 0, 1"
    for wrong in ("", "@0", "ort@", "ort@x", "ort/", "ort cpu"):
        with pytest.raises(ConfigError, match="ENGINE"):
            StagePlace.parse(wrong)
    path = tmp_path / "m.onnx"
    onnx.save(convolutions([2, 2]), path)
    with pytest.raises(NoDeviceError, match="gpu:7"):
        StagePlace("ort", "gpu:7").load(path, "fp32")
    with pytest.raises(EngineMissingError):
        StagePlace("nosuch").load(path, "fp32")


class Waiting(Executable):
    """Takes so long, and counts how many others run meanwhile."""

    def __init__(self, seconds: float, running: set[int], most: list[int]) -> None:
        self._seconds, self._running, self._most = seconds, running, most

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self._seconds < 0:
            raise BadInputFormatError("no")
        self._running.add(id(self))
        self._most.append(len(self._running))
        threading.Event().wait(self._seconds)
        self._running.discard(id(self))
        return {}

    _run = run

    def _close(self) -> None:
        pass


def test_stages_are_timed_while_the_others_run_and_an_error_is_the_one_that_is_raised() -> None:
    running: set[int] = set()
    most: list[int] = []
    works = [StageWork(StagePlace("ort"), Waiting(seconds, running, most), {}) for seconds in (0.002, 0.01)]
    first, second = time_together(works, rounds=5)
    assert 2 <= first < second
    assert max(most) == 2
    works = [StageWork(StagePlace("ort"), Waiting(seconds, set(), []), {}) for seconds in (0.001, -1)]
    with pytest.raises(BadInputFormatError):
        time_together(works)


# Which cut is taken.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer calls a figure: these models differ by so much that it shows."""
    monkeypatch.setattr(time_together, "__defaults__", (5,))


def chosen(tmp_path: Path, layers: list[int], *, must_gain: bool = False) -> cut_selection.CutChoice:
    path = tmp_path / "model.onnx"
    onnx.save(convolutions(layers), path)
    feed = {"image": np.zeros((1, 1, 64, 64), np.float32)}
    cores = sorted(os.sched_getaffinity(0))
    places = [StagePlace("ort", cores=(cores[0],)), StagePlace("ort", cores=(cores[-1],))]
    return CutSearch(path, "fp32", feed, places, lambda text: None).choose(must_gain=must_gain)


def as_multiplied(layers: list[int]) -> Callable[[Sequence[StageWork]], list[float]]:
    """Times pieces of `convolutions` as a machine without noise would: by their multiplications for a pixel."""
    costs = [9.0 * before * size for before, size in itertools.pairwise([1, *layers])]

    def times(works: Sequence[StageWork]) -> list[float]:
        found = []
        for work in works:
            (given,), (made,) = work.feed, work.executable.run(work.feed)
            first = 0 if given == "image" else int(given[1:]) + 1
            last = len(layers) if made == "y" else int(made[1:]) + 1
            found.append(sum(costs[first:last]))
        return found

    return times


def test_the_cut_lies_where_both_stages_take_about_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [64] * 13
    monkeypatch.setattr(cut_selection, "time_together", as_multiplied(layers))
    result = chosen(tmp_path, layers)
    assert 0.4 < result.best.cut.done < 0.6
    assert 0.4 < result.share < 0.6
    assert result.best.slowest_ms == min(one.slowest_ms for one in result.tried)
    assert len(result.tried) < 2 * 12  # and not every cut had to be tried
    assert len(result.whole_ms) == len({str(place) for place in result.best.places})


@pytest.mark.slow
def test_cuts_are_timed_on_the_places_named(tmp_path: Path, quick: None) -> None:
    result = chosen(tmp_path, [32] * 6)
    assert 0 < result.best.cut.done < 1  # where it lies depends on what else this machine does
    assert all(time_ms > 0 for one in result.tried for time_ms in one.stage_ms)


def test_a_model_that_is_one_big_piece_is_left_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big, even = [256, 256, 1], [32] * 6
    monkeypatch.setattr(cut_selection, "time_together", as_multiplied(big))
    with pytest.raises(SpeedGateError, match="times the frames"):
        chosen(tmp_path, big, must_gain=True)
    assert chosen(tmp_path, big).gain < cut_selection.MIN_GAIN
    monkeypatch.setattr(cut_selection, "time_together", as_multiplied(even))
    assert chosen(tmp_path, even, must_gain=True).gain == pytest.approx(1.677, abs=1e-3)  # and this one is not


# The bundle.


@pytest.fixture
def source(tmp_path: Path) -> Bundle:
    folder = tmp_path / "source"
    (folder / "onnx-fp32").mkdir(parents=True)
    onnx.save(convolutions([32, 32, 32, 4]), folder / "onnx-fp32" / "model.onnx")
    manifest = Manifest(
        name="lines",
        version="2.0.0",
        created_at="2026-11-24T00:00:00Z",
        labels=("a",),
        inputs=(TensorSpec(name="image", shape=(-1, 1, -1, -1), layout="NCHW"),),
        outputs=(TensorSpec(name="y", shape=(-1, 4, -1, -1), layout="NCHW"),),
        preprocess=Preprocess(input="image", colour="grey", min_side=64, max_side=64, std=(128.0,)),
        postprocess=Postprocess(name="none"),
        variants=(Variant(name="onnx-fp32", format="onnx", file="onnx-fp32/model.onnx", level=0, precision="fp32"),),
    )
    return write_manifest(folder, manifest)


def test_a_cut_bundle_gives_what_the_whole_gave_and_says_how_it_was_cut(
    source: Bundle, tmp_path: Path, quick: None
) -> None:
    told: list[str] = []
    split = split_bundle(
        source, tmp_path / "out", [StagePlace("ort"), StagePlace("openvino")], must_gain=False, on_progress=told.append
    )
    made = open_bundle(tmp_path / "out")
    variant = made.manifest.variants[0]
    assert (made.manifest.identity, variant.name, variant.file) == (
        "lines@2.0.0-split",
        "onnx-fp32",
        "onnx-fp32/model.onnx",
    )
    assert [stage.name for stage in variant.stages] == ["backbone", "head"]
    assert sum(stage.share for stage in variant.stages) == pytest.approx(1, abs=1e-3)
    assert variant.stages[1].sample[split.chosen.best.cut.tensors[0]][2:] == (64, 64)
    assert any("parity" in text for text in told)
    report = json.loads((made.path / REPORT_NAME).read_bytes())
    assert report["cut"] == list(split.chosen.best.cut.tensors)
    assert report["gain"] == pytest.approx(split.chosen.gain)
    assert len(report["tried"]) == len(split.chosen.tried)
    feed = sample_feeds(made)[0]
    with Session(source) as whole, Session(made, split.config) as staged, Session(made) as uncut:
        assert "+" in staged.used_device and "+" not in uncut.used_device
        wanted = whole.predict(feed)["y"]
        np.testing.assert_array_equal(uncut.predict(feed)["y"], wanted)
        np.testing.assert_allclose(staged.predict(feed)["y"], wanted, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(staged.submit(feed).result(60).outputs["y"], wanted, rtol=1e-3, atol=1e-4)


def test_a_cut_bundle_keeps_its_golden_outputs(tmp_path: Path, quick: None) -> None:
    whole = make_bundle(tmp_path / "whole", burden=8)
    cores = sorted(os.sched_getaffinity(0))
    places = [StagePlace("ort", cores=(cores[0],)), StagePlace("ort", cores=(cores[-1],))]
    split = split_bundle(whole, tmp_path / "out", places, version="9", must_gain=False)
    assert split.bundle.manifest.version == "9"
    with Session(split.bundle, split.config) as session:
        report = replay(session, split.bundle)
        assert report.used_device == "ort/cpu:0+ort/cpu:0"
        assert min(report.cosine.values()) > 0.9999
    assert split.summary()["stage_ms"] == split.chosen.best.stage_ms


def test_what_stands_at_the_place_is_not_touched(source: Bundle, tmp_path: Path, quick: None) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("mine")
    with pytest.raises(InputError):
        split_bundle(source, out, ORT_TWICE, overwrite=True)
    assert (out / "letter.txt").read_text() == "mine"


def test_pieces_that_compute_something_else_are_refused(
    source: Bundle, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: Path, cut: Cut, first: Path, second: Path) -> None:
        cut_in_two(model, cut, first, second)
        graph = onnx.load(second)
        weight = graph.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
        onnx.save(graph, second)

    monkeypatch.setattr(split_bundles, "cut_in_two", damaged)
    with pytest.raises(ParityGateError, match="not that of the whole"):
        split_bundle(source, tmp_path / "out", ORT_TWICE, must_gain=False)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]  # and nothing half-made is left


def test_what_cannot_be_cut_is_refused(source: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two places"):
        split_bundle(source, tmp_path / "out", [StagePlace("ort")])
    with pytest.raises(IncompatibleBundleError, match="no onnx-int8 variant"):
        split_bundle(source, tmp_path / "out", ORT_TWICE, variant="onnx-int8")
    tflite = msgspec.structs.replace(source.manifest.variants[0], format="tflite")
    other = write_manifest(source.path, msgspec.structs.replace(source.manifest, variants=(tflite,)))
    with pytest.raises(IncompatibleBundleError, match="no ONNX variant"):
        split_bundle(other, tmp_path / "out", ORT_TWICE)


def test_by_command(source: Bundle, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["bundle", "split", str(source.path), out, "--on", "ort@0", "ort", "--keep-slower", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stage_engines"] == ["ort", "ort"]
    assert main(["bundle", "split", out, str(tmp_path / "again"), "--on", "ort", "ort"]) != 0  # it is cut already
    command = ["bundle", "split", str(source.path), out, "--on", "ort", "ort", "--keep-slower", "--overwrite"]
    assert main(command) == 0
    assert "run it with Config(stage_engines=('ort', 'ort'))" in capsys.readouterr().out
    assert open_bundle(out).manifest.variants[0].stages
