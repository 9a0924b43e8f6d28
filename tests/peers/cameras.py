"""Cameras of other people's making: GStreamer's RTSP server and Aravis' GigE Vision camera, each a process."""

from __future__ import annotations

import fcntl
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.programs import find_program, left_out
from tests.peers.waiting import MACHINE_FOLDER, free_port

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's, which has GObject's packages."""

_GIGE_LOCK = MACHINE_FOLDER / "lineside-tests-gige.lock"

_SERVER = Path(__file__).with_name("rtsp_server.py")


class CameraProcess:
    """Can be frozen, killed and started again at the same address."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._was_frozen = False

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def wait_for_word(self) -> None:
        """Waits for the first line that it prints."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), f"{self._command} ended"

    def freeze(self) -> None:
        self._was_frozen = True
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def renew(self) -> None:
        """Starts it if it is dead, and anew if it was frozen: then it knows nothing of who had it before."""
        if self._was_frozen:
            self.kill()
        if self._process is None:
            self.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
            self._was_frozen = False

    def _send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class RtspServer(CameraProcess):
    """Shows a number that grows with each frame.

    Attributes:
        url: Of its stream.
    """

    def __init__(self, *, codec: str = "h264", port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"rtsp://somebody:secret@127.0.0.1:{self.port}/line"
        super().__init__([SYSTEM_PYTHON, str(_SERVER), str(self.port), codec])

    def start(self) -> None:
        super().start()
        self.wait_for_word()


def running_rtsp_server() -> Iterator[RtspServer]:
    """Starts one, or leaves the test out and says why."""
    needed = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    needed += "Gst.init(None); raise SystemExit(Gst.ElementFactory.find('x264enc') is None)"
    _need(needed, "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-ugly")
    server = RtspServer()
    server.start()
    yield server
    server.kill()


def running_gige_camera() -> Iterator[CameraProcess]:
    """Starts Aravis' camera at 127.0.0.1 (GigE Vision has one port), or leaves the test out and says why."""
    program = find_program("arv-fake-gv-camera-0.8", "aravis-tools")
    _need("import gi; gi.require_version('Aravis', '0.8')", "gir1.2-aravis-0.8 python3-gi")
    with_the_tests = ["setpriv", "--pdeathsig", "KILL"]  # one that outlives them would answer in place of the next one
    camera = CameraProcess([*with_the_tests, program, "-i", "127.0.0.1", "-s", "LINE1"])
    camera.start()
    yield camera
    camera.kill()


def _need(code: str, packages: str) -> None:
    done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, text=True)
    if done.returncode:
        left_out(f"{SYSTEM_PYTHON} lacks Debian's {packages}: tests/peers/install.sh peers ({done.stderr[-200:]})")


@pytest.fixture(scope="session")
def _rtsp_server() -> Iterator[RtspServer]:
    yield from running_rtsp_server()


@pytest.fixture
def rtsp_server(_rtsp_server: RtspServer) -> RtspServer:
    _rtsp_server.renew()
    return _rtsp_server


@pytest.fixture
def gige_camera() -> Iterator[CameraProcess]:
    with _GIGE_LOCK.open("w") as lock:  # of all test processes here: the port is GigE Vision's only one
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield from running_gige_camera()
