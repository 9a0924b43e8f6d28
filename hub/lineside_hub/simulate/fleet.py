"""One simulated rollout, from the first push to the last device in its right state.

1. Broker, hub and workers start; every device gets version 1.
2. Half of those that will be away lose power. Version 2 is pushed: one device first, then all.
3. When the whole group has the desired state, the other half loses power.
4. When most of the others have answered, all come back.
5. It ends when each device is in its right state: version 2, or version 1 again where the health check fails. Each slot
   is then read and hashed again.

Time is measured from the push of version 2, the hub's memory by the kernel, bytes sent by the broker.
"""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import tomli_w

from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.machine import count
from lineside_hub.rollouts.push import PushResult, push
from lineside_hub.rollouts.runner import Rollouts
from lineside_hub.simulate.bundles import make_bundle
from lineside_hub.simulate.device import DeviceOutcome
from lineside_hub.simulate.processes import Child, SentBytes, free_port, start_broker
from lineside_hub.simulate.worker import Orders, start_workers
from lineside_link.config import LinkConfig
from lineside_link.messages import BundleRef
from lineside_runtime.errors import ConfigError, RolloutError

_log = logging.getLogger("lineside.hub.simulate")

GROUP = "simulated"
CANARY_HEALTHY_S = 2.0
START_S = 300.0


class SimulationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate.

    Attributes:
        failing: Share whose health check fails with version 2.
        away: Share that loses power and comes back.
        broker: URL of a broker that runs already; empty: one is started here.
        workers: Processes that the devices share.
        timeout_s: For the push of version 2.
    """

    devices: int
    failing: float = 0.01
    away: float = 0.05
    bundle_bytes: int = 256 << 10
    broker: str = ""
    workers: int = 4
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.devices <= 20_000:
            raise ConfigError("devices", expected="1 to 20000", actual=self.devices)
        if min(self.failing, self.away) < 0 or self.failing + self.away > 0.9:
            raise ConfigError("failing and away", expected="shares of the fleet, 0.9 together at most")
        if self.bundle_bytes < 1024 or self.workers < 1:
            raise ConfigError("bundle_bytes and workers", expected="at least 1024 and 1")


class SimulationOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a simulation.

    Attributes:
        right_state: Devices whose slot holds what it should, whole and as signed.
        wrong_state: All others.
        seconds: From the push of version 2 to the last device in its right state.
        hub_rss_bytes: Peak memory of the hub's process.
        bytes_sent: By the broker to hub and devices in that time, headers of MQTT included.
        bytes_source: ``broker``, or ``interfaces`` (all traffic of this machine) if the broker doesn't count.
        rollout: State of the rollout at the end.
        failing: Devices whose health check failed with version 2.
        away: Devices that lost power for a while.
        broker: Its name or URL.
        wrong: The first devices that are in a wrong state.
    """

    devices: int
    right_state: int
    wrong_state: int
    seconds: float
    hub_rss_bytes: int
    bytes_sent: int
    bytes_source: str
    rollout: str
    failing: int
    away: int
    bundle_bytes: int
    broker: str
    wrong: tuple[DeviceOutcome, ...] = ()


Report = Callable[[str], None]


