"""Announce the device at the hub, and notice a broker that passes on nothing of it.

MQTT 3.1.1 acknowledges a subscription and a message that the access list denies like any other, and does not tell a
client that a subscription was dropped. But the device's own birth message does not come back then: the device connects
again, until the broker has read its access list. The birth is repeated while the connection stands.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import time
from collections.abc import Sequence

from lineside_agent.config import AgentConfig
from lineside_boards.detect import detect
from lineside_link.client.client import LinkClient
from lineside_link.messages import Up, decode, encode
from lineside_link.topics import Topics
from lineside_runtime.errors import BrokerError
from lineside_runtime.serving.backoff import Backoff
from lineside_runtime.system.probing import EngineReport

log = logging.getLogger("lineside.agent")

ECHO = Backoff(10.0, 300.0)
"""Time after a connection within which the device's own birth must come back; it grows with each reconnection."""

REPEAT_S = 300.0
"""How often the birth is published while the connection stands. It may wait on a slow link behind other messages, so it
then has the longest time of `ECHO` to come back."""


def last_will(config: AgentConfig, boot_id: str) -> bytes:
    """Returns the message that the broker publishes when the connection is lost."""
    return encode(Up(device=config.device, up=False, boot_id=boot_id))


class Presence:
    """Birth and goodbye of one start of the agent.

    Attributes:
        name_conflicts: How often another agent was seen under this device's name.
        conflict: Error that names the other agent, until a connection has lasted for `REPEAT_S`; otherwise ``None``.
    """

    def __init__(self, client: LinkClient, topics: Topics, config: AgentConfig, boot_id: str) -> None:
        self.name_conflicts = 0
        self.conflict: BrokerError | None = None
        self._client = client
        self._topic = topics.up(config.device)
        self._config = config
        self._boot_id = boot_id
        self._birth = self._make_birth(())
        self._leaving = False
        self._born = self._echoed = False
        self._other_boot_id = ""
        self._unheard = 0
        self._echo_due_s = math.inf
        self._repeat_due_s = math.inf

    def connected(self) -> None:
        """Publishes the birth on a new connection."""
        self._echoed, self._repeat_due_s = False, math.inf
        self._echo_due_s = time.monotonic() + ECHO.after(self._unheard + 1)
        self._publish()

    def set_engines(self, available: Sequence[EngineReport]) -> None:
        """Publishes a second birth that names the engines."""
        self._birth = self._make_birth(available)
        if self._client.connected:
            self._publish()

    def received(self, _topic: str, payload: bytes) -> None:
        """Takes a birth or goodbye under this device's name.

        A message that is retained from an earlier start arrives before the own birth, and is no conflict. Of two agents
        with one name the broker ends the connection of the first, so that each finds the other's message whenever it
        connects. A conflict is counted from the second such message on: a broker that was killed may deliver one
        message of an earlier start again.
        """
        if not payload:
            return
        message = decode(payload, Up)
        if message.boot_id == self._boot_id and message.up:
            self._born = self._echoed = True
            self._unheard = 0
            self._echo_due_s, self._repeat_due_s = math.inf, time.monotonic() + REPEAT_S
        elif message.boot_id != self._boot_id and self._born and not self._leaving:
            if message.boot_id == self._other_boot_id or (message.up and self._echoed):
                self._count_conflict(message.boot_id)
            self._other_boot_id = message.boot_id
        if not message.up and self._echoed and not self._leaving:
            # The last will of an earlier connection; the own goodbye comes back like it and needs no answer.
            self._publish()

    def _count_conflict(self, boot_id: str) -> None:
        self.name_conflicts += 1
        self.conflict = BrokerError(
            f"another agent (boot id {boot_id}) is connected as {self._config.device}",
            action="Give each device its own name and certificate: lineside hub enroll.",
        )
        log.error("%s", self.conflict)

    def check(self) -> None:
        """Repeats the birth from time to time, and connects again if it has not come back in time."""
        now_s = time.monotonic()
        if not self._client.connected or self._leaving:
            return
        if now_s > self._echo_due_s:
            self._echoed = False
            self._unheard += 1
            self._echo_due_s = math.inf
            log.error("%s", self._error())
            self._client.reconnect()
        elif now_s > self._repeat_due_s:
            self._echo_due_s, self._repeat_due_s = now_s + ECHO.most_s, math.inf
            self.conflict = None
            self._publish()

    @property
    def problem(self) -> BrokerError | None:
        """Why the hub does not hear this device; ``None`` if it does, as far as is known."""
        return self._error() if self._unheard and not self._echoed else None

    def leave(self) -> tuple[str, bytes]:
        """Returns topic and payload of the goodbye, the connection's last message."""
        self._leaving = True
        goodbye = Up(device=self._config.device, up=False, boot_id=self._boot_id, group=self._config.group)
        return self._topic, encode(goodbye)

    def _error(self) -> BrokerError:
        return BrokerError(
            f"{self._client.config.url} takes and brings nothing of {self._config.device}",
            action="Have the broker read its access list (for mosquitto: SIGHUP); the device connects anew by itself.",
        )

    def _publish(self) -> None:
        self._client.publish(self._topic, self._birth, qos=1, retain=True)

    def _make_birth(self, available: Sequence[EngineReport]) -> bytes:
        return encode(
            Up(
                device=self._config.device,
                up=True,
                boot_id=self._boot_id,
                group=self._config.group,
                agent_version=importlib.metadata.version("lineside"),
                board=detect().model,
                devices=tuple(device.device for engine in available for device in engine.devices),
                engines={engine.name: engine.version for engine in available},
            )
        )
