"""An agent that recommends: its bundle, its socket, and the interactions that it keeps."""

from __future__ import annotations

import contextlib
import csv
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.config import InspectConfig, RecommendConfig
from lineside_agent.deployment.bundle_trial import try_bundle
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.recommendation.interaction_log import InteractionLog, export
from lineside_agent.recommendation.service import RecommendationService, RecommendRequest, ask
from lineside_models.frame import Frame
from lineside_models.recommendation import Recommendation
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from lineside_runtime.errors import GoldenMismatchError, InputNotFoundError, RequestError, UnsupportedModelError
from tests.peers.waiting import wait_for
from tests.worlds.agent import AgentProcess, write_agent
from tests.worlds.bundles import dark
from tests.worlds.recommenders import make_recommender


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_recommender(tmp_path_factory.mktemp("bundle") / "parts")


@pytest.fixture
def agent(tmp_path: Path, parts: Bundle) -> Iterator[AgentProcess]:
    write_agent(tmp_path, tables="[recommend]\n", camera={"type": "none"}, bundle=str(parts.path))
    process = AgentProcess(tmp_path)
    process.start()
    yield process
    process.stop()


def items_of(answer: dict[str, object]) -> list[str]:
    return [one["item"] for one in answer["items"]]  # type: ignore[attr-defined]


def test_a_deployed_recommender_answers_and_remembers(
    agent: AgentProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"

    def answers() -> bool:
        try:
            return bool(ask(folder, RecommendRequest(history=("seal-1",), top=1)))
        except (InputNotFoundError, RequestError):  # not there, or no bundle yet
            return False

    wait_for(answers)
    first = ask(folder, RecommendRequest(user="u1", history=("seal-1",), top=3))
    assert items_of(first) == ["seal-3", "seal-2", "seal-0"]
    assert first["bundle"] == "parts@1.0.0"
    assert ask(folder, RecommendRequest(do="chose", user="u1", item="seal-2", id=first["id"])) == {"done": True}
    assert ask(folder, RecommendRequest(do="chose", user="u1", item="valve-1")) == {"done": True}
    remembered = ask(folder, RecommendRequest(user="u1", candidates=("valve-2", "seal-2", "bearing-2"), top=2))
    assert items_of(remembered) == ["valve-2", "bearing-2"]  # by what u1 chose here; never seal-2 again
    with pytest.raises(RequestError):
        ask(folder, RecommendRequest(do="chose", user="u2", item="seal-2", id=first["id"]))
    agent.kill()
    out = tmp_path / "interactions.csv"
    assert main(["agent", "interactions", "--config", str(tmp_path / "agent.toml"), "--out", str(out)]) == 0
    rows = [row for row in csv.DictReader(out.read_text().splitlines()) if row["user"] == "u1"]
    assert [(row["item"], row["label"]) for row in rows if row["answer"] == str(first["id"])] == [
        ("seal-3", "0"),
        ("seal-0", "0"),
        ("seal-2", "1"),
    ]
    assert "wrote" in capsys.readouterr().out


def test_a_recommenders_bundle_is_tried_and_replayed_like_any_other(parts: Bundle, tmp_path: Path) -> None:
    try_bundle(parts, InspectConfig(), None, lambda: False)
    loaded = load("a", parts, InspectConfig())
    loaded.replay()
    loaded.inspect_golden()
    with pytest.raises(UnsupportedModelError):
        loaded.inspect(Frame(image=dark()))
    loaded.close()
    shutil.copytree(parts.path, tmp_path / "worse")
    vectors = tmp_path / "worse/tables/item_scales.npy"
    vectors.write_bytes(vectors.read_bytes()[:-28] + bytes(28))
    write_manifest(tmp_path / "worse", parts.manifest)
    worse = load("a", open_bundle(tmp_path / "worse"), InspectConfig())
    with pytest.raises(GoldenMismatchError):
        worse.replay()
    worse.close()


def test_the_log_is_bounded_and_survives_its_process(tmp_path: Path) -> None:
    log = InteractionLog(tmp_path, answers_max=RecommendConfig().answers_max)
    answer = log.shown("u", "parts@1", [Recommendation(item="a", score=1.0, propensity=0.25)])
    log.chose("u", "a", answer)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "interactions.db")
    ) as other:  # committed, as another process sees
        assert other.execute("SELECT item_id, label, propensity FROM interactions").fetchall() == [
            ("a", 0, 0.25),
            ("a", 1, 0.25),
        ]
    epoch = log.epoch
    log.acknowledge(epoch, 1)
    log.acknowledge("of another database", 2)
    log.close()
    again = InteractionLog(tmp_path, answers_max=3)
    for _ in range(5):
        again.chose("u", "b", again.shown("u", "parts@1", [Recommendation(item="b", score=1.0)]))
    assert again.history("u", 10) == ["b"] * 3
    assert (again.epoch, again.watermark, again.last_seq) == (epoch, 1, 12)
    assert again.lost == 5, "all that went but the row that the hub has"
    assert [row.seq for row in again.rows(1, 2)] == [7, 8]
    again.acknowledge(epoch, 13)
    assert again.pending == 11, "more than there is: the hub means another database"
    again.close()
    assert export(tmp_path, tmp_path / "kept.csv") == 3
    assert "0.25" not in (tmp_path / "kept.csv").read_text()
    with pytest.raises(InputNotFoundError):
        export(tmp_path / "nothing", tmp_path / "none.csv")


@pytest.mark.parametrize("item", ["", "x" * 65, "ö" * 33, "a\0"], ids=len)
def test_an_item_that_training_would_refuse_is_not_logged(item: str, tmp_path: Path) -> None:
    service = RecommendationService(tmp_path, RecommendConfig(), ActiveBundle(), threading.Event())
    for request in (
        RecommendRequest(do="chose", user="u", item=item),
        RecommendRequest(user="u", candidates=("seal-1", item)),
    ):
        with pytest.raises(RequestError, match="the id of an item; expected 1 to 64 bytes"):
            service.ask(request)
    assert service.log.last_seq == 0
    service.close()


def test_no_bundle_and_another_bundle_are_named(tmp_path: Path) -> None:
    service = RecommendationService(tmp_path, RecommendConfig(), ActiveBundle(), threading.Event())
    with pytest.raises(RequestError, match="no recommender"):
        service.ask(RecommendRequest())
    service.close()
