"""Results, statistics, relabeling and alarms in a real browser, on a hub with two lines."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from lineside_hub.alarms.config import AlarmsConfig
from lineside_hub.alarms.monitor import AlarmMonitor
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.relabel.importer import FOLDER
from lineside_hub.relabel.reviews import Reviews
from lineside_hub.results.database import Database
from lineside_hub.results.frames.rows import FrameRows, ResultKey, StoredFrame
from lineside_hub.results.frames.storage import frame_blobs
from lineside_hub.results.sql import runner
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_hub.web import thumbnails
from lineside_hub.web.pages.relabel import QUEUE_ROWS
from lineside_hub.web.thumbnails import ThumbnailCache, make_thumbnail
from lineside_link.messages import MeasuredValue, ResultRow, Results, Up, encode
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import FrameError
from tests.worlds.dashboard import DashboardWorld, check_in_all_sizes, shoot
from tests.worlds.hub import make_database, make_repository

HOUR_NS = 3_600_000_000_000
SIZE = (320, 240)
TYPES = ("scratches", "inclusion", "patches", "pitted_surface")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    folder = tmp_path_factory.mktemp("quality") / "hub"
    make_repository(folder, ["line-a", "line-b"])
    make_database(folder)
    started = DashboardWorld(folder)
    fill(started)
    yield started
    started.close()


def fill(world: DashboardWorld) -> None:
    """Four devices, 60 hours, 30 parts an hour each; line-b is worse for the last ten hours; ten frames."""
    bundle = open_bundle(zoo.path("surface-12"), verify=False)
    draw, now_ns = random.Random(3), time.time_ns()
    begin_ns = now_ns - 60 * HOUR_NS
    with Database.open(world.folder) as database, runner(world.config) as run:
        sink, frames = ResultsSink(database), FrameRows(run, lambda: None)
        for device in ("cam-1", "cam-2", "cam-3", "cam-4"):
            line = "line-a" if device < "cam-3" else "line-b"
            rows = []
            for seq in range(1, 1801):
                hour = (seq - 1) / 30
                rate = 0.25 if line == "line-b" and hour > 50 else 0.04
                bad = draw.random() < rate
                kind = draw.choices(TYPES, weights=(8, 4, 2, 1))[0]
                rows.append(
                    ResultRow(
                        seq=seq,
                        part_id=f"{device}-{seq}",
                        captured_at_ns=begin_ns + int(hour * HOUR_NS),
                        verdict="reject" if bad else "pass",
                        unsure=bad and draw.random() < 0.2,
                        detections=((kind, round(0.5 + draw.random() / 2, 3), 60.0, 50.0, 160.0, 130.0),)
                        if bad
                        else (),
                        measurements=(MeasuredValue(name="width", value=4.02, unit="mm", in_tolerance=True),),
                        bundle=f"{bundle.manifest.name}@{bundle.manifest.version}",
                        bundle_sha256=bundle.digest,
                        used_device="ort/cpu:0",
                        latency_ms=4.2,
                        width=SIZE[0],
                        height=SIZE[1],
                    )
                )
            with database.transaction():
                FleetTimeline(database, group_of=lambda _: None).write_up(
                    Up(device=device, up=device != "cam-2", boot_id="b", group=line, board="rpi5")
                )
                for first in range(0, 1800, 600):
                    sink.write([read_batch(device, encode(Results(epoch="e", rows=tuple(rows[first : first + 600]))))])
            if device == "cam-3":
                for row in [row for row in rows if row.unsure][:10]:
                    add_frame(world, frames, ResultKey(device, "e", row.seq))
                Reviews(run).mark(ResultKey(device, "e", rows[-1].seq), wrong=True, note="missed defect", by="Otto")
        with database.transaction() as connection:
            connection.execute("UPDATE devices SET up_at_ns = ? WHERE up = 0", (now_ns - HOUR_NS,))
        AlarmMonitor(world.config, lambda message: True).evaluate(database, run)


def add_frame(world: DashboardWorld, frames: FrameRows, key: ResultKey) -> None:
    image = np.full((SIZE[1], SIZE[0]), 120, np.uint8)
    cv2.randn(image, 120, 8)
    cv2.line(image, (70, 60), (150, 120), 30, 3)
    cv2.putText(image, str(key.seq), (10, 220), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 200)
    data = cv2.imencode(".png", image)[1].tobytes()
    sha256 = hashlib.sha256(data).hexdigest()
    frame_blobs(world.config).write(sha256, data)
    frames.add(StoredFrame(key, sha256, len(data)), time.time_ns())


def test_thumbnails_are_made_once_and_go_with_their_frame(
    world: DashboardWorld, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []

    def count(frame: bytes) -> bytes:
        made.append(make_thumbnail(frame))
        return made[-1]

    monkeypatch.setattr(thumbnails, "make_thumbnail", count)
    with world.open_page(browser, "watch", "/results?with_frame=true") as page:
        pictures = page.locator("img.thumbnail")
        expect(pictures).to_have_count(len(page.locator("tbody tr").all()))
        pictures.first.scroll_into_view_if_needed()
        expect(pictures.first).to_have_js_property("naturalWidth", 160)
        shoot(page, "results-thumbnails")
        url = str(pictures.first.get_attribute("src"))
    client, before = world.client("watch"), len(made)
    status, data = client.send("GET", url)
    assert (status, client.answer_headers["content-type"], len(made)) == (200, "image/jpeg", before)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None and decoded.shape[:2] == (120, 160)
    assert world.client().send("GET", url)[0] == 303
    sha256 = url.split("/")[2]
    with Database.open(world.folder) as database:
        [row] = [tuple(row) for row in database.query("SELECT * FROM frames WHERE sha256 = ?", sha256)]
        with database.transaction() as connection:
            connection.execute("DELETE FROM frames WHERE sha256 = ?", (sha256,))
        assert client.send("GET", url)[0] == 404
        with database.transaction() as connection:
            connection.execute(f"INSERT INTO frames VALUES ({', '.join('?' * len(row))})", row)


def test_the_cache_of_thumbnails_is_bounded() -> None:
    draw = np.random.default_rng(1)
    frames = [cv2.imencode(".png", draw.integers(0, 255, (200, 300, 3), np.uint8))[1].tobytes() for _ in range(4)]
    one = len(make_thumbnail(frames[0]))
    cache = ThumbnailCache(max_bytes=int(2.5 * one))
    for number, frame in enumerate(frames[:2]):
        cache.add(str(number), frame)
    assert cache.get("0") is not None
    cache.add("2", frames[2])
    assert [cache.get(str(number)) is not None for number in range(3)] == [True, False, True]
    with pytest.raises(FrameError):
        cache.add("3", b"no image")


def test_pages_are_compressed_but_those_of_the_sign_in(world: DashboardWorld) -> None:
    client, gzip = world.client("watch"), {"Accept-Encoding": "gzip"}
    plain = client.send("GET", "/results")[1]
    for path, encoding in (("/results", "gzip"), ("/static/uplot-1.6.32.min.js", "gzip"), ("/sign-in?next=/x", None)):
        _, data = client.send("GET", path, **gzip)
        assert client.answer_headers.get("content-encoding") == encoding, path
        assert "default-src 'none'" in client.answer_headers["content-security-policy"]
        if path == "/results":
            assert zlib.decompress(data, 31) == plain and len(data) < len(plain) / 4


def test_pages_fit_their_window_and_are_accessible(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "operate") as page:
        charts, drawn = page.locator(".chart canvas"), page.locator("#person rect")
        quality, editor = f"{world.url}/quality?since=7d", f"{world.url}/relabel/next"
        check_in_all_sizes(page, quality, "quality", ready=lambda: expect(charts).to_have_count(2))
        for path, name in (
            ("/results?verdict=reject", "results"),
            ("/quality/comparison?a_group=line-a&b_group=line-b", "comparison"),
            ("/relabel", "relabel"),
            ("/alarms", "alarms"),
        ):
            check_in_all_sizes(page, world.url + path, name)
        check_in_all_sizes(page, editor, "editor", ready=lambda: expect(drawn).to_have_count(1))


def test_the_quality_page_says_what_the_results_say(world: DashboardWorld, browser: Browser) -> None:
    client = world.client("watch")
    counts = client.json("GET", "/api/v1/statistics/totals")
    assert counts["passed"] + counts["rejected"] + counts["unsure"] == 7200
    rows = client.json("GET", "/api/v1/statistics/pareto?group=line-b")
    assert [row["type"] for row in rows] == list(TYPES)
    assert rows[-1]["cumulative"] == 1.0
    chart = client.json("GET", "/api/v1/statistics/control-chart?group=line-b&limits=binomial&step_h=1")
    late = [point for point in chart["points"] if 1 in point["signals"]]
    assert late and min(point["subgroup"]["at_ns"] for point in late) > time.time_ns() - 13 * HOUR_NS
    compared = client.json("GET", "/api/v1/statistics/comparison?a_group=line-a&b_group=line-b")
    assert compared["rejects"]["interval"][0] > 0
    assert client.json("GET", "/api/v1/statistics/totals?group=nowhere")["passed"] == 0
    assert client.send("GET", "/api/v1/statistics/totals?step_h=5")[0] == 400
    with world.open_page(browser, "watch", "/quality?group=line-b") as page:
        page.get_by_role("link", name="inclusion").click()
        expect(page.get_by_role("heading", name="Results")).to_be_visible()
        assert "inclusion" in page.locator("tbody tr").first.inner_text()
        page.locator("tbody th a").first.click()
        expect(page.get_by_text("4.02 mm")).to_be_visible()


def test_search_pages_through_results_and_exports_them(world: DashboardWorld) -> None:
    client = world.client("watch")
    found, after = [], ""
    while True:
        page = client.json("GET", f"/api/v1/results?device=cam-4&verdict=reject&after={after}")
        found += page["results"]
        if not (after := page["after"]):
            break
    status, data = client.send("GET", "/results/export?device=cam-4&verdict=reject")
    exported = list(csv.DictReader(io.StringIO(data.decode())))
    assert (status, [row["part_id"] for row in exported]) == (200, [one["part_id"] for one in reversed(found)])
    assert len(found) > 50
    status, data = client.send("GET", "/results/export?device=cam-4&format=parquet")
    assert (status, data[:4]) == (200, b"PAR1")
    assert client.send("GET", "/api/v1/results?after=zz")[0] == 409
    assert client.send("GET", f"/frames/{'0' * 64}")[0] == 404


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Returns where a pixel of the frame is in the window."""
    matrix = "document.getElementById('frame').getScreenCTM()"
    left, top = page.evaluate(
        f"(at) => {{ const to = new DOMPoint(...at).matrixTransform({matrix}); return [to.x, to.y]; }}", [x, y]
    )
    return left, top


