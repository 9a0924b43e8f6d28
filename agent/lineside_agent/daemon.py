"""The daemon: which threads run, and when.

| thread | from | to | does |
| --- | --- | --- | --- |
| ``update`` | start | stop | loads the installed bundle, follows wishes |
| ``self-update`` | start | stop | follows wishes for the agent itself; on trial, proves this agent |
| those of `flow` | start | end of the source, or stop | read frames, judge them, talk to the line |
| ``store`` | start | stop | writes records |
| ``housekeeping`` | start | stop | bounds what lies on the disk, and what is written to it a day |
| ``frames`` | start, with a link | stop | sends kept images, behind everything else |
| ``outbox`` | start, with a link | stop | sends records until the hub has them |
| ``identity`` | start, with a link | stop, or at once without a certificate | renews the certificate in time |
| ``engines`` | start, with a link | all have answered | asks the engines what they can do, tells the hub |
| ``timing`` | start, with ``time_for_hub`` | stop | has bundles timed that the hub asks about |
| ``link-…`` | start, with a link | stop | stays connected |
| main | start | stop | writes ``status.json``, feeds the watchdog, waits for SIGTERM |

Without a broker everything goes on and is sent later. A thread that ends by a defect ends the agent with code 70, and
whoever supervises it starts it again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_agent.config import AgentConfig, StoreConfig, read_config
from lineside_agent.deployment.bundle_runner import BundleRunner, Progress
from lineside_agent.deployment.configuration import Configuration
from lineside_agent.deployment.desired_state import RESTING, Wished
from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.deployment.offline_import import OfflineImport
from lineside_agent.deployment.runner import ShouldStop
from lineside_agent.deployment.self_update.machine import SelfMachine
from lineside_agent.deployment.self_update.runner import SelfUpdateRunner
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.deployment.slots import Slots
from lineside_agent.health.status import Sources, status_place, write_status
from lineside_agent.health.watchdog import Watchdog
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.assembly import InspectionAssembly
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.line_io.events import RecipeRefused, RecipeRuns
from lineside_agent.service.notify import Notifier
from lineside_agent.storage.storage import DeviceStorage
from lineside_agent.storage.verdict_marks import VerdictMarks
from lineside_link.messages import BundleRef, ConfigRef, ConfigReport, DriftReport
from lineside_runtime.errors import BrokerError, ConfigError, StoreError
from lineside_runtime.files import restrict_permissions
from lineside_runtime.system import heap
from lineside_runtime.system.signals import stop_on_signals

if TYPE_CHECKING:
    from lineside_agent.hub_client.client import HubClient

log = logging.getLogger("lineside.agent")

STATUS_EVERY_S = 0.5
DEFECT = 70
"""Exit code of an internal error, as in BSD's ``sysexits.h``."""


