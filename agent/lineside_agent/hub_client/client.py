"""The device's connection to the hub: birth, last will, desired state, reports, results."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lineside_agent.config import AgentConfig, StoreConfig
from lineside_agent.deployment.bundle_runner import BundleRunner, Progress
from lineside_agent.deployment.desired_state import Origin, Wished
from lineside_agent.deployment.fetch import Fetcher
from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.deployment.maintenance_window import closed
from lineside_agent.deployment.runner import ShouldStop
from lineside_agent.deployment.self_update.guard import AgentSlot
from lineside_agent.deployment.self_update.machine import SelfMachine
from lineside_agent.deployment.self_update.runner import SelfUpdateRunner
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.hub_client.frame_uploads import FrameUploader
from lineside_agent.hub_client.identity import DeviceIdentity
from lineside_agent.hub_client.recipe_commands import RecipeCommands
from lineside_agent.hub_client.timing_commands import TimeCommands
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.storage.outbox import Outbox
from lineside_agent.storage.records import RecordStore
from lineside_boards.detect import detect
from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.messages import (
    AgentReport,
    BundleRef,
    ConfigRef,
    ConfigReport,
    DegradationReport,
    Desired,
    DriftReport,
    Mark,
    Reported,
    Up,
    decode,
    encode,
)
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.trust import TrustStore
from lineside_runtime import registry
from lineside_runtime.errors import BrokerError, ConfigError, FetchError, InputNotFoundError, LinesideError
from lineside_runtime.serving.backoff import Backoff
from lineside_runtime.system import probing
from lineside_runtime.system.probing import EngineReport

log = logging.getLogger("lineside.agent")

ECHO = Backoff(10.0, 300.0)
"""How long after connecting the device's own birth must have come back, and that again after each reconnection."""