def test_a_person_corrects_a_frame_and_it_is_in_the_dataset(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "operate", "/relabel") as page:
        page.get_by_role("link", name="Start with the first").click()
        first = page.url
        expect(page.locator("#count")).to_have_text("1 box")  # written by the editor, which is ready then
        page.locator("#type").select_option("inclusion")
        page.mouse.move(*on_screen(page, 200, 20))
        page.mouse.down()
        page.mouse.move(*on_screen(page, 260, 80), steps=4)
        page.mouse.up()
        expect(page.locator("#count")).to_have_text("2 boxes")
        box = page.locator("#person rect").first
        box.focus()
        box.press("ArrowLeft")
        page.mouse.move(*on_screen(page, 10, 150))
        page.mouse.down()
        page.mouse.move(*on_screen(page, 60, 190), steps=4)
        page.mouse.up()
        page.locator("#type").select_option("+")
        page.get_by_label("New type").fill("dent")  # renames the box that was drawn last
        page.route("**/boxes", lambda route: route.abort())
        page.get_by_role("button", name="Save boxes").click()
        expect(page.locator("#message")).to_contain_text("the boxes are not saved")
        page.unroute("**/boxes")
        page.get_by_role("button", name="Save boxes").click()
        page.wait_for_url(lambda url: url != first)
        second = page.url
        page.get_by_role("button", name="Good part: no boxes").click()
        page.wait_for_url(lambda url: url not in (first, second))
    history = [json.loads(line) for line in (world.folder / FOLDER / "corrections.jsonl").read_text().splitlines()]
    assert [(line["by"], [change["kind"] for change in line["changes"]]) for line in history] == [
        ("Otto", ["kept", "added", "added"]),
        ("Otto", ["deleted"]),
    ]
    renamed, added = sorted(change["person"] for change in history[0]["changes"][1:])
    assert renamed[0] == "dent"
    assert added[0] == "inclusion" and added[1:] == pytest.approx([200, 20, 260, 80], abs=1.5)
    client = world.client("operate")
    assert client.json("GET", "/api/v1/relabel/report")["people"] == {"Otto": 2}
    assert client.json("GET", "/api/v1/statistics/reviews")["false_rejects"] == 1
    sha256 = history[0]["image"]["sha256"]
    outside = {"boxes": [["inclusion", 0, 0, 900, 10]]}
    assert client.send("POST", f"/api/v1/frames/{sha256}/boxes", outside)[0] == 409
    rows = world.client("administer").json("GET", "/api/v1/audit")
    corrected = [row for row in rows if row["action"] == "correct boxes"]
    assert [(row["who"], row["subject"] == sha256, bool(row["error"])) for row in corrected] == [
        ("Otto", True, True),
        ("Otto", False, False),
        ("Otto", True, False),
    ]


