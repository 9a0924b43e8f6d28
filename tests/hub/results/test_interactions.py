"""Interactions at the hub: stored once, counted by their own quota, and given out as training data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from lineside.cli import main
from lineside_converters.training.recommendation.interactions import read_interactions
from lineside_hub.config import HubConfig, ResultsConfig
from lineside_hub.fleet.usage import read_usage
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.results.inbox import Inbox
from lineside_hub.results.interactions import InteractionQuery, interactions
from lineside_hub.results.sql import stream
from lineside_hub.results.streams import StreamName
from lineside_link.config import LinkConfig
from lineside_link.messages import InteractionRow, InteractionRows, ResultRow, Results, Up, encode
from tests.peers.waiting import wait_for
from tests.worlds.hub import make_database, write_hub

SECOND = 1_000_000_000


def answer(first: int, number: int, items: str, chosen: str, *, user: str = "u1") -> list[InteractionRow]:
    """An answer with these items, of which one is chosen a second later."""
    row = InteractionRow(
        seq=first, user_id=user, item_id="", at_ns=number * 10 * SECOND, label=0, answer=number, bundle="parts@1.0.0"
    )
    change = msgspec.structs.replace
    shown = [change(row, seq=first + place, item_id=item, propensity=0.25) for place, item in enumerate(items)]
    return [
        *shown,
        change(row, seq=first + len(items), item_id=chosen, at_ns=row.at_ns + SECOND, label=1, propensity=0.25),
    ]


ROWS = [*answer(1, 1, "abc", "b"), *answer(5, 2, "ad", "d"), *answer(8, 3, "ca", "a", user="=u2")]


def message(rows: list[InteractionRow]) -> bytes:
    return encode(InteractionRows(epoch="e", rows=tuple(rows)))


class Hub:
    """A hub's inbox without a broker."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.acks: list[tuple[StreamName, str, int]] = []
        self.results = ResultsConfig(url)
        link = LinkConfig("mqtt://127.0.0.1:1", "t0")
        write_hub(folder, link, results={"url": url})
        self.config = HubConfig(folder=str(folder), link=link, results=self.results)

    def take(self, device: str, *messages: tuple[StreamName | Literal["up"], bytes]) -> Inbox:
        """Takes each message in a transaction of its own."""
        inbox = Inbox(self.folder, lambda kind, name, ack: self.acks.append((kind, name, ack.seq)), self.results)
        inbox.start()
        for kind, payload in messages:
            taken = inbox.counters["messages"]
            inbox.offer(kind, device, payload)
            wait_for(lambda: inbox.counters["messages"] > taken)  # noqa: B023
        inbox.close()
        return inbox

    def query(self, text: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in stream(self.config, text, {})]


@pytest.fixture(params=["sqlite", "postgres"])
def hub(request: pytest.FixtureRequest, repository: Repository) -> Hub:
    make_database(repository.folder)
    return Hub(repository.folder, request.getfixturevalue("server").url if request.param == "postgres" else "")


def test_rows_are_stored_once_beside_results_and_come_out_as_training_data(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = encode(Results(epoch="e", rows=(ResultRow(seq=1, part_id="p", verdict="pass"),)))
    row = b'{"seq":7,"item_id":"d","label":2}'
    bad = b'{"epoch":"e","rows":[' + row + b"]}"
    inbox = hub.take(
        "kiosk-1",
        ("interactions", message(ROWS[:3])),
        ("results", result),
        ("interactions", message(ROWS[7:])),  # before those that it follows
        ("interactions", message(ROWS[:6])),  # three of them again
        ("interactions", message([msgspec.structs.replace(ROWS[0], item_id="z")])),
        ("interactions", bad),
    )
    assert hub.acks == [("interactions", "kiosk-1", 3), ("results", "kiosk-1", 1)] + [
        ("interactions", "kiosk-1", seq) for seq in (3, 6, 6, 10)
    ]
    assert (inbox.counters["repeats"], inbox.counters["conflicts"]) == (4, 1)
    with Database.open(hub.folder) as database:
        known = {(kind, name): ack.seq for kind, name, ack in inbox.acknowledgements(database)}
        assert known == {("results", "kiosk-1"): 1, ("interactions", "kiosk-1"): 10}
        assert [event.kind for event in database.events()] == ["conflict", "malformed"]
    assert hub.query("SELECT seq, raw FROM interaction_quarantine") == [(7, row)]
    hub.take("kiosk-1", ("interactions", message(ROWS)))
    asked = [(row[0], row[1], row[3]) for row in interactions(hub.config, InteractionQuery(bundle="parts"))]
    assert asked[:3] == [("u1", "a", 0), ("u1", "c", 0), ("u1", "b", 1)]
    assert asked[3:] == [("u1", "a", 0), ("u1", "d", 1), ("=u2", "c", 0), ("=u2", "a", 1)]
    assert [row[1] for row in interactions(hub.config, InteractionQuery(chosen=True, limit=1))] == ["a"]
    assert list(interactions(hub.config, InteractionQuery(bundle="part", device="kiosk-1"))) == []
    files = [tmp_path / f"home{suffix}" for suffix in (".csv", ".parquet", ".jsonl")]
    for file in files:
        assert main(["fleet", "interactions", "--hub", str(hub.folder), "--user", "u1", "--out", str(file)]) == 0
        read = read_interactions(file)
        assert [read.items[row] for row in read.chosen[0]] == ["b", "d"]
        assert [read.items[row] for row in read.shown[0][0]] == ["a", "c"]
    with files[0].open(newline="") as opened:
        assert [row["propensity"] for row in csv.DictReader(opened)] == ["0.25"] * 5
    assert json.loads(files[2].read_text().splitlines()[0]) == {
        "user": "u1", "item": "a", "time": 10.0, "label": 0, "attributes": "", "propensity": 0.25,
        "bundle": "parts@1.0.0", "answer": 1, "device": "kiosk-1",
    }  # fmt: skip
    assert main(["fleet", "interactions", "--hub", str(hub.folder), "--since", "1970-01-01T00:00:30"]) == 0
    assert capsys.readouterr().out.count("u2") == 2


def test_a_quota_of_their_own_is_counted_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    result = encode(Results(epoch="e2", rows=(ResultRow(seq=1, part_id="p", verdict="pass"),)))
    first, second = message(ROWS[:4]), message(ROWS[4:7])
    up = encode(Up(device="kiosk-2", up=True, boot_id="b"))
    hub.results = ResultsConfig(hub.url, device_max_interaction_bytes=len(first))
    # A transaction without rows, such as a birth or a batch that the quota emptied, must not count the last ones again.
    inbox = hub.take("kiosk-2", ("interactions", first), ("results", result), ("up", up), ("interactions", second))
    assert inbox.counters["over_quota"] == 1
    assert hub.acks == [("interactions", "kiosk-2", 4), ("results", "kiosk-2", 1)]
    with Database.open(hub.folder) as database:
        assert read_usage(database, "interactions")["kiosk-2"] == len(first)
        assert read_usage(database)["kiosk-2"] == len(result)
    quota = f"device_max_interaction_bytes = {len(first)}"
    (hub.folder / "hub.toml").write_text((hub.folder / "hub.toml").read_text() + quota)
    assert main(["hub", "status", "--hub", str(hub.folder)]) == 1
    assert "raise results.device_max_interaction_bytes" in capsys.readouterr().out
    hub.results = ResultsConfig(hub.url)
    hub.take("kiosk-2", ("interactions", second))
    assert hub.acks[-1] == ("interactions", "kiosk-2", 7)
