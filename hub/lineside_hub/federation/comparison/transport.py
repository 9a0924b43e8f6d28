"""Messages of `mpyc` between plants over the pool's broker, encrypted from plant to plant.

Each pair of plants agrees on a key for each direction (X25519, signed with the plants' long-lived keys), so that the
broker sees sizes and times only. A message has a number; it is taken once, whatever the broker repeats. What a killed
broker loses is lost, and the round with it: it ends by its time limit, and the coordinator starts another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lineside_hub.federation.comparison import messages
from lineside_hub.federation.comparison.messages import ComparisonPlan, PeerHello
from lineside_link.aggregation.identity import PlantKey, is_signed
from lineside_link.aggregation.masks import agree, public_of
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_runtime.errors import AggregationError

AGAIN_S = 0.5
"""Pause before a hello is sent again."""

_NUMBER_BYTES, _NONCE_BYTES = 8, 12

log = logging.getLogger("lineside.pool")


class PeerChannel:
    """One other plant: what `mpyc` writes to it is sent, and what it sends is handed over once."""

    def __init__(self, network: PeerNetwork, peer: str) -> None:
        self.peer = peer
        self.ready: asyncio.Event = asyncio.Event()
        self.exchanger: Any = None
        self._network = network
        self._topic = network.topics.pool_peer(network.plan.round, network.plant, peer)
        self._sending: ChaCha20Poly1305 | None = None
        self._receiving: ChaCha20Poly1305 | None = None
        self._sent = 0
        self._written = bytearray()
        self._taken: set[int] = set()
        self._early: list[bytes] = []
        self.heard = self.known = False

    def write(self, data: bytes) -> None:
        """Sends data, as `asyncio.Transport.write`: what is written in one turn of the loop is one message.

        `mpyc` writes many small ones, and a broker drops messages to a slow plant when too many wait.
        """
        if not self._written:
            asyncio.get_running_loop().call_soon(self._flush)
        self._written += data

    def _flush(self) -> None:
        data, self._written = bytes(self._written), bytearray()
        if self._sending is None:
            raise RuntimeError("written before the keys are agreed on")
        number = self._sent.to_bytes(_NUMBER_BYTES, "big")
        self._sent += 1
        sealed = self._sending.encrypt(number.rjust(_NONCE_BYTES, b"\0"), data, self._topic.encode())
        self._network.publish(self._topic, b"\1" + number + sealed)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Sends pieces as one message."""
        self.write(b"".join(pieces))

    def close(self) -> None:
        """Does nothing: the connection is the network's."""

    def say_hello(self) -> None:
        """Sends this plant's key until the other is known to have it."""
        if not (self.known and self.heard):
            self._network.publish(self._topic, b"\0" + self._network.hello(self.peer, heard=self.heard))

    def receive(self, data: bytes) -> None:
        """Takes a message of the other plant."""
        if data[:1] == b"\0":
            self._take_hello(data[1:])
        elif self._receiving is None:
            self._early.append(data)
        else:
            self._take(data)

    def _take_hello(self, data: bytes) -> None:
        try:
            found = messages.hello.decode(data)
        except msgspec.DecodeError:
            log.warning("%s: a hello that can't be read", self.peer)
            return
        network = self._network
        if not is_signed(
            network.plan.plants[self.peer], found.signature, network.signed(self.peer, network.plant, found)
        ):
            log.warning("%s: a hello that the plant did not sign", self.peer)
            return
        self.known = self.known or found.heard
        if self._receiving is None:
            key = network.key_between
            self._sending = ChaCha20Poly1305(key(found.public, network.plant, self.peer))
            self._receiving = ChaCha20Poly1305(key(found.public, self.peer, network.plant))
            self.heard = True
            network.connect(self)
            self.say_hello()
            early, self._early = self._early, []
            for each in early:
                self._take(each)
        elif not found.heard:
            self._network.publish(self._topic, b"\0" + network.hello(self.peer, heard=True))

    def _take(self, data: bytes) -> None:
        number, sealed = data[1 : 1 + _NUMBER_BYTES], data[1 + _NUMBER_BYTES :]
        topic = self._network.topics.pool_peer(self._network.plan.round, self.peer, self._network.plant)
        try:
            text = self._receiving.decrypt(number.rjust(_NONCE_BYTES, b"\0"), sealed, topic.encode())  # type: ignore[union-attr]
        except (InvalidTag, ValueError):
            log.warning("%s: a message that was changed on its way", self.peer)
            return
        place = int.from_bytes(number, "big")
        if place in self._taken:
            return
        self._taken.add(place)
        self.known = True  # it encrypts for this plant's key
        self._network.deliver(self, place, text)


