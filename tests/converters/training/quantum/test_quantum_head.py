"""`QuantumHead` and ``lineside train quantum-head``: from images to a bundle that an agent runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lineside import quantum
from lineside.cli import main
from lineside_converters.training.quantum.features import pool_maps, pooled_features, read_fold
from lineside_models.anomaly.features import features_bundle
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.preprocess import prepare
from lineside_models.quantum.network import pool
from lineside_models.simulator import Kind, render
from lineside_models.vision.images import read_image
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import AccuracyGateError, BundleFormatError, ConfigError, DatasetError, TrainingError
from lineside_runtime.session import Session
from tests.worlds.agent import AgentProcess, folder_camera, write_agent

pytestmark = pytest.mark.torch

IMAGES = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that are easily told apart, ``good`` strips and ``board``; the last of each are the val fold."""
    root = tmp_path_factory.mktemp("parts")
    rows = ["image,fold"]
    kinds: dict[str, Kind] = {"good": "steel", "board": "pcb"}
    for name, kind in kinds.items():
        (root / name).mkdir()
        for number in range(IMAGES):
            cv2.imwrite(str(root / name / f"{number}.png"), render(kind, number, size=(96, 96)).image)
            rows.append(f"{name}/{number}.png,{'val' if number > 7 else 'train'}")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "parts-quantum"
    command = ["train", "quantum-head", "--data", str(data), "--out", str(out), "--qubits", "4", "--layers", "2"]
    assert main([*command, "--epochs", "100", "--learning-rate", "0.03"]) == 0
    return out


def test_the_bundle_computes_what_the_head_does(bundle: Path, data: Path) -> None:
    opened = open_bundle(bundle)
    report = json.loads((bundle / "report.json").read_text())
    assert report["difference_from_pennylane"] <= 1e-6
    assert report["images"] == {"train": 14, "held": 2}
    head = quantum.QuantumHead.load(opened)
    image = read_image(data / "good" / "9.png")
    with Session(opened, Config(threads=1)) as session:
        inspector = Inspector(session)
        assert inspector.inspect(Frame(image=image)).passed
        assert not inspector.inspect(Frame(image=read_image(data / "board" / "9.png"))).passed
        how = opened.manifest.preprocess
        logits = session.predict({how.input: prepare(image, how)[0]})["logits"]
    with torch.no_grad():
        wanted = head.network(torch.from_numpy(pooled_features([image]))).numpy()
    assert np.abs(logits - wanted).max() < 1e-4
    trained_on = read_fold([data], "val", head.labels).rows  # what training saw of this file
    with torch.no_grad():
        assert np.abs(head.network(torch.from_numpy(trained_on)).numpy() - logits).max(1).min() < 1e-4
    assert main(["bundle", "verify", str(bundle)]) == 0


def test_a_loaded_head_is_evaluated_exactly_with_shots_and_with_noise(bundle: Path, data: Path) -> None:
    head = quantum.QuantumHead.load(bundle)
    assert head.labels == ("board", "good")
    assert head.evaluate(data) == 1
    assert head.evaluate(data, shots=4000, device="default.qubit") == 1
    assert head.evaluate(data, shots=2000, depolarizing=0.75) < 1  # nothing is left of the state
    with pytest.raises(ConfigError, match="depolarizing"):
        head.evaluate(data, depolarizing=-1)


def test_an_agent_runs_it(bundle: Path, data: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, name in enumerate(("good", "board", "good")):
        shutil.copy(data / name / "9.png", frames / f"{number}.png")
    write_agent(tmp_path, bundle=str(bundle), camera=folder_camera(), exit_when_done=True)
    agent = AgentProcess(tmp_path)
    agent.start()
    try:
        assert agent.wait(240.0) == 0, agent.log
    finally:
        agent.stop()
    assert [row.verdict for row in agent.rows()] == ["pass", "reject", "pass"]


def test_features_in_numpy_are_those_of_the_graph() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((2, *spec.shape[1:]), np.float32) for spec in features_bundle().manifest.outputs]
    assert np.allclose(pool_maps(maps), pool(*map(torch.from_numpy, maps)).numpy(), atol=1e-5)


def test_what_cannot_be_used_is_refused(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not trained"):
        quantum.QuantumHead().optimize(tmp_path / "out")
    with pytest.raises(TrainingError, match="not trained"):
        quantum.QuantumHead().evaluate(data)
    with pytest.raises(TrainingError, match="learning_rate"):
        quantum.QuantumHead(learning_rate=2.0)
    with pytest.raises(BundleFormatError, match="no quantum head"):
        quantum.QuantumHead.load(features_bundle())
    single = tmp_path / "single"
    (single / "a").mkdir(parents=True)
    cv2.imwrite(str(single / "a" / "0.png"), render("steel", 0, size=(96, 96)).image)
    with pytest.raises(DatasetError):
        quantum.QuantumHead().train(single)
    assert main(["train", "quantum-head", "--data", str(data), "--out", str(bundle)]) != 0


def test_a_head_that_has_learned_nothing_becomes_no_bundle(tmp_path: Path) -> None:
    for name in ("a", "b"):  # the same images: nothing tells the classes apart
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            cv2.imwrite(str(tmp_path / "data" / name / f"{number}.png"), render("steel", number, size=(96, 96)).image)
    head = quantum.QuantumHead(2, 1)
    head.train(tmp_path / "data")
    with pytest.raises(AccuracyGateError, match="hardly better"):
        head.optimize(tmp_path / "out")
    assert not (tmp_path / "out").exists()
