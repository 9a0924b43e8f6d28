"""Sources of frames for a line that triggers, and for watch mode.

They take the place of `lineside_agent.cameras.reader.FrameQueue`.

- A triggered part gets the first frame that the camera gave after its trigger, also while the engine is busy with an
  earlier part. A frame that follows the triggers of several parts shows one of them, nobody knows which: none gets it.
- A finite source gives its next frame to the next trigger, and waits in between.
- With several cameras, `PartFrames` has one `TriggeredFrames` a camera, and gives the frames of all of them.
- In watch mode a frame that was not taken is replaced by the next one, and that is counted.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Sequence

from lineside_agent.cameras import LostFrame, RawShot, Shot, decoded
from lineside_agent.inspection.views import Views, joint_source

LOOK_S = 0.2
"""Longest wait before the stop is checked."""

SHARE_OF_DEADLINE = 0.5
"""Share of a part's deadline for each of several cameras to bring its frame, unless ``frame_timeout_ms`` is set."""


UNCLEAR = "the camera gave no frame between this trigger and the next"
ENDED = "the camera's source has ended"


@dataclasses.dataclass(slots=True)
class _FrameRequest:
    """Frames from ``since_s`` on show the part; from ``until_s`` on they may show a part that was refused."""

    since_s: float
    until_s: float = math.inf
    shot: Shot | None = None
    is_unclear: bool = False

    @property
    def is_waiting(self) -> bool:
        return self.shot is None and not self.is_unclear


class TriggeredFrames:
    """Gives each trigger its frame.

    Args:
        frame_delay_s: Time that the camera needs to bring a frame: one that comes sooner was taken before the trigger.
    """

    def __init__(self, stop: threading.Event, *, frame_delay_s: float = 0.0) -> None:
        self._stop = stop
        self._frame_delay_s = frame_delay_s
        self._requests: collections.OrderedDict[int, _FrameRequest] = collections.OrderedDict()
        self._ended = False
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether the camera gives no more frames."""
        return self._ended

    def request(self, number: int, at_s: float) -> None:
        """Requests a frame for the trigger ``number``, given at ``at_s`` of the monotonic clock."""
        with self._changed:
            self._requests[number] = _FrameRequest(at_s + self._frame_delay_s)
            self._changed.notify_all()

    def note_refused(self, at_s: float) -> None:
        """Takes the time of a trigger whose part is not inspected: its part may be on the frames that follow."""
        with self._changed:
            for request in self._requests.values():
                request.until_s = min(request.until_s, at_s + self._frame_delay_s)

    def wait_for_frame(self, number: int, deadline_s: float) -> Shot | None:
        """Waits for the frame of a trigger, until ``deadline_s`` of the monotonic clock.

        Returns:
            Its frame; ``None`` if none came in time or none can come (`lost_reason`), the part was answered, or the
                agent stops.
        """
        with self._changed:
            while (request := self._requests.get(number)) is not None:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return None  # also with a frame: there is no time left to inspect it
                if not request.is_waiting or self._ended or self._stop.is_set():
                    return request.shot
                self._changed.wait(min(LOOK_S, left_s))
            return None

    def is_open(self, number: int) -> bool:
        """Whether a part was not answered yet."""
        with self._changed:
            return number in self._requests

    def has_frame(self, number: int) -> bool:
        """Whether a part's frame has come."""
        with self._changed:
            request = self._requests.get(number)
            return request is not None and request.shot is not None

    def lost_reason(self, number: int) -> str:
        """Returns why a part's frame can't come any more; empty if it still can."""
        with self._changed:
            request = self._requests.get(number)
            if request is not None and request.is_unclear:
                return UNCLEAR
            return ENDED if self._ended else ""

    def missing_reason(self, number: int) -> str:
        """Returns which frame is missing, for the record."""
        return "no frame of the camera"

    def forget(self, number: int) -> None:
        """Drops the request of a part that was answered."""
        with self._changed:
            self._requests.pop(number, None)
            self._changed.notify_all()

    def put(self, shot: RawShot, *, wait: bool) -> bool:
        """Takes a frame of the camera.

        With ``wait`` the camera waits until a trigger needs it; otherwise a frame without a trigger is dropped. Returns
        true: a frame between two parts is no loss.
        """
        now_s = time.monotonic()
        picture = decoded(shot)  # here, so that it is ready when its trigger comes
        with self._changed:
            if wait:
                self._wait(lambda: any(request.is_waiting for request in self._requests.values()))
                picture = dataclasses.replace(picture, captured_at_ns=time.time_ns())  # not when it was made ready
            waiting = [each for each in self._requests.values() if each.is_waiting and (wait or each.since_s <= now_s)]
            is_unclear = not wait and (len(waiting) > 1 or any(each.until_s <= now_s for each in waiting))
            for request in waiting:
                if is_unclear:
                    request.is_unclear = True
                else:
                    request.shot = picture
                    break
            self._changed.notify_all()
        return True

    def end(self) -> None:
        """Marks the end: no frame follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def get(self) -> Shot | None:
        """Returns nothing: `wait_for_frame` gives each part's frame."""
        return None

    def drain(self) -> list[Shot]:
        """Returns nothing: the handshake answers what was triggered."""
        return []

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._stop.is_set():
            self._changed.wait(LOOK_S)


