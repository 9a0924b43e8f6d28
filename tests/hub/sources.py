"""A device's updater in front of a repository's folder, without a broker: the hub's own responder answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_link.clock import ClockFloor
from lineside_link.messages import RepoRequest
from lineside_link.transfer.pull_window import RequestKind
from lineside_link.trust import TrustStore
from lineside_runtime.errors import FetchError


class DirectSource:
    def __init__(self, repository: Repository) -> None:
        self._responder = Responder(repository, lambda _device, _head, _body: True)

    def stream(
        self, kind: RequestKind, path: str, *, max_bytes: int, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[bytes]:
        part, parts = 0, 1
        while part < parts:
            head, body = self._responder.respond(RepoRequest(id="1", kind=kind, path=path, part=part))
            if head.status != 200:
                raise FetchError(path, status=head.status)
            yield body
            part, parts = part + 1, head.parts


def device(repository: Repository, folder: Path, *, root: bytes | None = None) -> TrustStore:
    folder.mkdir(parents=True, exist_ok=True)
    root = root or repository.root_bytes()
    return TrustStore(folder / "trust", root, DirectSource(repository), ClockFloor(folder / "clock"))
