"""Results and triggers over a topic of a broker, as ``docs/reference/mqtt.md`` describes them.

They are JSON, so that Node-RED and a person can read and write them::

    <topic>/result     {"v": 1, "number": 7, "part_id": "A-17", "tag": 12, "verdict": "reject", "code": "REJECT", ...}
    <topic>/state      {"v": 1, "ready": true, "busy": false, "fault": "NONE", "challenge": false, "recipe": "A"}
                       retained
    <topic>/trigger    {"part_id": "A-17", "tag": 12}, or nothing
    <topic>/reset      anything
    <topic>/challenge  anything
    <topic>/recipe     {"recipe": "B"}: another product follows; may be retained, and then counts once

A trigger of any other form is answered with reject, code ``BAD_TRIGGER``; so is a part id that is longer than 128
characters or can't be printed.

A broker gives no time: the deadline runs from when the message came in. It may bring a message twice: a trigger that
repeats the tag before it is no new one. It brings one that was published as retained at each connection: nobody presses
reset then, so such a reset or challenge is ignored, and the part of such a trigger has passed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

import msgspec

from lineside_agent.line_io.base import LineOutput, Post, Signal, defect_fields
from lineside_agent.line_io.events import ChallengeRequested, Fault, LineState, ResetPressed, SelectRecipe, Triggered
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_runtime.decoding import decode_json

log = logging.getLogger("lineside.line_io")


class _Trigger(msgspec.Struct):
    part_id: str = ""
    tag: int = 0


class _Recipe(msgspec.Struct):
    recipe: str


class MqttLine(LineOutput):
    """A topic. A result that cannot be published at once is missed and not kept: it would come too late.

    Args:
        topic: Without a ``/`` at its end.
    """

    def __init__(self, link: LinkConfig, topic: str, *, client_id: str) -> None:
        super().__init__(f"mqtt {topic}")
        self._topic = topic
        self._state = _state_payload(LineState())
        self._client = LinkClient(link, client_id, will=(f"{topic}/state", self._state))
        self._lock = threading.Lock()
        self._started = False
        self._last_tag = 0
        self._last_triggers: dict[bool, bytes] = {}  # by whether it was retained
        self._last_recipe = b""
        self._post: Post | None = None

    @property
    def is_open(self) -> bool:
        """As `LineOutput.is_open`."""
        return self._client.connected

    def signal(self, signal: Signal) -> bool:
        """As `LineOutput.signal`."""
        self._begin()
        payload = {
            "v": 1,
            "number": signal.sequence,
            "part_id": signal.part_id,
            "tag": signal.tag if signal.input == self.name else 0,
            "verdict": signal.verdict,
            "code": signal.code.name,
            "took_ms": round(signal.took_ms, 3),
            **defect_fields(signal),
        }
        done = self._client.publish(f"{self._topic}/result", json.dumps(payload).encode())
        self.sent += done
        self.missed += not done
        return done

    def show(self, state: LineState) -> None:
        """As `LineOutput.show`."""
        payload = _state_payload(state)
        if payload != self._state:
            self._state = payload
            self._publish_state()

    def listen(self, post: Post) -> None:
        """As `LineOutput.listen`."""
        self._post = post
        self._client.subscribe(f"{self._topic}/trigger", self._triggered, retained=self._retained_trigger)
        for name, event in (("reset", ResetPressed()), ("challenge", ChallengeRequested())):
            self._client.subscribe(f"{self._topic}/{name}", self._presser(event), retained=self._retained_press)
        self._client.subscribe(f"{self._topic}/recipe", self._recipe_selected, retained=self._retained_recipe)
        self._client.on_connect(self._publish_state)
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            if not self._started:
                self._started = True
                self._client.start()

    def close(self) -> None:
        """As `LineOutput.close`; publishes that it is not ready."""
        with self._lock:
            if self._started:
                self._started = False
                self._client.close(last=(f"{self._topic}/state", _state_payload(LineState())))

    def _close(self) -> None:
        """Not used: `close` ends the link."""

    def _open(self) -> None:
        """Not used: the link connects by itself."""

    def _send(self, signal: Signal) -> None:
        """Not used: the link publishes."""

    def _publish_state(self) -> None:
        self._client.publish(f"{self._topic}/state", self._state, retain=True)

    def _presser(self, event: ResetPressed | ChallengeRequested) -> Callable[[str, bytes], None]:
        def press(topic: str, payload: bytes) -> None:
            if self._post is not None:
                self._post(event, time.monotonic())

        return press

    def _retained_press(self, topic: str, payload: bytes) -> None:
        log.error("%s is retained and ignored, since it would come again at each connection; clear it there", topic)

    def _retained_trigger(self, topic: str, payload: bytes) -> None:
        """Takes a retained message, in the link's handler thread."""
        if payload in self._last_triggers.values():
            log.warning("%s: %r is retained and came before", topic, payload[:200])
        else:
            self._triggered(topic, payload, missed=True)

    def _triggered(self, topic: str, payload: bytes, *, missed: bool = False) -> None:
        """In the link's handler thread; the part of one that is ``missed`` has passed."""
        at_s = time.monotonic()
        self._last_triggers[missed] = payload
        try:
            given = decode_json(payload, type=_Trigger) if payload else _Trigger()
        except msgspec.DecodeError as error:
            if self._post is not None:
                self._post(Triggered(self.name, malformed=f"{payload[:200]!r} on {topic}: {error}"), at_s)
            return
        if given.tag and given.tag == self._last_tag:
            log.warning("%s: trigger %d came again", topic, given.tag)
            return
        self._last_tag = given.tag
        if self._post is not None:
            self._post(Triggered(self.name, given.part_id, given.tag, missed=missed), at_s)

    def _retained_recipe(self, topic: str, payload: bytes) -> None:
        """Takes a retained message, in the link's handler thread: a reconnection must not repeat an earlier request."""
        if payload == self._last_recipe:
            log.info("%s: %r is retained and was requested before; nothing changes", topic, payload[:200])
        else:
            self._recipe_selected(topic, payload)

    def _recipe_selected(self, topic: str, payload: bytes) -> None:
        """In the link's handler thread."""
        self._last_recipe = payload
        try:
            given = decode_json(payload, type=_Recipe)
        except msgspec.DecodeError as error:
            log.error("%s: %r names no recipe: %s", topic, payload[:200], error)
            return
        if self._post is not None:
            self._post(SelectRecipe(given.recipe, self.name), time.monotonic())


def _state_payload(state: LineState) -> bytes:
    fault: Fault = state.fault
    payload = {
        "v": 1,
        "ready": state.ready,
        "busy": state.busy,
        "fault": fault.name,
        "challenge": state.challenge,
        "recipe": state.recipe,
    }
    return json.dumps(payload).encode()
