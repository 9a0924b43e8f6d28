"""Alarms: states, limits, who is told, and that a restart raises nothing twice."""

from __future__ import annotations

import email.message
import email.policy
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from aiosmtpd.controller import Controller

from lineside_hub.alarms.config import AlarmRule, AlarmsConfig, EmailConfig, WebhookConfig
from lineside_hub.alarms.machine import FigureReading, FleetAlarm, acknowledge, step
from lineside_hub.alarms.monitor import AlarmMonitor
from lineside_hub.alarms.notification import SIGNATURE_HEADER
from lineside_hub.alarms.storage import acknowledge_alarm, channel_status, closed_alarms, open_alarms
from lineside_hub.config import HubConfig, load_config
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.results.sql import runner
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.config import LinkConfig
from lineside_link.messages import (
    DeviceAlarms,
    DriftAlarm,
    DriftReport,
    Message,
    Reported,
    ResultRow,
    Results,
    Up,
    encode,
)
from lineside_runtime.errors import ConfigError
from tests.peers import free_port
from tests.worlds.hub import open_database

RULES = (
    AlarmRule(name="silent", figure="silent_s", limit=60.0, priority="high"),
    AlarmRule(name="rejects", figure="reject_rate", limit=0.2, clear=0.1, min_results=10),
    AlarmRule(name="drift", figure="drift", limit=0.0, for_s=30.0, priority="low"),
    AlarmRule(name="disk", figure="free_bytes", limit=100.0, clear=200.0, group="line-a"),
)


class AlarmedHub:
    """A hub's database and its monitor, at a time of the test's own.

    Attributes:
        published: The open alarms of each device, as the broker would hold them.
    """

    def __init__(self, folder: Path, alarms: AlarmsConfig) -> None:
        self.config = HubConfig(folder=str(folder), link=LinkConfig("mqtt://127.0.0.1:1", "plant"), alarms=alarms)
        self.now_ns = time.time_ns()
        self.published: dict[str, list[str]] = {}
        self.database = open_database(folder)
        self.restart()

    def restart(self) -> None:
        self.monitor = AlarmMonitor(self.config, self._publish, clock=lambda: self.now_ns)

    def _publish(self, message: DeviceAlarms) -> bool:
        self.published[message.device] = [f"{alarm.rule} {alarm.state}" for alarm in message.alarms]
        return True

    def after(self, seconds: float) -> list[str]:
        """Evaluates at a later time; returns the open alarms."""
        self.now_ns += int(seconds * 1e9)
        with runner(self.config) as run:
            self.monitor.evaluate(self.database, run)
        self.monitor.deliver(self.database)
        return [f"{alarm.rule} {alarm.device} {alarm.state}" for alarm in open_alarms(self.database)]

    def say(self, message: Message) -> None:
        with self.database.transaction() as connection:
            timeline = FleetTimeline(self.database, group_of=lambda device: None)
            if isinstance(message, Up):
                timeline.write_up(message)
                connection.execute("UPDATE devices SET up_at_ns = ? WHERE device = ?", (self.now_ns, message.device))
            elif isinstance(message, Reported):
                timeline.write_reported(message)

    def inspect(self, device: str, first: int, rejects: int, of: int) -> None:
        rows = tuple(
            ResultRow(
                seq=first + number,
                part_id="p",
                captured_at_ns=self.now_ns,
                verdict="reject" if number < rejects else "pass",
            )
            for number in range(of)
        )
        with self.database.transaction():
            ResultsSink(self.database).write([read_batch(device, encode(Results(epoch="e", rows=rows)))])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[AlarmedHub]:
    made = AlarmedHub(tmp_path, AlarmsConfig(rule=RULES))
    made.say(Up(device="cam-1", up=True, boot_id="b", group="line-a"))
    yield made
    made.database.close()


