"""What people say of results, in either database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from lineside_hub.config import HubConfig, ResultsConfig
from lineside_hub.database import Database
from lineside_hub.frames.rows import Kept, Key, open_rows
from lineside_hub.postgres import PostgresSink, select
from lineside_hub.relabel.labels import labels_of
from lineside_hub.relabel.reviews import mark, open_reviews
from lineside_hub.relabel.selection import Choice, pick
from lineside_hub.repository import Repository
from lineside_hub.results import read_batch
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow, Results, encode
from lineside_models import zoo
from lineside_models.labels import LABELS
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import ConfigError, InputNotFoundError
from tests.peers.postgres import PostgresServer

FRAME = "a" * 64


def test_postgres_keeps_and_finds_them_as_sqlite_does(tmp_path: Path) -> None:
    server = PostgresServer()
    server.start()
    try:
        link = LinkConfig("mqtt://127.0.0.1:1", "s")
        config = HubConfig(folder=str(tmp_path), link=link, results=ResultsConfig(url=server.url))
        rows = (
            ResultRow(seq=1, part_id="a", verdict="reject", detections=(("pitted", 0.9, 1, 2, 30, 40),)),
            ResultRow(seq=2, part_id="b", verdict="pass"),
        )
        sink = PostgresSink(server.url)
        sink.write([read_batch("cam-1", encode(Results(epoch="e", rows=rows)))])
        sink.close()
        with closing(Database.open(tmp_path)) as database, closing(open_rows(config, database)) as frames:
            frames.add(Kept(Key("cam-1", "e", 1), FRAME, 10), 1)
        (bad,) = pick(config, Choice(verdict="bad"))
        assert (bad.part_id, bad.frame, bad.boxes) == ("a", FRAME, (("pitted", 0.9, 1, 2, 30, 40),))
        assert mark(config, "b", wrong=True, note="look", by="anna").seq == 2
        assert [(one.part_id, one.wrong, one.note) for one in pick(config, Choice(verdict="bad", limit=5))] == [
            ("a", False, ""),
            ("b", True, "look"),
        ]
        with open_reviews(config) as reviews:
            reviews.correct(FRAME, boxes="[]", by="anna", at_ns=7)
            reviews.correct(FRAME, boxes="[]", by="ben", at_ns=8)
        assert [one.part_id for one in pick(config, Choice(verdict="bad"))] == ["b"]
        text = "SELECT seq, wrong, corrected_by, corrected_at_ns FROM reviews ORDER BY seq"
        assert list(select(server.url, text, {})) == [(1, 0, "anna", 7), (2, 1, "", 0)]
    finally:
        server.stop()


def test_a_limit_below_one_is_refused(hub: HubConfig) -> None:
    with pytest.raises(ConfigError, match="limit"):
        pick(hub, Choice(limit=0))


def test_types_come_from_what_was_published_or_from_the_bundle_that_is_named(hub: HubConfig, tmp_path: Path) -> None:
    folder = tmp_path / "with-keys"
    repository = Repository.create(folder, groups=["line-a"], passphrase=None)
    bundle = open_bundle(zoo.path("surface-12-slim"))
    reference = repository.publish(bundle, "line-a")
    (seen, *_) = pick(hub, Choice(verdict="all"))
    published = msgspec.structs.replace(seen, bundle=reference.identity, bundle_sha256=reference.sha256)
    assert labels_of(folder, [published]) == LABELS
    unknown = msgspec.structs.replace(seen, bundle="own@1", bundle_sha256="0" * 64)
    with pytest.raises(InputNotFoundError, match="own@1"):
        labels_of(folder, [unknown])
    assert labels_of(folder, [unknown], zoo.path("surface-12")) == LABELS
