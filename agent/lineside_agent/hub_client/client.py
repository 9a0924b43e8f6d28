"""The device's connection to the hub: desired state in, reports and results out."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside_agent.config import AgentConfig, StoreConfig
from lineside_agent.deployment.events import DesiredChanged, Origin
from lineside_agent.deployment.fetch import Fetcher
from lineside_agent.deployment.machine import AgentMachine, BundleMachine, DeploymentMachine
from lineside_agent.deployment.runner import Runner, ShouldStop
from lineside_agent.deployment.self_update.guard import AgentSlot
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.hub_client.frame_uploads import FrameUploader, UploadCounts
from lineside_agent.hub_client.identity import DeviceIdentity
from lineside_agent.hub_client.log_commands import LogCommands, RecentLog
from lineside_agent.hub_client.presence import Presence, last_will
from lineside_agent.hub_client.recipe_commands import RecipeCommands
from lineside_agent.hub_client.timing_commands import TimeCommands
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.storage.outbox import Outbox
from lineside_agent.storage.records import RecordStore
from lineside_boards.detect import detect
from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.log_filter import LogFilter
from lineside_link.maintenance_window import closed
from lineside_link.messages import AgentReport, BundleRef, ConfigRef, Desired, InteractionRows, Reported, decode, encode
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.trust import TrustStore
from lineside_runtime import registry
from lineside_runtime.errors import ConfigError, FetchError, InputNotFoundError, LinesideError
from lineside_runtime.progress import CountListener
from lineside_runtime.system import probing

if TYPE_CHECKING:
    from lineside_agent.recommendation.interaction_log import InteractionLog

log = logging.getLogger("lineside.agent")

ENGINES_AFTER_S = 30.0
"""Time from the start to the probing of the engines: the cores first start cameras and models. A Python process for
each engine takes as much processor time as the start of the agent itself."""

REPORT_EVERY_S = 300.0
"""How often free disk is reported: nothing else changes on a device that runs well for months."""


class HubClient:
    """Connects the device to its hub.

    Args:
        config: With ``link`` and ``root``.
        interactions: What was recommended and chosen on this device; ``None`` where nothing is recommended.
        settings: Returns the ``[store]`` table in effect; ``None`` for the one of ``config``.
        inspected: Returns how many frames were inspected since the start.

    Attributes:
        identity: Renews the certificate; ``None`` without one.
    """

    def __init__(
        self,
        config: AgentConfig,
        boot_id: str,
        store: RecordStore,
        stop: threading.Event,
        *,
        interactions: InteractionLog | None = None,
        settings: Callable[[], StoreConfig] | None = None,
        inspected: Callable[[], int] = lambda: 0,
    ) -> None:
        link, root = config.link, config.root
        if link is None or root is None:
            raise ConfigError("$.link and $.root belong together")
        self._config, self._store, self._stop = config, store, stop
        self._report_due_s = 0.0
        self._inspected = inspected
        self._topics = topics = Topics(link.site)
        self._lock = threading.Lock()
        self._reported: dict[str, Any] = {"device": config.device, "boot_id": boot_id}
        self._followers: Sequence[Runner[Any]] = ()
        self._clock = ClockFloor(config.folder / "clock")
        self.identity = (
            None if link.certificate is None else DeviceIdentity(config.folder, link, config.device, self._clock)
        )
        self.client = LinkClient(
            link if self.identity is None else self.identity.config(),
            config.device,
            will=(topics.up(config.device), last_will(config, boot_id)),
            now=self._clock.now,
        )
        self._presence = Presence(self.client, topics, config, boot_id)
        self._repository = self._make_repository_client()
        trust = TrustStore(config.folder / "trust", _read_root(root), self._repository, self._clock)
        self._fetcher = Fetcher(config.group, trust=trust, repo=self._repository, installed=config.folder / "current")
        self._timing = self._make_timing_commands()
        self._recent_log = RecentLog()
        self._recent_log.addFilter(LogFilter())
        logging.getLogger().addHandler(self._recent_log)
        self._outbox = Outbox(store, self._publish_results, stop)
        self._interactions = (
            None
            if interactions is None
            else Outbox(
                interactions,
                self._publish_interactions,
                stop,
                message=InteractionRows,
                first_window=1,
                may_send=lambda: self._outbox.idle,
            )
        )
        self._frames = FrameUploader(
            store,
            config.folder / "images",
            publish=self._publish_frame,
            may_send=self._may_send_frames,
            settings=settings or (lambda: config.store),
            stop=stop,
        )

    def _make_repository_client(self) -> RepoClient:
        transfer = self._config.transfer
        return RepoClient(
            self.client,
            self._topics,
            self._config.device,
            delta_wait_s=transfer.delta_wait_s,
            multicast=transfer.multicast,
        )

    def _make_timing_commands(self) -> TimeCommands:
        answers = self._topics.time_answer(self._config.device)
        return TimeCommands(
            self._config.folder,
            allowed=self._config.time_for_hub,
            board=detect().model,
            inspect=self._config.inspect,
            fetch=self._fetcher.fetch_trial,
            publish=lambda answer: self.client.publish(answers, answer, qos=0),
        )

    def start(self, followers: Sequence[Runner[Any]], recipes: Recipes) -> None:
        """Subscribes, and connects in the background.

        Args:
            followers: Take each desired state.
            recipes: Carries out the hub's recipe commands, where ``agent.toml`` allows them.
        """
        self._followers = followers
        device, topics, subscribe = self._config.device, self._topics, self.client.subscribe
        subscribe(topics.device_desired(device), lambda _, data: self._desired("device", data))
        subscribe(topics.group_desired(self._config.group), lambda _, data: self._desired("group", data))
        subscribe(topics.results_ack(device), self._outbox.acknowledged)
        if self._interactions is not None:
            subscribe(topics.interactions_ack(device), self._interactions.acknowledged)
        subscribe(topics.frame_ack(device), self._frames.answered, qos=0)
        subscribe(topics.up(device), self._presence.received)
        answers = topics.recipe_answer(device)
        commands = RecipeCommands(
            recipes,
            allowed=self._config.recipe_from_hub,
            publish=lambda answer: self.client.publish(answers, answer, qos=0),
        )
        subscribe(topics.recipe_command(device), commands.received, qos=0)
        subscribe(topics.time_command(device), self._timing.received, qos=0)
        lines = topics.log_answer(device)
        reader = LogCommands(
            self._recent_log,
            allowed=self._config.log_for_hub,
            publish=lambda answer: self.client.publish(lines, answer, qos=0),
        )
        subscribe(topics.log_command(device), reader.received, qos=0)
        if self.identity is not None:
            subscribe(topics.certificate(device), self.identity.received)
        self.client.on_connect(self._connected)
        self.client.start()

    def threads(self) -> dict[str, Callable[[], None]]:
        """Returns the work of each thread, by the thread's name."""
        work = {"outbox": self._outbox.run, "frames": self._frames.run, "engines": self._probe_engines}
        if self._interactions is not None:
            work["interactions"] = self._interactions.run
        if self.identity is not None:
            work["identity"] = self._renew_certificate
        if self._config.time_for_hub:
            work["timing"] = lambda: self._timing.run(self._stop, self._inspected)
        return work

    def _probe_engines(self) -> None:
        """Names the engines of this device in a second birth, so that the line does not wait for the probing.

        Each is probed in a process of its own, since what it imports would stay in this one, and one after the other,
        since the cores belong to the line.
        """
        self._stop.wait(ENGINES_AFTER_S)
        available = []
        for name in registry.names():
            if self._stop.is_set():
                return
            if name not in registry.LAST_RESORT:
                available += [engine for engine in probing.probe([name]) if engine.available]
        self._presence.set_engines(available)

    def _renew_certificate(self) -> None:
        if self.identity is not None:
            self.identity.run(self.client, self._topics, self._stop)

    # Fetching.

    def fetch(self, bundle: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop) -> None:
        """As `Fetcher.fetch`."""
        self._fetcher.fetch(bundle, folder, progress, should_stop)

    def fetch_configuration(self, config: ConfigRef, should_stop: ShouldStop) -> bytes:
        """As `Fetcher.fetch_configuration`."""
        return self._fetcher.fetch_configuration(config, should_stop)

    def fetch_agent(self, agent: BundleRef, slot: AgentSlot, slots: AgentSlots, should_stop: ShouldStop) -> None:
        """Fetches an agent's payload into a slot, from the other slot where that has it; see `Fetcher.fetch_agent`."""
        folder = slots.begin(slot, agent.sha256)
        self._fetcher.fetch_agent(agent, folder, lambda manifest: slots.seed(slot, manifest), should_stop)

    def reason_to_wait(self, machine: DeploymentMachine[Any], fetching: bool) -> str:
        """Returns why a deployment must wait, such as for its maintenance window; empty if it need not.

        Args:
            fetching: Before the artifact is fetched; otherwise before it is activated.
        """
        return closed(machine.window, self._clock.set_time(), fetching=fetching)

    # Reports.

    def report(self, **fields: Any) -> None:
        """Publishes fields of `Reported` together with those reported before; without a connection at the next one.

        Nothing is published before the first `report_bundle`.
        """
        with self._lock:
            self._reported |= fields
            self._publish_reported()

    def report_bundle(self, machine: BundleMachine, progress: float, waiting: str) -> None:
        """Reports a bundle's deployment.

        Args:
            progress: Fetched share, 0 to 1.
            waiting: What it waits for; empty for nothing.
        """
        self.report(
            **_machine_fields(machine),
            free_bytes=self._free_bytes(),
            progress=progress,
            waiting=waiting,
            transfer=self._fetcher.last,
        )

    def report_agent(self, machine: AgentMachine, waiting: str) -> None:
        """Reports the deployment of the agent itself; arguments as for `report_bundle`."""
        self.report(agent=AgentReport(**_machine_fields(machine), waiting=waiting))

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._config.folder).free

    def _publish_reported(self) -> None:
        if "state" in self._reported and self.client.connected:
            payload = encode(Reported(**self._reported))
            self.client.publish(self._topics.reported(self._config.device), payload, qos=1, retain=True)

    # Connection.

    @property
    def problem(self) -> LinesideError | None:
        """Why the hub cannot be reached, does not hear this device or does not answer; ``None`` if all is well."""
        presence = self._presence
        return presence.conflict or self.client.last_error or presence.problem or self._outbox.problem

    @property
    def upload_counts(self) -> UploadCounts:
        """What became of kept images."""
        return self._frames.counts

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of the link."""
        problem = self.problem
        certificate = None if self.identity is None else self.identity.problem
        return {
            "connected": self.client.connected,
            "link_problem": None if problem is None else str(problem),
            "certificate_problem": None if certificate is None else str(certificate),
            "resent": self._outbox.resent,
            "name_conflicts": self._presence.name_conflicts,
        }

    def check_connection(self) -> None:
        """As `Presence.check`."""
        self._presence.check()

    def report_free_disk(self) -> None:
        """Reports the free disk every `REPORT_EVERY_S`; to be called again and again."""
        if time.monotonic() >= self._report_due_s and self.client.connected:
            self._report_due_s = time.monotonic() + REPORT_EVERY_S
            self.report(free_bytes=self._free_bytes())

    def met_hub(self) -> bool:
        """Fetches the hub's timestamp, over the path of the next update, and returns whether it came."""
        if not self.client.connected:
            return False
        try:
            return bool(self._repository.metadata("timestamp.json"))
        except FetchError as error:
            log.warning("the hub doesn't answer: %s", error)
            return False

    def has_sent_everything(self) -> bool:
        """Whether the hub has every record, and every image that it takes now."""
        return self._store.pending == 0 and self._frames.is_idle

    def close(self) -> None:
        """Publishes the goodbye and disconnects."""
        logging.getLogger().removeHandler(self._recent_log)
        self.client.close(last=self._presence.leave())

    def _publish_results(self, payload: bytes) -> bool:
        return self.client.connected and self.client.publish(self._topics.results(self._config.device), payload, qos=1)

    def _publish_interactions(self, payload: bytes) -> bool:
        topic = self._topics.interactions(self._config.device)
        return self.client.connected and self.client.publish(topic, payload, qos=1)

    def _publish_frame(self, payload: bytes) -> bool:
        return self.client.connected and self.client.publish(self._topics.frame(self._config.device), payload, qos=0)

    def _may_send_frames(self) -> bool:
        """Whether neither results nor a deployment need the link."""
        fetching = any(follower.machine.state == "fetching" for follower in self._followers)
        return self.client.connected and self._outbox.idle and not fetching

    # Handlers, in the link's handler thread.

    def _connected(self) -> None:
        self._presence.connected()
        with self._lock:
            self._publish_reported()
        self._outbox.connected()
        if self._interactions is not None:
            self._interactions.connected()
        self._frames.connected()
        if self.identity is not None:
            self.identity.kick()
        for follower in self._followers:
            follower.kick()

    def _desired(self, origin: Origin, payload: bytes) -> None:
        desired = DesiredChanged(origin, decode(payload, Desired) if payload else None)
        for follower in self._followers:
            follower.post(desired)


def _machine_fields(machine: BundleMachine | AgentMachine) -> dict[str, Any]:
    names = ("epoch", "gen", "state", "installed", "previous", "wanted", "error")
    return {name: getattr(machine, name) for name in names}


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(
            f"{path}: {error.strerror}", action="Copy the hub's root.json there and name it under `root`."
        ) from error
