"""Several cameras on each part: one verdict, one record with the findings and images of all; also with a dead one."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.cli import main
from lineside_agent.cameras import LostFrame
from lineside_agent.config import (
    CameraConfig,
    FolderCameraConfig,
    InspectConfig,
    SimulatorCameraConfig,
    StoreConfig,
    parse_config,
)
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.frame_sources import PartFrames
from lineside_agent.inspection.loaded_bundle import LoadedBundle, load
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.views import Capture, Views, combine, frames_of, has_picture
from lineside_agent.line_io.codes import code_of
from lineside_agent.line_io.events import Code
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_hub.results.database import Database
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.messages import ResultRow, Results, decode, encode
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from tests.peers import RtspServer
from tests.peers.waiting import wait_for
from tests.worlds.agent import TriggeredAgent, folder_camera
from tests.worlds.bundles import bright, dark, make_bundle


def shot(source: str, image: np.ndarray | None) -> Frame | LostFrame:
    if image is None:
        return LostFrame(source, 7, "A-1", 50, "the camera gave no frame")
    return Frame(image=image, source=source, sequence=7, part_id="A-1", captured_at_ns=60)


def part(**images: np.ndarray | None) -> Views:
    return Views(tuple(shot(name, image) for name, image in images.items()), "+".join(images), 7, "A-1")


# -- one verdict ---------------------------------------------------------------------------------------------------


def judged(
    bundle: Bundle, *parts: Capture, cameras: Sequence[CameraConfig] = (), parallel_views: int = 1
) -> list[tuple[ResultRow, Capture | None]]:
    found: list[tuple[ResultRow, Capture | None]] = []
    active, left = ActiveBundle(), list(parts)
    loaded = load("a", bundle, InspectConfig(), cameras=cameras)
    active.swap(loaded)
    pipeline = InspectionPipeline(
        lambda: left.pop(0) if left else None,
        active,
        reporter=VerdictReporter([], lambda row, seen: found.append((row, seen))),
        stop=threading.Event(),
        parallel_views=parallel_views,
    )
    pipeline.run()
    pipeline.close()
    loaded.close()
    return found


@pytest.mark.parametrize("parallel_views", [1, 2])
@pytest.mark.parametrize(
    ("top", "side", "verdict", "code", "decides"),
    [
        (dark(), dark(), "pass", Code.PASS, "top"),
        (bright(), dark(), "reject", Code.REJECT, "top"),
        (dark(), bright(64, 64), "reject", Code.REJECT, "side"),
        (dark(), None, "fault", Code.NO_FRAME, "side"),
        (None, bright(), "reject", Code.REJECT, "side"),
        (None, None, "fault", Code.NO_FRAME, "top"),
    ],
)
def test_any_camera_that_rejects_rejects_the_part_and_all_are_in_its_record(
    bundle: Bundle,
    top: np.ndarray | None,
    side: np.ndarray | None,
    verdict: str,
    code: Code,
    decides: str,
    parallel_views: int,
) -> None:
    ((row, seen),) = judged(bundle, part(top=top, side=side), parallel_views=parallel_views)
    assert (row.source, row.sequence, row.part_id, row.verdict) == ("top+side", 7, "A-1", verdict)
    assert code_of(row, has_frame=has_picture(seen, row)) is code
    assert [view.source for view in row.views] == ["top", "side"]
    by_name = {view.source: view for view in row.views}
    for name, image in (("top", top), ("side", side)):
        view = by_name[name]
        assert (view.width, view.height) == ((0, 0) if image is None else (image.shape[1], image.shape[0]))
        assert bool(view.detections) == (image is not None and bool(image.max() > 200))
        assert bool(view.error) == (image is None)
        assert (f"{name}: the camera gave no frame" in row.error) == (image is None)
    assert (row.detections, row.width) == (by_name[decides].detections, by_name[decides].width)
    images = [frame.source for frame in frames_of(seen, row)]
    assert images[:1] == ([decides] if by_name[decides].width else images[:1])
    assert set(images) == {name for name, image in (("top", top), ("side", side)) if image is not None}


class Meeting(LoadedBundle):
    """Inspects only when two images are being inspected at once."""

    place = threading.Barrier(2)

    def inspect(self, frame: Frame, *, fast: bool = False) -> Inspection:
        self.place.wait(60.0)
        return super().inspect(frame, fast=fast)


def test_pictures_of_a_part_are_judged_at_once(bundle: Bundle) -> None:
    rows: list[ResultRow] = []
    active, left = ActiveBundle(), [part(top=dark(), side=bright(), back=dark(), front=dark())]
    whole = load("a", bundle, InspectConfig())
    active.swap(Meeting(**{field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}))
    pipeline = InspectionPipeline(
        lambda: left.pop(0) if left else None,
        active,
        reporter=VerdictReporter([], lambda row, _: rows.append(row)),
        stop=threading.Event(),
        parallel_views=2,
    )
    pipeline.run()
    pipeline.close()
    whole.close()
    (row,) = rows
    assert [view.verdict for view in row.views] == ["pass", "reject", "pass", "pass"]
    assert max(view.latency_ms for view in row.views) <= row.latency_ms


def test_what_counts_as_a_defect_can_be_another_thing_for_each_camera(bundle: Bundle) -> None:
    blind = SimulatorCameraConfig(name="side", inspect={"min_size_px": {"*": 1000.0}})
    rows = [
        row
        for row, _ in judged(
            bundle,
            part(top=dark(), side=bright()),
            part(top=bright(), side=dark()),
            cameras=[SimulatorCameraConfig(name="top"), blind],
        )
    ]
    assert [row.verdict for row in rows] == ["pass", "reject"]


def test_an_engine_that_fails_on_one_picture_is_a_fault_with_a_picture(tmp_path: Path) -> None:
    fragile = make_bundle(tmp_path / "b", fragile=True)  # only pictures of 96 pixels
    ((row, seen),) = judged(fragile, part(top=dark(), side=dark(64, 96)))
    assert (row.verdict, row.views[0].verdict, row.views[1].verdict) == ("fault", "pass", "fault")
    assert code_of(row, has_frame=has_picture(seen, row)) is Code.NOT_JUDGED
    assert row.error.startswith("side: ")


_ROWS = st.builds(
    ResultRow,
    seq=st.just(0),
    part_id=st.just("p"),
    source=st.sampled_from("abc"),
    verdict=st.sampled_from(("pass", "reject", "fault")),
    unsure=st.just(False),
)


@given(st.lists(_ROWS, min_size=2, max_size=5))
def test_a_part_passes_only_if_every_picture_does(rows: list[ResultRow]) -> None:
    images = part(a=None, b=None)
    row = combine(images, rows, 1.0)
    assert (row.verdict == "pass") == all(each.verdict == "pass" for each in rows)
    assert (row.verdict == "reject") == any(each.verdict == "reject" for each in rows)


def test_doubt_of_one_camera_is_the_parts_doubt_unless_another_rejects() -> None:
    sure = ResultRow(seq=0, part_id="p", source="top", verdict="pass")
    unsure = msgspec.structs.replace(sure, source="side", verdict="reject", unsure=True)
    images = part(top=dark(), side=dark())
    assert combine(images, [sure, unsure], 1.0).unsure
    bad = msgspec.structs.replace(sure, verdict="reject")
    row = combine(images, [bad, unsure], 1.0)
    assert (row.verdict, row.unsure, [view.unsure for view in row.views]) == ("reject", False, [False, True])


# -- frames of a part ----------------------------------------------------------------------------------------------


def test_a_camera_that_brings_nothing_in_time_is_a_lost_frame_with_its_name() -> None:
    frames = PartFrames(["top", "side"], threading.Event(), frame_timeout_s=2.0)
    now_s = time.monotonic()
    frames.request(3, now_s)
    frames.cameras[0].put(Frame(image=dark(), source="top", part_id="0.png"), wait=False)
    assert not frames.has_frame(3)
    assert frames.missing_reason(3) == "no frame of side"
    seen = frames.wait_for_frame(3, now_s + 60.0)
    assert seen is not None
    first, second = seen.shots
    assert isinstance(first, Frame) and isinstance(second, LostFrame)
    assert (second.source, second.reason) == ("side", "the camera gave no frame within 2000 ms of the trigger")
    assert (seen.source, seen.sequence, seen.part_id) == ("top+side", 3, "0.png")


def test_without_a_time_of_their_own_cameras_have_half_of_the_parts_deadline() -> None:
    frames = PartFrames(["top", "side"], threading.Event(), frame_timeout_s=None)
    triggered_s = time.monotonic() - 40.0
    frames.request(3, triggered_s)
    frames.cameras[0].put(Frame(image=dark(), source="top"), wait=False)
    seen = frames.wait_for_frame(3, triggered_s + 60.0)  # half of it is over
    assert seen is not None
    lost = [shot.reason for shot in seen.shots if isinstance(shot, LostFrame)]
    assert lost == ["the camera gave no frame within 30000 ms of the trigger"] * 2


def test_a_part_that_was_answered_meanwhile_gets_none() -> None:
    frames = PartFrames(["top", "side"], threading.Event(), frame_timeout_s=60.0)
    frames.request(3, time.monotonic())
    timer = threading.Timer(0.1, frames.forget, args=(3,))
    timer.start()
    assert frames.wait_for_frame(3, time.monotonic() + 60.0) is None
    timer.join()


def test_a_source_that_has_ended_is_named() -> None:
    frames = PartFrames(["top", "side"], threading.Event(), frame_timeout_s=0.1)
    frames.request(3, time.monotonic())
    frames.cameras[0].put(Frame(image=dark(), source="top"), wait=False)
    frames.cameras[1].end()
    assert frames.ended
    seen = frames.wait_for_frame(3, time.monotonic() + 60.0)
    assert seen is not None and isinstance(seen.shots[1], LostFrame)
    assert seen.shots[1].reason == "the camera's source has ended"


# -- store and hub -------------------------------------------------------------------------------------------------


def test_store_keeps_every_image_and_sends_that_of_the_camera_that_decided(tmp_path: Path, bundle: Bundle) -> None:
    ((row, seen),) = judged(bundle, part(top=dark(), side=bright()))
    rules = StoreConfig(keep_images="bad", commit_every_s=0)
    store = RecordStore(tmp_path, archive=ImageArchive(tmp_path, rules), rules=rules, confirmed_only=True)
    assert store.record(row, frames_of(seen, row))
    assert store.flush(60.0)
    store.acknowledge(store.epoch, 1)
    wait_for(lambda: store.watermark == 1)
    unsent = store.first_unsent_image(0)
    store.close()
    assert sorted(path.parent.name for path in (tmp_path / "images").rglob("*.png")) == ["side", "top"]
    assert unsent is not None and unsent.path == "side/00000007.png"


def test_hub_keeps_what_each_camera_saw(tmp_path: Path, bundle: Bundle) -> None:
    ((row, _),) = judged(bundle, part(top=dark(), side=bright()))
    sent = encode(Results(epoch="e", rows=(msgspec.structs.replace(row, seq=1),)))
    assert decode(sent, Results).rows[0].views == row.views
    database = Database.open(tmp_path)
    with database.transaction():
        acks, _ = ResultsSink(database).write([read_batch("cam-1", sent)])
    assert acks["cam-1"].seq == 1
    (kept,) = database.query("SELECT * FROM results")
    views = json.loads(dict(kept)["views"])
    assert [(view["source"], view["verdict"]) for view in views] == [("top", "pass"), ("side", "reject")]
    database.close()


# -- configuration -------------------------------------------------------------------------------------------------

HEAD = 'device = "c"\nfolder = "state"\nbundle = "b"\n'
TOP = '[[camera]]\ntype = "v4l2"\nname = "top"\n'
SIDE = '[[camera]]\ntype = "folder"\nname = "side"\npath = "frames"\n'
TRIGGER = "[trigger]\ndeadline_ms = 100\n"


def test_cameras_are_read_and_their_paths_lie_beside_the_file() -> None:
    config = parse_config((HEAD + TOP + SIDE + TRIGGER).encode(), Path("/etc/lineside"))
    assert [camera.name for camera in config.cameras] == ["top", "side"]
    second = config.cameras[1]
    assert isinstance(second, FolderCameraConfig) and second.path == Path("/etc/lineside/frames")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOP + SIDE, r"several \$\.camera need a trigger"),
        (TOP + SIDE + '[trigger]\nmode = "watch"\n', r"several \$\.camera need a trigger"),
        (TOP + SIDE.replace("side", "top") + TRIGGER, "needs a name of its own"),
        (TOP + SIDE.replace('name = "side"\n', "") + TRIGGER, "needs a name of its own"),
        (f"camera = []\n{TRIGGER}", "is empty"),
        (TOP + SIDE + "[camera.inspect]\nfps = 3\n" + TRIGGER, r"\$\.camera\[side\]\.inspect\.fps is not a known key"),
        (TOP + SIDE + "[camera.inspect]\nthreads = 3\n" + TRIGGER, "threads is the same for all cameras"),
        (TOP + "[camera.inspect]\nmin_inside = 0.3\n", "is for several cameras"),
        (TOP + SIDE + "fps = 3\n" + TRIGGER, r"\$\.camera\[1\]\.fps is not a known key"),
        (TOP + TRIGGER + "frame_timeout_ms = 3\n", "frame_timeout_ms"),
        (TOP + SIDE + TRIGGER + '[[recipe]]\nname = "a"\n[recipe.camera]\ngain = 3\n', r"cameras\.top"),
        (TOP + SIDE + TRIGGER + '[[recipe]]\nname = "a"\n[recipe.cameras.back]\ngain = 3\n', "no such camera"),
        (TOP + SIDE + TRIGGER + '[[recipe]]\nname = "a"\n[recipe.cameras.side]\ngain = 3\n', "no such setting"),
    ],
)
def test_cameras_that_do_not_fit_are_refused_with_their_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config((HEAD + text).encode(), Path("/etc/lineside"))


# -- the whole agent -----------------------------------------------------------------------------------------------


def test_agent_with_two_cameras_gives_one_verdict_a_part(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, images in (("top", (dark(), dark(), bright())), ("side", (dark(), bright(), bright()))):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), image)
    cameras = [folder_camera(name=name, path=name, loop=True) for name in ("top", "side")]
    tables = '[store]\nkeep_images = "bad"\n[inspect]\nworkers = 2\n'
    agent = TriggeredAgent(tmp_path, bundle.path, tables, camera=cameras)
    try:
        agent.wait_ready()
        told = [ask(agent.state, TriggerRequest("trigger", f"A-{number}"))["verdict"] for number in range(3)]
        assert told == ["pass", "reject", "reject"]
        assert main(["agent", "status", "--json", "--config", str(agent.config_path)]) == 0
        said = json.loads(capsys.readouterr().out)
        assert [camera["source"] for camera in said["cameras"]] == ["top", "side"]
        agent.stop()
        agent.start()  # which goes on with the next picture of each
        agent.wait_ready()
        assert ask(agent.state, TriggerRequest("trigger", "A-3"))["verdict"] == "pass"
        assert agent.stop() == 0
    finally:
        agent.stop()
    rows = agent.rows()
    assert [(row.source, row.sequence, row.part_id) for row in rows] == [("top+side", n, f"A-{n}") for n in range(4)]
    assert [[view.verdict for view in row.views] for row in rows[:3]] == [
        ["pass", "pass"],
        ["pass", "reject"],
        ["reject", "reject"],
    ]
    kept = sorted(str(path.relative_to(agent.state / "images")) for path in (agent.state / "images").rglob("*.png"))
    assert kept == [f"{name}/{number:08d}.png" for name in ("side", "top") for number in (1, 2)]


@pytest.mark.peer
def test_a_dead_camera_rejects_with_its_name_takes_ready_away_and_stops_no_other(
    tmp_path: Path, bundle: Bundle, rtsp_server: RtspServer
) -> None:
    (tmp_path / "top").mkdir()
    cv2.imwrite(str(tmp_path / "top" / "0.png"), dark())
    network = {"type": "rtsp", "name": "net", "url": rtsp_server.url, "timeout_s": 3.0}
    trigger = {"frame_timeout_ms": 1500, "camera_timeout_ms": 2500}
    cameras = [folder_camera(name="top", path="top", loop=True), network]
    agent = TriggeredAgent(tmp_path, bundle.path, camera=cameras, trigger=trigger)
    try:
        agent.wait_ready()
        wait_for(lambda: agent.status["cameras"][1]["frames"] > 5, 60.0, what="frames of the network camera")
        ask(agent.state, TriggerRequest("trigger", "A-0"))
        rtsp_server.freeze()
        wait_for(lambda: ask(agent.state, TriggerRequest("trigger", "A-1"))["code"] == "NO_FRAME", what="no frame")
        wait_for(lambda: "net" in (agent.line["problem"] or ""), what="not ready, with the camera's name")
        told: dict[str, Any] = {}

        def refused() -> bool:  # on a busy machine a picture that was on its way may come after the silence was noticed
            told.update(ask(agent.state, TriggerRequest("trigger", "A-2")))
            return bool(told["code"] == "NOT_READY")

        wait_for(refused, what="a part that is refused")
        assert told["verdict"] == "fault"
        rtsp_server.kill()
        rtsp_server.start()
        wait_for(lambda: agent.line["ready"], 60.0, what="ready again")
        ask(agent.state, TriggerRequest("trigger", "A-3"))
        assert agent.stop() == 0
    finally:
        agent.stop()
    rows = {row.part_id: row for row in agent.rows()}
    for part_id in ("A-0", "A-3"):
        assert [view.source for view in rows[part_id].views] == ["top", "net"]
        assert not rows[part_id].error
    lost = rows["A-1"]
    assert lost.error == "net: the camera gave no frame within 1500 ms of the trigger"
    assert [view.verdict for view in lost.views] == ["pass", "fault"]
    assert "net" in rows["A-2"].error