def test_an_operator_acknowledges_an_alarm_and_marks_a_result(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "operate", "/alarms") as page:
        row = page.get_by_role("row", name="device-silent")
        row.get_by_role("textbox").fill("cable ordered")
        row.get_by_role("button", name="Acknowledge").click()
        expect(page.get_by_text("Otto: cable ordered")).to_be_visible()
    client = world.client("operate")
    [alarm] = [one for one in client.json("GET", "/api/v1/alarms") if one["rule"] == "device-silent"]
    assert (alarm["state"], alarm["device"]) == ("acknowledged", "cam-2")
    marked = client.json("POST", "/api/v1/results/cam-1/e/7/mark", {"wrong": True, "note": "a scratch"})
    assert (marked["wrong"], marked["note"], marked["marked_by"]) == (True, "a scratch", "Otto")
    assert client.send("POST", "/api/v1/results/cam-1/e/999999/mark", {"wrong": True})[0] == 404
    client.json("POST", "/api/v1/results/cam-1/e/7/mark", {"wrong": True, "note": "y" * 200})
    with world.open_page(browser, "operate", "/results/cam-1/e/7", "phone") as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert b'lineside_fleet_results_total{device="cam-1",verdict="pass"}' in client.send("GET", "/metrics")[1]
    assert AlarmsConfig().rule[0].name == "device-silent"


