"""Cameras of other people's making: GStreamer's RTSP server and Aravis' GigE Vision camera, each a process."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program, left_out
from tests.peers.waiting import MACHINE_FOLDER, free_port

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's, which has GObject's packages."""

_GIGE_LOCK = MACHINE_FOLDER / "lineside-tests-gige.lock"

_SERVER = Path(__file__).with_name("rtsp_server.py")


class CameraProcess(ChildProcess):
    """Can be frozen, killed and started again at the same address."""

    _was_frozen = False

    def freeze(self) -> None:
        self._was_frozen = True
        super().freeze()

    def kill(self) -> None:
        super().kill()
        self._was_frozen = False

    def renew(self) -> None:
        """Starts it if it is dead, and anew if it was frozen: then it knows nothing of who had it before."""
        if self._was_frozen:
            self.kill()
        if not self.alive:
            self.start()


class RtspServer(CameraProcess):
    """Shows a number that grows with each frame.

    Attributes:
        url: Of its stream.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"rtsp://somebody:secret@127.0.0.1:{self.port}/line"
        super().__init__([SYSTEM_PYTHON, _SERVER, str(self.port)], folder / "rtsp.log")

    def start(self, command: Sequence[str | Path] | None = None) -> None:
        super().start(command)
        self.wait_for(lambda: "listens" in self.said, what="the RTSP server")


def running_rtsp_server(folder: Path) -> Iterator[RtspServer]:
    """Starts one, or leaves the test out and says why."""
    needed = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    needed += "Gst.init(None); raise SystemExit(Gst.ElementFactory.find('x264enc') is None)"
    _need(needed, "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-ugly")
    server = RtspServer(folder)
    server.start()
    yield server
    server.kill()


def running_gige_camera(folder: Path) -> Iterator[CameraProcess]:
    """Starts Aravis' camera at 127.0.0.1 (GigE Vision has one port), or leaves the test out and says why."""
    program = find_program("arv-fake-gv-camera-0.8", "aravis-tools")
    _need("import gi; gi.require_version('Aravis', '0.8')", "gir1.2-aravis-0.8 python3-gi")
    with_the_tests = ["setpriv", "--pdeathsig", "KILL"]  # one that outlives them would answer in place of the next one
    camera = CameraProcess([*with_the_tests, program, "-i", "127.0.0.1", "-s", "LINE1"], folder / "gige.log")
    camera.start()
    yield camera
    camera.kill()


def _need(code: str, packages: str) -> None:
    done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, text=True)
    if done.returncode:
        left_out(f"{SYSTEM_PYTHON} lacks Debian's {packages}: tests/peers/install.sh peers ({done.stderr[-200:]})")


@pytest.fixture(scope="session")
def _rtsp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    yield from running_rtsp_server(tmp_path_factory.mktemp("rtsp"))


@pytest.fixture
def rtsp_server(_rtsp_server: RtspServer) -> RtspServer:
    _rtsp_server.renew()
    return _rtsp_server


@pytest.fixture
def gige_camera(tmp_path: Path) -> Iterator[CameraProcess]:
    with _GIGE_LOCK.open("w") as lock:  # of all test processes here: the port is GigE Vision's only one
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield from running_gige_camera(tmp_path)
