"""The hub's process.

Threads, which share only queues of messages::

    link handlers ──► Inbox        one writer: results, interactions, births, reports; acknowledges after the commit
                 ├──► FrameInbox   uploaded frames
                 ├──► Responder    metadata, manifests, chunks and patches for devices
                 ├──► Multicaster  chunks that many devices request at once
                 └──► Registrar    certificates
    AlarmMonitor  ──► alarms from figures in the database; publishes, mails and posts them
    DeltaMaker    ──► patches between bundles, each pair in a process of its own
    WebServer     ──► the dashboard, if hub.toml has [web]: an event loop and a few workers
    ticker        ──► steps rollouts, publishes desired states (also of other processes), renews the timestamp

All retained messages are published again on every connection, because a broker may lose them.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_hub.alarms.monitor import AlarmMonitor
from lineside_hub.config import IDENTITY_NAME, HubConfig, load_config
from lineside_hub.fleet.presence import PresenceMonitor
from lineside_hub.folder_lock import running_lock
from lineside_hub.identity.authority import EnrolledGroups
from lineside_hub.identity.registrar import Registrar
from lineside_hub.identity.secure_site import old_access_list
from lineside_hub.link_monitor import LinkMonitor
from lineside_hub.repository.deltas import DeltaMaker
from lineside_hub.repository.multicast import Multicaster
from lineside_hub.repository.pacing import FairQueue
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_hub.results.database import NAME as DATABASE_NAME
from lineside_hub.results.database import Database
from lineside_hub.results.frames.inbox import FrameInbox
from lineside_hub.results.frames.storage import ARRIVING_NAME, FRAMES_NAME
from lineside_hub.results.inbox import Inbox, MessageKind
from lineside_hub.results.streams import StreamName
from lineside_hub.rollouts.runner import Rollouts
from lineside_link.client.client import LinkClient
from lineside_link.log_filter import LogFilter
from lineside_link.messages import Desired, DeviceAlarms, FrameAnswer, RepoRequest, ResultsAck, encode
from lineside_link.topics import NAME, Topics
from lineside_runtime.errors import InputNotFoundError, LinesideError, MissingExtraError, StoreError
from lineside_runtime.files import restrict_permissions
from lineside_runtime.system.signals import stop_on_signals

if TYPE_CHECKING:
    from lineside_hub.web.server import WebServer

_log = logging.getLogger("lineside.hub")

TICK_S = 0.15
"""How often the database is checked for pushes of other processes: `PRAGMA data_version` costs microseconds."""

ROLLOUT_EVERY_S = 0.5
"""How often rollouts are stepped: a snapshot of 1,000 devices costs about 20 ms."""

RENEW_RETRY_S = 60.0


class Hub:
    """Connects and serves until `close`.

    Raises:
        InputNotFoundError: The folder holds no repository.
        ConfigError: The dashboard cannot be reached as ``[web]`` says.
        MissingExtraError: The dashboard needs a package that is not installed.
    """

    def __init__(self, config: HubConfig) -> None:
        folder = Path(config.folder)
        self.topics = Topics(config.link.site)
        self.repository = Repository.open(folder)
        self.link = LinkClient(config.link, f"lineside-hub-{config.link.site}")
        self._monitor = LinkMonitor(self.link, folder, expects=self._expects_messages)
        self.inbox = Inbox(folder, self._acknowledge, config.results)
        self.frames = FrameInbox(config, self._answer_frame)
        self.deltas = DeltaMaker(folder)
        several = config.transfer.multicast_from > 0
        group_of = EnrolledGroups(folder / IDENTITY_NAME).group_of
        self.responder = Responder(
            self.repository,
            self._answer,
            queue=FairQueue(bytes_s=config.transfer.rate_bytes_s, device_bytes_s=config.transfer.device_rate_bytes_s),
            maker=self.deltas,
            join=self._join if several else None,
            multicast_bytes_s=int(config.transfer.multicast_rate_bytes_s),
            group_of=group_of,
        )
        self.multicast = Multicaster(
            self.repository,
            self.deltas,
            config.transfer,
            reply=self.responder.reply,
            send=self._send_to_all,
            pace=self.responder.note_sent_to_all,
            group_of=group_of,
        )
        self.registrar = Registrar(folder / IDENTITY_NAME, self._certify)
        self.alarms = AlarmMonitor(config, self._publish_alarms)
        self.dashboard = _dashboard(config)
        self._renew_every_s = config.renew_every_s
        self._window = config.window
        self._database = Database.open(folder)
        self._rollouts = Rollouts(self._database)
        self._presence = PresenceMonitor(self._database)
        self._published: dict[str, Desired] = {}
        self._republish = threading.Event()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="hub-ticker", daemon=True)

    def start(self) -> None:
        """Starts all threads and connects in the background.

        Raises:
            ConfigError: A certificate, key or password file cannot be read.
        """
        self._renew()
        old = old_access_list(self.repository.folder)
        if old is not None:
            _log.warning("%s", old)
        self.inbox.start()
        self.frames.start()
        self.deltas.start()
        self.responder.start()
        self.registrar.start()
        self.multicast.start()
        self.alarms.start()
        prefix = self.topics.prefix
        self.link.subscribe(f"{prefix}/d/+/res", functools.partial(self.take, "results"))
        self.link.subscribe(self.topics.interactions("+"), functools.partial(self.take, "interactions"))
        self.link.subscribe(f"{prefix}/d/+/up", functools.partial(self.take, "up"))
        self.link.subscribe(f"{prefix}/d/+/reported", functools.partial(self.take, "reported"))
        self.link.subscribe(f"{prefix}/repo/get/+", self._request, qos=0)
        self.link.subscribe(self.topics.frame("+"), self._take_frame, qos=0)
        self.link.subscribe(self.topics.certificate_request("+"), self._request_certificate)
        self.link.on_connect(self._publish_everything)
        self.link.start()
        self._ticker.start()
        if self.dashboard is not None:
            self.dashboard.start()

    def close(self) -> None:
        """Writes the received messages and disconnects."""
        self._closing.set()
        self._wake.set()
        self.alarms.close()
        if self.dashboard is not None:
            self.dashboard.close()
        self.multicast.close()
        self.responder.close()
        self.registrar.close()
        self.deltas.close()
        self.frames.close()
        self.inbox.close()
        self.link.close()
        if self._ticker.ident is not None:
            self._ticker.join(5.0)
        self._monitor.close()
        self._database.close()

    @property
    def healthy(self) -> bool:
        """Whether all threads of the hub and of its link run."""
        shown = self.dashboard is None or self.dashboard.alive
        writes = self.inbox.is_alive() and self.frames.is_alive()
        return shown and writes and self.alarms.is_alive() and self._ticker.is_alive() and not self.link.failed

    # Called in the handlers' thread of the link.

    def take(self, kind: MessageKind, topic: str, payload: bytes) -> None:
        """Hands a device's message to the inbox."""
        device = self.topics.device_of(topic)
        if NAME.fullmatch(device):
            self._presence.heard(device)
            self.inbox.offer(kind, device, payload)
        else:
            self.inbox.counters["malformed"] += 1
            _log.warning("a message on %r was dropped: no device can be called so", topic)

    def _request(self, topic: str, payload: bytes) -> None:
        device = self.topics.device_of(topic)
        if NAME.fullmatch(device):
            self.responder.offer(device, payload)

    def _take_frame(self, topic: str, payload: bytes) -> None:
        device = self.topics.device_of(topic)
        if NAME.fullmatch(device) and payload:
            self.frames.offer(device, payload)

    def _request_certificate(self, topic: str, payload: bytes) -> None:
        device = self.topics.device_of(topic)
        if NAME.fullmatch(device) and payload:
            self.registrar.offer(device, payload)

    def _publish_everything(self) -> None:
        self._presence.connected()
        self._republish.set()
        self.alarms.publish_again()
        self._wake.set()

    # Called in the threads of inbox and responder.

    def _acknowledge(self, stream: StreamName, device: str, ack: ResultsAck) -> None:
        # If there is no connection, all acknowledgements are published again on the next one.
        topics = self.topics
        topic = topics.results_ack(device) if stream == "results" else topics.interactions_ack(device)
        self.link.publish(topic, encode(ack), retain=True)

    def _answer(self, device: str, head: bytes, body: bytes) -> bool:
        return self.link.send(self.topics.repo_response(device), head, body)

    def _answer_frame(self, device: str, answer: FrameAnswer) -> None:
        # If there is no connection, the device offers its frame again.
        self.link.publish(self.topics.frame_ack(device), encode(answer), qos=0)

    def _certify(self, device: str, payload: bytes) -> bool:
        return self.link.publish(self.topics.certificate(device), payload, retain=True)

    # Called in the thread of the alarms.

    def _publish_alarms(self, message: DeviceAlarms) -> bool:
        return self.link.publish(self.topics.alarms(message.device), encode(message), retain=True)

    # Called in the threads of the responder and the multicaster.

    def _join(self, device: str, request: RepoRequest) -> None:
        self.multicast.join(device, request)

    def _send_to_all(self, target: str, name: str, body: bytes) -> bool:
        return self.link.publish(self.topics.chunk(target, name), body, qos=0)

    # The ticker.

    def _expects_messages(self) -> bool:
        return bool(self._database.query("SELECT 1 FROM devices WHERE up = 1 LIMIT 1"))

    def _tick(self) -> None:
        seen = -1
        renew_at = time.monotonic() + self._renew_every_s
        roll_at = 0.0
        while not self._closing.is_set():
            try:
                if self._republish.is_set():
                    self._republish.clear()
                    self._published.clear()
                    self._publish_acknowledgements()
                    seen = -1
                if time.monotonic() >= roll_at:
                    roll_at = time.monotonic() + ROLLOUT_EVERY_S
                    # `data_version` does not change by commits of this connection.
                    seen = -1 if self._rollouts.tick(time.time()) else seen
                version = self._database.data_version()
                if version != seen and self.link.connected:
                    seen = version if self._publish_desired() else -1
                if self.link.connected:
                    self.registrar.publish_signed()
                self._monitor.check()
                self._presence.check(is_connected=self.link.connected)
            except LinesideError as error:
                _log.error("desired states cannot be read; tried again: %s", error)
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + (self._renew_every_s if self._renew() else RENEW_RETRY_S)
            self._wake.wait(TICK_S)
            self._wake.clear()

    def _publish_acknowledgements(self) -> None:
        try:
            known = list(self.inbox.acknowledgements(self._database))
        except StoreError as error:  # an unreachable database server must not delay desired states
            _log.error("acknowledgements cannot be read; devices send again what is not acknowledged: %s", error)
            return
        for stream, device, ack in known:
            self._acknowledge(stream, device, ack)

    def _publish_desired(self) -> bool:
        whole = True
        for scope, stored in self._database.desired_states().items():
            desired = self._in_window(stored)
            if self._published.get(scope) == desired:
                continue
            kind, name = scope.split("/", 1)
            topic = self.topics.group_desired(name) if kind == "g" else self.topics.device_desired(name)
            if self.link.publish(topic, encode(desired), retain=True):
                self._published[scope] = desired
                bundle = desired.bundle.identity if desired.bundle else "what is there"
                _log.info("%s should run %s (desired state %d)", scope, bundle, desired.gen)
            else:
                whole = False
        return whole

    def _in_window(self, desired: Desired) -> Desired:
        """Adds the plant's maintenance window for what has none in a desired state."""
        windows = {name: window or self._window for name, window in desired.windows.items()}
        return msgspec.structs.replace(desired, window=desired.window or self._window, windows=windows)

    def _renew(self) -> bool:
        try:
            self.repository.roles.renew()
        except (LinesideError, OSError) as error:
            _log.error("the timestamp was not renewed; devices refuse updates once it is a day old: %s", error)
            return False
        return True


