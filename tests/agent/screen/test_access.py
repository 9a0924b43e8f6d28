"""Who may do what at the operator screen, over HTTP as a browser or an attacker sends it."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside_agent.config import AgentConfig, FolderCameraConfig, ScreenConfig, StoreConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.screen import people
from lineside_agent.screen.actions import ActionLog
from lineside_agent.screen.alarms import Condition
from lineside_agent.screen.people import Sessions, add_person, remove_person
from lineside_agent.screen.routes import ROUTES
from lineside_agent.screen.screen import CONNECTIONS_MAX, check_access, make_server
from lineside_agent.screen.state import ScreenState
from lineside_agent.storage.images import ImageArchive
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import ConfigError, RequestError
from lineside_runtime.server.http_ import listening_socket
from lineside_runtime.server.page_server import ADDRESS_SHARE, PageServer
from tests.peers import free_port

PINS = {"Wanda": ("watch", "2580"), "Otto": ("operate", "3691"), "Sara": ("set_up", "147258")}

ALLOWED = {
    # method and path: who gets past the checks; "" is somebody unknown from another machine
    ("GET", "/"): {"", "watch", "operate", "set_up"},
    ("GET", "/session"): {"", "watch", "operate", "set_up"},
    ("POST", "/session"): {"", "watch", "operate", "set_up"},
    ("POST", "/session/end"): {"", "watch", "operate", "set_up"},
    ("GET", "/events"): {"watch", "operate", "set_up"},
    ("GET", "/parts/{number:int}/{view:int}.jpg"): {"watch", "operate", "set_up"},
    ("GET", "/parts/{number:int}/{view:int}/heat.jpg"): {"watch", "operate", "set_up"},
    ("GET", "/record/similar"): {"watch", "operate", "set_up"},
    ("GET", "/rejects"): {"watch", "operate", "set_up"},
    ("GET", "/rejects/{number:int}.jpg"): {"watch", "operate", "set_up"},
    ("GET", "/record"): {"watch", "operate", "set_up"},
    ("GET", "/record/image"): {"watch", "operate", "set_up"},
    ("GET", "/record/heat"): {"watch", "operate", "set_up"},
    ("GET", "/actions"): {"set_up"},
    ("POST", "/mark"): {"operate", "set_up"},
    ("POST", "/acknowledge"): {"operate", "set_up"},
    ("POST", "/line"): {"operate", "set_up"},
    ("GET", "/set-up"): {"set_up"},
    ("GET", "/cameras/{camera:int}"): {"set_up"},
    ("GET", "/cameras/{camera:int}/{number:int}.jpg"): {"set_up"},
    ("GET", "/cameras/{camera:int}/regions"): {"set_up"},
    ("POST", "/cameras/{camera:int}/regions"): {"set_up"},
    ("GET", "/learning"): {"set_up"},
    ("GET", "/learning/{part:int}.jpg"): {"set_up"},
    ("POST", "/learning"): {"set_up"},
}


class Client:
    """A client of a screen.

    Args:
        cookie: Of a session.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookie = ""

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Returns status and body of the answer; of a stream nothing but its status."""
        data = None if method == "GET" else json.dumps(body or {}).encode()
        sent = {"Content-Type": "application/json", "Cookie": self.cookie, **headers}
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                if found := answer.headers.get("Set-Cookie"):
                    self.cookie = found.partition(";")[0]
                    self.set_cookie = found
                return answer.status, b"" if path == "/events" else answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture
def state(tmp_path: Path) -> ScreenState:
    """What a screen knows; three people have a PIN."""
    for name, (role, pin) in PINS.items():
        add_person(tmp_path, name, role, pin)  # type: ignore[arg-type]
    agent = AgentConfig(device="press-2", folder=tmp_path, camera=FolderCameraConfig(path=tmp_path), bundle=tmp_path)
    return ScreenState(
        agent,
        ScreenConfig(port=free_port(), names=("press-2.example",)),
        active=ActiveBundle(),
        archive=ImageArchive(tmp_path, StoreConfig()),
        flush=lambda _: True,
        send_image=lambda *_: None,
        recent_s=list,
    )


@pytest.fixture
def server(state: ScreenState) -> Iterator[PageServer]:
    """A screen that other machines reach."""
    started = make_server(state, is_local=False)
    started.start()
    try:
        yield started
    finally:
        state.end()
        started.close()
        state.close()


def test_each_role_gets_what_the_table_says_and_nobody_a_credential(server: PageServer, tmp_path: Path) -> None:
    assert {(route.method, route.path) for route in ROUTES} == ALLOWED.keys()
    secrets = [one.digest for one in people.read_people(tmp_path)] + [one.salt for one in people.read_people(tmp_path)]
    for who in ("", *PINS):
        client = Client(server.url)
        if who:
            assert client.send("POST", "/session", {"name": who, "pin": PINS[who][1]})[0] == 200
            assert "HttpOnly" in client.set_cookie and "SameSite=strict" in client.set_cookie
        for (method, path), allowed in ALLOWED.items():
            if path in ("/session", "/session/end") and method == "POST":
                continue
            status, body = client.send(method, re.sub(r"\{\w+:int\}", "7", path))
            passed = status not in (401, 403) or b"control" in body  # the line has not given it: past the role
            assert passed == (PINS.get(who, ("",))[0] in allowed), (who, method, path, status, body)
            assert not [one for one in secrets if one.encode() in body]


def test_wrong_hosts_other_sites_and_malformed_requests_are_refused(server: PageServer) -> None:
    client = Client(server.url)
    assert client.send("GET", "/", Host="evil.example")[0] == 421
    assert client.send("GET", "/", Host="press-2.example:80")[0] == 200
    body = {"name": "Otto", "pin": PINS["Otto"][1]}
    assert client.send("POST", "/session", body, Origin="https://evil.example")[0] == 403
    assert client.send("POST", "/session", body, **{"Content-Type": "text/plain"})[0] == 415
    assert client.send("POST", "/session", {"name": "Otto", "pin": "1" * 20_000})[0] == 413
    assert client.send("POST", "/session", {"name": "Otto", "pin": 5})[0] == 400
    assert client.send("POST", "/session", body)[0] == 200
    for mark in ({"source": "a", "sequence": 1, "kind": "nonsense"}, {"source": "a", "sequence": "../x", "kind": None}):
        assert client.send("POST", "/mark", mark)[0] == 400
    assert client.send("GET", "/record/image?source=../../people&sequence=1")[0] == 404
    assert client.send("GET", "/record?source=a&sequence=one")[0] == 400
    assert client.send("GET", "/../people.json")[0] == 404
    client.cookie = "lineside_session=stolen"
    assert client.send("POST", "/acknowledge", {"key": "hub_lost"})[0] == 401


def test_many_idle_connections_leave_room_for_nobody_else_only_while_they_last(server: PageServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as held:
        for number in range(80):
            held.enter_context(connect(port, f"127.0.0.{2 + number % 5}"))
        assert Client(server.url).send("GET", "/")[0] == 503
    statuses = [Client(server.url).send("GET", "/")[0] for _ in range(50)]
    assert statuses[-1] == 200


def test_a_thousand_connections_of_one_address_keep_no_part_from_anybody_else(
    server: PageServer, state: ScreenState
) -> None:
    """Some send half a request, others open a stream and read nothing of it."""
    client = Client(server.url)
    assert client.send("POST", "/session", {"name": "Wanda", "pin": PINS["Wanda"][1]})[0] == 200
    port = int(server.url.rpartition(":")[2])
    stalled = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {client.cookie}\r\n\r\n".encode()
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    for sequence in range(2):  # a process may have 1,024 files
        with ExitStack() as held:
            for number in range(500):
                hostile = held.enter_context(connect(port, "127.0.0.2"))
                with suppress(OSError):  # it was closed
                    hostile.sendall(b"GET / HTTP/1.1\r\nX-Slow: " if number % 2 else stalled)
            request = urllib.request.Request(f"{server.url}/events", headers={"Cookie": client.cookie})
            with urllib.request.urlopen(request, timeout=20) as stream:
                row = ResultRow(seq=0, part_id=f"P-{sequence}", source="cam", sequence=sequence, verdict="reject")
                state.observe(row, [Frame(image=image, source="cam")])
                lines = (line.decode() for line in stream)
                shown = next(json.loads(line[6:]) for line in lines if f'"P-{sequence}"' in line)
                assert client.send("GET", f"/parts/{shown['number']}/0.jpg")[0] == 200
            assert state.viewers.count <= CONNECTIONS_MAX // ADDRESS_SHARE + 1


def test_a_connection_counts_before_it_begins_tls_and_until_it_is_closed() -> None:
    with closing(listening_socket("127.0.0.1", 0, connections_per_address=2)) as listener, ExitStack() as held:
        listener.listen()
        port = listener.getsockname()[1]
        clients = [held.enter_context(connect(port, address)) for address in ("127.0.0.2",) * 3 + ("127.0.0.3",)]
        accepted = [held.enter_context(listener.accept()[0]) for _ in range(2)]
        with pytest.raises(ConnectionAbortedError):
            listener.accept()
        assert clients[2].recv(1) == b""
        held.enter_context(listener.accept()[0])
        accepted[0].close()
        held.enter_context(connect(port, "127.0.0.2"))
        again, (address, _) = listener.accept()
        held.enter_context(again)
        assert address == "127.0.0.2"


def connect(port: int, address: str) -> socket.socket:
    """Returns a connection from another address of this machine."""
    return socket.create_connection(("127.0.0.1", port), 10, (address, 0))


def test_people_operate_also_while_the_disk_is_full(
    server: PageServer, state: ScreenState, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "actions.jsonl").symlink_to("/dev/full")
    otto = Client(server.url)
    assert otto.send("POST", "/session", {"name": "Otto", "pin": PINS["Otto"][1]})[0] == 200
    state.alarms.update([Condition("records_waiting", "disk", "F")], 1)
    assert otto.send("POST", "/acknowledge", {"key": "records_waiting"})[0] == 200
    assert "'Otto' did 'acknowledge' 'records_waiting'" in caplog.text


def test_action_after_one_that_a_power_cut_has_torn_is_read(tmp_path: Path) -> None:
    (tmp_path / "actions.jsonl").write_bytes(b'{"at_ns": 1, "by": "Ott')
    actions = ActionLog(tmp_path)
    actions.add("Sara", "reset")
    assert [(one.by, one.action) for one in actions.last(5)] == [("Sara", "reset")]


def test_wrong_pins_are_slowed_down_for_one_person_alone(tmp_path: Path) -> None:
    now = [0.0]
    for name, (role, pin) in PINS.items():
        add_person(tmp_path, name, role, pin)  # type: ignore[arg-type]
    sessions = Sessions(tmp_path, clock=lambda: now[0])

    def status(name: str, pin: str) -> int:
        try:
            sessions.begin(name, pin)
        except RequestError as error:
            return error.status
        return 200

    assert [status("Otto", "0000") for _ in range(4)] == [401, 401, 401, 429]
    assert status("Otto", PINS["Otto"][1]) == 429
    assert status("Wanda", PINS["Wanda"][1]) == 200
    now[0] += people.PAUSE_FIRST_S
    assert status("Otto", "0001") == 401
    now[0] += people.PAUSE_FIRST_S
    assert status("Otto", PINS["Otto"][1]) == 429  # twice as long now
    now[0] += people.PAUSE_FIRST_S
    assert status("Otto", PINS["Otto"][1]) == 200
    assert status("nobody", "1234") == 401


def test_a_person_who_is_idle_may_only_watch_and_one_who_is_removed_is_out(tmp_path: Path) -> None:
    now = [0.0]
    add_person(tmp_path, "Otto", "operate", "3691")
    sessions = Sessions(tmp_path, clock=lambda: now[0])
    token = sessions.begin("Otto", "3691")
    now[0] += people.IDLE_S - 1
    assert sessions.visitor(token, acts=True) == people.Visitor("Otto", "operate")
    now[0] += people.IDLE_S + 1
    assert sessions.visitor(token, acts=True) == people.Visitor("Otto", "watch")
    remove_person(tmp_path, "Otto")
    assert sessions.visitor(token, acts=False) is None
    assert (tmp_path / people.NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("pin", ["123", "1234", "7777", "12345678901234", "12a4", "٣٦٩١"])
def test_a_pin_that_is_easily_guessed_is_refused(tmp_path: Path, pin: str) -> None:
    with pytest.raises(ConfigError):
        add_person(tmp_path, "Otto", "operate", pin)


def test_other_machines_need_tls_and_a_person(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("")
    tls: dict[str, Any] = {"tls_certificate": pem, "tls_key": pem}
    check_access(ScreenConfig(), has_people=False)
    check_access(ScreenConfig(address="0.0.0.0", **tls), has_people=True)
    for config, has_people in (
        (ScreenConfig(address="0.0.0.0"), True),
        (ScreenConfig(address="0.0.0.0", **tls), False),
    ):
        with pytest.raises(ConfigError):
            check_access(config, has_people=has_people)
