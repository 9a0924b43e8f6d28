"""Live cameras against real servers and drivers: frozen, killed, and back."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from lineside_agent import config as settings
from lineside_agent.cameras import Camera, Grab, LiveCamera, LostFrame, RawShot, Shot, open_camera
from lineside_agent.cameras.aravis import PROGRAM as ARAVIS
from lineside_agent.cameras.child import list_cameras
from lineside_agent.cameras.reader import FrameQueue, Reader
from lineside_models.frame import Frame
from lineside_runtime.errors import CameraError, ConfigError
from tests.peers import CameraProcess, RtspServer
from tests.peers.waiting import wait_for

PATIENCE_S = 60.0


LOST_AFTER_S = 3.0
"""Where a camera is to be lost; elsewhere a busy machine is waited for."""


def rtsp(server: RtspServer, **more: Any) -> settings.RtspCameraConfig:
    told: dict[str, Any] = {"url": server.url, "timeout_s": PATIENCE_S} | more
    return settings.RtspCameraConfig(**told)


def gige(**more: Any) -> settings.AravisCameraConfig:
    # What a camera was once told it keeps, so that each test tells it everything.
    told: dict[str, Any] = {"pixel_format": "Mono8", "width": 320, "height": 240, "exposure_us": 10000.0}
    told |= {"address": "127.0.0.1", "gain_db": 0.0, "timeout_s": PATIENCE_S, "rate_hz": 20.0}
    return settings.AravisCameraConfig(**(told | more))


def take(camera: Camera, count: int, start_at: int = 0) -> list[Shot]:
    frames = camera.frames(start_at)
    try:
        return list(itertools.islice(frames, count))
    finally:
        assert isinstance(frames, Generator)
        frames.close()


def whole(shots: list[Shot]) -> list[Frame]:
    """Returns the frames without those that were damaged on their way: beside other tests packets are lost."""
    return [shot for shot in shots if isinstance(shot, Frame)]


class Running:
    """A camera with its reader, and a thread that takes every frame."""

    def __init__(self, camera: Camera) -> None:
        self.stop = threading.Event()
        self.shots: list[RawShot] = []
        self.queue = FrameQueue(100, self.stop)
        self.reader = Reader(camera, self.queue, self.stop)
        self._threads = [threading.Thread(target=self.reader.run, args=(0,)), threading.Thread(target=self._take)]
        for thread in self._threads:
            thread.start()

    def _take(self) -> None:
        self.shots.extend(iter(self.queue.get, None))

    @property
    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def wait_for_more(self) -> None:
        before = self.reader.counts.frames
        wait_for(lambda: self.reader.counts.frames >= before + 3, PATIENCE_S, what="frames")

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def lost(running: Running) -> int:
    """Number of reports of a lost camera."""
    return sum(shot.reason.startswith("camera lost: ") for shot in running.shots if isinstance(shot, LostFrame))


def lose(camera: CameraProcess, running: Running, trouble: str) -> str:
    """Freezes or kills a camera and brings it back; checks that this was reported, and returns the report."""
    running.wait_for_more()
    camera.freeze() if trouble == "frozen" else camera.kill()
    wait_for(lambda: running.reader.problem is not None, PATIENCE_S, what="the loss")
    problem = str(running.reader.problem)
    camera.thaw() if trouble == "frozen" else camera.start()
    wait_for(lambda: running.reader.problem is None, PATIENCE_S, what="the camera back")
    running.end()
    assert [shot.sequence for shot in running.shots] == list(range(len(running.shots)))
    assert lost(running) == running.reader.counts.outages >= 1
    return problem


Run = Callable[[settings.CameraConfig], Running]


@pytest.fixture
def run() -> Iterator[Run]:
    running: list[Running] = []

    def make(config: settings.CameraConfig) -> Running:
        running.append(Running(open_camera(config)))
        return running[-1]

    yield make
    for one in running:
        one.end()


# -- RTSP ----------------------------------------------------------------------------------------------------------


def test_rtsp_gives_numbered_frames_and_shows_no_password(rtsp_server: RtspServer) -> None:
    camera = open_camera(rtsp(rtsp_server))
    assert camera.source == f"rtsp:127.0.0.1:{rtsp_server.port}/line"
    shots = take(camera, 5, start_at=40)
    assert [shot.sequence for shot in shots] == [40, 41, 42, 43, 44]
    assert all(isinstance(shot, Frame) and shot.size == (240, 320) for shot in shots)
    assert all(isinstance(shot, Frame) and shot.image.std() > 1 for shot in shots)  # there is a ball


def test_rtsp_keeps_to_the_rate(rtsp_server: RtspServer) -> None:
    shots = take(open_camera(rtsp(rtsp_server, rate_hz=5.0)), 4)
    gaps_s = np.diff([shot.captured_at_ns for shot in shots]) / 1e9
    assert [shot.sequence for shot in shots] == [0, 1, 2, 3]
    assert gaps_s.mean() > 0.15


@pytest.mark.parametrize("trouble", ["frozen", "killed"])
def test_rtsp_camera_that_is_lost_is_said_once_and_comes_back(rtsp_server: RtspServer, run: Run, trouble: str) -> None:
    assert "secret" not in lose(rtsp_server, run(rtsp(rtsp_server, timeout_s=LOST_AFTER_S)), trouble)


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_stream_that_is_taken_more_slowly_than_it_is_sent_is_given_up(tmp_path: Path, pause_s: float) -> None:
    path, image = tmp_path / "stream.avi", np.zeros((64, 64, 3), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 64))
    for _ in range(50):
        writer.write(image)
    writer.release()
    camera = open_camera(settings.RtspCameraConfig(url=str(path), timeout_s=PATIENCE_S if pause_s == 0 else 0.5))
    with pytest.raises(CameraError, match="s ago" if pause_s else "no more frames"):
        for _ in camera.frames():
            time.sleep(pause_s)


def test_rtsp_server_that_is_not_there_is_an_error_without_the_password() -> None:
    with pytest.raises(CameraError) as caught:
        take(open_camera(settings.RtspCameraConfig(url="rtsp://somebody:secret@127.0.0.1:9/x")), 1)
    assert "secret" not in str(caught.value)
    assert "rtsp:127.0.0.1:9/x" in str(caught.value)


# -- GigE Vision ---------------------------------------------------------------------------------------------------


def test_gige_camera_gives_frames_in_its_own_formats(gige_camera: CameraProcess) -> None:
    grey = take(open_camera(gige()), 5, start_at=7)
    assert [shot.sequence for shot in grey] == [7, 8, 9, 10, 11]
    assert {frame.image.shape for frame in whole(grey)} == {(240, 320)}
    assert abs(grey[-1].captured_at_ns - time.time_ns()) < 60e9
    assert {frame.image.shape for frame in whole(take(open_camera(gige(pixel_format="BayerRG8")), 5))} == {
        (240, 320, 3)
    }


def test_gige_exposure_and_gain_reach_the_camera(gige_camera: CameraProcess) -> None:
    def brightness(**more: float) -> float:
        # Packets of the stream before may still arrive, and spoil the first frame (aravis: payload-not-supported).
        shots = take(open_camera(gige(**more)), 2)
        return float(next(shot for shot in shots if isinstance(shot, Frame)).image.mean())

    assert brightness(exposure_us=1000.0, gain_db=0.0) < brightness(exposure_us=20000.0, gain_db=0.0)
    assert brightness(exposure_us=1000.0, gain_db=0.0) < brightness(exposure_us=1000.0, gain_db=10.0)


def test_gige_camera_goes_on_with_another_exposure(gige_camera: CameraProcess, run: Run) -> None:
    running = run(gige(exposure_us=1000.0))
    running.wait_for_more()
    before = [shot for shot in running.shots if isinstance(shot, Frame)][-1]
    running.reader.replace_camera(open_camera(gige(exposure_us=20000.0)), PATIENCE_S)
    running.wait_for_more()
    after = [shot for shot in running.shots if isinstance(shot, Frame)][-1]
    assert after.image.mean() > before.image.mean()
    assert [shot.sequence for shot in running.shots] == list(range(len(running.shots)))
    assert (running.reader.counts.camera_errors, lost(running)) == (0, 0)


def test_gige_camera_that_waits_for_its_input_can_be_told_another_exposure(
    gige_camera: CameraProcess, run: Run
) -> None:
    running = run(gige(trigger="Software", rate_hz=None, timeout_s=LOST_AFTER_S))
    wait_for(lambda: running.reader.waiting_since_s is not None)
    second = open_camera(gige(trigger="Software", rate_hz=None, exposure_us=20000.0))
    running.reader.replace_camera(second, PATIENCE_S)
    assert second.shows.is_set()
    gige_camera.kill()  # the reader waits for an input that nobody gives: its end would be waited for in vain


def test_gige_camera_is_found(gige_camera: CameraProcess) -> None:
    assert any(found["serial"] == "LINE1" and found["address"] == "127.0.0.1" for found in list_cameras(ARAVIS))


def test_wrong_settings_are_said_in_the_camera_s_own_words(gige_camera: CameraProcess) -> None:
    with pytest.raises(CameraError, match="Mono16"):
        take(open_camera(gige(pixel_format="Mono16")), 1)
    with pytest.raises(CameraError, match="Nonsense"):
        take(open_camera(gige(pixel_format="Nonsense")), 1)


@pytest.mark.parametrize("trouble", ["frozen", "killed"])
def test_gige_camera_that_is_lost_is_said_and_comes_back(gige_camera: CameraProcess, run: Run, trouble: str) -> None:
    lose(gige_camera, run(gige(timeout_s=LOST_AFTER_S)), trouble)


def test_camera_that_waits_for_its_trigger_is_not_lost(gige_camera: CameraProcess, run: Run) -> None:
    running = run(gige(trigger="Software", timeout_s=0.5))  # nobody gives it
    wait_for(lambda: running.reader.waiting_since_s is not None, PATIENCE_S)
    started_s = time.monotonic()
    wait_for(lambda: time.monotonic() - started_s > 4.0 or running.reader.problem is not None, PATIENCE_S)
    assert running.reader.problem is None
    gige_camera.kill()
    wait_for(lambda: running.reader.problem is not None, PATIENCE_S, what="the loss, although nothing was waited for")


def test_camera_that_waits_for_its_trigger_ends_with_the_agent(gige_camera: CameraProcess, run: Run) -> None:
    before = set(psutil.Process().children())
    running = run(gige(trigger="Software", timeout_s=LOST_AFTER_S))  # nobody gives it
    wait_for(lambda: running.reader.waiting_since_s is not None, PATIENCE_S)
    wait_for(lambda: set(psutil.Process().children()) - before, PATIENCE_S, what="the camera's own process")
    running.stop.set()
    running.reader.end()
    wait_for(lambda: not running.is_alive, PATIENCE_S, what="its thread")
    assert not set(psutil.Process().children()) - before


def test_one_dead_camera_stops_no_other(gige_camera: CameraProcess, rtsp_server: RtspServer, run: Run) -> None:
    one, other = run(gige(timeout_s=LOST_AFTER_S)), run(rtsp(rtsp_server))
    one.wait_for_more()
    other.wait_for_more()
    gige_camera.freeze()
    wait_for(lambda: one.reader.problem is not None, PATIENCE_S)
    other.wait_for_more()
    assert other.reader.problem is None


def test_child_that_hangs_is_ended_and_gone(gige_camera: CameraProcess, tmp_path: Path) -> None:
    frames = open_camera(gige(timeout_s=10.0)).frames()  # on a busy machine its first frame takes seconds
    next(frames)
    (child,) = _children()
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(CameraError, match="hung"):
        for _ in range(100):
            next(frames)
    assert not Path(f"/proc/{child}").exists()


def _children() -> list[int]:
    path = Path(f"/proc/{os.getpid()}/task")
    pids = [int(pid) for task in path.iterdir() for pid in (task / "children").read_text().split()]
    return [pid for pid in pids if b"aravis_.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


# -- what every live camera has ------------------------------------------------------------------------------------


class Still(LiveCamera):
    """Gives one image, with or without noise."""

    def __init__(self, *, noise: bool) -> None:
        super().__init__("still", same_image_max_s=0.2)
        self.noise = noise

    def _images(self) -> Iterator[Grab]:
        for number in itertools.count():
            pause = threading.Event()
            pause.wait(0.01)
            yield Grab(np.full((8, 8), number % 250 if self.noise else 1, np.uint8), time.time_ns())


def test_camera_that_repeats_one_picture_is_frozen() -> None:
    with pytest.raises(CameraError, match="same picture"):
        take(Still(noise=False), 1000)
    assert len(take(Still(noise=True), 50)) == 50


class Damaged(LiveCamera):
    """Gives two damaged frames at its start, then whole ones."""

    def _images(self) -> Iterator[Grab]:
        for number in range(5):
            image = np.full((8, 8), number, np.uint8) if number > 1 else None
            yield Grab(image, time.time_ns(), "" if number > 1 else "damaged on its way")


def test_damaged_first_frame_of_a_free_running_camera_is_no_part_and_is_counted() -> None:
    shots = take(Damaged("free", free_running=True), 4)
    assert [(shot.sequence, isinstance(shot, Frame)) for shot in shots] == [(0, False), (1, True), (2, True), (3, True)]
    asked = take(Damaged("asked", free_running=False), 5)
    assert [isinstance(shot, Frame) for shot in asked] == [False, False, True, True, True]
    running = Running(Damaged("free", free_running=True))
    running.wait_for_more()
    running.end()
    assert running.reader.counts.spoiled >= 1
    assert [shot.sequence for shot in running.shots] == list(range(len(running.shots)))


def test_kind_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("still", f"{__name__}:make_still", "lineside.cameras")
    monkeypatch.setattr("lineside_agent.cameras.registry.plugins", lambda: {"still": point})
    camera = open_camera(settings.PluginCameraConfig(kind="still", options={"noise": True}))
    assert isinstance(camera, LiveCamera)
    with pytest.raises(ConfigError, match="colour"):
        open_camera(settings.PluginCameraConfig(kind="still", options={"colour": True}))
    with pytest.raises(ConfigError, match="no package has 'other'"):
        open_camera(settings.PluginCameraConfig(kind="other"))


def make_still(name: str, options: dict[str, bool]) -> Camera:
    return Still(**options)


def test_library_that_is_not_installed_is_said_with_its_package() -> None:
    with pytest.raises(CameraError):
        take(open_camera(settings.Picamera2CameraConfig()), 1)
