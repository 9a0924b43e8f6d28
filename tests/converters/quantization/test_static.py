"""Cleaning and quantising a graph: what comes out, what is refused, and that it comes out the same again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import Activation, CalibrationMethod
from lineside_converters.quantization.static import first_convs, hash_feeds, quantize
from lineside_models.vision.model_facts import METADATA_KEY
from lineside_runtime.errors import CalibrationError, GraphError, InputNotFoundError
from lineside_runtime.system.vnni import WEIGHT_BITS_KEY
from tests.converters import nets
from tests.runtime.onnx_models import exact_session


def run(path: Path, tensor: np.ndarray) -> list[np.ndarray]:
    return exact_session(path).run(None, {"image": tensor})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    path.write_bytes(nets.convnet())
    return path


@pytest.fixture(scope="module")
def clean(source: Path) -> Path:
    path = source.with_name("clean.onnx")
    clean_graph(source, path)
    return path


def written(folder: Path, data: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


def small(
    nodes: list[onnx.NodeProto],
    *,
    opsets: tuple[tuple[str, int], ...] = (("", 17),),
    weights: tuple[onnx.TensorProto, ...] = (),
) -> bytes:
    image, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"]) for name in ("image", "y"))
    graph = helper.make_graph(nodes, "small", [image], [y], weights)
    imports = [helper.make_opsetid(*one) for one in opsets]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()


def test_cleaning_drops_idle_nodes_keeps_answers_and_metadata_and_changes_nothing_that_is_clean(
    source: Path, clean: Path, tmp_path: Path
) -> None:
    before, after = onnx.load(source), onnx.load(clean)
    assert "Identity" in {node.op_type for node in before.graph.node}
    assert "Identity" not in {node.op_type for node in after.graph.node}
    assert {entry.key for entry in after.metadata_props} >= {METADATA_KEY}
    tensor, again = nets.noise(1)[0], tmp_path / "again.onnx"
    for wanted, found in zip(run(source, tensor), run(clean, tensor), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    clean_graph(clean, again)
    assert [node.op_type for node in onnx.load(again).graph.node] == [node.op_type for node in after.graph.node]
    np.testing.assert_array_equal(run(again, tensor)[0], run(clean, tensor)[0])


def test_int8_takes_any_size_and_answers_nearly_the_same(clean: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    quantize(clean, target, feeds=nets.feeds(nets.noise(4)))
    assert target.stat().st_size < 0.45 * clean.stat().st_size
    model = onnx.load(target)
    assert [value.name for value in model.graph.output] == ["cls_8", "box_8"]
    assert {entry.key for entry in model.metadata_props} == {METADATA_KEY}
    for tensor in (nets.noise(1, seed=9)[0], nets.noise(1, side=160, seed=9)[0]):
        wanted, found = run(clean, tensor)[0].ravel(), run(target, tensor)[0].ravel()
        assert np.corrcoef(wanted, found)[0, 1] > 0.95


def test_frames_of_all_sizes_count_and_their_order_does_not(clean: Path, tmp_path: Path) -> None:
    tensors = [*(t - 4 for t in nets.noise(2)), *(t + 4 for t in nets.noise(2, side=160, seed=5))]
    made = []
    for number, chosen in enumerate((tensors, tensors[::-1], tensors[:2], tensors[2:])):
        target = tmp_path / f"{number}.onnx"
        quantize(clean, target, feeds=nets.feeds(chosen))
        made.append(target.read_bytes())
    assert made[0] == made[1]
    assert len({*made}) == 3  # leaving either size out gives other ranges


def test_the_first_convolutions_can_stay_in_float(clean: Path, tmp_path: Path) -> None:
    def in_float(count: int) -> list[str]:
        target = tmp_path / f"float{count}.onnx"
        kept = first_convs(onnx.load(clean), count)
        quantize(clean, target, feeds=nets.feeds(nets.noise(2)), exclude=kept)
        model = onnx.load(target)
        weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        return [node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]

    assert in_float(0) == []
    assert in_float(3) == ["conv0"]  # 15 convolutions: of each eight at most one


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_methods_take_mixed_sizes_and_print_nothing(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: CalibrationMethod
) -> None:
    target = tmp_path / "int8.onnx"
    tensors = [*nets.noise(2), *nets.noise(1, side=160)]
    quantize(clean, target, feeds=nets.feeds(tensors), method=method)
    wanted, found = run(clean, tensors[0])[0].ravel(), run(target, tensors[0])[0].ravel()
    assert np.corrcoef(wanted, found)[0, 1] > 0.8
    assert capsys.readouterr().out == ""


def test_another_process_writes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.converters import nets\n"
        "from lineside_converters.graph.cleanup import clean_graph\n"
        "from lineside_converters.quantization.static import quantize\n"
        "a, b, c = map(Path, sys.argv[1:])\n"
        "clean_graph(a, b); quantize(b, c, feeds=nets.feeds(nets.noise(2)))\n"
    )
    there = tmp_path / "there.onnx"
    command = [sys.executable, "-c", code, *map(str, (source, tmp_path / "clean.onnx", there))]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    clean_graph(source, tmp_path / "clean.onnx")
    quantize(tmp_path / "clean.onnx", tmp_path / "here.onnx", feeds=nets.feeds(nets.noise(2)))
    assert there.read_bytes() == (tmp_path / "here.onnx").read_bytes()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([], "no calibration frames"),
        ([np.full((1, 1, 96, 96), np.nan, np.float32)], "not finite"),
        ([np.ones((1, 1, 96, 96), np.float32)] * 2, "flat"),
        ([nets.noise(1)[0].repeat(3, axis=1)], "does not run"),
    ],
)
def test_useless_calibration_frames_are_refused(
    clean: Path, tmp_path: Path, tensors: list[np.ndarray], says: str
) -> None:
    with pytest.raises(CalibrationError, match=says) as caught:
        quantize(clean, tmp_path / "int8.onnx", feeds=nets.feeds(tensors))
    assert caught.value.code == 6005
    assert not (tmp_path / "int8.onnx").exists()


def test_a_graph_with_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path, small([helper.make_node("Sqrt", ["image"], ["y"])]))
    clean_graph(source, tmp_path / "clean.onnx")
    with pytest.raises(GraphError, match="no node") as caught:
        quantize(tmp_path / "clean.onnx", tmp_path / "int8.onnx", feeds=nets.feeds(nets.noise(1)))
    assert "Sqrt" in str(caught.value)


def test_a_graph_whose_output_is_its_input_too_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime's quantiser gives up on it with an assertion."""
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    model = onnx.load_from_string(small([helper.make_node("Conv", ["image", "w"], ["y"])], weights=(weight,)))
    model.graph.output.append(model.graph.input[0])
    clean_graph(written(tmp_path, model.SerializeToString()), tmp_path / "clean.onnx")
    with pytest.raises(GraphError, match="cannot be quantised"):
        quantize(tmp_path / "clean.onnx", tmp_path / "int8.onnx", feeds=nets.feeds(nets.noise(1)))


