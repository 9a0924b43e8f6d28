"""Checks that every camera must pass, for anybody who has the hardware: ``lineside camera conformance``.

A check's docstring is its name.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from lineside_agent.cameras import Camera, LostFrame, Shot, open_camera
from lineside_agent.config import CameraConfig
from lineside_models.frame import Frame
from lineside_runtime.conformance.kit import CheckFailed, CheckOutcome, NotApplicable, run_checks
from lineside_runtime.errors import LinesideError

FRAMES = 20

OPENING_FRAMES = 3
"""Of a stream, that may be lost: a camera that was sending already is heard from the middle of a frame, and packets of
the stream before still arrive (https://github.com/AravisProject/aravis/issues/337)."""

START_AT = 1000
CLOCK_S = 10.0
"""Largest difference between a camera's time and this clock."""

NOTICE_EXTRA_S = 5.0
"""Added to the camera's time-out: a camera that is just being opened has another one."""

UNPLUG_S = 60.0
"""Time that a person has to pull the cable."""


@dataclasses.dataclass(frozen=True, slots=True)
class CameraSubject:
    """The camera to check.

    Attributes:
        instruct: Tells a person what to do; ``None`` if nobody is there.
    """

    config: CameraConfig
    instruct: Callable[[str], object] | None = None

    def open(self, **changes: object) -> Camera:
        """Makes the camera, with other settings where given."""
        return open_camera(msgspec.structs.replace(self.config, **changes))

    def take(self, count: int, start_at: int = 0, **changes: object) -> list[Shot]:
        """Opens it, takes some frames and closes it."""
        with closing(cast(Any, self.open(**changes).frames(start_at))) as frames:
            return list(itertools.islice(frames, count))

    @property
    def is_live(self) -> bool:
        """Whether it cannot wait."""
        return not self.open().finite


def gives_frames(subject: CameraSubject) -> str:
    """It gives frames, and every one is an image"""
    shots = subject.take(FRAMES)
    lost = {at: shot.reason for at, shot in enumerate(shots) if isinstance(shot, LostFrame)}
    said = f"{len(lost)} of {len(shots)} frames were lost: {', '.join(sorted(set(lost.values())))}"
    if len(shots) == len(lost) or max(lost, default=-1) >= OPENING_FRAMES:
        raise CheckFailed(said)
    sizes = {shot.image.shape for shot in shots if isinstance(shot, Frame)}
    found = f"{len(shots)} frames, {' and '.join(map(str, sorted(sizes)))}"
    return f"{found}; as it was opened, {said}" if lost else found


def counts_from_where_it_is_told(subject: CameraSubject) -> str:
    """Its numbers are contiguous from the one that it is asked for"""
    given = [shot.sequence for shot in subject.take(5, START_AT)]
    if subject.is_live and given != list(range(START_AT, START_AT + 5)):
        raise CheckFailed(f"{given}")
    if not subject.is_live and given != list(range(START_AT, START_AT + len(given))):
        raise CheckFailed(f"{given}")
    return f"{given}" if given else "it ends before that number"


def leaves_images_alone(subject: CameraSubject) -> str:
    """No image is changed after it was given"""
    images, sums = [], []
    with closing(cast(Any, subject.open().frames())) as frames:
        for shot in itertools.islice(frames, FRAMES):
            if isinstance(shot, Frame):
                images.append(shot.image)
                sums.append(zlib.crc32(np.ascontiguousarray(shot.image).data))
    changed = sum(zlib.crc32(np.ascontiguousarray(image).data) != was for image, was in zip(images, sums, strict=True))
    if changed:
        raise CheckFailed(f"{changed} of {len(images)} were: their memory is used again")
    return f"{len(images)} images"


def tells_the_time(subject: CameraSubject) -> str:
    """Times of capture don't run backwards and are those of this clock"""
    times_ns = [shot.captured_at_ns for shot in subject.take(FRAMES)]
    if any(later < earlier for earlier, later in itertools.pairwise(times_ns)):
        raise CheckFailed("they run backwards")
    off_s = (time.time_ns() - times_ns[-1]) / 1e9
    if abs(off_s) > CLOCK_S:
        raise CheckFailed(f"the last is {off_s:.1f} s from now")
    return f"the last was {1000 * off_s:.0f} ms ago when the camera was closed"


def opens_again(subject: CameraSubject) -> str:
    """Closed and opened again at once, it gives frames, and nothing of it is left open"""
    subject.take(1)  # what a library opens once and keeps is no leak
    before = len(list(Path("/proc/self/fd").iterdir()))
    waits_s = []
    for _ in range(3):
        started_s = time.monotonic()
        subject.take(1)
        waits_s.append(time.monotonic() - started_s)
    after = len(list(Path("/proc/self/fd").iterdir()))
    if after > before:
        raise CheckFailed(f"{after - before} files are left open after three times")
    return f"longest {max(waits_s):.2f} s to a frame and closed"


def obeys_exposure(subject: CameraSubject) -> str:
    """A longer exposure gives a brighter picture"""
    if not hasattr(subject.config, "exposure_us"):
        raise NotApplicable("this kind of camera has none to set")
    dark, bright = (_brightness(subject.take(8, exposure_us=value)) for value in (500.0, 20_000.0))
    if max(dark, bright) < 3 or min(dark, bright) > 252:
        raise NotApplicable("the scene is too dark or too bright to tell: light it")
    if bright <= dark:
        raise CheckFailed(f"mean {dark:.1f} at 0.5 ms and {bright:.1f} at 20 ms")
    return f"mean {dark:.1f} at 0.5 ms and {bright:.1f} at 20 ms"


def notices_its_loss(subject: CameraSubject) -> str:
    """Unplugged, it is noticed within its time-out, and gives frames again when it is back"""
    if subject.instruct is None:
        raise NotApplicable("needs a person: --unplug")
    if not subject.is_live:
        raise NotApplicable("it has no cable")
    last_s = _until_lost(subject, subject.instruct)
    noticed_s = time.monotonic() - last_s
    allowed_s = float(getattr(subject.config, "timeout_s", 2.0)) + NOTICE_EXTRA_S
    if noticed_s > allowed_s:
        raise CheckFailed(f"noticed {noticed_s:.1f} s after the last frame; allowed are {allowed_s:.1f} s")
    subject.instruct("plug it in again")
    deadline_s = time.monotonic() + UNPLUG_S
    while time.monotonic() < deadline_s:
        try:
            subject.take(1)
        except LinesideError:
            continue
        return f"noticed {noticed_s:.1f} s after the last frame, and back"
    raise CheckFailed(f"it gave no frame within {UNPLUG_S:.0f} s")


def _until_lost(subject: CameraSubject, instruct: Callable[[str], object]) -> float:
    """Returns when the last frame came, once the camera reports its loss."""
    last_s = time.monotonic()
    deadline_s = last_s + UNPLUG_S
    instruct(f"unplug the camera within {UNPLUG_S:.0f} s")
    try:
        with closing(cast(Any, subject.open().frames())) as frames:
            for _ in frames:
                last_s = time.monotonic()
                if last_s > deadline_s:
                    raise CheckFailed("it was not unplugged, or goes on without its cable")
    except LinesideError:
        return last_s
    raise CheckFailed("it ended without saying why")


def _brightness(shots: list[Shot]) -> float:
    """Mean of the last image; the first ones may still have the setting before."""
    means = [float(shot.image.mean()) for shot in shots if isinstance(shot, Frame)]
    if not means:
        raise CheckFailed("none of its frames was whole")
    return means[-1]


CHECKS: tuple[Callable[[CameraSubject], str], ...] = (
    gives_frames,
    counts_from_where_it_is_told,
    leaves_images_alone,
    tells_the_time,
    opens_again,
    obeys_exposure,
    notices_its_loss,
)


def run(subject: CameraSubject) -> Iterator[CheckOutcome]:
    """Puts a camera through the checks, one after the other."""
    return run_checks(subject, CHECKS, lambda check: (check.__doc__ or check.__name__).strip())


def facts(config: CameraConfig) -> dict[str, str]:
    """Returns where a report was made. The address of the camera is left out, since it may contain a password."""
    system = os.uname()
    model = Path("/proc/device-tree/model")
    board = model.read_text(errors="replace").rstrip("\0") if model.exists() else system.nodename
    return {"type": config.type_name(), "kernel": system.release, "board": board}
