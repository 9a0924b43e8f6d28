"""Frames for the pipeline where the line triggers, or where only the latest frame counts.

`TriggeredFrames` and `LatestFrame` stand in the place of `lineside_agent.cameras.reader.FrameQueue`, and the camera's
thread sees no difference.

- A triggered part gets the first frame that the camera gave after its trigger, also where the engine is still busy with
  the part before it. A finite source gives its next frame to the next trigger, and waits in between.
- Where several cameras see each part, `PartFrames` has one `TriggeredFrames` a camera, and gives what all of them saw.
- In watch mode a frame that nobody has taken yet is replaced by the next one, and that is counted.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from lineside_agent.cameras import LostFrame, RawShot, Shot, decoded
from lineside_agent.inspection.views import Views, joint_source

LOOK_S = 0.2
"""How often a wait looks whether the agent stops."""


@dataclasses.dataclass(slots=True)
class _FrameRequest:
    since_s: float
    shot: Shot | None = None


class TriggeredFrames:
    """Gives each trigger its frame.

    Args:
        stop: Ends every wait.
        frame_delay_s: A frame that arrives sooner after the trigger was taken before it, as the camera takes so long to
            bring one.
    """

    def __init__(self, stop: threading.Event, *, frame_delay_s: float = 0.0) -> None:
        self._stop = stop
        self._frame_delay_s = frame_delay_s
        self._requests: collections.OrderedDict[int, _FrameRequest] = collections.OrderedDict()
        self._ended = False
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether the camera will give no more frames."""
        return self._ended

    def request(self, number: int, at_s: float) -> None:
        """A part was triggered."""
        with self._changed:
            self._requests[number] = _FrameRequest(at_s + self._frame_delay_s)
            self._changed.notify_all()

    def wait_for_frame(self, number: int, deadline_s: float) -> Shot | None:
        """Waits for a part's frame.

        Returns:
            Its frame; ``None`` if none came in time, it was answered meanwhile, the camera has ended, or the agent
            stops.
        """
        with self._changed:
            while (request := self._requests.get(number)) is not None:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return None  # also with a frame: there is no time left to judge it
                if request.shot is not None or self._ended or self._stop.is_set():
                    return request.shot
                self._changed.wait(min(LOOK_S, left_s))
            return None

    def is_open(self, number: int) -> bool:
        """Whether a part has no answer yet."""
        with self._changed:
            return number in self._requests

    def has_frame(self, number: int) -> bool:
        """Whether a part's frame has come."""
        with self._changed:
            request = self._requests.get(number)
            return request is not None and request.shot is not None

    def missing_reason(self, number: int) -> str:
        """Says which frame has not come, for the record."""
        return "no frame of the camera"

    def forget(self, number: int) -> None:
        """A part was answered: its frame is not request any more."""
        with self._changed:
            self._requests.pop(number, None)
            self._changed.notify_all()

    def put(self, shot: RawShot, *, wait: bool) -> bool:
        """Takes a frame of the camera.

        Returns:
            True: that nobody wants a frame between two parts is no loss.
        """
        now_s = time.monotonic()
        picture = decoded(shot)  # here, so that it is ready when its trigger comes
        with self._changed:
            if wait:
                self._wait(lambda: any(request.shot is None for request in self._requests.values()))
            for request in self._requests.values():
                if request.shot is None and (wait or request.since_s <= now_s):
                    request.shot = picture
                    if wait:
                        break
            self._changed.notify_all()
        return True

    def end(self) -> None:
        """Says that no frame will follow."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def get(self) -> Shot | None:
        """Nothing: each part's frame is got by `grab`."""
        return None

    def drain(self) -> list[Shot]:
        """Nothing: what was triggered is answered by the handshake."""
        return []

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._stop.is_set():
            self._changed.wait(LOOK_S)


