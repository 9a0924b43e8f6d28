"""The daemon: which threads run, and when.

| thread | from | to | does |
| --- | --- | --- | --- |
| ``housekeeping`` | start | stop | applies the limits of the disk |
| ``update`` | start | stop | loads the installed bundle, deploys bundles and configurations |
| ``self-update`` | start | stop | deploys the agent itself; during a trial, checks this agent's health |
| those of `InspectionAssembly` | start | end of the source, or stop | read frames, inspect them, talk to the line |
| ``recommend`` | start, with a ``[recommend]`` table | stop | answers programs on this machine |
| ``documents`` | start, with a ``[documents]`` table | stop | reads documents for programs on this machine |
| ``store`` | start | stop | writes records |
| ``outbox`` | start, with a link | stop | sends records until the hub has them |
| ``interactions`` | start, with a link and a ``[recommend]`` table | stop | sends interactions, after records |
| ``frames`` | start, with a link | stop | sends kept images, after everything else |
| ``engines`` | 30 s after the start, with a link | all have answered | probes the engines and tells the hub |
| ``identity`` | start, with a certificate | stop | renews the certificate in time |
| ``timing`` | start, with ``time_for_hub`` | stop | times bundles for the hub |
| ``link-…`` | start, with a link | stop | stays connected |
| ``screen`` | start, with ``[screen]`` | stop | serves the operator screen |
| main | start | stop | writes ``status.json``, feeds the watchdog, waits for SIGTERM |

Without a broker everything goes on, and is sent later. A thread that ends by a defect ends the agent with code 70, and
its supervisor starts it again.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lineside_agent.assembly import AgentAssembly
from lineside_agent.config import AgentConfig, read_config
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import RESTING, BundleMachine
from lineside_agent.health.status import NAME as STATUS_NAME
from lineside_agent.health.status import status_of, status_place, write_status
from lineside_link.log_filter import LogFilter
from lineside_runtime.errors import ConfigError, StoreError
from lineside_runtime.files import file_lock, restrict_permissions
from lineside_runtime.system import heap
from lineside_runtime.system.signals import stop_on_signals

log = logging.getLogger("lineside.agent")

STATUS_EVERY_S = 0.5
DEFECT = 70
"""Exit code of an internal error, as in BSD's ``sysexits.h``."""


