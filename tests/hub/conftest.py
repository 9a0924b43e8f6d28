"""Real brokers, real hub processes and small bundles for the tests of the hub."""

from __future__ import annotations

import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import tomli_w

from lineside_hub.database import Database
from lineside_hub.repository import Repository
from lineside_link.client import LinkClient, LinkConfig
from lineside_link.messages import ResultRow, Results, ResultsAck, decode, encode
from lineside_link.topics import Topics
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.tensors import TensorSpec

SITE = "test"
GROUP = "line-a"
TOPICS = Topics(SITE)


def wait_until(happened: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
    """Waits for a condition that another process or thread brings about."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for {what}")
        pause.wait(0.02)


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


class Process:
    """A child process that is started, killed and started again."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command = command
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def module(cls, *arguments: str, log: Path) -> Process:
        return cls([sys.executable, "-m", "lineside_hub", *arguments], log)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end(self, number: int) -> int:
        if self._child is None:
            return 0
        child, self._child = self._child, None
        child.send_signal(number)
        return child.wait(60)

    def signal(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def limit_files(self, size: int) -> None:
        """Lets no file of the process grow beyond ``size`` bytes, as a full disk would, while it runs."""
        assert self._child is not None
        resource.prlimit(self._child.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def wait(self) -> int:
        assert self._child is not None
        child, self._child = self._child, None
        return child.wait(60)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def stop(self) -> int:
        return self.end(signal.SIGTERM)


class Broker(Process):
    def __init__(self, command: list[str], log: Path, port: int) -> None:
        super().__init__(command, log)
        self.port = port

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        wait_until(lambda: listening(self.port), "the broker")


class Device:
    """A device's end of the link that keeps its rows until they are acknowledged."""

    def __init__(self, url: str, name: str = "cam-01", epoch: str = "e1") -> None:
        self.name = name
        self.epoch = epoch
        self.acked = 0
        self.messages: dict[str, bytes] = {}
        self.link = LinkClient(LinkConfig(url=url, site=SITE, reconnect_min_s=0.05, reconnect_max_s=0.2), name)
        for topic in (TOPICS.results_ack(name), TOPICS.device_desired(name), TOPICS.group_desired(GROUP)):
            self.link.subscribe(topic, self._take)
        self.link.subscribe(TOPICS.repo_response(name), self._take, qos=0)
        self.link.start()

    def _take(self, topic: str, payload: bytes) -> None:
        self.messages[topic] = payload
        if topic == TOPICS.results_ack(self.name):
            ack = decode(payload, ResultsAck)
            if ack.epoch == self.epoch:
                self.acked = max(self.acked, ack.seq)

    def rows(self, first: int, last: int) -> tuple[ResultRow, ...]:
        return tuple(
            ResultRow(seq=seq, part_id=f"part-{seq}", sequence=seq, captured_at_ns=seq, verdict="pass")
            for seq in range(first, last + 1)
        )

    def send(self, first: int, last: int) -> bool:
        message = Results(epoch=self.epoch, rows=self.rows(first, last))
        return self.link.publish(TOPICS.results(self.name), encode(message))

    def deliver(self, total: int, *, batch: int = 20, window: int = 200, timeout_s: float = 60.0) -> None:
        """Sends rows 1 to ``total`` and goes back to the watermark when nothing moves, as the agent does."""
        deadline = time.monotonic() + timeout_s
        sent, before, moved = self.acked, self.acked, time.monotonic()
        pause = threading.Event()
        while self.acked < total:
            if time.monotonic() > deadline:
                pytest.fail(f"{self.acked} of {total} rows acknowledged in {timeout_s} s")
            if self.acked != before:
                before, moved = self.acked, time.monotonic()
            if time.monotonic() - moved > 1.0:
                sent, moved = self.acked, time.monotonic()
            sent = max(sent, self.acked)
            last = min(sent + batch, total, self.acked + window)
            if last > sent and self.send(sent + 1, last):
                sent = last
            pause.wait(0.005)


@pytest.fixture
def waiting() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def process_class() -> type[Process]:
    return Process


@pytest.fixture
def device_events() -> Callable[[Repository], list[tuple[str, str]]]:
    """Reads the timeline as pairs of device and kind."""

    def read(repository: Repository) -> list[tuple[str, str]]:
        database = Database.open(repository.folder)
        try:
            return [(event.device, event.kind) for event in database.events()]
        finally:
            database.close()

    return read


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mosquitto_command() -> str:
    command = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(command).exists():
        pytest.skip("Debian's mosquitto is not installed: tests/peers/install.sh peers")
    return command


@pytest.fixture
def mosquitto_path() -> str:
    return mosquitto_command()


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, port: int) -> Iterator[Broker]:
    """Both brokers: Debian's mosquitto and the embedded one."""
    if request.param == "mosquitto":
        configuration = tmp_path / "mosquitto.conf"
        configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        command = [mosquitto_command(), "-c", str(configuration)]
    else:
        command = [sys.executable, "-m", "lineside_hub", "broker", "--port", str(port)]
    started = Broker(command, tmp_path / "broker.log", port)
    started.start()
    yield started
    started.kill()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "hub", groups=[GROUP])


@pytest.fixture
def hub_process(tmp_path: Path, repository: Repository, broker: Broker) -> Iterator[Process]:
    link = {"url": broker.url, "site": SITE, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2}
    configuration = repository.folder / "hub.toml"
    configuration.write_text(tomli_w.dumps({"folder": ".", "link": link}))
    command = [sys.executable, "-m", "lineside_hub", "run", "--config", str(configuration)]
    process = Process(command, tmp_path / "hub.log")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def device(broker: Broker) -> Iterator[Device]:
    connected = Device(broker.url)
    assert connected.link.wait_connected(60.0)
    yield connected
    connected.link.close()


BundleMaker = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> BundleMaker:
    """Builds bundles whose model is some bytes: the hub never looks into it."""

    def make(version: str, *, name: str = "surface", content: bytes = b"model") -> Bundle:
        folder = tmp_path / "bundles" / f"{name}-{version}-{len(list(tmp_path.glob('bundles/*')))}"
        (folder / "onnx-int8").mkdir(parents=True)
        (folder / "onnx-int8" / "model.onnx").write_bytes(content)
        (folder / "labels.json").write_bytes(msgspec.json.encode(["scratch"]))
        spec = TensorSpec(name="image", shape=(-1, 1, 224, 224), layout="NCHW")
        variant = Variant(name="onnx-int8", format="onnx", file="onnx-int8/model.onnx", level=1, precision="int8")
        manifest = Manifest(
            name=name,
            version=version,
            created_at="2026-11-24T00:00:00Z",
            labels=("scratch",),
            inputs=(spec,),
            outputs=(spec,),
            preprocess=Preprocess(input="image", colour="grey"),
            postprocess=Postprocess(name="dfl_anchor_free"),
            variants=(variant,),
        )
        return write_manifest(folder, manifest)

    return make
