"""Asking the results, and out with them."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lineside_hub.config import HubConfig
from lineside_hub.relabel.selection import Selection, count_without_frame
from lineside_hub.results.database import Database
from lineside_hub.results.queries import Query, count_by_device, export, results
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.config import LinkConfig
from lineside_link.messages import MeasuredValue, ReadMark, ResultRow, Results, encode
from lineside_link.result_table import COLUMNS, moment
from lineside_runtime.errors import ConfigError
from tests.worlds.hub import open_database


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    """Two devices with 50 rows each: captured every second, the second one half a second later."""
    database = open_database(tmp_path)
    for device, shift in (("cam-01", 0), ("cam-02", 500_000_000)):
        rows = tuple(
            ResultRow(
                seq=seq,
                part_id=f"p{seq}",
                captured_at_ns=seq * 1_000_000_000 + shift,
                verdict="reject" if seq % 5 == 0 else "pass",
                detections=(("scratch", 0.5, 1.0, 2.0, 3.0, 4.0),) if seq % 5 == 0 else (),
                bundle=f"surface@{1 + seq // 25}.0.0",
            )
            for seq in range(1, 51)
        )
        with database.transaction():
            ResultsSink(database).write([read_batch(device, encode(Results(epoch="e", rows=rows)))])
    database.close()
    return HubConfig(folder=str(tmp_path), link=LinkConfig("mqtt://127.0.0.1:1", "s"))


def keys(config: HubConfig, query: Query) -> list[tuple[str, int]]:
    return [(row[0], row[2]) for row in results(config, query)]


def test_everything_oldest_first(config: HubConfig) -> None:
    expected = [(device, seq) for seq in range(1, 51) for device in ("cam-01", "cam-02")]
    assert keys(config, Query()) == expected


def test_by_part_device_bundle_and_time(config: HubConfig) -> None:
    assert keys(config, Query(part_id="p7")) == [("cam-01", 7), ("cam-02", 7)]
    assert keys(config, Query(part_id="p7", device="cam-02")) == [("cam-02", 7)]
    assert {seq for _, seq in keys(config, Query(bundle="surface@1.0.0"))} == set(range(1, 25))
    assert len(keys(config, Query(bundle="surface"))) == 100
    assert keys(config, Query(bundle="surfac_")) == []
    assert keys(config, Query(since_ns=10_000_000_000, until_ns=11_000_000_000)) == [("cam-01", 10), ("cam-02", 10)]
    assert keys(config, Query(since_ns=0, until_ns=0)) == []
    assert keys(config, Query(device="cam-01", limit=3)) == [("cam-01", 48), ("cam-01", 49), ("cam-01", 50)]


def test_by_verdict_and_defect(config: HubConfig) -> None:
    rejected = [(device, seq) for seq in range(5, 51, 5) for device in ("cam-01", "cam-02")]
    assert keys(config, Query(verdict="reject")) == rejected
    assert keys(config, Query(defect="scratch")) == rejected
    assert len(keys(config, Query(verdict="pass"))) == 80
    for other in ("Scratch", "scratc", "cratch", "scratch%", '["scratch', "scratch',"):
        assert keys(config, Query(defect=other)) == [], other
    assert keys(config, Query(verdict="reject", defect="scratch", device="cam-01", limit=1)) == [("cam-01", 50)]
    assert keys(config, Query(verdict="pass", defect="scratch")) == []


@pytest.mark.parametrize("defect", ['with "quotes"', "back\\slash", "Kratzer groß", "100 %_!", "a',b"])
def test_a_type_of_any_name_is_found(config: HubConfig, defect: str) -> None:
    box = (0.5, 1.0, 2.0, 3.0, 4.0)
    row = ResultRow(seq=1, part_id="p", verdict="reject", detections=(("other", *box), (defect, *box)))
    with Database.open(Path(config.folder)) as database, database.transaction():
        ResultsSink(database).write([read_batch("cam-03", encode(Results(epoch="e", rows=(row,))))])
    assert keys(config, Query(defect=defect)) == [("cam-03", 1)]


def test_a_rule_that_is_not_in_tolerance_is_found(config: HubConfig) -> None:
    fine = MeasuredValue(name="bore", value=1.0, in_tolerance=True)
    wide = MeasuredValue(name="bore", value=2.0, unit="mm", max=1.5)
    rows = tuple(
        ResultRow(seq=seq, part_id="p", verdict="pass" if one is fine else "reject", measurements=(fine, one))
        for seq, one in enumerate((fine, wide), 1)
    )
    with Database.open(Path(config.folder)) as database, database.transaction():
        ResultsSink(database).write([read_batch("cam-03", encode(Results(epoch="e", rows=rows)))])
    assert keys(config, Query(defect="bore")) == [("cam-03", 2)]
    assert keys(config, Query(defect="bor")) == []


def test_a_mark_that_is_not_accepted_is_found_by_its_rule(config: HubConfig) -> None:
    fine = ReadMark(name="label", text="C1", accepted=True)
    wrong = ReadMark(name="label", text="C2", failure="reject", error="C1 is expected")
    rows = tuple(
        ResultRow(seq=seq, part_id="p", verdict="reject", readings=(one,)) for seq, one in enumerate((fine, wrong), 1)
    )
    with Database.open(Path(config.folder)) as database, database.transaction():
        ResultsSink(database).write([read_batch("cam-03", encode(Results(epoch="e", rows=rows)))])
    assert keys(config, Query(defect="label")) == [("cam-03", 2)]


def test_numbers_of_which_nothing_is_known_are_no_results_unless_asked_for(config: HubConfig, tmp_path: Path) -> None:
    row = ResultRow(seq=51, part_id="unrecorded-51", captured_at_ns=10**12, verdict="fault", unknown=True)
    database = open_database(tmp_path)
    with database.transaction():
        ResultsSink(database).write([read_batch("cam-01", encode(Results(epoch="e", rows=(row,))))])
    database.close()
    assert {name: counts.results for name, counts in count_by_device(config).items()} == {"cam-01": 50, "cam-02": 50}
    assert ("cam-01", 51) not in keys(config, Query())
    assert keys(config, Query(device="cam-01", unknown=True, limit=1)) == [("cam-01", 51)]
    counts = {verdict: count_without_frame(config, Selection(verdict=verdict)) for verdict in ("bad", "all")}
    assert counts == {"bad": 20, "all": 100}, "nothing of it goes to people"


def test_times_are_read_as_a_person_writes_them() -> None:
    now = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.timezone.utc)
    second = 1_000_000_000
    assert moment("2h", now=now) == int((now.timestamp() - 7200) * second)
    assert moment("90m", now=now) == int((now.timestamp() - 5400) * second)
    assert moment("2026-11-24") == int(now.timestamp() - 43200) * second
    assert moment("2026-11-24T13:00+01:00") == int(now.timestamp()) * second
    for far in ("0001-01-01", "365000d", f"{'9' * 400}d"):  # a 64-bit integer, which the databases hold
        assert -(2**63) <= moment(far, now=now) < -(2**62)
    assert 2**62 < moment("9999-12-31T23:59:59") < 2**63
    for wrong in ("", "yesterday", "2x", "2026-13-01"):
        with pytest.raises(ConfigError):
            moment(wrong)


def test_csv_and_parquet_hold_the_same(config: HubConfig, tmp_path: Path) -> None:
    query = Query(device="cam-01")
    assert export(config, query, tmp_path / "x.csv") == 50
    assert export(config, query, tmp_path / "x.parquet") == 50
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "x.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert [{name: str(value) for name, value in row.items()} for row in table.to_pylist()] == rows
    assert json.loads(rows[4]["detections"]) == [["scratch", 0.5, 1.0, 2.0, 3.0, 4.0]]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".part")) == []


def test_an_export_of_nothing_is_an_empty_table(config: HubConfig, tmp_path: Path) -> None:
    assert export(config, Query(part_id="none"), tmp_path / "x.parquet") == 0
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0
    assert export(config, Query(part_id="none"), tmp_path / "x.csv") == 0
    with pytest.raises(ConfigError, match=r"parquet.*Give another name"):
        export(config, Query(), tmp_path / "x.xlsx")


def test_a_part_is_found_by_an_index(config: HubConfig) -> None:
    database = Database.open(Path(config.folder))
    text, parameters = Query(part_id="p7").sql()
    plan = " ".join(str(tuple(row)) for row in database.connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters))
    database.close()
    assert "results_by_part" in plan


def test_part_ids_that_look_like_formulas_are_text_in_csv(config: HubConfig, tmp_path: Path) -> None:
    formulas = ("=cmd|'/C calc'!A0", "+1", "-1", "@SUM(1+1)", "\t=1")
    rows = tuple(
        ResultRow(seq=seq, part_id=part_id, captured_at_ns=seq, verdict="pass")
        for seq, part_id in enumerate(formulas, 1)
    )
    database = Database.open(Path(config.folder))
    with database.transaction():
        ResultsSink(database).write([read_batch("cam-03", encode(Results(epoch="e", rows=rows)))])
    database.close()
    export(config, Query(device="cam-03"), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        assert [row["part_id"] for row in csv.DictReader(file)] == [f"'{formula}" for formula in formulas]
    export(config, Query(device="cam-03"), tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["part_id"].to_pylist() == list(formulas)