class PartFrames:
    """Gives each trigger the frames of all cameras.

    Attributes:
        cameras: What each camera's thread fills, in the cameras' order.

    Args:
        names: Of the cameras, as their frames bear them.
        stop: Ends every wait.
        frame_timeout_s: How long after the trigger a camera may bring its frame.
        frame_delay_s: As in `TriggeredFrames`.
    """

    def __init__(
        self, names: Sequence[str], stop: threading.Event, *, frame_timeout_s: float, frame_delay_s: float = 0.0
    ) -> None:
        self.cameras = tuple(TriggeredFrames(stop, frame_delay_s=frame_delay_s) for _ in names)
        self._names = tuple(names)
        self._stop = stop
        self._frame_timeout_s = frame_timeout_s
        self._until_s: dict[int, float] = {}

    @property
    def ended(self) -> bool:
        """Whether one of the cameras will give no more frames."""
        return any(camera.ended for camera in self.cameras)

    def request(self, number: int, at_s: float) -> None:
        """As `TriggeredFrames.want`, of every camera."""
        self._until_s[number] = at_s + self._frame_timeout_s
        for camera in self.cameras:
            camera.request(number, at_s)

    def wait_for_frame(self, number: int, deadline_s: float) -> Views | None:
        """Waits for a part's frames.

        Returns:
            What the cameras saw; of one that gave nothing in time a lost frame with the reason. ``None`` if the part
            was answered meanwhile, or the agent stops.
        """
        until_s = min(deadline_s, self._until_s.get(number, deadline_s))
        shots = [camera.wait_for_frame(number, until_s) for camera in self.cameras]
        if self._stop.is_set() or not all(camera.is_open(number) for camera in self.cameras):
            return None
        first = next((shot for shot in shots if shot is not None), None)
        part_id = f"trigger-{number}" if first is None else first.part_id
        seen = tuple(
            shot if shot is not None else self._lost(place, number, part_id) for place, shot in enumerate(shots)
        )
        return Views(seen, joint_source(self._names), number, part_id)

    def _lost(self, place: int, number: int, part_id: str) -> LostFrame:
        reason = f"the camera gave no frame within {1000 * self._frame_timeout_s:.0f} ms of the trigger"
        if self.cameras[place].ended:
            reason = "the camera's source has ended"
        return LostFrame(self._names[place], number, part_id, time.time_ns(), reason)

    def has_frame(self, number: int) -> bool:
        """Whether all frames of a part have come."""
        return all(camera.has_frame(number) for camera in self.cameras)

    def missing_reason(self, number: int) -> str:
        """As `TriggeredFrames.missing`."""
        lacking = [name for name, one in zip(self._names, self.cameras, strict=True) if not one.has_frame(number)]
        return f"no frame of {', '.join(lacking)}"

    def forget(self, number: int) -> None:
        """As `TriggeredFrames.forget`, of every camera."""
        self._until_s.pop(number, None)
        for camera in self.cameras:
            camera.forget(number)

    def get(self) -> Shot | None:
        """Nothing: each part's frames are got by `grab`."""
        return None

    def drain(self) -> list[Shot]:
        """Nothing: what was triggered is answered by the handshake."""
        return []


class LatestFrame:
    """Holds one frame, the latest.

    Attributes:
        replaced: Frames that were not looked at, because a later one came.
        least_period_s: At least so long lies between two frames that are taken; 0 for as many as there are.

    Args:
        stop: Ends every wait.
        begin: Told the number of each frame before it is taken.
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
        """Takes a frame; it replaces one that nobody has taken.

        Returns:
            Whether no frame was replaced.
        """
        with self._changed:
            replaces = self._shot is not None
            self.replaced += replaces
            self._shot = shot
            self._changed.notify_all()
            return not replaces

    def get(self) -> RawShot | None:
        """Takes the latest frame; ``None`` when there will be no more, or when stopped."""
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
        """How long the next frame must still wait."""
        return max(0.0, self._taken_at_s + self.least_period_s - time.monotonic()) if self.least_period_s else 0.0

    def end(self) -> None:
        """Says that no frame will follow."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drain(self) -> list[RawShot]:
        """Takes what is left, also when stopped."""
        with self._changed:
            shot, self._shot = self._shot, None
            return [] if shot is None else [shot]
