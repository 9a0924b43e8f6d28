"""A camera in a child process: Aravis and picamera2 are installed for the system's Python, which a slot does not see.

A driver that hangs or dies then takes its process and not the agent, and can be killed. The pipe costs the agent 0.2 ms
of processor time a megapixel, as much as a copy. The protocol is in `children.wire`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

from lineside_agent.cameras.base import FoundCamera, Grab, LiveCamera
from lineside_agent.cameras.children import wire
from lineside_agent.config.cameras import LiveCameraConfig
from lineside_models.frame import UInt8Array
from lineside_runtime.errors import CameraError

log = logging.getLogger("lineside.camera")

SYSTEM_PYTHON = "/usr/bin/python3"
OPEN_TIMEOUT_S = 10.0
END_TIMEOUT_S = 4.0
PIPE_BYTES = 1 << 20
"""With the kernel's own 64 KiB the two processes switch sixteen times a megapixel."""

IMAGE_MAX_BYTES = 512 << 20
"""A larger size means that the pipe was read from a wrong place."""

_FOLDER = Path(__file__).parent / "children"

_TO_BGR: Mapping[str, Callable[[UInt8Array], Any]] = {
    "RGB8": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
    # GenICam names a mosaic by its first row, OpenCV's old names by its second: these are the new ones.
    "BayerRG8": lambda image: cv2.cvtColor(image, cv2.COLOR_BayerRGGB2BGR),
    "BayerGR8": lambda image: cv2.cvtColor(image, cv2.COLOR_BayerGRBG2BGR),
    "BayerGB8": lambda image: cv2.cvtColor(image, cv2.COLOR_BayerGBRG2BGR),
    "BayerBG8": lambda image: cv2.cvtColor(image, cv2.COLOR_BayerBGGR2BGR),
}


class Program(NamedTuple):
    """The program of the child process.

    Attributes:
        script: File in ``cameras/children``.
        module: The vendor's Python module that it needs.
        package: Package of Debian and Raspberry Pi OS that contains the module.
    """

    script: str
    module: str
    package: str


class ChildCamera(LiveCamera):
    """Gives the frames of a child process.

    Args:
        config: Its table, which the program gets as JSON. A child that is silent for ``timeout_s`` is killed, and its
            camera counts as lost.
        free_running: Whether the camera sends without being asked: a child that gives only signs of life for so long
            then counts as lost as well.
    """

    def __init__(self, source: str, program: Program, config: LiveCameraConfig, *, free_running: bool = True) -> None:
        super().__init__(
            source,
            rate_hz=config.rate_hz,
            same_image_max_s=config.same_image_max_s,
            free_running=free_running,
        )
        self._program = program
        self._options = msgspec.json.encode(config).decode()
        self._timeout_s = config.timeout_s

    def _images(self) -> Iterator[Grab]:
        with _running(self._program, self._options) as (process, file):
            pipe = _Pipe(process, file, self.source)
            last_image_s, timeout_s = time.monotonic(), OPEN_TIMEOUT_S
            while True:
                kind, grab = pipe.read(max(timeout_s, 2 * wire.ALIVE_EVERY_S))
                self.shows.set()
                if self.ending.is_set():
                    return
                now_s = time.monotonic()
                if kind == wire.ALIVE:
                    if self._free_running and now_s - last_image_s > timeout_s:
                        raise CameraError(
                            f"{self.source}: nothing came for {now_s - last_image_s:.1f} s", action=_CHECK_CAMERA
                        )
                    continue
                yield grab
                last_image_s, timeout_s = time.monotonic(), self._timeout_s


_CHECK_CAMERA = "Look at the camera, its cable and power; it is opened again."


