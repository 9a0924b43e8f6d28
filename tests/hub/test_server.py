"""The hub's process against real brokers, killed as a power cut would."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub import link_monitor
from lineside_hub.fleet.status import read_status, unheard_reason
from lineside_hub.folder_lock import is_running, running_lock
from lineside_hub.link_monitor import LinkMonitor, link_warning
from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push, push_config, set_desired
from lineside_link.client.client import LinkClient, LinkConfig
from lineside_link.messages import (
    Desired,
    MaintenanceWindow,
    RepoRequest,
    RepoResponse,
    Reported,
    Results,
    ResultsAck,
    Up,
    decode,
    decode_framed,
    encode,
)
from lineside_link.topics import Topics
from lineside_runtime.bundle import CHUNK_BYTES, Bundle
from lineside_runtime.errors import RolloutError, TargetNotFoundError
from tests.peers import Broker, Mosquitto, find_mosquitto, free_port, wait_for
from tests.worlds.hub import HubProcess, device_events, make_database, make_repository, query, write_hub
from tests.worlds.results_device import ResultsDevice

SITE = "test"
GROUP = "line-a"
TOPICS = Topics(SITE)
ONE_BROKER = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
"""For what doesn't depend on the kind of broker."""


NAMES = (f"cam-{number}" for number in itertools.count(10))


@dataclasses.dataclass
class SharedHub:
    """A hub that runs for all tests that leave it and its broker running."""

    repository: Repository
    broker: Broker


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedHub]:
    place = tmp_path_factory.mktemp("shared")
    broker = Mosquitto(place / "broker", program=find_mosquitto())
    repository = make_repository(place / "hub", [GROUP])
    make_database(repository.folder)
    write_hub(repository.folder, broker.config(site=SITE))
    process = HubProcess(repository.folder, place / "hub.log")
    broker.start()
    process.start()
    yield SharedHub(repository, broker)
    process.kill()
    broker.stop()


@pytest.fixture
def guest(shared: SharedHub) -> Iterator[ResultsDevice]:
    """A device of the shared hub, which has taken its first row."""
    made = ResultsDevice(shared.broker.url, TOPICS, group=GROUP, name=next(NAMES))
    wait_for(lambda: made.send(1, 1) and made.acked == 1, what="the hub")
    yield made
    made.link.close()


def rows_of(repository: Repository, device: str = "") -> list[tuple[str, str, int]]:
    rows = query(repository.folder, "SELECT device, epoch, seq FROM results ORDER BY device, epoch, seq")
    return [row for row in rows if not device or row[0] == device]


@ONE_BROKER
def test_results_come_home_exactly_once_though_the_hub_is_killed(
    hub_process: HubProcess, repository: Repository, device: ResultsDevice
) -> None:
    total = 1500
    finished = threading.Event()

    def deliver() -> None:
        device.deliver(total)
        finished.set()

    sender = threading.Thread(target=deliver)
    sender.start()
    kills = 0
    while kills < 3 and not finished.is_set():
        before = device.acked
        waited = threading.Event()
        while device.acked < min(before + 300, total) and not finished.is_set():
            waited.wait(0.01)
        hub_process.kill()
        kills += 1
        hub_process.start()
    sender.join(60)
    assert finished.is_set()
    assert kills == 3
    assert rows_of(repository) == [("cam-01", "e1", seq) for seq in range(1, total + 1)]