class PartFrames:
    """Gives each trigger the frames of all cameras.

    Attributes:
        cameras: One source a camera, in the cameras' order.

    Args:
        frame_timeout_s: Time after the trigger within which a camera must bring its frame; ``None`` for
            `SHARE_OF_DEADLINE` of the part's.
    """

    def __init__(
        self, names: Sequence[str], stop: threading.Event, *, frame_timeout_s: float | None, frame_delay_s: float = 0.0
    ) -> None:
        self.cameras = tuple(TriggeredFrames(stop, frame_delay_s=frame_delay_s) for _ in names)
        self._names = tuple(names)
        self._stop = stop
        self._frame_timeout_s = frame_timeout_s
        self._triggered_s: dict[int, float] = {}

    @property
    def ended(self) -> bool:
        """Whether one of the cameras gives no more frames."""
        return any(camera.ended for camera in self.cameras)

    def request(self, number: int, at_s: float) -> None:
        """As `TriggeredFrames.request`, for every camera."""
        self._triggered_s[number] = at_s
        for camera in self.cameras:
            camera.request(number, at_s)

    def note_refused(self, at_s: float) -> None:
        """As `TriggeredFrames.note_refused`, for every camera."""
        for camera in self.cameras:
            camera.note_refused(at_s)

    def wait_for_frame(self, number: int, deadline_s: float) -> Views | None:
        """Waits for a part's frames.

        Returns:
            The frames of all cameras; for one that gave none in time a lost frame with the reason. ``None`` if the part
                was answered, or the agent stops.
        """
        triggered_s = self._triggered_s.get(number, deadline_s)
        timeout_s = self._frame_timeout_s
        if timeout_s is None:
            timeout_s = SHARE_OF_DEADLINE * (deadline_s - triggered_s)
        until_s = min(deadline_s, triggered_s + timeout_s)
        shots = [camera.wait_for_frame(number, until_s) for camera in self.cameras]
        if self._stop.is_set() or not all(camera.is_open(number) for camera in self.cameras):
            return None
        first = next((shot for shot in shots if shot is not None), None)
        part_id = f"trigger-{number}" if first is None else first.part_id
        seen = tuple(
            shot if shot is not None else self._lost(index, number, part_id, timeout_s)
            for index, shot in enumerate(shots)
        )
        return Views(seen, joint_source(self._names), number, part_id)

    def _lost(self, index: int, number: int, part_id: str, timeout_s: float) -> LostFrame:
        reason = self.cameras[index].lost_reason(number)
        reason = reason or f"the camera gave no frame within {1000 * timeout_s:.0f} ms of the trigger"
        return LostFrame(self._names[index], number, part_id, time.time_ns(), reason)

    def has_frame(self, number: int) -> bool:
        """Whether all frames of a part have come."""
        return all(camera.has_frame(number) for camera in self.cameras)

    def lost_reason(self, number: int) -> str:
        """As `TriggeredFrames.lost_reason`, of the first camera for which it is so."""
        return next(filter(None, (camera.lost_reason(number) for camera in self.cameras)), "")

    def missing_reason(self, number: int) -> str:
        """As `TriggeredFrames.missing_reason`."""
        lacking = [name for name, one in zip(self._names, self.cameras, strict=True) if not one.has_frame(number)]
        return f"no frame of {', '.join(lacking)}"

    def forget(self, number: int) -> None:
        """As `TriggeredFrames.forget`, for every camera."""
        self._triggered_s.pop(number, None)
        for camera in self.cameras:
            camera.forget(number)

    def get(self) -> Shot | None:
        """Returns nothing: `wait_for_frame` gives each part's frames."""
        return None

    def drain(self) -> list[Shot]:
        """Returns nothing: the handshake answers what was triggered."""
        return []


class LatestFrame:
    """Holds the latest frame.

    Attributes:
        replaced: Frames that were replaced by a later one before they were taken.
        least_period_s: Shortest time between two frames that are taken; 0 for no limit.

    Args:
        begin: Takes the number of each frame before it is taken.
    """

    def __init__(self, stop: threading.Event, *, begin: Callable[[int], None] = lambda _: None) -> None:
        self._begin = begin
        self.replaced = 0
        self.least_period_s = 0.0
        self._taken_at_s = 0.0
        self._stop = stop
        self._shot: RawShot | None = None
        self._ended = False
        self._changed = threading.Condition()

    def put(self, shot: RawShot, *, wait: bool) -> bool:
        """Takes a frame, in place of one that was not taken; returns whether none was replaced. ``wait`` is ignored."""
        with self._changed:
            replaces = self._shot is not None
            self.replaced += replaces
            self._shot = shot
            self._changed.notify_all()
            return not replaces

    def get(self) -> RawShot | None:
        """Takes the latest frame; ``None`` at the end, or when stopped."""
        with self._changed:
            while ((self._shot is None and not self._ended) or self._early_s() > 0) and not self._stop.is_set():
                self._changed.wait(min(LOOK_S, self._early_s() or LOOK_S))
            shot, self._shot = self._shot, None
            self._taken_at_s = time.monotonic()
            if shot is None or self._stop.is_set():
                return None
            self._begin(shot.sequence)
            return shot

    def _early_s(self) -> float:
        """Time that the next frame must still wait."""
        return max(0.0, self._taken_at_s + self.least_period_s - time.monotonic()) if self.least_period_s else 0.0

    def end(self) -> None:
        """Marks the end: no frame follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drain(self) -> list[RawShot]:
        """Takes what is left, also when stopped."""
        with self._changed:
            shot, self._shot = self._shot, None
            return [] if shot is None else [shot]