class PeerNetwork:
    """The other plants of a comparison.

    Args:
        runtime: Of `mpyc`, with the plants as its parties.
    """

    def __init__(
        self, client: LinkClient, topics: Topics, plan: ComparisonPlan, plant: str, key: PlantKey, runtime: Any
    ) -> None:
        self.topics, self.plan, self.plant = topics, plan, plant
        self._client, self._key, self._runtime = client, key, runtime
        self._secret = os.urandom(32)
        self._public = public_of(self._secret)
        self._loop = asyncio.get_running_loop()
        self.channels = {name: PeerChannel(self, name) for name in plan.names if name != plant}

    async def open(self) -> None:
        """Agrees on keys with all other plants, and gives `mpyc` its connections."""
        for name, channel in self.channels.items():
            topic = self.topics.pool_peer(self.plan.round, name, self.plant)
            self._client.subscribe(topic, partial(self._received, channel))
        while not all(channel.ready.is_set() for channel in self.channels.values()):
            for channel in self.channels.values():
                channel.say_hello()
            waiting = [channel.ready.wait() for channel in self.channels.values() if not channel.ready.is_set()]
            _, pending = await asyncio.wait([asyncio.ensure_future(one) for one in waiting], timeout=AGAIN_S)
            for one in pending:
                one.cancel()

    def _received(self, channel: PeerChannel, _topic: str, data: bytes) -> None:
        self._loop.call_soon_threadsafe(channel.receive, data)

    async def keep_saying_hello(self) -> None:
        """Repeats hellos to plants that may not have heard them, as long as the computation runs."""
        while True:
            await asyncio.sleep(AGAIN_S)
            for channel in self.channels.values():
                channel.say_hello()

    def hello(self, peer: str, *, heard: bool) -> bytes:
        """Returns this plant's hello to another."""
        made = PeerHello(self._public, heard, b"")
        return msgspec.json.encode(PeerHello(self._public, heard, self._key.sign(self.signed(self.plant, peer, made))))

    def signed(self, sender: str, receiver: str, made: PeerHello) -> bytes:
        """Returns what a hello's signature is of."""
        names = f"{sender}\0{receiver}\0".encode()
        return b"lineside comparison hello" + self.plan.digest + names + bytes([made.heard]) + made.public

    def key_between(self, public: bytes, sender: str, receiver: str) -> bytes:
        """Returns the key of one direction."""
        return agree(self._secret, public, f"lineside comparison\0{self.plan.round}\0{sender}\0{receiver}")

    def publish(self, topic: str, data: bytes) -> None:
        """Sends a message.

        Raises:
            AggregationError: There is no connection.
        """
        if not self._client.publish(topic, data):
            raise AggregationError("the pool's broker cannot be reached", action="Start the comparison again.")

    def connect(self, channel: PeerChannel) -> None:
        """Gives `mpyc` a connection with keys; the plant of the lower number sends keys of random numbers."""
        from mpyc.asyncoro import MessageExchanger

        runtime, number = self._runtime, self.plan.names.index(channel.peer)
        exchanger = MessageExchanger(runtime, number)
        exchanger.transport = channel
        channel.exchanger = exchanger
        runtime.parties[number].protocol = exchanger
        if runtime.pid < number:
            channel.writelines(runtime._prss_keys_to_peer(number))
            channel.ready.set()

    def deliver(self, channel: PeerChannel, place: int, text: bytes) -> None:
        """Hands a message to `mpyc`; the first of a plant with a lower number holds keys of random numbers."""
        number = self.plan.names.index(channel.peer)
        if place == 0 and number < self._runtime.pid:
            if len(text) == self._runtime._prss_keys_from_peer(number):
                self._runtime._prss_keys_from_peer(number, text)
                channel.ready.set()
            return
        channel.exchanger.data_received(text)
