"""Results in a real PostgreSQL: the same promises as in SQLite."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.config import HubConfig, ResultsConfig, load_config
from lineside_hub.fleet.status import read_status
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.results.postgres import PostgresSink, acknowledgements, select
from lineside_hub.results.queries import Query, ResultCounts, count_by_device, export, results
from lineside_hub.results.streams import read_batch
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow, Results, ResultsAck, Up, encode
from lineside_link.result_table import COLUMNS
from lineside_runtime.errors import ConfigError, DatabaseError
from tests.peers import Broker
from tests.peers.postgres import PostgresServer
from tests.worlds.hub import HubProcess, write_hub
from tests.worlds.results_device import ResultsDevice

SITE = "test"


@pytest.fixture
def sink(server: PostgresServer) -> Iterator[PostgresSink]:
    made = PostgresSink(server.url)
    made.write([read_batch("warm-up", message(1))])
    for table in ("results", "quarantine", "watermarks", "result_hours", "defect_hours", "result_totals"):
        with made._engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {table}")
    made.forget()
    yield made
    made.close()


def message(*seqs: int, epoch: str = "e1", part: str = "part", verdict: str = "pass") -> bytes:
    rows = tuple(
        ResultRow(seq=seq, part_id=f"{part}-{seq}", captured_at_ns=seq, verdict=verdict, bundle="m@1.0.0")  # type: ignore[arg-type]  # drawn as text
        for seq in seqs
    )
    return encode(Results(epoch=epoch, rows=rows))


def write(sink: PostgresSink, payload: bytes, device: str = "cam-01") -> tuple[ResultsAck, list[str]]:
    acks, events = sink.write([read_batch(device, payload)])
    return acks[device], [event.kind for event in events]


def stored(server: PostgresServer) -> list[tuple[object, ...]]:
    rows = select(server.url, "SELECT device, epoch, seq FROM results ORDER BY 1, 2, 3", {})
    return [tuple(row) for row in rows]


def test_rows_gaps_and_repeats_are_answered_as_in_sqlite(server: PostgresServer, sink: PostgresSink) -> None:
    assert write(sink, message(1, 2, 5)) == (ResultsAck(epoch="e1", seq=2), [])
    assert write(sink, message(1, 2)) == (ResultsAck(epoch="e1", seq=2), [])
    assert sink.repeats == 2
    assert write(sink, message(3, 4)) == (ResultsAck(epoch="e1", seq=5), [])
    assert write(sink, message(1, epoch="e2")) == (ResultsAck(epoch="e2", seq=1), [])
    assert stored(server) == [("cam-01", "e1", seq) for seq in range(1, 6)] + [("cam-01", "e2", 1)]
    assert acknowledgements(server.url) == {"cam-01": ResultsAck(epoch="e2", seq=1)}


def test_another_process_goes_on_from_what_is_there(server: PostgresServer, sink: PostgresSink) -> None:
    write(sink, message(1, 2, 4))
    other = PostgresSink(server.url)
    assert write(other, message(3)) == (ResultsAck(epoch="e1", seq=4), [])
    other.close()


def test_a_repeat_that_says_something_else_is_kept_out_and_told(sink: PostgresSink) -> None:
    write(sink, message(1))
    assert write(sink, message(1, part="other")) == (ResultsAck(epoch="e1", seq=1), ["conflict"])
    assert sink.conflicts == 1


def test_what_cannot_be_read_or_held_goes_into_quarantine(server: PostgresServer, sink: PostgresSink) -> None:
    box = ("a\0b", 0.5, 1.0, 2.0, 3.0, 4.0)
    rows = (
        ResultRow(seq=1, part_id="a\0b", verdict="pass"),
        ResultRow(seq=2, part_id="p", verdict="reject", detections=(box,)),
    )
    nul = encode(Results(epoch="e1", rows=rows))
    assert write(sink, nul) == (ResultsAck(epoch="e1", seq=2), ["malformed", "malformed"])
    bad = b'{"epoch": "e1", "rows": [{"seq": 3, "part_id": 7, "verdict": "pass"}]}'
    assert write(sink, bad) == (ResultsAck(epoch="e1", seq=3), ["malformed"])
    assert write(sink, bad) == (ResultsAck(epoch="e1", seq=3), [])
    assert stored(server) == []
    kept = list(select(server.url, "SELECT seq, raw FROM quarantine ORDER BY seq", {}))
    assert [row[0] for row in kept] == [1, 2, 3]
    assert b'"part_id":"a\\u0000b"' in bytes(kept[0][1])


def test_a_server_that_is_killed_is_an_error_and_is_found_again(server: PostgresServer, sink: PostgresSink) -> None:
    write(sink, message(1))
    server.kill()
    with pytest.raises(DatabaseError, match="PostgreSQL"):
        write(sink, message(2))
    server.start()
    assert write(sink, message(2, 3))[0].seq == 3
    assert len(stored(server)) == 3


def test_queries_and_exports_are_those_of_sqlite(server: PostgresServer, sink: PostgresSink, tmp_path: Path) -> None:
    write(sink, message(*range(1, 100)))
    last = ResultRow(seq=100, part_id="part-100", captured_at_ns=100, verdict="pass", fallbacks=3, cache_hits=1)
    write(sink, encode(Results(epoch="e1", rows=(last,))))
    config = HubConfig(
        folder=str(tmp_path), link=LinkConfig("mqtt://127.0.0.1:1", SITE), results=ResultsConfig(server.url)
    )
    assert [row[2] for row in results(config, Query(part_id="part-7"))] == [7]
    assert [row[2] for row in results(config, Query(bundle="m", since_ns=10, until_ns=13))] == [10, 11, 12]
    assert [row[2] for row in results(config, Query(limit=2))] == [99, 100]
    assert list(results(config, Query(bundle="%"))) == []
    assert count_by_device(config) == {"cam-01": ResultCounts(100, fallbacks=3, cache_hits=1)}
    assert export(config, Query(), tmp_path / "all.csv") == 100
    with (tmp_path / "all.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert [int(row["seq"]) for row in read] == list(range(1, 101))
    defects = Results(
        epoch="d", rows=(ResultRow(seq=1, part_id="d", verdict="reject", detections=(('a "b"', 0.5, 1, 2, 3, 4),)),)
    )
    write(sink, encode(defects))
    assert [row[1] for row in results(config, Query(verdict="reject", defect='a "b"'))] == ["d"]
    assert list(results(config, Query(defect='A "b"'))) == []


def test_status_and_fleet_count_results_there_and_show_the_rest_while_it_is_away(
    repository: Repository, server: PostgresServer, sink: PostgresSink, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = str(repository.folder)
    link = LinkConfig(url="mqtt://127.0.0.1", site=SITE)
    write_hub(repository.folder, link, results={"url": server.url})
    with Database.open(repository.folder) as database, database.transaction():
        FleetTimeline(database).write_up(Up(device="cam-01", up=True, boot_id="b", group="line-a", board="Pi 5"))
    write(sink, message(1, 2, 3))
    assert read_status(repository.folder).results == 3
    assert main(["fleet", "ls", "--hub", hub]) == 0
    assert capsys.readouterr().out.split()[-1] == "3"
    server.kill()
    try:
        status = read_status(repository.folder)
        assert (status.devices, status.results, status.frames) == (1, None, None)
        assert status.warnings[0].startswith("results and frames are not counted: [4001] PostgreSQL: ")
        for words in (["fleet", "ls"], ["fleet", "show", "cam-01"]):
            assert main([*words, "--hub", hub]) == 0
            assert capsys.readouterr().out.split()[-1] == "?"
        assert main(["hub", "status", "--hub", hub]) == 1
        assert "1 device connected, ? results" in capsys.readouterr().out
    finally:
        server.start()


def test_a_password_has_no_place_in_the_configuration() -> None:
    for url in ("postgresql+psycopg://u:secret@host/db", "postgresql+psycopg://u@host/db?password=secret"):
        with pytest.raises(ConfigError, match="password") as caught:
            ResultsConfig(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        ResultsConfig("mysql://host/db")


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_the_hub_writes_there_though_both_are_killed(
    server: PostgresServer,
    sink: PostgresSink,
    repository: Repository,
    broker: Broker,
    device: ResultsDevice,
    tmp_path: Path,
) -> None:
    configuration = write_hub(repository.folder, broker.config(site=SITE), results={"url": server.url})
    assert load_config(configuration).results.url == server.url
    hub = HubProcess(repository.folder, tmp_path / "hub.log")
    hub.start()
    try:
        device.deliver(300)
        hub.kill()
        hub.start()
        device.deliver(600)
        server.kill()
        device.send(601, 610)
        server.start()
        device.deliver(900)
    finally:
        hub.kill()
    assert stored(server) == [("cam-01", "e1", seq) for seq in range(1, 901)]
    database = Database.open(repository.folder)
    assert database.query("SELECT count(*) FROM results")[0][0] == 0
    database.close()
