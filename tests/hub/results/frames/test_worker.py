"""What becomes of each piece: the worker behind the frames' thread, with real files, SQLite and PostgreSQL."""

from __future__ import annotations

import collections
import errno
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside_hub.blobs import FolderBlobs
from lineside_hub.config import FramesConfig, HubConfig, ResultsConfig
from lineside_hub.results.frames.inbox import FrameInbox, FrameWorker
from lineside_hub.results.frames.retention import sweep
from lineside_hub.results.frames.rows import ResultKey, open_rows
from lineside_hub.results.frames.storage import PartialImages, frame_blobs
from lineside_hub.results.postgres import PostgresSink
from lineside_hub.results.queries import Query, export, export_frames, results
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.age_limit import LEAST
from lineside_link.config import LinkConfig
from lineside_link.messages import (
    FRAME_PIECE_BYTES,
    FrameAnswer,
    FramePiece,
    ResultRow,
    Results,
    encode,
    encode_framed,
)
from lineside_runtime.errors import ConfigError, DiskFullError
from tests.peers.postgres import PostgresServer
from tests.worlds.hub import open_database

LINK = LinkConfig("mqtt://127.0.0.1:1", "s")
SIDE = 96


def png(number: int, *, side: int = SIDE) -> bytes:
    """A noisy image of some pieces."""
    noise = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", noise)[1].tobytes())