def test_the_page_of_a_device_without_a_set_clock_says_where_its_results_are(world: DashboardWorld) -> None:
    lines = [ResultRow(seq=seq, part_id=str(seq), captured_at_ns=seq * 10**9, verdict="pass") for seq in (1, 2)]
    with Database.open(world.folder) as database, database.transaction():
        FleetTimeline(database, group_of=lambda _: None).write_up(Up(device="cam-9", up=True, boot_id="b"))
        batch = encode(Results(epoch="e", rows=tuple(lines)))
        ResultsSink(database).write([read_batch("cam-9", batch)])
    page = world.client("watch").send("GET", "/devices/cam-9")[1].decode()
    assert f"{time.time() / 31_536_000:.0f} y behind the hub" in page
    assert "kept under these wrong times" in page


def test_a_frame_that_was_called_wrong_is_in_the_queue_whatever_is_newer(tmp_path: Path) -> None:
    make_repository(tmp_path / "hub", ["line-a"])
    make_database(tmp_path / "hub")
    rows = [
        ResultRow(seq=seq, part_id=str(seq), captured_at_ns=seq * 10**9, verdict="reject" if seq > 1 else "pass")
        for seq in range(1, QUEUE_ROWS + 2)
    ]
    with contextlib.closing(DashboardWorld(tmp_path / "hub")) as world:
        with Database.open(world.folder) as database, runner(world.config) as run:
            with database.transaction():
                ResultsSink(database).write([read_batch("cam-1", encode(Results(epoch="e", rows=tuple(rows))))])
            frames = FrameRows(run, lambda: None)
            for row in rows:
                frames.add(StoredFrame(ResultKey("cam-1", "e", row.seq), f"{row.seq:064x}", 1), 1)
            Reviews(run).mark(ResultKey("cam-1", "e", 1), wrong=True, note="missed defect", by="Otto")
        queue = world.client("watch").json("GET", "/api/v1/relabel/queue?verdict=bad")
    newest_first = range(QUEUE_ROWS + 1, 2, -1)
    assert [(one["seq"], one["wrong"]) for one in queue] == [(1, True), *((seq, False) for seq in newest_first)]