class Daemon:
    """Runs one agent."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        observe: Callable[[BundleMachine], None] = lambda _: None,
        config_path: Path | None = None,
    ) -> None:
        config.folder.mkdir(parents=True, exist_ok=True)
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(file_lock(config.folder / "lock", refusal=_in_use(config.folder)))
        self._config = config
        self._leave = threading.Event()
        self._stop = threading.Event()
        self._defects: list[str] = []
        self._threads: list[threading.Thread] = []
        self._parts = AgentAssembly(
            config,
            config_path=config_path or Path("agent.toml"),
            boot_id=secrets.token_hex(8),
            stop=self._stop,
            end=self.stop,
            observe=observe,
        )
        limit = self._parts.configuration.effective.store.writes_max_bytes_a_day
        self._status_path = status_place(config.folder, is_bounded=limit is not None)

    def run(self) -> int:
        """Runs until SIGTERM, SIGINT, `stop`, or the end of the source with ``exit_when_done``.

        Returns:
            0; 1 if the source failed; `DEFECT` after an internal error.
        """
        parts = self._parts
        threading.excepthook = self._thread_died
        end_metrics = self._serve_metrics()
        if parts.screen is not None:
            parts.screen.start()
        self._start("housekeeping", parts.storage.housekeep)
        self._start("update", parts.updater.run)
        self._start("self-update", parts.self_updater.run)
        parts.inspection.start(self._start)
        if parts.recommendation is not None:
            self._start("recommend", parts.recommendation.run)
        if parts.documents is not None:
            self._start("documents", parts.documents.run)
        parts.hub.report(configuration=parts.configuration.report())
        parts.hub.start((parts.updater, parts.self_updater), parts.recipes)
        for name, work in parts.hub.threads().items():
            self._start(name, work)
        while not self._leave.wait(STATUS_EVERY_S if not self._config.exit_when_done else 0.1):
            self._check()
        end_metrics()
        if parts.screen is not None:
            parts.screen.close()
        parts.notifier.stopping()
        parts.inspection.retire()
        self._stop.set()
        self._end()
        if self._defects:
            return DEFECT
        return 1 if self._config.exit_when_done and parts.inspection.cameras.problem is not None else 0

    def _check(self) -> None:
        """What the main thread does again and again."""
        parts = self._parts
        parts.device_use.check()
        self._write_status()
        self._check_imports()
        self._check_marks()
        if parts.inspection.drift is not None:
            parts.inspection.drift.check()
        if parts.degradation is not None:
            parts.degradation.check()
        parts.hub.check_connection()
        parts.hub.report_free_disk()
        parts.watchdog.check(parts.updater.machine)
        if not parts.storage.store.alive:
            self._defects.append("store")
            self._leave.set()
        if self._config.exit_when_done and self._is_done():
            self._leave.set()

    def _serve_metrics(self) -> Callable[[], None]:
        if self._config.metrics is None:
            return lambda: None
        from lineside_agent.health import metrics

        return metrics.serve(self._config.metrics, self._status_path)

    def stop(self) -> None:
        """Ends `run`; from any thread, but from no signal handler: it takes a lock that `run` may hold."""
        self._leave.set()

    def _check_imports(self) -> None:
        """Takes bundles that were put on the device offline."""
        parts = self._parts
        for desired in parts.imports.find_new():
            parts.updater.post(DesiredChanged("group", desired))
        machine = parts.updater.reported
        if machine.state in RESTING:
            parts.imports.answered(machine.epoch, machine.gen)

    def _check_marks(self) -> None:
        """Reports which verdicts operators marked as wrong."""
        try:
            marks = self._parts.marks.poll()
        except StoreError as error:
            log.error("the operators' marks are not reported: %s", error)
            return
        if marks is not None:
            self._parts.hub.report(marks=marks)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _thread_died(self, death: threading.ExceptHookArgs) -> None:
        """Ends the process when any of its threads ends by an exception, also one of a line or of the link.

        The line's Ready is taken off on the way out, and the supervisor starts the agent again.
        """
        if issubclass(death.exc_type, SystemExit):
            return  # as Python's own hook: a thread that ends itself is no defect
        name = death.thread.name if death.thread is not None else "unknown"
        cause = death.exc_value or death.exc_type()
        log.critical("thread %s ended by a defect", name, exc_info=cause)
        self._defects.append(name)
        self._leave.set()

    def _is_done(self) -> bool:
        """Whether every frame has its record, and the hub has everything that it takes."""
        inspecting = [thread for thread in self._threads if thread.name.split()[0] in ("camera", "pipeline")]
        if any(thread.is_alive() for thread in inspecting):
            return False
        return self._parts.storage.store.flush(0.0) and self._parts.hub.has_sent_everything()

    def _end(self) -> None:
        """Stops in the order of the flow: what was inspected is recorded, and what is recorded is reported."""
        log.info("stopping")
        parts = self._parts
        parts.inspection.stop_taking()
        for thread in self._threads:
            thread.join(10.0)
        parts.inspection.close()
        parts.storage.store.close()
        if parts.recommendation is not None:
            parts.recommendation.close()
        if parts.inspection.drift is not None:
            parts.inspection.drift.save(now=True)
        self._write_status()
        parts.hub.close()
        if (loaded := parts.active.swap(None)) is not None:
            loaded.close()
        parts.notifier.close()
        self._lock.close()

    def _write_status(self) -> None:
        finished = not any(thread.is_alive() for thread in self._threads if thread.name == "pipeline")
        status = status_of(self._parts, source_finished=finished)
        write_status(self._status_path, status)
        if self._parts.screen is not None:
            self._parts.screen.update_status(status)


def _in_use(folder: Path) -> ConfigError:
    return ConfigError(f"another agent uses {folder}", action="End it, or give each its own folder.")


def run(config_path: Path | str, *, observe: Callable[[BundleMachine], None] = lambda _: None) -> int:
    """Runs the agent in the foreground until SIGTERM."""
    heap.save_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogFilter())
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
    yield from config.folder.glob("interactions.db*")
    yield from (config.folder / "images", config.folder / STATUS_NAME)