def test_an_alarm_stays_until_it_is_over_and_somebody_has_acknowledged_it(hub: AlarmedHub) -> None:
    hub.say(Up(device="cam-1", up=False, boot_id="b"))
    assert hub.after(59) == []
    assert hub.after(2) == ["silent cam-1 active"]
    number = open_alarms(hub.database)[0].id
    hub.say(Up(device="cam-1", up=True, boot_id="b"))
    assert hub.after(1) == ["silent cam-1 cleared"]
    hub.say(Up(device="cam-1", up=False, boot_id="b"))
    assert hub.after(61) == ["silent cam-1 active"]
    assert acknowledge_alarm(hub.database, number, by="Ann", note="on my way").state == "acknowledged"
    assert acknowledge_alarm(hub.database, number, by="Bob").acknowledged_by == "Ann"
    assert hub.after(1) == ["silent cam-1 acknowledged"]
    assert hub.published == {"cam-1": ["silent acknowledged"]}
    hub.say(Up(device="cam-1", up=True, boot_id="b"))
    assert hub.after(1) == []
    assert hub.published == {"cam-1": []}
    [closed] = closed_alarms(hub.database)
    assert (closed.count, closed.acknowledged_by, closed.note) == (2, "Ann", "on my way")


def test_figures_have_limits_hysteresis_delay_and_group(hub: AlarmedHub) -> None:
    hub.inspect("cam-1", 1, rejects=3, of=9)
    assert hub.after(1) == []  # too few parts
    hub.inspect("cam-1", 10, rejects=0, of=1)
    assert hub.after(1) == ["rejects cam-1 active"]
    hub.inspect("cam-1", 11, rejects=0, of=10)
    [raised] = open_alarms(hub.database)
    assert hub.after(1) == ["rejects cam-1 active"]  # 15 %: below the limit, and not yet clear
    [shown] = open_alarms(hub.database)
    assert raised.detail == "30.0% of 10 parts rejected" and shown.detail == "15.0% of 20 parts rejected"
    assert (shown.value, shown.changed_at_ns, shown.count) == (0.15, raised.changed_at_ns, 1)
    hub.inspect("cam-1", 21, rejects=0, of=20)
    assert hub.after(1) == ["rejects cam-1 cleared"]
    drift = DriftReport(alarms=(DriftAlarm(name="sharpness-low", since_ns=1, text="blurred"),))
    hub.say(Reported(device="cam-1", free_bytes=50, drift=drift))
    hub.say(Up(device="cam-2", up=True, boot_id="b", group="line-b"))
    hub.say(Reported(device="cam-2", free_bytes=50))
    assert hub.after(1) == ["disk cam-1 active", "rejects cam-1 cleared"]
    assert hub.after(29) == ["disk cam-1 active", "rejects cam-1 cleared"]
    assert hub.after(2) == ["disk cam-1 active", "rejects cam-1 cleared", "drift cam-1 active"]
    assert open_alarms(hub.database)[-1].detail == "blurred"
    hub.say(Reported(device="cam-1", free_bytes=150))
    assert "disk cam-1 active" in hub.after(1)


def test_a_restart_raises_nothing_twice_and_a_rule_that_is_gone_ends_its_alarms(hub: AlarmedHub) -> None:
    hub.say(Up(device="cam-1", up=False, boot_id="b"))
    assert hub.after(61) == ["silent cam-1 active"]
    hub.published.clear()
    hub.restart()
    assert hub.after(10) == ["silent cam-1 active"]
    assert open_alarms(hub.database)[0].count == 1
    assert hub.published == {"cam-1": ["silent active"]}  # again, for a broker that has lost it
    hub.config = msgspec.structs.replace(hub.config, alarms=AlarmsConfig(rule=RULES[1:]))
    hub.restart()
    assert hub.after(10) == ["silent cam-1 cleared"]


