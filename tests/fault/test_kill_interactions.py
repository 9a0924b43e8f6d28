"""``kill -9`` of agent, hub and broker while interactions go home: each is there once, with what the device shows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.recommendation.service import RecommendRequest, ask
from lineside_runtime.errors import InputNotFoundError, RequestError
from tests.peers import Broker, wait_for
from tests.worlds.hub import query
from tests.worlds.recommenders import make_recommender
from tests.worlds.site import TIMEOUT_S, Site

pytestmark = [pytest.mark.slow, pytest.mark.peer]


@pytest.fixture
def site(tmp_path: Path, mosquitto: Broker) -> Iterator[Site]:
    made = Site(
        tmp_path,
        frames=0,
        rate_hz=1.0,
        broker=mosquitto,
        camera={"type": "none"},
        recommend={"exploration": 1.0},
        bundle=str(make_recommender(tmp_path / "parts").path),
    )
    yield made
    made.end()


def shop(site: Site, answers: int) -> None:
    """A program asks, and chooses what comes second; while the agent is away it asks again."""

    def one() -> bool:
        try:
            found = ask(site.agent.state, RecommendRequest(user="u1", history=("seal-1",), top=4))
            ask(
                site.agent.state,
                RecommendRequest(do="chose", user="u1", item=found["items"][1]["item"], id=found["id"]),
            )
        except (InputNotFoundError, RequestError):
            return False
        return True

    for _ in range(answers):
        wait_for(one, TIMEOUT_S, what=lambda: f"an answer\n{site.agent.log[-2000:]}")


def exported(path: Path, *command: str) -> list[tuple[str, ...]]:
    assert main([*command, "--out", str(path)]) == 0
    names = ("user", "item", "time", "label", "propensity", "answer")
    with path.open(newline="") as file:
        return sorted(tuple(row[name] for name in names) for row in csv.DictReader(file))


def test_interactions_come_home_once_through_kills_of_everybody(site: Site, tmp_path: Path) -> None:
    site.hub.start()
    site.agent.start()
    for victim in ("agent", "hub", "broker", ""):
        shop(site, 20)
        if victim == "broker":
            site.broker.kill()
            site.broker.start()
        elif victim:
            (site.agent if victim == "agent" else site.hub).restart()
    wait_for(lambda: site.agent.status.get("interactions_pending") == 0, TIMEOUT_S, what=lambda: f"{site.agent.status}")
    site.agent.kill()
    here = exported(tmp_path / "device.csv", "agent", "interactions", "--config", str(site.agent.config_path))
    home = exported(tmp_path / "home.csv", "fleet", "interactions", "--hub", str(site.hub_folder))
    assert home == here
    assert sum(row[3] == "1" for row in home) >= 80
    assert all(0 < float(row[4]) <= 1 for row in home)
    rows = query(site.hub_folder, "SELECT epoch, min(seq), max(seq), count(*) FROM interactions GROUP BY epoch")
    marks = query(site.hub_folder, "SELECT epoch, seq FROM interaction_watermarks")
    [(epoch, first, last, count)] = rows
    assert (first, last, marks) == (1, count, [(epoch, count)])
    assert query(site.hub_folder, "SELECT kind FROM events WHERE kind IN ('conflict', 'malformed', 'forgotten')") == []
    site.configure_agent(recommend={"exploration": 1.0, "send_interactions": False})
    site.agent.start()
    wait_for(lambda: site.agent.status.get("connected"), TIMEOUT_S, what=lambda: f"{site.agent.status}")
    shop(site, 1)
    assert "interactions_pending" not in site.agent.status
    site.agent.stop()
    assert query(site.hub_folder, "SELECT count(*) FROM interactions") == [(count,)]
