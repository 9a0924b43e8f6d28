"""Enrolling, tokens, moves and revocation reach a mosquitto that runs, or say which command does it."""

from __future__ import annotations

import functools
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

from lineside.cli import main
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from tests.peers.brokers import find_mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for
from tests.worlds.secure_site import SecureSite


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SecureSite]:
    made = SecureSite(tmp_path, groups=["line-1"])
    yield made
    made.stop()


def reloads(site: SecureSite) -> int:
    return site.broker.log.count("Reloading config")


def reloaded(site: SecureSite, times: int) -> bool:
    return reloads(site) >= times


def test_an_enrolled_device_is_let_in_by_the_broker_that_runs(
    site: SecureSite, capsys: pytest.CaptureFixture[str]
) -> None:
    site.start_broker()
    assert main(["hub", "enroll", "cam-1", "--hub", str(site.folder), "--group", "line-1"]) == 0
    printed = capsys.readouterr()
    assert f"mosquitto (process {site.broker.pid}) was told to read its access list again" in printed.err
    topics, came = Topics(site.name), queue.Queue[bytes]()
    hub, device = LinkClient(site.link("lineside-hub"), "hub"), LinkClient(site.link("cam-1"), "cam-1")
    hub.subscribe(topics.up("+"), lambda _, payload: came.put(payload))
    hub.start()
    device.start()
    try:
        wait_for(lambda: hub.connected and device.connected, what="both connections")
        device.publish(topics.up("cam-1"), b"here", retain=True)
        assert came.get(timeout=20) == b"here"
    finally:
        device.close()
        hub.close()


def test_the_printed_lines_are_the_devices_configuration(site: SecureSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "enroll", "cam-1", "--hub", str(site.folder), "--group", "line-1"]) == 0
    printed = capsys.readouterr()
    table = tomllib.loads(printed.out)
    assert (table["device"], table["group"], table["root"]) == ("cam-1", "line-1", "root.json")
    link = {"site": "plant-1", "ca": "ca.pem", "certificate": "cert.pem", "key": "key.pem"}
    assert table["link"] == {"url": f"mqtts://127.0.0.1:{site.port}", **link}
    for name in ("ca.pem", "cert.pem", "key.pem", "root.json"):
        [path] = [word for word in printed.err.split() if word.endswith(f"/{name}")]
        assert Path(path).is_file()


def test_without_a_broker_on_this_machine_the_command_is_named(
    site: SecureSite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hub", "enroll", "cam-1", "--hub", str(site.folder), "--group", "line-1"]) == 0
    said = capsys.readouterr().err
    assert "no mosquitto of this machine uses" in said
    assert "systemctl reload mosquitto" in said


def test_a_broker_with_its_own_configuration_that_names_the_list_is_found(
    site: SecureSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.conf"
    own.write_text((site.identity / "mosquitto.conf").read_text())
    site.broker = ChildProcess([find_mosquitto(), "-c", str(own)], tmp_path / "own.log")
    site.start_broker()
    for command in (
        ["hub", "token", "cam-2", "--group", "line-1", "--out", str(tmp_path / "token.json")],
        ["hub", "enroll", "cam-1", "--group", "line-1"],
        ["fleet", "move", "cam-1", "line-1", "--json"],
        ["hub", "revoke", "cam-1"],
    ):
        expected = reloads(site) + 1
        assert main([*command, "--hub", str(site.folder)]) == 0
        wait_for(functools.partial(reloaded, site, expected), what=f"{command[:2]} to reach the broker")
    assert capsys.readouterr().err.count(f"process {site.broker.pid}") == 3, "fleet move says it in --json to nobody"


def test_a_foreign_mosquitto_is_left_alone(site: SecureSite, tmp_path: Path) -> None:
    other = SecureSite(tmp_path / "other", groups=["line-1"])
    other.start_broker()
    try:
        assert main(["hub", "enroll", "cam-1", "--hub", str(site.folder), "--group", "line-1"]) == 0
        assert main(["hub", "enroll", "cam-1", "--hub", str(other.folder), "--group", "line-1"]) == 0
        wait_for(lambda: reloads(other) == 1, what="the other site's own command")
    finally:
        other.stop()
