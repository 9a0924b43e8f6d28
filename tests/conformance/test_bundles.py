"""One bundle with a variant for each engine: whichever is named serves it, with the same answers, by the same names."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, files_of, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.conformance import FOLDER, NETWORKS
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.session import Session

SUFFIXES: dict[Any, str] = {"onnx": ".onnx", "tflite": ".tflite", "ncnn": ".ncnn.param", "mnn": ".mnn"}
ENGINES = ("ort", "openvino", "litert", "ncnn", "mnn", "torch")


@pytest.fixture(scope="module", params=["conv", "conv_int8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    network = next(one for one in NETWORKS if one.name == request.param)
    folder = tmp_path_factory.mktemp(network.name) / "bundle"
    variants = []
    for model_format, suffix in SUFFIXES.items():
        (folder / model_format).mkdir(parents=True)
        for file in files_of(model_format, str(FOLDER / f"{network.name}{suffix}")):
            shutil.copy(file, folder / model_format)
        variants.append(
            Variant(
                name=model_format,
                format=model_format,
                file=f"{model_format}/{network.name}{suffix}",
                level=0,
                precision=network.precision,
            )
        )
    manifest = Manifest(
        name=network.name,
        version="1",
        created_at="2026-11-24T00:00:00+00:00",
        labels=("a",),
        inputs=network.inputs,
        outputs=network.outputs,
        preprocess=Preprocess(input="image", colour="grey"),
        postprocess=Postprocess(name="none"),
        variants=tuple(variants),
    )
    return write_manifest(folder, manifest)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_serves_its_variant(engine: str, bundle: Bundle) -> None:
    network = next(one for one in NETWORKS if one.name == bundle.manifest.name)
    inputs = network.sample(1, batch=2)
    right = network.compute(inputs)["map"]
    with Session(bundle, Config(engines=(engine,), threads=1, fallback_strategy="error")) as session:
        answer = session.predict(inputs)["map"]
        assert session.used_device == f"{engine}/cpu:0"
        assert session.fallback_count == 0
        np.testing.assert_allclose(answer, right, atol=0.08 * float(right.max()))
        with pytest.raises(BadInputFormatError):
            session.predict({"image": inputs["image"].astype(np.float64)})


def test_engines_are_tried_in_the_order_in_which_they_are_named(bundle: Bundle) -> None:
    for engine in ("litert", "ncnn", "mnn", "torch"):
        others = tuple(name for name in ENGINES if name != engine)
        with Session(bundle, Config(engines=(engine, *others), threads=1)) as session:
            assert session.used_device == f"{engine}/cpu:0"


def test_none_but_the_engine_that_every_board_has_is_taken_unasked(bundle: Bundle) -> None:
    with Session(bundle) as session:
        assert session.used_device == "ort/cpu:0"


def test_all_engines_take_the_same_floats_and_agree(bundle: Bundle) -> None:
    image = {"image": np.full((1, 1, 64, 64), 0.5, np.float32)}
    answers = {}
    for engine in ENGINES:
        with Session(bundle, Config(engines=(engine,), threads=1)) as session:
            answers[engine] = session.predict(image)["map"]
    for engine, answer in answers.items():
        assert answer.dtype == np.float32, engine
        np.testing.assert_allclose(answer, answers["ort"], atol=0.03 * float(answers["ort"].max()), err_msg=engine)