def _dashboard(config: HubConfig) -> WebServer | None:
    """Makes the dashboard, if the configuration has one.

    Raises:
        MissingExtraError: The extra ``web`` is not installed.
        ConfigError: As `WebServer`.
    """
    if config.web is None:
        return None
    try:
        from lineside_hub.web.server import WebServer
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lineside"):
            raise
        action = "Run: pip install 'lineside[web]', or remove [web] from hub.toml."
        raise MissingExtraError(f"the dashboard needs the package {error.name!r}", action=action) from error
    return WebServer(config, config.web)


def run(config_path: Path | str) -> int:
    """Runs the hub until SIGTERM or SIGINT; returns 0 after a signal, 1 if a thread of the hub ended by itself.

    Args:
        config_path: ``hub.toml``.

    Raises:
        InputNotFoundError: There is no such file, or no repository in its folder.
        ConfigError: The configuration cannot be used, or another hub runs on the folder.
    """
    config = load_config(config_path)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogFilter())
    folder = Path(config.folder)
    if not folder.is_dir():
        raise InputNotFoundError(f"{folder} holds no repository", action="Make one first: lineside hub init.")
    with running_lock(folder):
        return _run_until_signal(config, folder)


def _run_until_signal(config: HubConfig, folder: Path) -> int:
    restrict_permissions([*folder.glob(f"{DATABASE_NAME}*"), folder / FRAMES_NAME, folder / ARRIVING_NAME])
    hub = Hub(config)
    stopping = threading.Event()
    with stop_on_signals(stopping.set):
        hub.start()
        try:
            while not stopping.wait(1.0):
                if not hub.healthy:
                    _log.critical("a thread of the hub has ended; the process ends so that it is started again")
                    return 1
        finally:
            hub.close()
    return 0