class SimulationPlan(msgspec.Struct, frozen=True):
    """What happens to which device.

    Attributes:
        failing: Their health check fails with version 2.
        early: They lose power before the push.
        late: They lose power during the rollout.
    """

    names: tuple[str, ...]
    failing: tuple[str, ...]
    early: tuple[str, ...]
    late: tuple[str, ...]

    @classmethod
    def of(cls, settings: SimulationSettings) -> SimulationPlan:
        """The first device is the canary, to which nothing happens; the last ones fail, those before them are away."""
        names = tuple(f"sim-{number:05d}" for number in range(settings.devices))
        failing = min(math.ceil(settings.devices * settings.failing), settings.devices - 1)
        away = min(math.ceil(settings.devices * settings.away), settings.devices - 1 - failing)
        end = settings.devices - failing
        gone = names[end - away : end]
        return cls(names, names[end:], gone[: away // 2], gone[away // 2 :])


def simulate(settings: SimulationSettings, report: Report) -> SimulationOutcome:
    """Runs the simulation.

    Raises:
        RolloutError: One of the processes ended, or something took longer than it may.
        BrokerError: There is no broker.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="lineside-simulate-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        name, link = _broker(settings, folder, stack)
        hub = _start_hub(folder, link, stack)
        plan = SimulationPlan.of(settings)
        workers = _start_workers(settings, plan, folder, link, stack)
        fleet = _Fleet(folder, plan, workers, hub, report)
        fleet.begin(settings)
        counter = stack.enter_context(contextlib.closing(SentBytes(link)))
        return fleet.roll_out(settings, counter, name)


class _Fleet:
    def __init__(
        self, folder: Path, plan: SimulationPlan, workers: dict[str, Child], hub: Child, report: Report
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._workers = workers
        self._hub = hub
        self._report = report
        self._database = Database.open(folder / "hub")
        self._rollouts = Rollouts(self._database)

    def begin(self, settings: SimulationSettings) -> None:
        """Installs version 1 on every device."""
        self._switch("on", self._plan.names)
        make_bundle(self._folder / "bundles" / "1", 1, settings.bundle_bytes)
        push(self._folder / "hub", self._folder / "bundles" / "1", group=GROUP, canary=0, healthy_for_s=0)
        self._wait(
            "version 1 on every device", lambda: self._count_in_state("active 1.0.0") == len(self._plan.names), START_S
        )

    def roll_out(self, settings: SimulationSettings, counter: SentBytes, broker: str) -> SimulationOutcome:
        """Rolls version 2 out, while devices lose power and come back."""
        plan, deadline_s = self._plan, settings.timeout_s
        make_bundle(self._folder / "bundles" / "2", 2, settings.bundle_bytes)
        self._switch("cut", plan.early)
        sent = counter.read()
        began = time.monotonic()
        pushed = self._push_second(settings)
        self._wait("the group's desired state", lambda: self._rollouts.get(pushed.rollout).whole_group, deadline_s)
        self._switch("cut", plan.late)
        steady = len(plan.names) - len(plan.early) - len(plan.late)
        self._wait("most devices", lambda: self._count_answers(pushed) >= 0.6 * steady, deadline_s)
        self._switch("on", (*plan.early, *plan.late))
        self._wait("every device", lambda: self._count_right() == len(plan.names), deadline_s, fatal=False)
        seconds = time.monotonic() - began
        sent = counter.read() - sent
        rss = self._hub.peak_rss_bytes()
        state = self._wait_for_end(pushed)
        wrong = [outcome for outcome in self._outcomes() if not self._is_right(outcome)]
        self._database.close()
        return SimulationOutcome(
            devices=len(plan.names),
            right_state=len(plan.names) - len(wrong),
            wrong_state=len(wrong),
            seconds=round(seconds, 2),
            hub_rss_bytes=rss,
            bytes_sent=sent,
            bytes_source=counter.source,
            rollout=state,
            failing=len(plan.failing),
            away=len(plan.early) + len(plan.late),
            bundle_bytes=settings.bundle_bytes,
            broker=broker,
            wrong=tuple(wrong[:20]),
        )

    def _push_second(self, settings: SimulationSettings) -> PushResult[BundleRef]:
        canary = 1 if settings.devices > 1 else 0
        bar = min(1.0, max(0.1, 2 * len(self._plan.failing) / settings.devices))  # of few devices one is many
        return push(
            self._folder / "hub",
            self._folder / "bundles" / "2",
            group=GROUP,
            canary=(self._plan.names[0],) if canary else 0,
            max_failed=bar,
            healthy_for_s=CANARY_HEALTHY_S,
        )

    def _count_answers(self, pushed: PushResult[BundleRef]) -> int:
        rollout = self._rollouts.get(pushed.rollout)
        if not rollout.unfinished:
            raise RolloutError(f"the rollout is {rollout.state}: {rollout.reason}")
        found = count(rollout, self._rollouts.snapshot(rollout))
        self._report(
            f"{found.healthy} run version 2, {found.failed} refused it, {found.pending} pending, {found.offline} away"
        )
        return found.healthy + found.failed

    def _wait_for_end(self, pushed: PushResult[BundleRef]) -> str:
        """The rollout ends a little after the last device, after its stage has been healthy for long enough."""
        deadline = time.monotonic() + CANARY_HEALTHY_S + 20
        while (state := self._rollouts.get(pushed.rollout).state) == "running" and time.monotonic() < deadline:
            time.sleep(0.2)
        return state

    def _count_right(self) -> int:
        good, bad = self._count_in_state("active 2.0.0"), self._count_in_state("rolled_back 1.0.0")
        self._report(f"{good} run version 2, {bad} went back to version 1")
        return good + min(bad, len(self._plan.failing))

    def _count_in_state(self, state: str) -> int:
        for worker in self._workers.values():
            worker.send("states")
        return sum(worker.answer()["states"].get(state, 0) for worker in self._workers.values())

    def _switch(self, order: str, names: Sequence[str]) -> None:
        of_worker = {key: [name for name in key.split() if name in set(names)] for key in self._workers}
        busy = [(self._workers[key], chosen) for key, chosen in of_worker.items() if chosen]
        for worker, chosen in busy:
            worker.send(order, *chosen)
        for worker, _ in busy:
            worker.answer()

    def _outcomes(self) -> list[DeviceOutcome]:
        self._report("reading and hashing every slot again")
        for worker in self._workers.values():
            worker.send("end")
        answers = [worker.answer()["outcomes"] for worker in self._workers.values()]
        return [msgspec.convert(outcome, DeviceOutcome) for outcomes in answers for outcome in outcomes]

    def _is_right(self, outcome: DeviceOutcome) -> bool:
        wanted = ("rolled_back", "1.0.0") if outcome.name in self._plan.failing else ("active", "2.0.0")
        return outcome.whole and (outcome.state, outcome.installed.partition("@")[2]) == wanted

    def _wait(self, what: str, happened: Callable[[], bool], timeout_s: float, *, fatal: bool = True) -> None:
        self._report(f"waiting for {what}")
        deadline = time.monotonic() + timeout_s
        while not happened():
            self._hub.check()
            if time.monotonic() > deadline:
                if not fatal:
                    return
                raise RolloutError(f"waited {timeout_s:.0f} s for {what}", action="Simulate fewer devices, or longer.")
            time.sleep(0.25)


def _broker(settings: SimulationSettings, folder: Path, stack: contextlib.ExitStack) -> tuple[str, LinkConfig]:
    if settings.broker:
        return settings.broker, LinkConfig(url=settings.broker, site="simulated")
    port = free_port()
    child, name = start_broker(folder, port)
    stack.enter_context(child)
    url = f"mqtt://127.0.0.1:{port}"
    return name, LinkConfig(url=url, site="simulated", reconnect_min_s=0.2, reconnect_max_s=5.0)


def _start_hub(folder: Path, link: LinkConfig, stack: contextlib.ExitStack) -> Child:
    hub = folder / "hub"
    Repository.create(hub, groups=[GROUP])
    (hub / "hub.toml").write_text(tomli_w.dumps({"folder": ".", "link": {"url": link.url, "site": link.site}}))
    command = [sys.executable, "-m", "lineside_hub", "run", "--config", str(hub / "hub.toml")]
    return stack.enter_context(Child(command, folder / "hub.log"))


def _start_workers(
    settings: SimulationSettings, plan: SimulationPlan, folder: Path, link: LinkConfig, stack: contextlib.ExitStack
) -> dict[str, Child]:
    """Returns each worker under the names of its devices."""
    root = folder / "root.json"
    root.write_bytes(Repository.open(folder / "hub").root_bytes())
    fails: dict[str, tuple[str, ...]] = dict.fromkeys(plan.failing, ("2.0.0",))
    orders = Orders(
        link=link, root=str(root), folder=str(folder / "devices"), groups=dict.fromkeys(plan.names, GROUP), fails=fails
    )
    return start_workers(orders, settings.workers, folder, stack)