class _Pipe:
    """The agent's end."""

    def __init__(self, process: subprocess.Popen[bytes], file: int, source: str) -> None:
        self._process = process
        self._source = source
        self._file = file
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, timeout_s: float) -> tuple[int, Grab]:
        """Reads a message; every part of it must come within the time-out."""
        head = bytearray(wire.HEAD.size)
        self._fill(memoryview(head), timeout_s)
        magic, kind, encoding, height, width, captured_at_ns, size = wire.HEAD.unpack(head)
        if magic != wire.MAGIC or size > IMAGE_MAX_BYTES or encoding >= len(wire.ENCODINGS):
            raise CameraError(f"{self._source}: its process sends an unknown message", action=_CHECK_CAMERA)
        payload = np.empty(size, np.uint8)
        self._fill(payload.data, timeout_s)
        if kind == wire.FRAME:
            return kind, Grab(_image(payload, wire.ENCODINGS[encoding], height, width), captured_at_ns)
        text = payload.tobytes().decode(errors="replace")
        if kind == wire.FAILED:
            raise CameraError(f"{self._source}: {text}", action=_CHECK_CAMERA)
        return kind, Grab(None, captured_at_ns, text)

    def _fill(self, into: memoryview, timeout_s: float) -> None:
        while into:
            if not self._poll.poll(1000 * timeout_s):
                raise CameraError(f"{self._source}: its process has hung for {timeout_s:g} s", action=_CHECK_CAMERA)
            count = os.readv(self._file, [into])
            if not count:
                code = self._process.wait(END_TIMEOUT_S)
                raise CameraError(
                    f"{self._source}: its process ended with {code}; see the journal", action=_CHECK_CAMERA
                )
            into = into[count:]


def _image(payload: UInt8Array, encoding: str, height: int, width: int) -> UInt8Array:
    shape = (height, width, 3) if encoding in ("BGR8", "RGB8") else (height, width)
    if payload.size != int(np.prod(shape)):
        raise CameraError(
            f"{encoding} {width} x {height}: {payload.size} bytes are no such image", action=_CHECK_CAMERA
        )
    image = payload.reshape(shape)
    return np.asarray(_TO_BGR[encoding](image), np.uint8) if encoding in _TO_BGR else image


@contextlib.contextmanager
def _running(program: Program, argument: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Runs the program, and yields it with the read end of its output; at the end it is gone, whatever its state."""
    command = [*command_of(program), argument]
    read_end, write_end = os.pipe()
    with contextlib.suppress(OSError):  # more than a user may have: it is slower then
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with contextlib.ExitStack() as stack:
        with contextlib.closing(os.fdopen(write_end, "wb")) as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
        stack.callback(_end, process)
        stack.callback(os.close, read_end)  # first: a child that waits for room in the pipe must see that nobody reads
        yield process, read_end


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the child to give its camera back, and ends it if it doesn't: a driver may hang anywhere."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        log.warning("the camera's process %d doesn't end, and is killed", process.pid)
        process.kill()
        process.wait()


def command_of(program: Program) -> list[str]:
    """Returns the command of a program, for this Python if it has the vendor's module, else for the system's."""
    own = importlib.util.find_spec(program.module) is not None
    python = sys.executable if own else SYSTEM_PYTHON
    if not own and not shutil.which(python):
        raise CameraError(f"{program.module} is not installed", action=f"apt install {program.package}")
    return [python, "-E", "-s", str(_FOLDER / program.script)]


def find_by(program: Program, kind: str, settings: Callable[[dict[str, str]], str]) -> list[FoundCamera]:
    """Lists the cameras that a program finds, or says why there are none.

    Args:
        program: Lists its cameras as JSON objects with a name.
        settings: Returns the TOML that selects one of them.
    """
    try:
        found = list_cameras(program)
    except CameraError as error:
        return [FoundCamera(kind, "", problem=f"{error.message}. {error.action}")]
    if not found:
        return [FoundCamera(kind, "", problem="none answers")]
    return [FoundCamera(kind, settings(one), " ".join(filter(None, (one["name"], one.get("serial"))))) for one in found]


def list_cameras(program: Program) -> list[dict[str, str]]:
    """Lists the cameras that a program finds."""
    try:
        command = [*command_of(program), "list"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=OPEN_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CameraError(f"{program.module} did not answer within {OPEN_TIMEOUT_S:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CameraError(f"{program.module}: {last}", action=f"apt install {program.package}")
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