@ONE_BROKER
def test_status_says_that_the_hub_hears_no_device(
    hub_process: HubProcess, repository: Repository, broker: Broker
) -> None:
    folder = repository.folder
    state = folder / link_monitor.NAME
    wait_for(lambda: state.is_file() and not link_warning(folder), what="a hub that is connected")
    broker.kill()
    wait_for(lambda: "the hub has no connection" in "".join(read_status(folder).warnings), what="the warning")
    broker.restart()
    wait_for(lambda: not link_warning(folder), what="no warning any more")
    hub_process.kill()
    assert "the hub was killed" in link_warning(folder)
    before = state.stat().st_mtime_ns
    hub_process.start()
    wait_for(lambda: state.stat().st_mtime_ns != before, what="a hub that runs again")
    hub_process.signal(signal.SIGTERM)
    assert hub_process.wait() == 0
    assert not state.exists() and not link_warning(folder) and "does not run" in unheard_reason(folder)


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on which a hub runs: this process."""
    with running_lock(tmp_path):
        yield tmp_path


def test_two_clients_of_one_name_are_noticed(
    mosquitto: Broker, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_monitor, "LOSSES_MAX", 1)
    monkeypatch.setattr(link_monitor, "LOOK_S", 0.0)
    clients = [LinkClient(mosquitto.config("same"), "same") for _ in range(2)]
    monitor = LinkMonitor(clients[0], run_folder)

    def noticed() -> bool:
        monitor.check()
        return "another client called same" in link_warning(run_folder)

    try:
        for client in clients:
            client.start()
        wait_for(noticed, what="the warning")
    finally:
        for client in clients:
            client.close()


def test_subscriptions_that_the_broker_dropped_are_noticed_and_made_again(
    mosquitto: Broker, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_monitor, "LOOK_S", 0.0)
    monkeypatch.setattr(link_monitor, "SILENT_S", 0.05)
    link, device = LinkClient(mosquitto.config("hub"), "hub"), LinkClient(mosquitto.config("cam"), "cam")
    monitor = LinkMonitor(link, run_folder, expects=lambda: True)
    heard: list[bytes] = []
    link.subscribe("up", lambda _, payload: heard.append(payload))
    try:
        for client in (link, device):
            client.start()
            assert client.wait_connected(60)
        assert link._connection is not None
        link._connection.unsubscribe("up")

        def noticed() -> bool:
            monitor.check()
            return "has passed on no message" in link_warning(run_folder)

        wait_for(noticed, what="the warning")
        monkeypatch.setattr(link_monitor, "SILENT_S", 60.0)

        def hears() -> bool:
            device.publish("up", b"1", retain=True)
            monitor.check()
            return bool(heard) and not link_warning(run_folder)

        wait_for(hears, what="the message, and no warning")
    finally:
        for client in (link, device):
            client.close()


def test_results_come_home_exactly_once_though_the_broker_is_killed(
    hub_process: HubProcess, repository: Repository, device: ResultsDevice, broker: Broker
) -> None:
    total = 1500
    sender = threading.Thread(target=lambda: device.deliver(total))
    sender.start()
    waited = threading.Event()
    for threshold in (200, 700):
        while device.acked < threshold:
            waited.wait(0.01)
        broker.kill()
        broker.start()
    sender.join(60)
    assert device.acked == total
    assert rows_of(repository) == [("cam-01", "e1", seq) for seq in range(1, total + 1)]


def test_a_gap_waits_and_a_repeat_is_answered(shared: SharedHub, guest: ResultsDevice) -> None:
    ack = TOPICS.results_ack(guest.name)
    guest.send(2, 3)
    guest.send(6, 8)
    wait_for(lambda: len(rows_of(shared.repository, guest.name)) == 6, what="the rows behind the gap")
    wait_for(lambda: guest.acked == 3, what="those before it")
    guest.messages.clear()
    guest.send(1, 2)
    wait_for(lambda: ack in guest.messages, what="the answer to a repeat")
    assert decode(guest.messages[ack], ResultsAck).seq == 3
    guest.send(4, 5)
    wait_for(lambda: guest.acked == 8, what="the gap to close")
    assert len(rows_of(shared.repository, guest.name)) == 8


def test_what_cannot_be_read_kills_nothing_and_is_told(shared: SharedHub, guest: ResultsDevice) -> None:
    name = guest.name
    deep = b"[" * 50_000 + b"]" * 50_000
    for payload in (b"\xff", b"{}", b'{"epoch": "e1", "rows": [], "x": ' + deep + b"}"):
        for topic in (TOPICS.results(name), TOPICS.up(name), TOPICS.reported(name), TOPICS.repo_get("a")):
            guest.link.publish(topic, payload)
    guest.link.publish(TOPICS.results("bad name"), encode(Results(epoch="e", rows=guest.rows(1, 1))))
    wait_for(lambda: guest.send(2, 2) and guest.acked == 2, what="the hub to go on")
    assert (name, "malformed") in device_events(shared.repository.folder)
    assert "bad name" not in {row[0] for row in rows_of(shared.repository)}


@ONE_BROKER
def test_births_reports_and_wills_become_a_timeline(
    hub_process: HubProcess, repository: Repository, broker: Broker
) -> None:
    will = encode(Up(device="cam-02", up=False, boot_id="b1"))
    config = LinkConfig(url=broker.url, site=SITE)
    link = LinkClient(config, "cam-02", will=(TOPICS.up("cam-02"), will))
    link.start()
    assert link.wait_connected(60)
    link.publish(TOPICS.up("cam-02"), encode(Up(device="cam-02", up=True, boot_id="b1")), retain=True)
    for progress in (0.0, 0.5):
        report = Reported(device="cam-02", gen=1, state="fetching", progress=progress)
        link.publish(TOPICS.reported("cam-02"), encode(report), retain=True)
    wait_for(lambda: ("cam-02", "fetching") in device_events(repository.folder), what="the report")
    connection = link._connection
    assert connection is not None
    connection.abort()
    wait_for(lambda: ("cam-02", "down") in device_events(repository.folder), what="the last will")
    link.close()
    kinds = [kind for name, kind in device_events(repository.folder) if name == "cam-02"]
    assert kinds[:3] == ["up", "fetching", "down"]
    told = kinds
    hub_process.kill()
    hub_process.start()
    wait_for(
        lambda: hub_process.log.count("connected to") == 2,
        what="the hub, which gets all retained again",
    )
    marker = encode(Up(device="cam-03", up=True, boot_id="b"))
    other = LinkClient(config, "cam-03")
    other.start()
    assert other.wait_connected(60)
    other.publish(TOPICS.up("cam-03"), marker)
    wait_for(
        lambda: ("cam-03", "up") in device_events(repository.folder),
        what="what was sent after the retained messages",
    )
    other.close()
    assert [kind for name, kind in device_events(repository.folder) if name == "cam-02"] == told


def test_a_push_reaches_devices_while_the_hub_runs(
    shared: SharedHub, guest: ResultsDevice, make_bundle: Callable[..., Bundle]
) -> None:
    folder, topic, own = shared.repository.folder, TOPICS.group_desired(GROUP), TOPICS.device_desired(guest.name)
    first = push(folder, make_bundle("1.0.0").path, group=GROUP)
    wait_for(lambda: topic in guest.messages, what="the first desired state")
    desired = decode(guest.messages[topic], Desired)
    assert (desired.epoch, desired.gen, desired.bundle) == (first.epoch, first.gen, first.ref)
    second = push(folder, make_bundle("2.0.0", content=b"b").path, group=GROUP)
    assert second.gen == first.gen + 1
    wait_for(lambda: decode(guest.messages[topic], Desired).bundle == second.ref, what="the second desired state")
    back = set_desired(folder, first.ref)
    assert back.gen == second.gen + 1
    wait_for(lambda: decode(guest.messages[topic], Desired).gen == back.gen, what="the way back")
    alone = set_desired(folder, second.ref, device=guest.name)
    wait_for(lambda: own in guest.messages, what="the desired state for one device")
    assert decode(guest.messages[own], Desired).gen == alone.gen


def test_desired_states_and_acknowledgements_are_back_after_the_broker_forgot_them(
    hub_process: HubProcess,
    repository: Repository,
    broker: Broker,
    device: ResultsDevice,
    make_bundle: Callable[..., Bundle],
) -> None:
    wait_for(lambda: device.send(1, 5) and device.acked == 5, what="the hub")
    pushed = push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    wait_for(lambda: TOPICS.group_desired(GROUP) in device.messages, what="the desired state")
    device.messages.clear()
    broker.kill()
    broker.start()
    wait_for(lambda: TOPICS.group_desired(GROUP) in device.messages, what="the desired state again")
    wait_for(lambda: TOPICS.results_ack("cam-01") in device.messages, what="the acknowledgement again")
    assert decode(device.messages[TOPICS.group_desired(GROUP)], Desired).bundle == pushed.ref
    assert decode(device.messages[TOPICS.results_ack("cam-01")], ResultsAck).seq == 5


@ONE_BROKER
def test_a_push_without_the_hub_is_published_when_it_starts(
    hub_process: HubProcess, repository: Repository, device: ResultsDevice, make_bundle: Callable[..., Bundle]
) -> None:
    hub_process.kill()
    pushed = push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    hub_process.start()
    wait_for(lambda: TOPICS.group_desired(GROUP) in device.messages, what="the desired state")
    assert decode(device.messages[TOPICS.group_desired(GROUP)], Desired).gen == pushed.gen


@ONE_BROKER
def test_what_has_no_window_of_its_own_waits_for_the_plants(
    hub_process: HubProcess, repository: Repository, device: ResultsDevice, make_bundle: Callable[..., Bundle]
) -> None:
    hub_process.kill()
    with (repository.folder / "hub.toml").open("a") as file:
        file.write('\n[window]\nstart = "22:00"\nend = "05:00"\ntimezone = "UTC"\n')
    push(repository.folder, make_bundle("1.0.0").path, group=GROUP, canary=0)
    noon = MaintenanceWindow(start="12:00", end="13:00", timezone="UTC")
    push_config(repository.folder, b"[inspect]\nthreads = 1\n", group=GROUP, canary=0, window=noon)
    hub_process.start()
    wait_for(lambda: TOPICS.group_desired(GROUP) in device.messages, what="the desired state")
    desired = decode(device.messages[TOPICS.group_desired(GROUP)], Desired)
    plant = MaintenanceWindow(start="22:00", end="05:00", timezone="UTC")
    assert (desired.window_of("bundle"), desired.window_of("config"), desired.window) == (plant, noon, plant)


def test_a_full_chunk_travels_and_a_foreign_path_does_not(
    shared: SharedHub, guest: ResultsDevice, make_bundle: Callable[..., Bundle]
) -> None:
    bundle = make_bundle("3.0.0", content=bytes(range(256)) * 256 + b"tail")
    shared.repository.publish(bundle, GROUP)
    digest = bundle.manifest.files["onnx-int8/model.onnx"].chunks[0]
    topic = TOPICS.repo_response(guest.name)

    def ask(kind: str, path: str) -> tuple[int, bytes]:
        guest.messages.pop(topic, None)
        request = encode(RepoRequest(id="1", kind=kind, path=path))  # type: ignore[arg-type]  # kinds as text
        guest.link.publish(TOPICS.repo_get(guest.name), request, qos=0)
        wait_for(lambda: topic in guest.messages, what=f"the answer to {path}")
        head, body = decode_framed(guest.messages[topic], RepoResponse)
        return head.status, bytes(body)

    status, body = ask("chunk", digest)
    assert (status, len(body)) == (200, CHUNK_BYTES)
    assert hashlib.sha256(body).hexdigest() == digest
    assert ask("metadata", "../keys/root.pem") == (404, b"")
    assert ask("target", "../../keys/root.pem") == (404, b"")


def test_a_hub_starts_while_a_command_looks_whether_one_runs(tmp_path: Path) -> None:
    with running_lock(tmp_path):
        pass
    with (tmp_path / "running.lock").open() as looked:
        fcntl.flock(looked, fcntl.LOCK_SH)  # as is_running does for a moment
        ended = threading.Timer(0.1, looked.close)
        ended.start()
        with running_lock(tmp_path):
            assert is_running(tmp_path)
        ended.join()
    assert not is_running(tmp_path)


@ONE_BROKER
def test_one_hub_serves_a_folder_ends_at_sigterm_and_renews_the_timestamp_when_it_starts(
    hub_process: HubProcess, repository: Repository, device: ResultsDevice, tmp_path: Path
) -> None:
    path = repository.folder / "metadata" / "timestamp.json"
    wait_for(lambda: json.loads(path.read_text())["signed"]["version"] == 2, what="the renewal")
    second = HubProcess(hub_process.config_path.parent, tmp_path / "second.log")
    second.start()
    assert second.wait() == 1
    assert "another hub runs on" in second.log
    wait_for(lambda: device.send(1, 10) and device.acked == 10, what="the first hub, which serves on")
    assert hub_process.stop() == 0
    assert len(rows_of(repository)) == 10
    assert "Traceback" not in hub_process.log
    hub_process.start()
    wait_for(lambda: json.loads(path.read_text())["signed"]["version"] == 3, what="the second renewal")


def test_a_desired_state_is_only_for_what_is_published(
    repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    result = push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    with pytest.raises(RolloutError):
        push(repository.folder, make_bundle("1.0.0", content=b"other").path, group=GROUP)
    foreign = make_bundle("3.0.0")
    with pytest.raises(RolloutError):
        push(repository.folder, foreign.path, group="nobody")
    with pytest.raises(TargetNotFoundError):
        set_desired(repository.folder, type(result.ref)(name="surface", version="9", target="line-a/x", sha256="0"))
    again = push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    assert (again.ref, again.gen) == (result.ref, result.gen + 1)


def test_pushes_at_the_same_time_get_generations_of_their_own(
    repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    paths = [make_bundle(f"{number}.0.0", content=bytes([number])).path for number in range(5)]
    gens = []
    threads = [
        threading.Thread(target=lambda path=path: gens.append(push(repository.folder, path, group=GROUP).gen))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(gens) == [1, 2, 3, 4, 5]


def test_a_hub_without_a_repository_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hub.toml").write_text(f'folder = "."\n[link]\nurl = "mqtt://127.0.0.1:{free_port()}"\nsite = "t"\n')
    assert main(["hub", "run", "--config", str(tmp_path / "hub.toml")]) == 1
    assert "[2002]" in capsys.readouterr().err
