"""The hub's repository behind a real broker, with a hand that can spoil its answers on the way."""

from __future__ import annotations

import random
from collections.abc import Callable

from lineside_hub.repository.deltas import DeltaMaker
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.messages import RepoResponse, decode_framed, encode_framed
from lineside_link.topics import Topics

TOPICS = Topics("t0")

Spoil = Callable[[RepoResponse, bytes], "tuple[RepoResponse, bytes] | None"]


def leave_alone(head: RepoResponse, body: bytes) -> tuple[RepoResponse, bytes] | None:
    return head, body


class RepoPeer:
    """Answers ``repo/get`` as the hub does. ``spoil`` may change an answer, or drop it by returning ``None``."""

    def __init__(self, repository: Repository, config: LinkConfig, *, client_id: str = "lineside-hub") -> None:
        self.repository = repository
        self.spoil: Spoil = leave_alone
        self.answered = 0
        self.client = LinkClient(config, client_id)
        self._responder = Responder(repository, self._answer)
        self.client.subscribe(TOPICS.repo_get("+"), self._asked, qos=0)

    def offer_deltas(self, maker: DeltaMaker) -> None:
        """Answers from now on as a hub that has patches made."""
        old, self._responder = self._responder, Responder(self.repository, self._answer, maker=maker)
        self._responder.start()
        old.close()

    def start(self) -> None:
        self._responder.start()
        self.client.start()
        assert self.client.wait_connected(60), self.client.last_error

    def close(self) -> None:
        self._responder.close()
        self.client.close()

    def _asked(self, topic: str, payload: bytes) -> None:
        self._responder.offer(TOPICS.device_of(topic), payload)

    def _answer(self, device: str, head: bytes, body: bytes) -> bool:
        answer, rest = decode_framed(head + body, RepoResponse)
        spoiled = self.spoil(answer, bytes(rest))
        self.answered += 1
        if spoiled is None:
            return True
        return self.client.publish(TOPICS.repo_response(device), encode_framed(*spoiled), qos=0)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