def test_no_order_of_events_leads_to_a_state_without_a_way_out() -> None:
    rule = AlarmRule(name="r", figure="drift", limit=0.0)
    alarm: FleetAlarm | None = None
    reached = set()
    for value in (0, 1, 1, 0, 1, 0, 1, 0):
        if changed := step(alarm, rule, "d", FigureReading(float(value), ""), 5):
            alarm = changed[0]
            reached.add(alarm.state)
    assert alarm is not None
    assert reached == {"active", "cleared"}
    closed = acknowledge(alarm, "Ann", "", 9)
    assert closed is not None and closed.state == "closed"
    assert acknowledge(closed, "Bob", "", 9) is None


class Receiver(BaseHTTPRequestHandler):
    """A program that gets notices; it refuses while ``status`` is 500."""

    bodies: ClassVar[list[tuple[str, bytes]]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.status == 200:
            self.bodies.append((self.headers[SIGNATURE_HEADER], body))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class Mailbox:
    """Takes mails; the handler of aiosmtpd's server."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@pytest.fixture
def webhook() -> Iterator[str]:
    Receiver.bodies, Receiver.status = [], 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/alarms"
        server.shutdown()
        thread.join(60)


def test_notices_reach_a_mail_server_and_a_program_once_they_answer(
    tmp_path: Path, webhook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_hub.alarms.monitor.RETRY_MIN_S", 0.0)
    (tmp_path / "secret").write_text("s3cret\n")
    port = free_port()
    mail_config = EmailConfig(
        host="127.0.0.1", port=port, security="none", sender="hub@plant.example", to=("ann@x.example",)
    )
    hook = WebhookConfig(url=webhook, secret_file=str(tmp_path / "secret"), priority="high")
    hub = AlarmedHub(tmp_path, AlarmsConfig(rule=RULES, email=mail_config, webhook=(hook,)))
    with closing(hub.database):
        Receiver.status = 500
        hub.say(Up(device="cam-1", up=False, boot_id="b"))
        hub.inspect("cam-2", 1, rejects=10, of=10)
        hub.say(Up(device="cam-2", up=True, boot_id="b"))
        hub.after(61)  # neither answers
        assert [(one.waiting, bool(one.error)) for one in channel_status(hub.database)] == [(2, True), (1, True)]
        hub.restart()
        mailbox = Mailbox()
        server = Controller(mailbox, hostname="127.0.0.1", port=port)
        server.start()
        try:
            Receiver.status = 200
            hub.after(1)
            hub.after(1)
        finally:
            server.stop()
        assert [(one.waiting, one.error) for one in channel_status(hub.database)] == [(0, ""), (0, "")]
    [mail] = mailbox.mails
    assert mail["Subject"] == "[lineside plant] raised: silent cam-1 and 1 more"
    text = mail.get_content()
    assert "[high] silent cam-1: not connected since 20" in text
    assert "[medium] rejects cam-2: 100.0% of 10 parts rejected" in text
    [(signature, body)] = Receiver.bodies
    assert signature == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    [event] = json.loads(body)["events"]
    assert (event["transition"], event["alarm"]["rule"], event["alarm"]["device"]) == ("raised", "silent", "cam-1")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('rule = [{ name = "a", figure = "drift", limit = 1, clear = 2 }]', "clear"),
        ('rule = [{ name = "a", figure = "drift", limit = 1 }, { name = "a", figure = "drift", limit = 1 }]', "once"),
        ('rule = [{ name = "a", figure = "luck", limit = 1 }]', "figure"),
        ('webhook = [{ url = "https://a:b@x.example/" }]', "password"),
        (
            'email = {host = "h", sender = "a@x", to = ["b@x"], username = "u", password_file = "f", security="none"}',
            "clear",
        ),
        ('email = { host = "h", sender = "a@x\\r\\nBcc: b@x", to = ["a@x"] }', "addresses"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(f'folder = "hub"\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "s"\n[alarms]\n{text}\n')
    with pytest.raises(ConfigError, match=what):
        load_config(path)
