"""Long masked vectors on their way to the coordinator: chunks that it fetches from the plant.

The plant serves them as a hub serves those of a bundle, with the same requests and repetitions.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_hub.repository.layout import RepositoryLayout
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_link.transfer.pull_window import RequestedPiece
from lineside_link.transfer.repository_client import RepoClient
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import AggregationError

INLINE_MAX_BYTES = CHUNK_BYTES
"""A longer vector goes as chunks."""


def upload_name(plant: str) -> str:
    """Returns the name under which the coordinator asks a plant for chunks."""
    return f"{plant}.vector"


class VectorServer:
    """Serves a plant's last masked vector."""

    def __init__(self, client: LinkClient, topics: Topics, plant: str, folder: Path) -> None:
        RepositoryLayout(folder).make()
        name = upload_name(plant)
        self._repository = Repository(folder)
        self._responder = Responder(
            self._repository, lambda device, head, body: client.send(topics.repo_response(device), head, body)
        )
        client.subscribe(topics.repo_get(name), lambda _, payload: self._responder.offer(name, payload), qos=0)
        self._responder.start()

    def offer(self, data: bytes) -> tuple[str, ...]:
        """Stores a vector in place of the one before; returns the sha256 of its chunks."""
        blobs = self._repository.chunks.blobs
        for name in list(blobs.names()):
            blobs.remove(name)
        return tuple(
            self._repository.chunks.put(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)
        )

    def close(self) -> None:
        """Ends its threads."""
        self._responder.close()


def fetch_vector(repo: RepoClient, chunks: Sequence[str], *, size: int, should_stop: Callable[[], bool]) -> bytes:
    """Fetches a masked vector from a plant.

    Args:
        chunks: Their sha256, in order.
        size: Of the vector in bytes.

    Raises:
        AggregationError: It has another length, or a chunk another hash.
        FetchError: The plant does not answer.
        FetchStopped: ``should_stop`` returned true.
    """
    if len(chunks) != -(-size // CHUNK_BYTES):
        raise AggregationError("chunks of a masked vector", expected=-(-size // CHUNK_BYTES), actual=len(chunks))
    wanted = collections.deque(RequestedPiece("chunk", name) for name in dict.fromkeys(chunks))
    found: dict[str, bytes] = {}
    for piece, _, body in repo.pull(wanted, should_stop=should_stop):
        if hashlib.sha256(body).hexdigest() != piece.path:
            raise AggregationError("a chunk of a masked vector has another hash", expected=piece.path)
        found[piece.path] = bytes(body)
    return b"".join(found[name] for name in chunks)
