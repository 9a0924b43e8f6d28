"""A device's log on its page: asked of the device over a real broker, by those who may."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from lineside_agent.hub_client.log_commands import LINE_MAX, LINES_MAX, LogCommands, RecentLog
from lineside_hub.config import HubConfig
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.results.database import Database
from lineside_hub.web import audit
from lineside_hub.web.pages import devices
from lineside_link.client.client import LinkClient
from lineside_link.messages import Up
from lineside_link.topics import Topics
from tests.peers import Broker, Mosquitto, find_mosquitto
from tests.worlds.dashboard import DashboardWorld, barriers
from tests.worlds.hub import make_database, make_repository

pytestmark = pytest.mark.peer

NAMES = ("cam-1", "cam-2", "cam-3")
"""Answers; refuses; is not there."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    started = Mosquitto(tmp_path_factory.mktemp("broker"), program=find_mosquitto())
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def world(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    folder = tmp_path_factory.mktemp("dashboard") / "hub"
    make_repository(folder, ["line-a"])
    make_database(folder)
    made = DashboardWorld(folder, config=HubConfig(folder=str(folder), link=broker.config()))
    with Database.open(folder) as database, database.transaction():
        for name in NAMES:
            FleetTimeline(database).write_up(Up(device=name, up=True, boot_id="b", group="line-a"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def recent(broker: Broker) -> Iterator[RecentLog]:
    """The log of two devices, which answer as the agent's `HubClient` does."""
    lines, topics, clients = RecentLog(), Topics("t0"), []
    for name in NAMES[:2]:
        client = LinkClient(broker.config(), name)
        answers = topics.log_answer(name)

        def publish(data: bytes, client: LinkClient = client, answers: str = answers) -> object:
            return client.publish(answers, data, qos=0)

        commands = LogCommands(lines, allowed=name == "cam-1", publish=publish)
        client.subscribe(topics.log_command(name), commands.received, qos=0)
        client.start()
        assert client.wait_connected(60.0)
        clients.append(client)
    yield lines
    for client in clients:
        client.close()


def test_who_may_operate_reads_the_log_of_a_connected_device(
    world: DashboardWorld, recent: RecentLog, browser: Browser
) -> None:
    recent.handle(logging.makeLogRecord({"name": "lineside.agent", "levelname": "INFO", "msg": "a <b>lens</b> moved"}))
    with world.open_page(browser, "operate", "/devices/cam-1") as page:
        page.click("text=Read the newest lines")
        expect(page.locator("#log")).to_contain_text("INFO lineside.agent: a <b>lens</b> moved")
        assert barriers(page) == []
    with world.open_page(browser, "watch", "/devices/cam-1", "phone") as page:
        assert page.locator("#log").count() == 0
    with Database.open(world.folder) as database:
        [entry] = [one for one in audit.list_entries(database) if one.action == "read log"]
    assert (entry.who, entry.subject, entry.error, json.loads(entry.after)) == ("Otto", "cam-1", "", {"lines": 200})


def test_a_device_that_refuses_or_is_not_there_says_so(
    world: DashboardWorld, recent: RecentLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client("operate")
    status, answer = client.send("POST", "/api/v1/devices/cam-2/log", {})
    assert (status, b"log_for_hub = false" in answer) == (403, True)
    monkeypatch.setattr(devices, "LOG_TIMEOUT_S", 0.2)
    status, answer = client.send("POST", "/api/v1/devices/cam-3/log", {})
    assert (status, b"cam-3 doesn't answer" in answer) == (409, True)


def test_the_newest_lines_are_kept_and_long_ones_are_cut(tmp_path: Path) -> None:
    kept = RecentLog()
    for number in range(LINES_MAX + 5):
        kept.handle(logging.makeLogRecord({"msg": f"{number} {'x' * 2 * LINE_MAX}\nsecond"}))
    lines = kept.newest(10_000).splitlines()
    assert len(lines) == LINES_MAX and max(map(len, lines)) == LINE_MAX
    assert kept.newest(0) == lines[-1] == "second"
