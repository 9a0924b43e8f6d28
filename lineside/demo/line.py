"""The demo's line: broker, hub and agent as processes on the loopback interface."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import tomli_w

from lineside.demo import count
from lineside.demo.charts import ChartMark
from lineside.demo.console import DemoConsole, ProgressBar
from lineside.demo.processes import Processes
from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push
from lineside_hub.simulate.processes import free_port, listening
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import DemoError

SITE = "demo"
GROUP = "demo-line"
DEVICE = "cam-01"

START_TIMEOUT_S = 60.0
PUSH_TIMEOUT_S = 120.0
STALL_TIMEOUT_S = 60.0
"""Longest time without a new result at the hub."""


class DemoLine:
    """Starts, watches and stops the processes; ``broker_url`` is that of a running broker, or ``None``."""

    def __init__(self, out: Path, *, broker_url: str | None) -> None:
        self._out = out
        self._port = 0 if broker_url else free_port()
        self._url = broker_url or f"mqtt://127.0.0.1:{self._port}"
        self._processes = Processes(out / "logs")
        self.database = out / "hub" / "hub.db"
        self.marks: list[ChartMark] = []

    def __enter__(self) -> DemoLine:
        self._processes.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.__exit__(kind, error, trace)

    def start(self, camera: dict[str, Any], progress: DemoConsole) -> None:
        """Creates the repository, writes both configurations and starts the processes."""
        repository = Repository.create(self._out / "hub", groups=[GROUP])
        self._write_configurations(repository, camera)
        if self._port:
            self._start_broker()
            progress.report(f"embedded broker on 127.0.0.1:{self._port}")
        self._processes.start("hub", "hub", "run", "--config", str(self._out / "hub" / "hub.toml"))
        self._processes.start("agent", "agent", "run", "--config", str(self._out / "agent" / "agent.toml"))
        self._processes.wait_for("the agent to join", self._joined, timeout_s=START_TIMEOUT_S)
        progress.report(f"{DEVICE} joined {self._url}")

    def _write_configurations(self, repository: Repository, camera: dict[str, Any]) -> None:
        agent = self._out / "agent"
        agent.mkdir()
        (agent / "root.json").write_bytes(repository.root_bytes())
        link = {"url": self._url, "site": SITE}
        hub_settings = {"folder": str(self._out / "hub"), "link": link}
        (self._out / "hub" / "hub.toml").write_text(tomli_w.dumps(hub_settings))
        agent_settings = {
            "device": DEVICE,
            "group": GROUP,
            "folder": str(agent),
            "root": str(agent / "root.json"),
            "link": link,
            "camera": camera,
            "store": {"keep_images": "all"},
        }
        (agent / "agent.toml").write_text(tomli_w.dumps(agent_settings))

    def _start_broker(self) -> None:
        self._processes.start("broker", "hub", "broker", "--port", str(self._port))
        self._processes.wait_for("the broker", lambda: listening(self._port), timeout_s=START_TIMEOUT_S)

    def _joined(self) -> bool:
        return any(event.kind == "up" for event in count.events(self.database))

    def push(self, bundle: Bundle, progress: DemoConsole) -> None:
        """Signs the bundle for the group and pushes it."""
        push(self._out / "hub", bundle.path, group=GROUP)
        megabytes = bundle.manifest.size_bytes / 1e6
        progress.report(f"pushed {bundle.manifest.identity} ({megabytes:.1f} MB), signed for {GROUP}")

    def wait_active(self, version: str, progress: DemoConsole) -> None:
        """Waits until the device reports that it runs this version.

        Raises:
            DemoError: It rolled back, or reported nothing in time.
        """
        self._wait_state(version, "active")
        progress.report(f"{DEVICE} fetched, verified, replayed the golden input, and runs {version}")

    def wait_refused(self, version: str, progress: DemoConsole) -> None:
        """Waits until the device reports that it refused this version."""
        self._wait_state(version, "rolled_back")
        refused = next(event for event in self._events(version) if event.kind == "rolled_back")
        progress.report(f"{DEVICE} refused {version}: {refused.detail}")

    def _wait_state(self, version: str, state: str) -> None:
        other = {"active": "rolled_back", "rolled_back": "active"}[state]

        def there() -> bool:
            kinds = {event.kind for event in self._events(version)}
            if kinds & {other, "failed"}:
                end = next(event for event in self._events(version) if event.kind in (other, "failed"))
                raise DemoError(f"{version} ended as {end.kind}", expected=state, actual=end.detail or end.kind)
            return state in kinds

        self._processes.wait_for(f"{version} to be {state}", there, timeout_s=PUSH_TIMEOUT_S)

    def _events(self, version: str) -> list[count.DemoEvent]:
        return [event for event in count.events(self.database) if event.bundle.endswith(f"@{version}")]

    def wait_synced(self, share: float, total: int, bar: ProgressBar) -> None:
        """Waits until the hub has committed this share of the results.

        Raises:
            DemoError: No new result for a minute.
        """
        wanted = max(1, round(share * total))
        reached = count.synced(self.database)
        while reached < wanted:
            before = reached
            self._processes.wait_for(
                f"more than {before} of {wanted} results",
                lambda before=before: count.synced(self.database) > before,  # type: ignore[misc]
                timeout_s=STALL_TIMEOUT_S,
            )
            reached = count.synced(self.database)
            bar.at(reached)

    def restart_broker(self, progress: DemoConsole) -> None:
        """Kills and restarts the embedded broker; an external one is left alone."""
        if not self._port:
            progress.report("the broker is an external one and was not killed")
            return
        self.marks.append(ChartMark(time.time_ns(), "broker killed"))
        self._processes.kill("broker")
        progress.report("killed the broker; the agent continues to inspect")
        before = self.device_status().get("inspected", 0)
        self._processes.wait_for(
            "frames inspected without a broker",
            lambda: self.device_status().get("inspected", 0) > before or self._source_finished(),
            timeout_s=STALL_TIMEOUT_S,
        )
        self._start_broker()
        self.marks.append(ChartMark(time.time_ns(), "broker back"))
        progress.report("the broker is back")

    def _source_finished(self) -> bool:
        return bool(self.device_status().get("source_finished", False))

    def device_status(self) -> dict[str, Any]:
        """Returns the agent's status file; empty while there is none."""
        path = self._out / "agent" / "status.json"
        if not path.exists():
            return {}
        status: dict[str, Any] = json.loads(path.read_text())
        return status