def png_of(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def rows(device_rows: int, width: int = SIDE) -> bytes:
    made = tuple(
        ResultRow(
            seq=seq, part_id=f"p{seq}", captured_at_ns=seq, verdict="reject", bundle="m@1", width=width, height=SIDE
        )
        for seq in range(1, device_rows + 1)
    )
    return encode(Results(epoch="e", rows=made))


OPENED: list[Hub] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().database.close()


class Hub:
    """A worker, and a device that speaks with it without a broker in between."""

    def __init__(self, folder: Path, config: HubConfig | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.config = config or HubConfig(folder=str(folder), link=LINK)
        self.database = open_database(folder)
        self.rows = open_rows(self.config, self.database)
        self.answers: list[tuple[str, FrameAnswer]] = []
        self.begin()
        OPENED.append(self)

    def begin(self) -> None:
        """As a start of the process."""
        self.counters: collections.Counter[str] = collections.Counter()
        self.place = frame_blobs(self.config)
        self.worker = FrameWorker(
            self.config,
            self.rows,
            self.database,
            blobs=self.place,
            counters=self.counters,
            answer=lambda device, answer: self.answers.append((device, answer)),
        )

    def record(self, *devices: str, count: int = 5, width: int = SIDE) -> None:
        for device in devices:
            with self.database.transaction():
                ResultsSink(self.database).write([read_batch(device, rows(count, width))])

    def say(self, head: FramePiece, body: bytes = b"", *, device: str = "cam-1") -> FrameAnswer:
        self.worker.take(device, encode_framed(head, body))
        assert self.answers[-1][0] == device
        return self.answers[-1][1]

    def send(self, seq: int, data: bytes, *, device: str = "cam-1", until: int | None = None) -> FrameAnswer:
        """Offers, and sends what is asked for, as a device does; stops before ``until``."""
        head = head_of(seq, data)
        answer = self.say(head, device=device)
        while answer.status == "send" and (until is None or answer.have < until):
            body = data[answer.have : answer.have + FRAME_PIECE_BYTES]
            answer = self.say(msgspec.structs.replace(head, offset=answer.have), body, device=device)
        return answer

    def events(self) -> list[tuple[str, int | None]]:
        return [(event.device, event.code) for event in self.database.events(kind="frames")]

    def stored(self) -> set[str]:
        return set(self.place.names())


def head_of(seq: int, data: bytes, **changes: Any) -> FramePiece:
    fields: dict[str, Any] = {"epoch": "e", "seq": seq, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return FramePiece(**(fields | changes))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path / "hub")
    made.record("cam-1", "cam-2")
    yield made
    made.database.close()


def test_the_command_writes_frames_into_a_folder_with_and_without_a_table(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = png(1)
    assert hub.send(1, data).status == "stored"
    folder = Path(hub.config.folder)
    (folder / "hub.toml").write_text('folder = "."\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "s"\n')
    command = ["fleet", "results", "--hub", str(folder), "--with-frame"]
    assert main([*command, "--frames", str(tmp_path / "kept")]) == 0
    [frame] = (tmp_path / "kept").iterdir()
    assert frame.read_bytes() == data
    assert main([*command, "--out", str(tmp_path / "x.csv"), "--frames"]) == 0
    assert [path.name for path in (tmp_path / "x-frames").iterdir()] == [frame.name]
    assert main([*command, "--frames"]) == 1
    assert "without a folder" in capsys.readouterr().err


def test_a_device_beyond_its_quota_loses_its_own_oldest_frames(tmp_path: Path) -> None:
    size = len(png(1))
    frames = FramesConfig(device_max_bytes=3 * size, keep_free_bytes=0)
    hub = Hub(tmp_path / "hub", HubConfig(folder=str(tmp_path / "hub"), link=LINK, frames=frames))
    hub.record("cam-1", "cam-2")
    assert hub.send(1, png(10), device="cam-2").status == "stored"
    for seq in range(1, 6):
        assert hub.send(seq, png(seq)).status == "stored"
    kept = [kept.key for kept in hub.rows.oldest(99)]
    assert ResultKey("cam-2", "e", 1) in kept
    assert 1 <= kept.count(ResultKey("cam-1", "e", 5)) <= len([key for key in kept if key.device == "cam-1"]) <= 3
    assert ResultKey("cam-1", "e", 1) not in kept
    assert any("of cam-1" in event.detail for event in hub.database.events(kind="frames"))


def test_a_frame_is_stored_by_its_hash_once_and_belongs_to_its_record(hub: Hub, tmp_path: Path) -> None:
    data = png(1)
    assert len(data) > FRAME_PIECE_BYTES
    assert hub.send(2, data).status == "stored"
    digest = hashlib.sha256(data).hexdigest()
    assert hub.place.read(digest) == data
    assert hub.rows.digest(ResultKey("cam-1", "e", 2)) == digest
    assert hub.say(head_of(2, data)).status == "stored", "offered again"
    assert (hub.counters["stored"], hub.counters["repeated"], hub.counters["bytes"]) == (1, 1, len(data))
    assert hub.send(4, data, device="cam-2").status == "stored", "the same image: no byte is sent again"
    assert hub.counters["bytes"] == len(data)
    assert hub.rows.total() == (2, 2 * len(data))
    assert not list((tmp_path / "hub" / "frames-arriving").glob("*/*"))


def test_frames_are_found_and_exported_along_with_the_results(hub: Hub, tmp_path: Path) -> None:
    images = {seq: png(seq) for seq in (2, 3)}
    for seq, data in images.items():
        hub.send(seq, data)
    digests = {seq: hashlib.sha256(data).hexdigest() for seq, data in images.items()}
    assert {row[2]: row[-1] for row in results(hub.config, Query(device="cam-1"))} == {1: "", **digests, 4: "", 5: ""}
    assert [row[-1] for row in results(hub.config, Query(part_id="p3", bundle="m"))] == [digests[3], ""]
    assert [row[2] for row in results(hub.config, Query(since_ns=3, with_frame=True))] == [3]
    assert [row[2] for row in results(hub.config, Query(with_frame=True, limit=1))] == [3]
    assert export(hub.config, Query(with_frame=True), tmp_path / "x.csv") == 2
    written = export_frames(hub.config, Query(), tmp_path / "x-frames")
    assert (written.frames, written.missing) == (2, 0)
    assert {path.name: path.read_bytes() for path in written.folder.iterdir()} == {
        f"{digests[seq]}.png": data for seq, data in images.items()
    }
    hub.place.remove(digests[2])
    assert export_frames(hub.config, Query(), tmp_path / "again").missing == 1


def test_what_is_no_frame_of_a_record_is_refused_with_its_code(hub: Hub) -> None:
    good = png(1)
    cases = {
        "too large": hub.say(head_of(1, good, size=hub.config.frames.frame_max_bytes + 1)),
        "no bytes": hub.say(head_of(1, good, size=0)),
        "unknown record": hub.say(head_of(77, good)),
        "unknown epoch": hub.say(head_of(1, good, epoch="other")),
        "not an image": hub.send(1, b"no image at all" * 100),
        "cut short": hub.send(1, good[:-20] + good[-12:]),
        "something behind it": hub.send(1, good + b"<script>"),
        "of another size": hub.send(1, png(1, side=32)),
        "16 bits": hub.send(1, png_of(np.zeros((SIDE, SIDE, 3), np.uint16))),
        "with alpha": hub.send(1, png_of(np.zeros((SIDE, SIDE, 4), np.uint8))),
        "a bomb": hub.send(1, good[:16] + b"\x7f\xff\xff\xff" * 2 + good[24:]),
        "empty middle": hub.send(1, b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + bytes(40) + good[-12:]),
    }
    wrong = head_of(1, good, sha256="0" * 64)
    hub.say(wrong)
    for offset in range(0, len(good), FRAME_PIECE_BYTES):
        last = hub.say(msgspec.structs.replace(wrong, offset=offset), good[offset : offset + FRAME_PIECE_BYTES])
    cases["another hash"] = last
    head = head_of(1, good, size=100)
    hub.say(head)
    cases["longer than said"] = hub.say(msgspec.structs.replace(head, offset=0), good[:200])
    for what, answer in cases.items():
        assert (answer.status, answer.error.code if answer.error else 0) == ("refused", 4030), what
    assert hub.counters["refused"] == len(cases)
    assert hub.stored() == set()
    assert hub.rows.total() == (0, 0)
    assert hub.events() == [("cam-1", 4030)], "one entry, however often"
    assert hub.send(1, good).status == "stored", "a good one still comes in"
    other = hub.say(head_of(1, png(2)))
    assert (other.status, other.error.code if other.error else 0) == ("refused", 4030), "a second image of one record"


def test_an_image_that_is_there_already_must_be_of_the_records_size_too(hub: Hub) -> None:
    data = png(1)
    assert hub.send(2, data).status == "stored"
    hub.record("cam-3", width=SIDE + 1)
    answer = hub.say(head_of(1, data), device="cam-3")
    assert (answer.status, answer.error.code if answer.error else 0) == ("refused", 4030)
    assert hub.rows.digest(ResultKey("cam-3", "e", 1)) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"{}\nbytes",
        b"\xff\n",
        encode_framed(head_of(1, b"x", sha256="../../../etc/passwd")),
        encode_framed(head_of(1, b"x", epoch="")),
        encode_framed(head_of(1, b"x", epoch="e" * 65)),
        encode_framed(head_of(2**63, b"x")),
        encode_framed(head_of(-1, b"x")),
    ],
)
def test_what_is_no_piece_is_counted_and_not_answered(hub: Hub, payload: bytes) -> None:
    hub.worker.take("cam-1", payload)
    hub.worker.take("cam-1", payload)
    assert (hub.counters["malformed"], hub.answers) == (2, [])
    assert len(hub.events()) == 1


def test_after_a_kill_it_goes_on_from_what_is_there(hub: Hub) -> None:
    data = png(3)
    half = hub.send(1, data, until=FRAME_PIECE_BYTES)
    assert half.have == FRAME_PIECE_BYTES
    hub.begin()
    answer = hub.say(head_of(1, data))
    assert (answer.status, answer.have, answer.again) == ("send", FRAME_PIECE_BYTES, True)
    hub.begin()
    behind = hub.say(head_of(1, data, offset=2 * FRAME_PIECE_BYTES), data[2 * FRAME_PIECE_BYTES :])
    assert (behind.status, behind.have, behind.again) == ("send", FRAME_PIECE_BYTES, True), (
        "a piece instead of an offer"
    )
    assert hub.send(1, data).status == "stored"
    assert hub.counters["bytes"] < len(data)


def test_killed_between_content_and_row_it_is_stored_without_being_sent_again(hub: Hub) -> None:
    data = png(4)
    hub.place.write(hashlib.sha256(data).hexdigest(), data)
    assert hub.say(head_of(1, data)).status == "stored"
    assert hub.counters["bytes"] == 0


def test_what_a_power_cut_tore_is_sent_anew_before_anybody_is_blamed(hub: Hub) -> None:
    data = png(5)
    hub.send(1, data, until=FRAME_PIECE_BYTES)
    PartialImages(Path(hub.config.folder)).append(
        "cam-1", hashlib.sha256(data).hexdigest(), offset=0, data=bytes(FRAME_PIECE_BYTES)
    )
    hub.begin()
    assert hub.send(1, data).status == "stored"
    assert hub.place.read(hashlib.sha256(data).hexdigest()) == data


def test_a_gap_is_told_once_and_a_repeat_changes_nothing(hub: Hub) -> None:
    data = png(6)
    head = head_of(1, data)
    hub.say(head)

    def piece(number: int) -> FrameAnswer:
        offset = number * FRAME_PIECE_BYTES
        return hub.say(msgspec.structs.replace(head, offset=offset), data[offset : offset + FRAME_PIECE_BYTES])

    assert [(piece(1).again, piece(1).again)] == [(True, False)]
    first = piece(0)
    assert (first.have, first.again) == (FRAME_PIECE_BYTES, False)
    repeat = piece(0)
    assert (repeat.have, repeat.again) == (FRAME_PIECE_BYTES, False)
    assert piece(1).status == "stored"


def test_a_device_has_one_half_frame_and_a_newer_one_takes_its_place(hub: Hub) -> None:
    for number in range(1, 4):
        hub.send(number, png(number), until=FRAME_PIECE_BYTES)
    assert len(list((Path(hub.config.folder) / "frames-arriving" / "cam-1").iterdir())) == 1
    assert hub.stored() == set()


def with_frames(folder: Path, **frames: Any) -> Hub:
    made = Hub(folder, HubConfig(folder=str(folder), link=LINK, frames=FramesConfig(**frames)))
    made.record("cam-1", "cam-2", count=20)
    return made


def test_too_many_at_once_wait_for_their_turn_and_share_the_rate(tmp_path: Path) -> None:
    hub = with_frames(tmp_path / "hub", at_once=1, rate_bytes_s=10_000)
    data = png(1)
    assert hub.say(head_of(1, data)).bytes_s == 10_000
    other = hub.say(head_of(1, png(2)), device="cam-2")
    assert (other.status, other.wait_s > 0, other.error) == ("wait", True, None)
    assert hub.send(1, data).status == "stored"
    assert hub.say(head_of(1, png(2)), device="cam-2").status == "send"
    two = with_frames(tmp_path / "two", rate_bytes_s=10_000)
    two.say(head_of(1, data))
    two.say(head_of(1, png(2)), device="cam-2")
    piece = two.say(head_of(1, data, offset=0), data[:FRAME_PIECE_BYTES])
    assert piece.bytes_s == 5_000


def test_a_full_disk_keeps_what_the_results_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = with_frames(tmp_path / "hub", keep_free_bytes=1 << 60)
    answer = hub.say(head_of(1, png(1)))
    assert (answer.status, answer.error.code if answer.error else 0) == ("wait", 4002)
    assert hub.say(head_of(1, png(1))).status == "wait"
    assert hub.events() == [("", 4002)], "said once"
    hub = with_frames(tmp_path / "full")

    def full(_self: FolderBlobs, _digest: str, _data: bytes) -> None:
        raise DiskFullError("no room")

    monkeypatch.setattr(FolderBlobs, "write", full)
    answer = hub.send(1, png(1))
    assert (answer.status, answer.error.code if answer.error else 0) == ("wait", 4002)
    monkeypatch.undo()
    assert hub.send(1, png(1)).status == "stored"

    def torn(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartialImages, "append", torn)
    answer = hub.send(2, png(2))
    assert (answer.status, answer.error.code if answer.error else 0) == ("wait", 4000)
    assert hub.counters["refused"] == 0


def test_a_hub_that_takes_none_says_so(tmp_path: Path) -> None:
    answer = with_frames(tmp_path / "hub", take=False).say(head_of(1, png(1)))
    assert (answer.status, answer.wait_s) == ("wait", 60.0)


def test_too_many_bytes_push_out_the_oldest_of_whoever_has_most(tmp_path: Path) -> None:
    size = len(png(0))
    hub = with_frames(tmp_path / "hub", max_bytes=6 * size)
    assert hub.send(1, png(100), device="cam-2").status == "stored"
    for seq in range(1, 11):
        assert hub.send(seq, png(seq)).status == "stored"
    hub.worker._sweep()
    assert hub.rows.total()[1] <= 6 * size
    kept = {(row[0], row[2]) for row in results(hub.config, Query(with_frame=True))}
    assert ("cam-2", 1) in kept, "another device's frame is older, and stays"
    assert ("cam-1", 10) in kept
    assert ("cam-1", 1) not in kept
    assert len(hub.stored()) == len(kept)
    assert hub.counters["removed"] == 11 - len(kept)
    assert any("more than" in event.detail for event in hub.database.events(kind="frames"))


def test_old_ones_go_and_shared_content_stays_as_long_as_one_needs_it(tmp_path: Path) -> None:
    hub = with_frames(tmp_path / "hub", max_age_days=1.0)
    hub.send(1, png(1))
    hub.send(2, png(2))
    hub.send(1, png(1), device="cam-2")
    with hub.database.transaction() as connection:
        connection.execute("UPDATE frames SET received_at_ns = 1 WHERE device = 'cam-1'")
    hub.worker._sweep()
    assert [(row[0], row[2]) for row in results(hub.config, Query(with_frame=True))] == [("cam-2", 1)]
    assert hub.stored() == {hashlib.sha256(png(1)).hexdigest()}
    assert any("older than 1 days" in event.detail for event in hub.database.events(kind="frames"))


def test_a_clock_that_is_ahead_deletes_few_frames_a_sweep(tmp_path: Path) -> None:
    hub = with_frames(tmp_path / "hub", max_age_days=90.0)
    for seq in range(1, 16):
        for device in ("cam-1", "cam-2"):
            hub.send(seq, png(seq), device=device)
    year_ahead_ns = time.time_ns() + 365 * 86400 * 10**9
    (removed,) = sweep(hub.rows, hub.place, hub.config.frames, year_ahead_ns)
    assert (removed.count, hub.rows.total()[0]) == (LEAST, 30 - LEAST)


def test_content_that_belongs_to_nothing_is_found(hub: Hub) -> None:
    hub.send(1, png(1))
    hub.place.write("a" * 64, b"left behind by a kill")
    hub.worker.tidy()
    assert hub.stored() == {hashlib.sha256(png(1)).hexdigest()}


def test_content_lies_on_any_filesystem(tmp_path: Path) -> None:
    hub = with_frames(tmp_path / "hub", url=f"file://{tmp_path}/elsewhere")
    assert hub.send(1, png(1)).status == "stored"
    assert len(list((tmp_path / "elsewhere").glob("*/*"))) == 1
    assert export_frames(hub.config, Query(), tmp_path / "out").frames == 1
    with pytest.raises(ConfigError):
        FrameInbox(msgspec.structs.replace(hub.config, frames=FramesConfig(url="nonsense://x")), lambda *_: None)


def test_the_inbox_never_waits(tmp_path: Path) -> None:
    """The link's handlers hand over results too: a thread that doesn't take anything must not hold them."""
    Hub(tmp_path / "hub")
    inbox = FrameInbox(HubConfig(folder=str(tmp_path / "hub"), link=LINK), lambda *_: None)  # not started
    taken = [inbox.offer("cam-1", encode_framed(head_of(1, b"x"))) for _ in range(1000)]
    assert 0 < taken.count(True) < 1000
    assert inbox.counters["dropped"] == taken.count(False)
    assert not inbox.offer("cam-1", bytes(1 << 20))


def test_in_postgres_as_in_sqlite(tmp_path: Path) -> None:
    server = PostgresServer()
    server.start()
    hub: Hub | None = None
    try:
        sink = PostgresSink(server.url)
        sink.write([read_batch("cam-1", rows(5)), read_batch("cam-2", rows(5))])
        sink.close()
        folder = tmp_path / "hub"
        config = HubConfig(folder=str(folder), link=LINK, results=ResultsConfig(server.url))
        hub = Hub(folder, config)
        assert [hub.send(seq, png(seq)).status for seq in range(1, 6)] == ["stored"] * 5
        assert hub.send(1, png(1)).status == "stored"
        assert (hub.counters["stored"], hub.counters["repeated"]) == (5, 1)
        assert hub.say(head_of(9, png(1))).status == "refused"
        assert [row[-1] != "" for row in results(config, Query(device="cam-1"))] == [True] * 5
        assert export_frames(config, Query(part_id="p5"), tmp_path / "out").frames == 1
        hub.config = msgspec.structs.replace(config, frames=FramesConfig(max_bytes=4 * len(png(0))))
        hub.begin()
        hub.worker._sweep()
        assert [row[2] for row in results(config, Query(with_frame=True, limit=9))] == [3, 4, 5]
        assert len(hub.stored()) == 3
        server.kill()
        answer = hub.say(head_of(1, png(1)))
        assert (answer.status, answer.error.code if answer.error else 0) == ("wait", 4001)
        server.start()
        assert hub.send(1, png(1)).status == "stored"
    finally:
        if hub is not None:
            hub.rows.close()
            hub.database.close()
        server.stop()
