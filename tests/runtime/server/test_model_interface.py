from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lineside_runtime.bundle import write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import BadInputFormatError, EngineError
from lineside_runtime.server.model_interface import NetworkInterface
from lineside_runtime.server.service import status_of
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import RESHAPE_SPECS, halves_and_doubles, make_bundle, unhappy_reshape

ORT = Config(engines=("ort",), threads=1)


def image(side: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((1, 1, side, side), np.float32)}


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_an_image_of_a_size_that_the_network_cannot_run_is_the_clients_error(engine: str, tmp_path: Path) -> None:
    specs = tuple((TensorSpec(name=name, shape=(-1, 1, -1, -1), layout="NCHW"),) for name in "xy")
    bundle = make_bundle(tmp_path / "b", halves_and_doubles(), (specs[0], specs[1]))
    fixed = msgspec.structs.replace(bundle.manifest.preprocess, size=(32, 32))
    bundle = write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, preprocess=fixed))
    with Session(bundle, Config(engines=(engine,), threads=1)) as session:
        interface = NetworkInterface(session)
        with pytest.raises(BadInputFormatError, match="can't run this shape") as caught:
            interface.run(image(33), 30.0)
        assert status_of(caught.value) == 400
        assert str(caught.value.expected) == "x (N, 1, H, W) float32 NCHW, such as (1, 1, 32, 32)"
        assert caught.value.actual == (1, 1, 33, 33)
        assert isinstance(caught.value.__cause__, EngineError if engine == "ort" else BadInputFormatError)
        assert interface.run(image(34), 30.0).outputs["y"].shape == (1, 1, 34, 34)


def test_a_network_that_runs_no_sample_either_is_not_the_clients_error(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", unhappy_reshape(), RESHAPE_SPECS)
    with Session(bundle, ORT) as session, pytest.raises(EngineError):
        NetworkInterface(session).run({"x": np.ones(5, np.float32), "s": np.array([2, 3])}, 30.0)
