"""An agent with a document bundle: staging, its socket, and what it refuses."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from lineside.cli import main
from lineside.optimizer import Optimizer
from lineside_agent.config import DocumentsConfig, InspectConfig
from lineside_agent.deployment.bundle_trial import try_bundle
from lineside_agent.documents.service import DocumentRequest, DocumentService, ask
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_converters.training.documents.config import DocumentConfig
from lineside_converters.training.documents.trainer import train_document
from lineside_models.frame import Frame
from lineside_models.nlp.extraction.sample_contract import GOLDEN_TEXT
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import InputNotFoundError, RequestError, UnsupportedModelError
from tests.models.nlp.extraction.generated_contracts import contract, write_contracts, write_encoder
from tests.peers.waiting import wait_for
from tests.worlds.agent import AgentProcess, write_agent
from tests.worlds.bundles import dark


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, short_gates: None) -> Bundle:
    work = tmp_path_factory.mktemp("documents")
    data = write_contracts(work / "data", train=30, val=4)
    settings = {"encoder": write_encoder(work / "encoder"), "epochs": 30, "learning_rate": 5e-3, "frozen_layers": 0}
    train_document(DocumentConfig(data=(data,), out=work / "run", **settings), lambda _: None)  # type: ignore[arg-type]
    return Optimizer(work / "run", "rpi5", 0, data=[data], out=work / "bundle", name="contracts").run().bundle


def test_a_deployed_document_bundle_answers(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_agent(tmp_path, tables="[documents]\n", camera={"type": "none"}, bundle=str(bundle.path))
    agent, folder = AgentProcess(tmp_path), tmp_path / "state"
    agent.start()
    try:

        def answers() -> bool:
            try:
                return bool(ask(folder, DocumentRequest(content=b"agreement")))
            except (InputNotFoundError, RequestError):  # not there, or no bundle yet
                return False

        wait_for(answers)
        (tmp_path / "contract.txt").write_text(contract(33)[0])
        assert main(["read", str(tmp_path / "contract.txt"), "--agent", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["source"] == "contract.txt" and found["bundle"] == bundle.manifest.identity
        assert {"title", "agreement_date"} <= {one["type"] for one in found["entities"]}
        with pytest.raises(RequestError, match="empty"):
            ask(folder, DocumentRequest(content=b""))
    finally:
        agent.stop()


def test_staging_replays_the_golden_text_and_a_frame_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    try_bundle(bundle, InspectConfig(), None, lambda: False)
    loaded = load("a", bundle, InspectConfig())
    try:
        assert loaded.replay() == "ort/cpu:0"
        loaded.inspect_golden()
        with pytest.raises(UnsupportedModelError, match="inspects no frames"):
            loaded.inspect(Frame(image=dark(), source="cam"))
    finally:
        loaded.close()


def test_a_bundle_of_images_reads_no_documents(tmp_path: Path) -> None:
    service = DocumentService(tmp_path, DocumentsConfig(), ActiveBundle(), threading.Event())
    with pytest.raises(RequestError, match="no document bundle"):
        service.ask(DocumentRequest(content=GOLDEN_TEXT.encode()))