class HubClient:
    """Speaks with the hub.

    Args:
        config: With ``link`` and ``root``.
        boot_id: Of this start.
        store: Where results are.
        stop: Ends the outbox, and the asking of engines.
        settings: Gives the ``[store]`` table that holds now; the configuration's own if not given.

    Attributes:
        outbox: Sends results.
        frames: Sends kept images.
        timing: Times bundles for the hub, where ``agent.toml`` lets it ask.
        identity: Renews the certificate; ``None`` without one.
        name_conflicts: How often somebody else appeared under this device's name.
    """

    def __init__(
        self,
        config: AgentConfig,
        boot_id: str,
        store: RecordStore,
        stop: threading.Event,
        *,
        settings: Callable[[], StoreConfig] | None = None,
    ) -> None:
        if config.link is None or config.root is None:
            raise ConfigError("$.link and $.root belong together")
        self._config = config
        self._boot_id = boot_id
        self._stop = stop
        self._topics = Topics(config.link.site)
        self._lock = threading.Lock()
        self._reported: Reported | None = None
        self._agent: AgentReport | None = None
        self._configuration: ConfigReport | None = None
        self._drift: DriftReport | None = None
        self._marks: tuple[Mark, ...] = ()
        self._recipe = ""
        self._degradation: DegradationReport | None = None
        self._updater: BundleRunner | None = None
        self._self_updater: SelfUpdateRunner | None = None
        self._leaving = False
        self._born = False
        self._deaf = 0
        self._echo_due_s = math.inf
        self.name_conflicts = 0
        will = (self._topics.up(config.device), encode(Up(device=config.device, up=False, boot_id=boot_id)))
        self._clock = ClockFloor(config.folder / "clock")
        self.identity = None
        if config.link.certificate is not None:
            self.identity = DeviceIdentity(config.folder, config.link, config.device, self._clock)
        link = config.link if self.identity is None else self.identity.config()
        self.client = LinkClient(link, config.device, will=will, now=self._clock.now)
        self._repo = repo = RepoClient(
            self.client,
            self._topics,
            config.device,
            delta_wait_s=config.transfer.delta_wait_s,
            multicast=config.transfer.multicast,
        )
        trust = TrustStore(config.folder / "trust", _read_root(config.root), repo, self._clock)
        self._fetcher = Fetcher(config.group, trust=trust, repo=repo, installed=config.folder / "current")
        times = self._topics.time_answer(config.device)
        self.timing = TimeCommands(
            config.folder,
            allowed=config.time_for_hub,
            board=detect().model,
            inspect=config.inspect,
            bring=self._fetcher.bring_trial,
            publish=lambda answer: self.client.publish(times, answer, qos=0),
        )
        self.outbox = Outbox(store, self._publish_results, stop)
        self.frames = FrameUploader(
            store,
            config.folder / "images",
            publish=self._publish_frame,
            may_send=self._may_send_frames,
            settings=settings or (lambda: config.store),
            stop=stop,
        )

    def start(self, updater: BundleRunner, self_updater: SelfUpdateRunner, recipes: Recipes) -> None:
        """Subscribes and connects in the background.

        Args:
            updater: Follows the wishes for bundles.
            self_updater: Follows those for the agent itself.
            recipes: Follow the hub's command, where ``agent.toml`` lets it give one.
        """
        self._updater = updater
        self._self_updater = self_updater
        self._birth = encode(_birth(self._config, self._boot_id, ()))
        device, group = self._config.device, self._config.group
        self.client.subscribe(self._topics.device_desired(device), lambda _, data: self._wished("device", data))
        self.client.subscribe(self._topics.group_desired(group), lambda _, data: self._wished("group", data))
        self.client.subscribe(self._topics.results_ack(device), self.outbox.acknowledged)
        self.client.subscribe(self._topics.frame_ack(device), self.frames.answered, qos=0)
        self.client.subscribe(self._topics.up(device), self._heard_of_myself)
        answers = self._topics.recipe_answer(device)
        commands = RecipeCommands(
            recipes,
            allowed=self._config.recipe_from_hub,
            publish=lambda answer: self.client.publish(answers, answer, qos=0),
        )
        self.client.subscribe(self._topics.recipe_command(device), commands.heard, qos=0)
        self.client.subscribe(self._topics.time_command(device), self.timing.heard, qos=0)
        if self.identity is not None:
            self.client.subscribe(self._topics.certificate(device), self.identity.heard)
        self.client.on_connect(self._connected)
        self.client.start()

    def tell_engines(self) -> None:
        """Asks the engines what they can do here, and says so in a second birth: the line doesn't wait for that.

        Each is asked in a process of its own, because what it imports would stay in this one for good, and one after
        the other, because the cores are the line's.
        """
        available = []
        for name in registry.names():
            if self._stop.is_set():
                return
            if name not in registry.LAST_RESORT:
                available += [engine for engine in probing.probe([name]) if engine.available]
        self._birth = encode(_birth(self._config, self._boot_id, available))
        if self.client.connected:
            self._publish_birth()

    def keep_identity(self) -> None:
        """Renews the certificate in time, until stopped."""
        if self.identity is not None:
            self.identity.run(self.client, self._topics, self._stop)

    def bring_configuration(self, config: ConfigRef, should_stop: ShouldStop) -> bytes:
        """As `Fetcher.bring_configuration`."""
        return self._fetcher.bring_configuration(config, should_stop)

    def report_configuration(self, report: ConfigReport) -> None:
        """Publishes which configuration is followed, together with the last report.

        Args:
            report: From `lineside_agent.deployment.configuration.Configuration.report`.
        """
        with self._lock:
            self._configuration = report
            self._publish_reported()

    def report_drift(self, report: DriftReport) -> None:
        """Publishes whether the line has changed, together with the last report.

        Args:
            report: From `lineside_agent.health.drift.monitor.DriftMonitor.report`.
        """
        with self._lock:
            self._drift = report
            self._publish_reported()

    def report_marks(self, marks: tuple[Mark, ...]) -> None:
        """Publishes what operators said of verdicts, together with the last report.

        Args:
            marks: From `lineside_agent.storage.verdict_marks.Marks.look`.
        """
        with self._lock:
            self._marks = marks
            self._publish_reported()

    def report_degradation(self, report: DegradationReport) -> None:
        """Publishes what is given up for heat or lateness, together with the last report.

        Args:
            report: From `lineside_agent.health.degradation.Degradation.report`.
        """
        with self._lock:
            self._degradation = report
            self._publish_reported()

    def report_recipe(self, name: str) -> None:
        """Publishes which recipe runs, together with the last report.

        Args:
            name: Of the recipe; empty without one.
        """
        with self._lock:
            self._recipe = name
            self._publish_reported()

    def bring(self, bundle: BundleRef, folder: Path, progress: Progress, should_stop: ShouldStop) -> None:
        """As `Fetcher.bring`."""
        self._fetcher.bring(bundle, folder, progress, should_stop)

    def gate(self, machine: BundleMachine | SelfMachine, fetching: bool) -> str:
        """Says what must be waited for: the maintenance window of the wish; empty for nothing.

        Args:
            machine: Where the update of the bundle, or of the agent, stands.
            fetching: Before the bundle is brought; else before it is changed over to.
        """
        return closed(machine.wish, self._clock.set_time(), fetching=fetching)

    def report(self, machine: BundleMachine, progress: float) -> None:
        """Publishes where the update machine stands; without a connection, at the next one.

        Args:
            machine: Where it stands.
            progress: Share of the fetch that is done.
        """
        reported = Reported(
            device=self._config.device,
            epoch=machine.epoch,
            gen=machine.gen,
            state=machine.state,
            installed=machine.installed,
            previous=machine.previous,
            wanted=machine.wanted,
            error=machine.error,
            boot_id=self._boot_id,
            free_bytes=shutil.disk_usage(self._config.folder).free,
            progress=progress,
            waiting=self._updater.waiting if self._updater is not None else "",
            transfer=self._fetcher.last,
        )
        with self._lock:
            self._reported = reported
            self._publish_reported()

    def bring_agent(self, agent: BundleRef, slot: AgentSlot, slots: AgentSlots, should_stop: ShouldStop) -> None:
        """Brings an agent's payload into a slot, from the other slot where that has it; see `Fetcher.bring_agent`."""
        folder = slots.begin(slot, agent.sha256)
        self._fetcher.bring_agent(agent, folder, lambda manifest: slots.seed(slot, manifest), should_stop)

    def report_agent(self, machine: SelfMachine) -> None:
        """Publishes where the agent's own update stands, together with the last report.

        Args:
            machine: Where it stands.
        """
        with self._lock:
            self._agent = AgentReport(
                epoch=machine.epoch,
                gen=machine.gen,
                state=machine.state,
                installed=machine.installed,
                previous=machine.previous,
                wanted=machine.wanted,
                error=machine.error,
                waiting=self._self_updater.waiting if self._self_updater is not None else "",
            )
            self._publish_reported()

    @property
    def problem(self) -> LinesideError | None:
        """Why the hub can't be reached, or can be and does not hear this device; ``None`` if all is well."""
        return self.client.last_error or (self._deaf_error() if self._deaf and not self._born else None)

    def look(self) -> None:
        """Connects anew where the broker passes on nothing of this device: its access list may not know it yet.

        MQTT 3.1.1 acknowledges a subscription and a message that the access list denies like any other; but the
        device's own birth does not come back then.
        """
        if self.client.connected and not self._born and not self._leaving and time.monotonic() > self._echo_due_s:
            self._deaf += 1
            self._echo_due_s = math.inf
            log.error("%s", self._deaf_error())
            self.client.reconnect()

    def _deaf_error(self) -> BrokerError:
        return BrokerError(
            f"{self.client.config.url} takes and brings nothing of {self._config.device}",
            action="Have the broker read its access list (for mosquitto: SIGHUP); the device connects anew by itself.",
        )

    def met_hub(self) -> bool:
        """Asks the hub for its timestamp and returns whether it answered: the way that the next update comes by."""
        if not self.client.connected:
            return False
        try:
            return bool(self._repo.metadata("timestamp.json"))
        except FetchError as error:
            log.warning("the hub doesn't answer: %s", error)
            return False

    def close(self) -> None:
        """Says goodbye: ``up`` false."""
        self._leaving = True
        goodbye = Up(device=self._config.device, up=False, boot_id=self._boot_id, group=self._config.group)
        self.client.close(last=(self._topics.up(self._config.device), encode(goodbye)))

    def _publish_reported(self) -> None:
        if self._reported is not None and self.client.connected:
            said = msgspec.structs.replace(
                self._reported,
                configuration=self._configuration,
                agent=self._agent,
                drift=self._drift,
                marks=self._marks,
                recipe=self._recipe,
                degradation=self._degradation,
            )
            self.client.publish(self._topics.reported(self._config.device), encode(said), qos=1, retain=True)

    def _publish_results(self, payload: bytes) -> bool:
        return self.client.connected and self.client.publish(self._topics.results(self._config.device), payload, qos=1)

    def _publish_frame(self, payload: bytes) -> bool:
        return self.client.connected and self.client.publish(self._topics.frame(self._config.device), payload, qos=0)

    def _may_send_frames(self) -> bool:
        """Results and what the hub asks for come first."""
        updaters = [updater for updater in (self._updater, self._self_updater) if updater is not None]
        fetching = any(updater.machine.state == "fetching" for updater in updaters)
        return self.client.connected and self.outbox.idle and not fetching

    # Handlers: all run in the link's handler thread.

    def _connected(self) -> None:
        self._born = False
        self._echo_due_s = time.monotonic() + ECHO.after(self._deaf + 1)
        self._publish_birth()
        with self._lock:
            self._publish_reported()
        self.outbox.connected()
        self.frames.connected()
        if self.identity is not None:
            self.identity.kick()
        if self._updater is not None:
            self._updater.kick()
        if self._self_updater is not None:
            self._self_updater.kick()

    def _publish_birth(self) -> None:
        self.client.publish(self._topics.up(self._config.device), self._birth, qos=1, retain=True)

    def _wished(self, origin: Origin, payload: bytes) -> None:
        wished = Wished(origin, decode(payload, Desired) if payload else None)
        if self._updater is not None:
            self._updater.post(wished)
        if self._self_updater is not None:
            self._self_updater.post(wished)

    def _heard_of_myself(self, _topic: str, payload: bytes) -> None:
        """What is retained from an earlier start comes before our own birth comes back, and is no conflict."""
        if not payload:
            return
        heard = decode(payload, Up)
        if heard.boot_id == self._boot_id and heard.up:
            self._born, self._deaf = True, 0
        elif not heard.up:
            # The last will of a connection that the broker gave up only now; our own goodbye comes back like it.
            if self._born and not self._leaving:
                self._publish_birth()
        elif self._born:
            self.name_conflicts += 1
            log.error(
                "another agent (boot id %s) is connected as %s: give each device its own name and certificate",
                heard.boot_id,
                self._config.device,
            )


def _birth(config: AgentConfig, boot_id: str, available: Sequence[EngineReport]) -> Up:
    return Up(
        device=config.device,
        up=True,
        boot_id=boot_id,
        group=config.group,
        agent_version=importlib.metadata.version("lineside"),
        board=detect().model,
        devices=tuple(device.device for engine in available for device in engine.devices),
        engines={engine.name: engine.version for engine in available},
    )


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(
            f"{path}: {error.strerror}", action="Copy the hub's root.json there and name it under `root`."
        ) from error
