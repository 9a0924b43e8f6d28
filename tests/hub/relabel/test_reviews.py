"""What people say of results, in either database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from lineside_hub.config import HubConfig, ResultsConfig
from lineside_hub.relabel.catalogue import labels_of
from lineside_hub.relabel.importer import correct_frame
from lineside_hub.relabel.reviews import ReportedMarks, mark, open_reviews
from lineside_hub.relabel.selection import Selection, count_without_frame, select_results
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.results.frames.rows import ResultKey, StoredFrame, open_rows
from lineside_hub.results.inbox import Inbox
from lineside_hub.results.postgres import PostgresSink, select
from lineside_hub.results.sql import runner
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_hub.statistics.counts import CountFilter
from lineside_hub.statistics.reviews import ReviewRates, review_rates
from lineside_link.config import LinkConfig
from lineside_link.messages import NOTE_MAX, Mark, Reported, ResultRow, Results, encode
from lineside_models import zoo
from lineside_models.labels import LABELS
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import ConfigError, InputNotFoundError
from tests.peers.postgres import PostgresServer

FRAME = "a" * 64


def test_postgres_keeps_and_finds_them_as_sqlite_does(server: PostgresServer, tmp_path: Path) -> None:
    link = LinkConfig("mqtt://127.0.0.1:1", "s")
    config = HubConfig(folder=str(tmp_path), link=link, results=ResultsConfig(url=server.url))
    rows = (
        ResultRow(seq=1, part_id="a", verdict="reject", detections=(("pitted", 0.9, 1, 2, 30, 40),)),
        ResultRow(seq=2, part_id="b", verdict="pass"),
        ResultRow(seq=3, part_id="c", verdict="reject"),
    )
    sink = PostgresSink(server.url)
    sink.write([read_batch("cam-1", encode(Results(epoch="e", rows=rows)))])
    sink.close()
    with Database.open(tmp_path) as database, closing(open_rows(config, database)) as frames:
        frames.add(StoredFrame(ResultKey("cam-1", "e", 1), FRAME, 10), 1)
        frames.add(StoredFrame(ResultKey("cam-1", "e", 2), "b" * 64, 10), 1)
    (bad,) = select_results(config, Selection(verdict="bad"))
    assert (bad.part_id, bad.sha256, bad.boxes) == ("a", FRAME, (("pitted", 0.9, 1, 2, 30, 40),))
    assert count_without_frame(config, Selection(verdict="bad")) == 1
    assert mark(config, "b", wrong=True, note="look", by="anna").seq == 2
    assert [
        (one.part_id, one.wrong, one.note) for one in select_results(config, Selection(verdict="bad", limit=5))
    ] == [
        ("a", False, ""),
        ("b", True, "look"),
    ]
    with open_reviews(config) as reviews:
        reviews.correct(FRAME, boxes="[]", by="anna", at_ns=7)
        reviews.correct(FRAME, boxes="[]", by="ben", at_ns=8)
    assert [one.part_id for one in select_results(config, Selection(verdict="bad"))] == ["b"]
    text = "SELECT seq, wrong, corrected_by, corrected_at_ns FROM reviews ORDER BY seq"
    assert list(select(server.url, text, {})) == [(1, 0, "anna", 7), (2, 1, "", 0)]


def test_what_operators_say_is_taken_once_and_a_later_word_at_the_hub_counts(hub: HubConfig) -> None:
    mark_of = Mark(epoch="e", seq=2, at_ns=2_000_000_000 * 10**9, note="rim" * 1000)  # a clock that is years ahead
    bad = Mark(epoch="", seq=0, at_ns=5)
    reports = [Reported(device="cam-1", marks=(bad, mark_of)), Reported(device="cam-1", marks=(bad, mark_of))]
    with open_reviews(hub) as reviews:
        marks = ReportedMarks(reviews)
        for report in reports:
            marks.take(report)
        (seen,) = select_results(hub, Selection(verdict="wrong"))
        assert (seen.seq, seen.note) == (2, ("rim" * 1000)[:NOTE_MAX])
        mark(hub, seen.part_id, wrong=False, by="anna")
        assert select_results(hub, Selection(verdict="wrong")) == []
        ReportedMarks(reviews).take(reports[0])  # after a restart of the hub
        assert select_results(hub, Selection(verdict="wrong")) == []


def test_the_hub_takes_marks_out_of_the_reports_that_come_in(hub: HubConfig) -> None:
    inbox = Inbox(Path(hub.folder), lambda *_: None)
    inbox.start()
    said = Reported(device="cam-1", marks=(Mark(epoch="e", seq=1, at_ns=7),))
    assert inbox.offer("reported", "cam-1", encode(said))
    inbox.close()
    assert [one.seq for one in select_results(hub, Selection(verdict="wrong"))] == [1]


def test_a_frame_that_is_called_wrong_after_it_was_corrected_goes_out_again(hub: HubConfig) -> None:
    (first, *_) = select_results(hub, Selection(verdict="all"))
    with open_reviews(hub) as reviews:
        reviews.correct(first.sha256, boxes="[]", by="anna", at_ns=5)
    assert first.seq not in [one.seq for one in select_results(hub, Selection(verdict="all"))]
    mark(hub, first.part_id, wrong=True, by="ben")
    assert [one.seq for one in select_results(hub, Selection(verdict="wrong"))] == [first.seq]


def test_the_same_boxes_saved_after_a_mark_count_as_the_last_word(hub: HubConfig) -> None:
    (rejected, *_) = select_results(hub, Selection(verdict="bad"))
    boxes = [(box[0], *box[2:]) for box in rejected.boxes]
    correct_frame(hub, rejected.sha256, boxes, by="anna")
    mark(hub, rejected.part_id, wrong=True, by="ben")
    with runner(hub) as run:
        assert review_rates(run, CountFilter()) == ReviewRates(rejects=1, false_rejects=1)
        correct_frame(hub, rejected.sha256, boxes, by="anna")
        assert select_results(hub, Selection(verdict="wrong")) == []
        assert review_rates(run, CountFilter()) == ReviewRates(rejects=1)


def test_a_device_whose_clock_is_ahead_blocks_no_later_word_at_the_hub(hub: HubConfig) -> None:
    (first, *_) = select_results(hub, Selection(verdict="all"))
    ahead = Mark(epoch="e", seq=first.seq, at_ns=2_000_000_000 * 10**9)
    with open_reviews(hub) as reviews:
        ReportedMarks(reviews).take(Reported(device="cam-1", marks=(ahead,)))
    for _ in range(2):
        assert [one.seq for one in select_results(hub, Selection(verdict="wrong"))] == [first.seq]
        correct_frame(hub, first.sha256, [], by="anna")
        assert select_results(hub, Selection(verdict="wrong")) == []
        mark(hub, first.part_id, wrong=True, by="ben")


def test_a_limit_below_one_is_refused(hub: HubConfig) -> None:
    with pytest.raises(ConfigError, match="limit"):
        select_results(hub, Selection(limit=0))


def test_types_come_from_what_was_published_or_from_the_bundle_that_is_named(hub: HubConfig, tmp_path: Path) -> None:
    folder = tmp_path / "with-keys"
    repository = Repository.create(folder, groups=["line-a"], passphrase=None)
    bundle = open_bundle(zoo.path("surface-12"))
    reference = repository.publish(bundle, "line-a")
    (seen, *_) = select_results(hub, Selection(verdict="all"))
    published = msgspec.structs.replace(seen, bundle=reference.identity, bundle_sha256=reference.sha256)
    assert labels_of(folder, [published]) == LABELS
    unknown = msgspec.structs.replace(seen, bundle="own@1", bundle_sha256="0" * 64)
    with pytest.raises(InputNotFoundError, match="own@1"):
        labels_of(folder, [unknown])
    assert labels_of(folder, [unknown], zoo.path("surface-12")) == LABELS


def test_what_the_model_was_unsure_of_goes_out_with_what_it_was_unsure_of(hub: HubConfig) -> None:
    doubt = ("pitted_surface", 0.4, 10.0, 20.0, 60.0, 80.0)
    row = ResultRow(seq=1, part_id="u-1", verdict="reject", unsure=True, doubtful=(doubt,), width=200, height=200)
    with Database.open(Path(hub.folder)) as database:
        with database.transaction():
            ResultsSink(database).write([read_batch("cam-9", encode(Results(epoch="e", rows=(row,))))])
        with closing(open_rows(hub, database)) as frames:
            frames.add(StoredFrame(ResultKey("cam-9", "e", 1), FRAME, 10), 1)
    assert [(one.part_id, one.verdict, one.boxes) for one in select_results(hub, Selection())] == [
        ("u-1", "unsure", (doubt,))
    ]
    assert "u-1" not in [one.part_id for one in select_results(hub, Selection(verdict="bad"))]
    assert "u-1" in [one.part_id for one in select_results(hub, Selection(verdict="all"))]
