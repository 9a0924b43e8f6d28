"""What ``tuf-client`` does: lineside's `TrustStore` over MQTT, and a bridge from there to an HTTP server."""

from __future__ import annotations

import argparse
import contextlib
import queue
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.config import LinkConfig
from lineside_link.messages import RepoRequest, RepoResponse, decode, encode_framed
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.trust import LAST_TARGET, TrustStore
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import LinesideError
from tests.peers.brokers import Broker, EmbeddedBroker, Mosquitto

TOPICS = Topics("conformance")
DEVICE = "client-under-test"
TRUSTED_ROOT = ".trusted-root"
"""Where ``init`` keeps the first root, in the metadata folder; not ``.json``, so that nobody takes it for a role."""

HTTP_MAX_BYTES = 64 << 20


class Bridge:
    """Answers the device's requests, as the hub would, with what an HTTP server gives.

    Args:
        config: Of the broker.
        urls: Base URL of ``metadata`` and of ``target``.
    """

    def __init__(self, config: LinkConfig, urls: dict[str, str]) -> None:
        self._urls = urls
        self._asked: queue.Queue[RepoRequest | None] = queue.Queue()
        self.client = LinkClient(config, "bridge")
        self.client.subscribe(TOPICS.repo_get("+"), lambda _, data: self._asked.put(decode(data, RepoRequest)), qos=0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        # The last file: what has several pieces is read from HTTP once, so that the suite counts one request.
        self._last: tuple[str, bytes | None] = ("", None)

    def start(self) -> None:
        self.client.start()
        self._thread.start()

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join(60)
        self.client.close()

    def _run(self) -> None:
        while (request := self._asked.get()) is not None:
            self.client.publish(TOPICS.repo_response(DEVICE), self._answer(request), qos=0)

    def _answer(self, request: RepoRequest) -> bytes:
        url = urllib.parse.urljoin(self._urls[request.kind].rstrip("/") + "/", "./") + request.path
        if request.part == 0 or self._last[0] != url:
            self._last = (url, _read(url))
        data = self._last[1]
        if data is None:
            return encode_framed(RepoResponse(id=request.id, status=404, part=request.part))
        parts = max(1, -(-len(data) // CHUNK_BYTES))
        head = RepoResponse(id=request.id, status=200, part=request.part, parts=parts, size=len(data))
        return encode_framed(head, data[request.part * CHUNK_BYTES : (request.part + 1) * CHUNK_BYTES])


def _read(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data: bytes = answer.read(HTTP_MAX_BYTES)
            return data
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return None


@contextlib.contextmanager
def running_link(urls: dict[str, str], folder: Path) -> Iterator[RepoClient]:
    """A broker with the bridge at one end; yields the device's end."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    broker: Broker = Mosquitto(folder, program=program) if program else EmbeddedBroker(folder)
    broker.start()
    bridge = Bridge(broker.config(site=TOPICS.site), urls)
    device = LinkClient(broker.config(site=TOPICS.site), DEVICE)
    repo = RepoClient(device, TOPICS, DEVICE, timeout_s=20)
    try:
        bridge.start()
        device.start()
        if not (bridge.client.wait_connected(60) and device.wait_connected(60)):
            raise SystemExit(1)
        yield repo
    finally:
        device.close()
        bridge.close()
        broker.stop()


def _init(metadata: Path, root: Path) -> None:
    metadata.mkdir(parents=True, exist_ok=True)
    data = root.read_bytes()
    (metadata / TRUSTED_ROOT).write_bytes(data)
    (metadata / "root.json").write_bytes(data)


def _run(options: argparse.Namespace) -> None:
    metadata: Path = options.metadata_dir.resolve()
    urls = {"metadata": options.metadata_url, "target": options.target_base_url or ""}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "metadata").symlink_to(metadata)
        (folder / "targets").mkdir()
        kept = _kept(options)
        if kept is not None and kept.exists():
            shutil.copy(kept, folder / "targets" / LAST_TARGET)
        with running_link(urls, folder / "broker") as repo:
            # Each command has a clock of its own: the suite moves time to and fro between them.
            root = (metadata / TRUSTED_ROOT).read_bytes()
            trust = TrustStore(folder, root, repo, ClockFloor(folder / "clock"))
            if kept is None:
                trust.refresh()
            else:
                data = trust.fetch_target(options.target_name, None)
                _keep(kept, data)


def _keep(path: Path, data: bytes) -> None:
    """Writes what is new: the suite tells downloads by the time at which a file was written."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _kept(options: argparse.Namespace) -> Path | None:
    if options.command != "download":
        return None
    folder: Path = options.target_dir
    return folder / urllib.parse.quote(options.target_name, safe="")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tuf-client")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    options = parser.parse_args()
    try:
        if options.command == "init":
            _init(options.metadata_dir, options.root)
        else:
            _run(options)
    except (LinesideError, OSError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    return 0