def test_an_unknown_operator_is_named_with_its_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["image"], ["x"], name="fine"),
        helper.make_node("Sharpen", ["x"], ["y"], name="stage2/sharpen", domain="acme"),
    ]
    source = written(tmp_path, small(nodes, opsets=(("", 17), ("acme", 1))))
    with pytest.raises(GraphError, match=r"stage2/sharpen.*Sharpen.*acme") as caught:
        clean_graph(source, tmp_path / "clean.onnx")
    assert caught.value.code == 6001


def test_damaged_and_missing_files_are_refused_and_weights_in_other_files_are_not_followed(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        clean_graph(tmp_path / "none.onnx", tmp_path / "clean.onnx")
    for data in (b"", b"not a model", nets.convnet()[:5000]):
        with pytest.raises(GraphError):
            clean_graph(written(tmp_path, data), tmp_path / "clean.onnx")
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    source = written(tmp_path, small([helper.make_node("Conv", ["image", "w"], ["y"])], weights=(weight,)))
    with pytest.raises(GraphError, match="another file"):
        clean_graph(source, tmp_path / "clean.onnx")


def test_a_set_of_frames_has_one_hash() -> None:
    tensors = nets.feeds(nets.noise(3))
    assert hash_feeds(tensors) == hash_feeds([{name: array.copy() for name, array in feed.items()} for feed in tensors])
    assert len({hash_feeds(tensors), hash_feeds(tensors[::-1]), hash_feeds(tensors[:2])}) == 3


def test_a_bias_as_tensorflow_exports_it_is_quantised_by_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    tensors = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (8, 4)), ("b", (1, 4)))
    ]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["g"], name="head"),
        helper.make_node("Add", ["g", "b"], ["y"], name="again"),  # the same bias, used as it is
    ]
    shapes = [value("image", TensorProto.FLOAT, ["n", 8])], [value("y", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "tf", *shapes, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    source, target = written(tmp_path, model.SerializeToString()), tmp_path / "clean.onnx"
    clean_graph(source, target)
    made = onnx.load(target)
    head = next(node for node in made.graph.node if node.op_type == "Gemm")
    (bias,) = (tensor for tensor in made.graph.initializer if tensor.name == head.input[2])
    assert list(bias.dims) == [4]
    tensor = rng.normal(size=(3, 8)).astype(np.float32)
    assert np.allclose(run(source, tensor)[0], run(target, tensor)[0], atol=1e-5)


@pytest.mark.parametrize(("activation", "said"), [("u8s7", ["7"]), ("u8s8", [])])
def test_how_many_bits_weights_have_is_said_once_whatever_the_source_said_of_its_own(
    tmp_path: Path, clean: Path, activation: Activation, said: list[str]
) -> None:
    """A network that was trained on from an INT8 file of 7 bits brings its metadata along."""
    model = onnx.load(clean)
    model.metadata_props.add(key=WEIGHT_BITS_KEY, value="7")
    onnx.save(model, tmp_path / "source.onnx")
    feeds = [{"image": np.random.default_rng(0).random((1, 1, 32, 32), np.float32)}]
    quantize(tmp_path / "source.onnx", tmp_path / "int8.onnx", feeds=feeds, activation=activation)
    metadata = onnx.load(tmp_path / "int8.onnx").metadata_props
    assert [entry.value for entry in metadata if entry.key == WEIGHT_BITS_KEY] == said


def test_entropy_calibration_that_would_take_hours_is_refused_by_the_tensor(clean: Path, tmp_path: Path) -> None:
    silenced, loud = nets.noise(2)
    with pytest.raises(GraphError, match="would take hours") as caught:
        quantize(clean, tmp_path / "int8.onnx", feeds=nets.feeds([silenced * 1e-4, loud]), method="entropy")
    assert "times in" in str(caught.value.actual)
    assert not (tmp_path / "int8.onnx").exists()
    quantize(clean, tmp_path / "int8.onnx", feeds=nets.feeds([loud, silenced * 1e-4]), method="entropy")
    assert (tmp_path / "int8.onnx").exists()
