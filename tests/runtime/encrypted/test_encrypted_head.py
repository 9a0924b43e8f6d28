"""The encrypted head gives the sums of the INT8 engine bit for bit, and refuses what it cannot compute exactly."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside.privacy import EncryptedHead
from lineside_converters.split.linear_head import HEAD_NAME, TRUNK_FOLDER, split_classifier
from lineside_models.golden import replay
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from lineside_runtime.encrypted import HeadDescription, LinearHead, read_head, write_head
from lineside_runtime.encrypted.packing import Packing
from lineside_runtime.encrypted.scheme import COEFFICIENT_BITS, DEGREE, STANDARD_BITS, CipherHead, DeviceKeys
from lineside_runtime.encrypted.trial import try_head
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    ConfigError,
    GraphError,
    IncompatibleBundleError,
    InputNotFoundError,
    RequestError,
)
from lineside_runtime.session import Session
from tests.runtime.encrypted.heads import CHANNELS, LABELS, images, linear_head, make_classifier
from tests.runtime.encrypted.reference import sums
from tests.worlds.bundles import make_bundle, make_shade_classifier

SHAPES = [(1, 1), (2, 5), (7, 1280), (33, 200), (3, 4096)]


class LocalHead:
    """A server in this process."""

    def __init__(self, head: LinearHead) -> None:
        self.start(head)
        self.sent: list[bytes] = []

    def start(self, head: LinearHead) -> None:
        self._head = CipherHead(head)
        self._keys: dict[str, object] = {}

    def describe(self) -> HeadDescription:
        return self._head.description

    def send_keys(self, keys: bytes) -> str:
        self._keys["device"] = self._head.read_keys(keys)
        return "device"

    def query(self, keys: str, ciphertext: bytes) -> bytes:
        self.sent.append(ciphertext)
        if keys not in self._keys:
            raise RequestError("no keys of this name are held", status=404)
        return self._head.apply(ciphertext, self._keys[keys])


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("split")
    classifier = make_classifier(folder / "parts")
    split_classifier(classifier, folder / "out")
    return classifier, folder / "out"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_of_plain_integers(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(shape)
    weights, bias = random.integers(-127, 128, shape), random.integers(-10_000, 10_000, shape[0])
    head = linear_head(weights, bias)
    served = CipherHead(head)
    keys = DeviceKeys(served.packing, head.description.sum_bits)
    features = random.integers(-128, 128, shape[1])
    answer, budget = keys.decrypt(served.apply(keys.encrypt(features), served.read_keys(keys.evaluation_keys)))
    assert answer.tolist() == sums(weights.tolist(), bias.tolist(), features.tolist())
    assert budget >= 4


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_possible_sums_do_not_wrap_around(sign: int) -> None:
    weights = np.full((16, 4096), 127 * sign)
    head = linear_head(weights, np.full(16, 100_000 * sign), (0, 255))
    trial = try_head(head, 1, features=np.full((1, 4096), 255))
    assert (trial.equal, trial.queries) == (1, 1)
    assert trial.noise_budget_bits >= 4
    assert head.sums(np.full((1, 4096), 255)).tolist() == [[sign * (127 * 255 * 4096 + 100_000)] * 16]


def test_parameters_are_within_the_standards_table() -> None:
    assert DEGREE == 8192
    assert sum(COEFFICIENT_BITS) <= STANDARD_BITS == 218


def test_a_head_of_sixteen_classes_needs_thirteen_rotations() -> None:
    packing = Packing(1280, 10)
    assert (packing.rows, packing.period, packing.baby_steps, packing.giant_steps) == (16, 2048, 4, 4)
    assert len(packing.rotations) == 13


def engine_sums(head: LinearHead, features: np.ndarray) -> np.ndarray:
    """Sums of ONNX Runtime's integer product; the weights of a symmetric quantization fit into INT8."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "sums",
        [
            value("x", helper.np_dtype_to_tensor_dtype(features.dtype), ["n", "k"]),
            value("w", TensorProto.INT8, ["k", "m"]),
        ],
        [value("y", TensorProto.INT32, ["n", "m"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = engine.run(None, {"x": features, "w": head.weights.T.astype(np.int8)})
    return np.asarray(found) + head.bias


def test_trunk_and_encrypted_head_are_the_classifier(split: tuple[Bundle, Path]) -> None:
    classifier, out = split
    head = read_head(out / HEAD_NAME)
    server = LocalHead(head)
    batch = images(5, seed=11)[..., 0].astype(np.float32)[:, None] / 255
    with EncryptedHead(out / TRUNK_FOLDER, server=server) as device, Session(classifier) as whole:
        logits = device.predict({"image": batch})["logits"]
        wanted = whole.predict({"image": batch})["logits"]
        features = device.session.predict({"image": batch})[head.description.feature_output]
        assert np.array_equal(device.sums(features), engine_sums(head, features))
        assert device.least_noise_budget_bits is not None and device.least_noise_budget_bits >= 4
    step = np.ptp(wanted) / 255  # the classifier rounds its logits to 8 bits; the sums are not rounded
    assert np.abs(logits - wanted).max() <= 2 * step
    assert logits.argmax(axis=1).tolist() == wanted.argmax(axis=1).tolist()


def test_equal_features_are_encrypted_differently(split: tuple[Bundle, Path]) -> None:
    _, out = split
    server = LocalHead(read_head(out / HEAD_NAME))
    with EncryptedHead(out / TRUNK_FOLDER, server=server) as device:
        features = np.zeros((2, device.description.features), np.int8)
        device.sums(features)
    assert len(set(server.sent)) == 2


def test_matmul_and_add_are_a_linear_layer_too(tmp_path: Path) -> None:
    split_classifier(make_classifier(tmp_path / "parts", as_matmul=True), tmp_path / "out")
    split_classifier(make_classifier(tmp_path / "gemm"), tmp_path / "gemm-out")
    found, wanted = read_head(tmp_path / "out" / HEAD_NAME), read_head(tmp_path / "gemm-out" / HEAD_NAME)
    assert np.array_equal(found.weights, wanted.weights)
    assert np.abs(found.bias - wanted.bias).max() <= np.abs(wanted.bias).max() * 0.01


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleBundleError, match="no classifier"):
        split_classifier(make_bundle(tmp_path / "detector"), tmp_path / "out")
    with pytest.raises(IncompatibleBundleError, match="INT8"):
        split_classifier(make_shade_classifier(tmp_path / "shade"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_that_stayed_in_float_is_refused(tmp_path: Path) -> None:
    bundle = make_classifier(tmp_path / "parts")
    path = bundle.file("onnx-int8/model.onnx")
    model = onnx.load(path)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.input[1] = "float"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((CHANNELS, len(LABELS)), np.float32), "float"))
    onnx.save(model, path)
    with pytest.raises(GraphError, match="computes in float"):
        split_classifier(write_manifest(bundle.path, bundle.manifest), tmp_path / "out")


def test_a_bundle_that_is_no_trunk_and_the_trunk_of_another_head_are_refused(
    tmp_path: Path, split: tuple[Bundle, Path]
) -> None:
    classifier, out = split
    server = LocalHead(read_head(out / HEAD_NAME))
    with pytest.raises(IncompatibleBundleError, match="no trunk"):
        EncryptedHead(classifier, server=server)
    other = make_classifier(tmp_path / "other", labels=("good", "bad"))
    split_classifier(other, tmp_path / "out")
    with pytest.raises(IncompatibleBundleError, match="not split from"):
        EncryptedHead(tmp_path / "out" / TRUNK_FOLDER, server=server)


def test_a_server_that_is_started_again_is_asked_on_only_with_the_same_head(split: tuple[Bundle, Path]) -> None:
    head = read_head(split[1] / HEAD_NAME)
    scales = tuple(2 * scale for scale in head.description.scales)
    other = LinearHead(-head.weights, head.bias, msgspec.structs.replace(head.description, scales=scales))
    server = LocalHead(head)
    with EncryptedHead(split[1] / TRUNK_FOLDER, server=server) as device:
        features = np.ones((1, head.description.features), np.int8)
        wanted = head.sums(features).tolist()
        for served in (head, other, head):
            server.start(served)
            if served is head:
                assert device.sums(features).tolist() == wanted
            else:
                for _ in range(2):
                    with pytest.raises(IncompatibleBundleError, match="another one of this name"):
                        device.sums(features)


def test_an_answer_of_other_keys_is_refused_and_never_decrypted_to_noise() -> None:
    head = linear_head(np.ones((2, 8), int), np.zeros(2, int))
    served = CipherHead(head)
    mine, others = (DeviceKeys(served.packing, head.description.sum_bits) for _ in range(2))
    answer = served.apply(others.encrypt(np.ones(8, np.int64)), served.read_keys(others.evaluation_keys))
    with pytest.raises(BadInputFormatError, match="no noise budget"):
        mine.decrypt(answer)


def test_garbage_is_refused_by_both_sides() -> None:
    head = linear_head(np.ones((2, 8), int), np.zeros(2, int))
    served = CipherHead(head)
    keys = DeviceKeys(served.packing, head.description.sum_bits)
    good = served.read_keys(keys.evaluation_keys)
    query = keys.encrypt(np.ones(8, np.int64))
    for garbage in (b"", b"\0" * 100, query[:-1], query[: len(query) // 2], b"x" + query[1:], keys.evaluation_keys):
        with pytest.raises(BadInputFormatError):
            served.apply(garbage, good)
        with pytest.raises(BadInputFormatError):
            keys.decrypt(garbage)
    wide = CipherHead(linear_head(np.ones((2, 300), int), np.zeros(2, int)))
    with pytest.raises(BadInputFormatError, match="keys of another head"):
        wide.read_keys(DeviceKeys(Packing(8, 2), wide.description.sum_bits).evaluation_keys)


def test_a_secret_key_is_kept_in_a_file_of_its_owner(tmp_path: Path) -> None:
    head = linear_head(np.ones((2, 8), int), np.zeros(2, int))
    served = CipherHead(head)
    keys = DeviceKeys(served.packing, head.description.sum_bits)
    keys.save(tmp_path / "secret.key")
    assert (tmp_path / "secret.key").stat().st_mode & 0o077 == 0
    again = DeviceKeys(served.packing, head.description.sum_bits, (tmp_path / "secret.key").read_bytes())
    query = keys.encrypt(np.arange(8, dtype=np.int64))
    found, _ = again.decrypt(served.apply(query, served.read_keys(again.evaluation_keys)))
    assert found.tolist() == [28, 28]


def test_head_files_are_checked(tmp_path: Path) -> None:
    head = linear_head(np.ones((2, 8), int), np.zeros(2, int))
    write_head(tmp_path / "head.npz", head)
    assert (tmp_path / "head.npz").stat().st_mode & 0o077 == 0
    assert read_head(tmp_path / "head.npz").description == head.description
    with pytest.raises(InputNotFoundError):
        read_head(tmp_path / "absent.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "head.npz").read_bytes()[:-40])
    with pytest.raises(BundleFormatError, match=r"no head; expected what lineside privacy split writes\. Split"):
        read_head(tmp_path / "cut.npz")
    with pytest.raises(ConfigError, match="only zeros"):
        linear_head(np.zeros((2, 8), int), np.zeros(2, int))


def test_the_trunk_is_a_bundle_like_any_other(split: tuple[Bundle, Path]) -> None:
    trunk = open_bundle(split[1] / TRUNK_FOLDER)
    assert trunk.manifest.identity == "parts-trunk@1.0.0"
    with Session(trunk) as session:
        assert min(replay(session, trunk).cosine.values()) > 0.999
    kept = onnx.load(trunk.file("onnx-int8/model.onnx")).graph.initializer
    assert not any(sorted(one.dims) == sorted((len(LABELS), CHANNELS)) for one in kept)