class Daemon:
    """One agent.

    Args:
        config: From ``agent.toml``.
        observe: Told of each step of the update machine after it was written down and before it is acted upon.
        config_path: Where ``config`` came from, for a new agent to look at before it takes over.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        observe: Callable[[BundleMachine], None] | None = None,
        config_path: Path | None = None,
    ) -> None:
        config.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(config.folder)
        self._config = config
        self._observe = observe
        self._status_path = status_place(config.folder)
        self._boot_id = secrets.token_hex(8)
        self._leave = threading.Event()
        self._stop = threading.Event()
        self._defects: list[str] = []
        self._threads: list[threading.Thread] = []
        self._active = ActiveInspector()
        self._configuration = Configuration(config, bring=self._bring_configuration, observe=self._configured)
        self._keeping = DeviceStorage(config, self._store_settings(), self._stop)
        self._recipes = Recipes(config.folder, config.recipe)
        self._flow = InspectionAssembly(
            config,
            active=self._active,
            recipes=self._recipes,
            store=self._keeping.store,
            stop=self._stop,
            tell_drift=self._tell_drift,
        )
        self._home = self._make_home()
        self._marks = VerdictMarks(config.folder)
        self._imports = OfflineImport(config.folder, group=config.group, root=config.root)
        self._updater = BundleRunner(
            config.folder,
            slots=Slots(config.folder, config.bundle),
            active=self._active,
            inspect=config.inspect,
            configuration=self._configuration,
            apply_store=self._keeping.use,
            bring=self._bring,
            observe=self._stepped,
            stop=self._stop,
            gate=self._home.gate if self._home is not None else None,
            recipes=self._recipes,
            prepare=self._flow.changeover().prepare,
            degrade=config.degrade,
            cameras=config.cameras,
        )
        report = self._home.report_degradation if self._home is not None else lambda _: None
        self._degradation = self._flow.degradation(self._keeping.archive, report)
        self._recipes.attach(wake=self._updater.wake, tell=self._tell_recipe)
        self._notifier = Notifier()
        self._vitals = Watchdog(
            rig=self._flow.rig,
            counts=self._flow.pipeline.counts,
            active=self._active,
            store=self._keeping.store,
            notifier=self._notifier,
            triggered=self._flow.station is not None,
        )
        self._self_updater = SelfUpdateRunner(
            config.folder,
            config_path=config_path or Path("agent.toml"),
            slots=AgentSlots.around(),
            bring=self._home.bring_agent if self._home is not None else None,
            host=self,
            observe=self._self_stepped,
            stop=self._stop,
            update=config.update,
            gate=self._home.gate if self._home is not None else None,
        )

    def _make_home(self) -> HubClient | None:
        if self._config.link is None:
            return None
        from lineside_agent.hub_client.client import (
            HubClient,  # what checks signatures keeps 12 MB: only who has a hub pays for it
        )

        return HubClient(self._config, self._boot_id, self._keeping.store, self._stop, settings=self._store_settings)

    def run(self) -> int:
        """Runs until SIGTERM, SIGINT, `stop`, or the end of the source with ``exit_when_done``.

        Returns:
            0; 1 if the source failed; `DEFECT` after an internal error.
        """
        threading.excepthook = self._thread_died
        end_metrics = self._serve_metrics()
        self._start("housekeeping", self._keeping.housekeeping.run)
        self._start("update", self._updater.run)
        self._start("self-update", self._self_updater.run)
        self._flow.start(self._start)
        if self._home is not None:
            self._home.report_configuration(self._configuration.report())
            self._home.start(self._updater, self._self_updater, self._recipes)
            self._start("outbox", self._home.outbox.run)
            self._start("frames", self._home.frames.run)
            self._start("identity", self._home.keep_identity)
            self._start("engines", self._home.tell_engines)
            if self._config.time_for_hub:
                self._start("timing", self._time_for_hub)
        while not self._leave.wait(STATUS_EVERY_S if not self._config.exit_when_done else 0.1):
            self._write_status()
            self._look_for_sticks()
            self._look_for_marks()
            if self._flow.drift is not None:
                self._flow.drift.look()
            if self._degradation is not None:
                self._degradation.look()
            if self._home is not None:
                self._home.look()
            self._vitals.look(self._updater.machine)
            if not self._keeping.store.alive:
                self._defects.append("store")
                self._leave.set()
            if self._config.exit_when_done and self._is_done():
                self._leave.set()
        end_metrics()
        self._notifier.stopping()
        self._flow.retire()
        self._stop.set()
        self._end()
        if self._defects:
            return DEFECT
        return 1 if self._config.exit_when_done and self._flow.rig.problem is not None else 0

    def _time_for_hub(self) -> None:
        if self._home is not None:
            self._home.timing.run(self._stop, lambda: self._flow.pipeline.counts.inspected)

    def _serve_metrics(self) -> Callable[[], None]:
        if self._config.metrics is None:
            return lambda: None
        from lineside_agent.health import metrics

        return metrics.serve(self._config.metrics, self._status_path)

    def stop(self) -> None:
        """Ends `run`; from any thread, but from no signal handler: it takes a lock that `run` may hold."""
        self._leave.set()

    # What the agent's own update asks, from its thread.

    def healthy(self) -> bool:
        """As `Watchdog.is_healthy`."""
        return self._vitals.is_healthy(self._updater.machine)

    def quiet(self) -> bool:
        """As `Watchdog.is_quiet`."""
        return self._vitals.is_quiet(self._updater.machine)

    def met_hub(self) -> bool:
        """Asks the hub; an agent without a link has none to meet."""
        return self._home is None or self._home.met_hub()

    def end(self) -> None:
        """As `stop`: whoever supervises the agent starts it again, and the guard decides which."""
        self.stop()

    def _self_stepped(self, machine: SelfMachine) -> None:
        if self._home is not None and self._self_updater.in_slot:
            self._home.report_agent(machine)

    def _store_settings(self) -> StoreConfig:
        return self._configuration.effective.store

    def _tell_recipe(self, event: RecipeRuns | RecipeRefused) -> None:
        self._flow.tell_recipe(event)
        if self._home is not None:
            self._home.report_recipe(self._recipes.name)

    def _tell_drift(self, report: DriftReport) -> None:
        if self._home is not None:
            self._home.report_drift(report)

    def _stepped(self, machine: BundleMachine, progress: float) -> None:
        if self._home is not None:
            self._home.report(machine, progress)
        if self._observe is not None:
            self._observe(machine)

    def _bring(self, bundle: BundleRef, folder: Path, progress: Progress, should_stop: ShouldStop) -> None:
        if self._imports.holds(bundle):
            self._imports.bring(bundle, folder, progress, should_stop)
        elif self._home is not None:
            self._home.bring(bundle, folder, progress, should_stop)
        else:
            raise BrokerError("no link to fetch a bundle over", action="Add [link] to agent.toml.")

    def _look_for_sticks(self) -> None:
        for wish in self._imports.look():
            self._updater.post(Wished("group", wish))
        machine = self._updater.machine
        if machine.state in RESTING:
            self._imports.done(machine.epoch, machine.gen)

    def _look_for_marks(self) -> None:
        try:
            marks = self._marks.look()
        except StoreError as error:
            log.error("what operators said is not reported: %s", error)
            return
        if marks is not None and self._home is not None:
            self._home.report_marks(marks)

    def _bring_configuration(self, config: ConfigRef, should_stop: Callable[[], bool]) -> bytes:
        if self._home is None:
            raise BrokerError("no link to fetch a configuration over", action="Add [link] to agent.toml.")
        return self._home.bring_configuration(config, should_stop)

    def _configured(self, report: ConfigReport) -> None:
        if self._home is not None:
            self._home.report_configuration(report)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _thread_died(self, death: threading.ExceptHookArgs) -> None:
        """Ends the process when any of its threads ends by an exception, a line's or the broker link's too.

        The line's Ready is taken off on the way out, and whoever supervises the agent starts it again.
        """
        if issubclass(death.exc_type, SystemExit):
            return  # as Python's own hook: a thread that ends itself is no defect
        name = death.thread.name if death.thread is not None else "unknown"
        cause = death.exc_value or death.exc_type()
        log.critical("thread %s ended by a defect", name, exc_info=cause)
        self._defects.append(name)
        self._leave.set()

    def _is_done(self) -> bool:
        """Whether every frame has its record, and every record is where it should be."""
        flow = [thread for thread in self._threads if thread.name.split()[0] in ("camera", "pipeline")]
        if any(thread.is_alive() for thread in flow):
            return False
        if not self._keeping.store.flush(0.0):
            return False
        # Images are waited for as long as the hub takes them.
        return self._home is None or (self._keeping.store.pending == 0 and self._home.frames.resting)

    def _end(self) -> None:
        """Stops in the order of the flow, so that what was judged is recorded, and what is recorded is reported."""
        log.info("stopping")
        self._flow.stop_taking()
        for thread in self._threads:
            thread.join(10.0)
        self._flow.close()
        self._keeping.store.close()
        if self._flow.drift is not None:
            self._flow.drift.save(now=True)
        self._write_status()
        if self._home is not None:
            self._home.close()
        if (loaded := self._active.swap(None)) is not None:
            loaded.close()
        self._notifier.close()
        os.close(self._lock)

    def _write_status(self) -> None:
        write_status(
            self._status_path,
            Sources(
                config=self._config,
                boot_id=self._boot_id,
                machine=self._updater.machine,
                self_updater=self._self_updater,
                ready=self._vitals.ready,
                configuration=self._configuration.report(),
                rig=self._flow.rig,
                pipeline=self._flow.pipeline.counts,
                store=self._keeping.store,
                archive=self._keeping.archive,
                wear=self._keeping.wear,
                active=self._active,
                recipes=self._recipes,
                outputs=self._flow.outputs,
                statistics=self._flow.statistics,
                station=self._flow.station,
                drift=self._flow.drift,
                degradation=self._degradation,
                home=self._home,
                finished=not any(thread.is_alive() for thread in self._threads if thread.name == "pipeline"),
            ),
        )


def _lock(folder: Path) -> int:
    """Takes the folder for this process; the kernel gives it back at its end, however it ends."""
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"another agent uses {folder}", action="End it, or give each its own folder.") from error
    return descriptor


def run(config_path: Path | str, *, observe: Callable[[BundleMachine], None] | None = None) -> int:
    """Runs the agent in the foreground until SIGTERM.

    Args:
        config_path: ``agent.toml``.
        observe: As in `Daemon`.

    Returns:
        The exit code, as in `Daemon.run`.

    Raises:
        LinesideError: The configuration or a file that it names is not usable.
    """
    heap.save_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = read_config(config_path)
    restrict_permissions(_private_paths(config, Path(config_path)))
    daemon = Daemon(config, observe=observe, config_path=Path(config_path).resolve())
    with stop_on_signals(daemon.stop):
        return daemon.run()


def _private_paths(config: AgentConfig, config_path: Path) -> Iterator[Path]:
    """Yields what holds the line's records and pictures; the folder itself if it is the agent's own."""
    if config.folder.resolve() != config_path.resolve().parent:
        yield config.folder
    yield from config.folder.glob("records.db*")
    yield from (config.folder / "images", status_place(config.folder))
