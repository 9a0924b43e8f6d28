"""Layers that hurt are found by measurement and stay in float until accuracy holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.candidate import Candidate, SourceModel
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import AnnotatedFrame, ModelInputs
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import LEVELS
from lineside_converters.options import LimitOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.quantization.plan import QuantizationChoice
from lineside_converters.quantization.search import QuantizationSearch
from lineside_converters.reports.builder import layer_choices
from lineside_converters.reports.report_parts import LayerChoice
from lineside_converters.targets import find_target
from lineside_converters.tasks import ClassificationTask, expected_drop, task_of
from lineside_converters.work_folder import WorkFolder, open_work_folder
from lineside_models.frame import Frame
from lineside_models.postprocess import Candidates
from lineside_runtime.bundle import Manifest, Postprocess, Preprocess, Variant
from lineside_runtime.errors import GraphError
from lineside_runtime.tensors import TensorSpec

SIDE, CLASSES = 16, 4


def classifier(*, outlier: float) -> bytes:
    """Three convolutions and a head; one channel of the second is ``outlier`` times as large as the others."""
    rng = np.random.default_rng(3)
    weights = {
        "w0": rng.normal(0, 0.1, (8, 3, 9, 9)),  # most of the multiplications
        "w1": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "w2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "wf": rng.normal(0, 1.0, (CLASSES, 8)),
    }
    weights["w1"][0] *= outlier
    weights["w2"][:, 0] /= outlier  # so that the float network hears all channels alike
    nodes, at = [], "image"
    for number in range(3):
        pads = [1 if number else 4] * 4
        nodes.append(helper.make_node("Conv", [at, f"w{number}"], [f"c{number}"], name=f"conv{number}", pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"))
        at = f"r{number}"
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "wf"], ["logits"], name="head", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [value("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def context(folder: Path, *, outlier: float, max_drop: float) -> Context:
    source, clean = folder / "net.onnx", folder / "clean.onnx"
    source.write_bytes(classifier(outlier=outlier))
    clean_graph(source, clean)
    rng = np.random.default_rng(1)
    feeds = tuple({"image": rng.normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(12))
    manifest = Manifest(
        name="net",
        version="1",
        created_at="2026-11-24T00:00:00Z",
        task="classification",
        labels=tuple("abcd"),
        inputs=(TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", shape=(1, CLASSES)),),
        preprocess=Preprocess(input="image", colour="rgb", resize="stretch", size=(SIDE, SIDE)),
        postprocess=Postprocess(name="classification"),
        variants=(Variant(name="v", format="onnx", file="v/model.onnx", level=0, precision="fp32"),),
    )
    inputs = ModelInputs(
        calibration=feeds,
        calibration_source="noise",
        tuning=(),
        evaluation=(),
        evaluation_source="",
        simulated_truth=True,
    )
    return Context(
        source=SourceModel.of(clean, manifest),
        manifest=manifest,
        inputs=inputs,
        level=dataclasses.replace(LEVELS[1], calibrations=("minmax",)),
        target=find_target("cpu"),
        task=task_of(manifest),
        work=WorkFolder(folder, lambda text: None),
        progress=ProgressReporter(lambda text: None),
        limits=LimitOptions(max_drop=max_drop),
    )


def search_in(given: Context, work: WorkFolder, say: Callable[[str], None] = lambda text: None) -> QuantizationSearch:
    given = dataclasses.replace(given, work=work, progress=ProgressReporter(say))
    return QuantizationSearch(given.source.model, given)


def layers_of(given: Context, int8: Path, chosen: QuantizationChoice) -> tuple[LayerChoice, ...]:
    candidate = Candidate(model=given.source.model, quantization=chosen, int8=int8)
    return layer_choices(candidate, given.inputs.calibration[0])


def test_a_plain_plan_that_holds_needs_no_search(tmp_path: Path) -> None:
    given = context(tmp_path, outlier=1.0, max_drop=0.2)
    with open_work_folder(None, lambda text: None) as work:
        chosen, int8 = search_in(given, work).choose()
        assert chosen.held
        assert chosen.harms == ()
        assert {layer.precision for layer in layers_of(given, int8, chosen)} == {"int8"}


def test_the_layer_that_hurts_goes_to_float(tmp_path: Path) -> None:
    given = context(tmp_path, outlier=3000.0, max_drop=0.0)
    said: list[str] = []
    with open_work_folder(None, lambda text: None) as work:
        chosen, int8 = search_in(given, work, said.append).choose()
        assert {harm.node for harm in chosen.harms} <= {"conv0", "conv1", "conv2", "head"}
        shares = [harm.share for harm in chosen.harms]
        assert shares == sorted(shares, reverse=True)
        # The outlier is in the second's output and the third's input: per tensor, the other channels round to 0.
        assert {harm.node for harm in chosen.harms[:2]} == {"conv1", "conv2"}
        assert chosen.held
        layers = {layer.name: layer for layer in layers_of(given, int8, chosen)}
        assert layers["conv2"].precision == "fp32"
        assert layers["conv2"].why == "hurt the outputs most"
        assert layers["conv2"].harm in shares[:2]
        assert layers["conv0"].macs > 0
        assert onnx.load(int8).graph.output[0].name == "logits"
    assert any("layers in float" in line or "drops by" in line for line in said)


def test_what_was_decided_is_kept(tmp_path: Path) -> None:
    given = context(tmp_path, outlier=3000.0, max_drop=0.0)
    found: list[tuple[QuantizationChoice, bytes]] = []
    said: list[str] = []
    for _ in range(2):
        with open_work_folder(tmp_path / "work", said.append) as work:
            chosen, int8 = search_in(given, work, said.append).choose()
            found.append((chosen, int8.read_bytes()))
    assert found[0] == found[1]
    assert "harms: done by an earlier run" in said


def test_what_was_measured_on_frames_is_measured_again_once_their_annotations_are_corrected(tmp_path: Path) -> None:
    given = context(tmp_path, outlier=3000.0, max_drop=1.0)
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(8)]

    def steps(labels: Sequence[int]) -> list[str]:
        frames = [
            AnnotatedFrame(Frame(image=image), np.zeros((0, 4), np.float32), np.array([label], np.int64))
            for image, label in zip(images, labels, strict=True)
        ]
        inputs, said = dataclasses.replace(given.inputs, tuning=frames), list[str]()
        with open_work_folder(tmp_path / "work", said.append) as work:
            search_in(dataclasses.replace(given, inputs=inputs), work).choose()
        return [line for line in said if line.startswith("tuned")]

    assert not steps([0] * 8)
    assert steps([0] * 8)  # by the earlier run
    assert not steps([1] * 8)


def answer(*scores: float) -> Candidates:
    order = np.argsort(-np.array(scores), kind="stable")
    return Candidates(
        boxes=np.zeros((len(scores), 4), np.float32), scores=np.array(scores, np.float32)[order], labels=order
    )


def test_a_change_of_mind_costs_what_the_source_thought_of_it() -> None:
    sure, torn, other = answer(0.9, 0.1), answer(0.52, 0.48), answer(0.2, 0.8)
    assert expected_drop([sure, sure], [sure, sure]) == 0
    assert expected_drop([sure], [other]) == pytest.approx(0.8)
    assert expected_drop([torn], [other]) == pytest.approx(0.04)


def test_top_1_counts_the_likeliest_type() -> None:
    truth = [type("T", (), {"boxes": np.zeros((0, 4)), "labels": np.array([label])})() for label in (0, 1, 1)]
    answers = [answer(0.9, 0.1), answer(0.9, 0.1), answer(0.1, 0.9)]
    task = ClassificationTask()
    assert task.score(truth, answers) == pytest.approx(2 / 3)
    drop = task.drop(truth, [answer(0.9, 0.1), answer(0.1, 0.9), answer(0.1, 0.9)], answers, seed=1)
    assert drop.drop == pytest.approx(1 / 3)
    assert drop.low <= drop.drop <= drop.high


def generic(folder: Path, *, outlier: float) -> Context:
    """The same network when nobody here reads its outputs."""
    given = context(folder, outlier=outlier, max_drop=0.0)
    return dataclasses.replace(given, task=None, manifest=msgspec.structs.replace(given.manifest, task="generic"))


def test_where_nobody_reads_the_outputs_layers_go_to_float_until_these_correlate(tmp_path: Path) -> None:
    given = generic(tmp_path, outlier=3000.0)
    with open_work_folder(None, lambda text: None) as work:
        search = search_in(given, work)
        chosen, _ = search.choose()
        assert chosen.held
        assert chosen.tuning_drop is not None
        assert chosen.tuning_drop <= 1 - given.level.min_correlation_alone
        assert set(chosen.plan.float_nodes) & {"conv1", "conv2"}


def test_a_file_that_the_engine_cannot_load_is_said_to_be_the_quantisers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = generic(tmp_path, outlier=1.0)
    (tmp_path / "broken.onnx").write_bytes(given.source.model.read_bytes()[:-200])
    monkeypatch.setattr(QuantizationSearch, "int8", lambda self, plan: tmp_path / "broken.onnx")
    with open_work_folder(None, lambda text: None) as work, pytest.raises(GraphError, match="quantiser") as caught:
        search_in(given, work).choose()
    assert caught.value.actual is not None


def test_biases_are_corrected_before_anything_goes_to_float(tmp_path: Path) -> None:
    given = context(tmp_path, outlier=1.0, max_drop=-1.0)  # nothing can hold that: every way is tried
    biased = onnx.load(given.source.model)
    for node in biased.graph.node:
        if node.op_type == "Conv":
            node.input.append(f"{node.name}_bias")
            biased.graph.initializer.append(numpy_helper.from_array(np.full(8, 0.1, np.float32), f"{node.name}_bias"))
    onnx.save(biased, given.source.model)
    said: list[str] = []
    with open_work_folder(None, lambda text: None) as work:
        search_in(given, work, said.append).choose()
    order = [said.index(next(line for line in said if words in line)) for words in ("biases corrected", "1 layers in")]
    assert order == sorted(order)
