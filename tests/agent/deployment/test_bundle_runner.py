"""The runner with a bundle: real slots, real engines; the link is a folder that is copied."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from lineside_agent.config import InspectConfig
from lineside_agent.deployment.artifacts.bundle import STATE_NAME, BundleArtifact
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import BUNDLE_DECODER, BundleMachine
from lineside_agent.deployment.runner import Deployment, Runner
from lineside_agent.deployment.slots import Slots
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import reference
from lineside_link.messages import BundleRef, Desired
from lineside_link.transfer.pull_window import FetchStopped
from lineside_models.frame import Frame
from lineside_models.verdict.regions import Region
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import BundleIntegrityError, FetchError, LinesideError
from tests.peers.waiting import wait_for
from tests.worlds.bundles import break_golden, bright, make_bundle, make_endless


class UpdatedDevice:
    """An updater with its surroundings; `end` and `start` are what a restart of the agent does."""

    def __init__(self, folder: Path, factory: Path | None = None) -> None:
        self.folder = folder
        self.factory = factory
        self.shelf: dict[str, Bundle] = {}
        self.errors: list[LinesideError] = []
        self.fetches = 0
        self.hold: threading.Event | None = None
        self.health_timeout_s = 0.3
        self.trial_timeout_s = 300.0
        self.regions: tuple[Region, ...] = ()
        self.closed = {True: "", False: ""}
        """What fetch (true) and changeover (false) wait for."""
        self.start()

    health_timeout_s = 0.3

    def start(self) -> None:
        self.seen: list[BundleMachine] = []
        self.ignored: list[str] = []
        self.stop = threading.Event()
        self.active = ActiveBundle()
        self.slots = Slots(self.folder, self.factory)
        inspect = InspectConfig(
            health_frames=2,
            health_timeout_s=self.health_timeout_s,
            trial_timeout_s=self.trial_timeout_s,
            regions=self.regions,
        )
        bundle = BundleArtifact(
            self.folder,
            slots=self.slots,
            active=self.active,
            inspect=lambda: inspect,
            fetch=self.fetch,
            report=lambda machine, _: self.seen.append(machine),
            stop=self.stop,
            ignored=self.ignored.append,
            gate=lambda _, fetching: self.closed[fetching],
        )
        self.updater = Runner(Deployment(bundle), stop=self.stop)
        self.thread = threading.Thread(target=self.updater.run)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60.0)
        assert not self.thread.is_alive()
        loaded = self.active.swap(None)
        if loaded is not None:
            loaded.close()

    def restart(self) -> None:
        self.end()
        self.start()

    def fetch(
        self,
        bundle: BundleRef,
        folder: Path,
        progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.fetches += 1
        if self.errors:
            raise self.errors.pop(0)
        progress(1, 2)
        while self.hold is not None and not self.hold.wait(0.01):
            if should_stop():
                raise FetchStopped
        shutil.copytree(self.shelf[bundle.sha256].path, folder, dirs_exist_ok=True)

    def want(self, gen: int, bundle: Bundle) -> None:
        self.shelf[bundle.digest] = bundle
        self.updater.post(DesiredChanged("group", Desired(epoch=1, gen=gen, bundle=reference(bundle))))

    def wait(self, state: str, gen: int) -> BundleMachine:
        wait_for(lambda: (self.machine.state, self.machine.gen) == (state, gen), what=f"{state} {gen}: {self.machine}")
        return self.machine

    @property
    def machine(self) -> BundleMachine:
        """Where it stands, as it is reported."""
        return self.updater.reported

    @property
    def written(self) -> BundleMachine:
        """What its state file holds."""
        return BUNDLE_DECODER.decode((self.folder / STATE_NAME).read_bytes())

    @property
    def running(self) -> str | None:
        return self.active.loaded.bundle.manifest.identity if self.active.loaded else None

    def states(self) -> list[str]:
        return [machine.state for machine in self.seen]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "1": make_bundle(folder / "1"),
        "2": make_bundle(folder / "2", version="2.0.0", gain=30.0),
        "bad": break_golden(make_bundle(folder / "bad", version="3.0.0")),
        "fragile": make_bundle(folder / "fragile", version="4.0.0", fragile=True),
        "unproven": make_bundle(folder / "unproven", version="5.0.0", golden=False),
    }


@pytest.fixture
def device(tmp_path: Path) -> Iterator[UpdatedDevice]:
    folder = tmp_path / "state"
    folder.mkdir()
    made = UpdatedDevice(folder)
    yield made
    made.end()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, Bundle]) -> Path:
    """The state of a device that has installed bundle 1; not to be changed."""
    folder = tmp_path_factory.mktemp("installed")
    device = UpdatedDevice(folder)
    device.want(1, bundles["1"])
    device.wait("active", 1)
    device.end()
    return folder


@pytest.fixture
def running(tmp_path: Path, installed: Path, bundles: dict[str, Bundle]) -> Iterator[UpdatedDevice]:
    """A device that runs bundle 1, which it has fetched once."""
    made = UpdatedDevice(shutil.copytree(installed, tmp_path / "state", symlinks=True))
    made.fetches, made.shelf[bundles["1"].digest] = 1, bundles["1"]
    wait_for(lambda: made.running, what="bundle 1")
    yield made
    made.end()


def test_bundle_is_installed_and_runs(device: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    device.want(1, bundles["1"])
    device.wait("active", 1)
    assert device.running == "bright-spots@1.0.0"
    assert device.slots.current() == "a"
    walked = [state for state in device.states() if state != "idle"]
    assert walked[:1] + walked[-5:] == ["fetching", "verifying", "staged", "switching", "health_check", "active"]


def test_regions_of_the_lines_camera_need_not_fit_the_golden_frame(
    device: UpdatedDevice, bundles: dict[str, Bundle]
) -> None:
    device.end()
    corners = ((900.0, 900.0), (990.0, 900.0), (990.0, 990.0))
    device.regions = (Region(kind="inspect", units="px", polygon=corners),)
    device.start()
    device.want(1, bundles["1"])
    device.wait("active", 1)


@pytest.mark.parametrize(("name", "code"), [("bad", 5001), ("unproven", 3001)])
def test_bundle_that_does_not_prove_itself_never_sees_a_frame(
    running: UpdatedDevice, bundles: dict[str, Bundle], name: str, code: int
) -> None:
    running.want(2, bundles[name])
    machine = running.wait("rolled_back", 2)
    assert machine.error is not None
    assert machine.error.code == code
    assert (running.running, running.slots.current()) == ("bright-spots@1.0.0", "a")
    assert "switching" not in [seen.state for seen in running.seen if seen.gen == 2]


def test_bundle_that_fails_on_real_frames_is_rolled_back(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    running.health_timeout_s = 60.0  # until the frame below, however slow the machine is
    running.restart()
    running.want(2, bundles["fragile"])
    wait_for(lambda: running.running == "bright-spots@4.0.0")
    with running.active.use() as loaded:
        assert loaded is not None
        with pytest.raises(LinesideError) as caught:
            loaded.inspect(Frame(image=bright(64, 96)))
        running.active.note_result(loaded, str(caught.value))
        wait_for(lambda: running.written.state == "rolled_back", what="the state on the disk")
        assert running.states()[-1] == "health_check", "reported while this frame is still the new bundle's"
    machine = running.wait("rolled_back", 2)
    assert machine.error is not None
    assert machine.error.code == 1007
    assert (running.running, running.slots.current()) == ("bright-spots@1.0.0", "a")
    with running.active.use() as loaded:
        assert loaded is not None
        assert not loaded.inspect(Frame(image=bright())).passed, "what came back still judges"


def test_how_many_failed_checks_take_a_bundle_back_is_decided_in_the_machine_alone(
    running: UpdatedDevice, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_agent.deployment.machine.FAILED_CHECKS_MAX", 2)
    running.health_timeout_s = 60.0
    running.restart()

    def judge(*reasons: str) -> None:
        wait_for(lambda: running.machine.state == "health_check", what="the check")
        for failed, reason in enumerate(reasons, 1):
            loaded = running.active.loaded
            assert loaded is not None
            running.active.note_result(loaded, reason)
            if reason:
                wait_for(lambda: checks() >= failed, what=f"{failed} failed checks")  # noqa: B023 - in this turn

    def checks() -> int:
        machine = running.machine
        return machine.failed_checks if machine.state == "health_check" else 9

    running.want(2, bundles["2"])
    judge("the engine failed", "", "")
    running.wait("active", 2)
    running.want(3, bundles["1"])
    judge("the engine failed", "the engine failed")
    assert running.wait("rolled_back", 3).installed == reference(bundles["2"])


def test_an_ignored_desired_state_says_why(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    running.updater.post(DesiredChanged("group", Desired(epoch=1, gen=0, bundle=reference(bundles["2"]))))
    wait_for(lambda: running.ignored, what="the reason")
    assert running.ignored[-1] == "desired state 1/0 is older than 1/1, which this device knows"
    running.updater.post(DesiredChanged("device", Desired(epoch=1, gen=2, bundle=reference(bundles["1"]))))
    running.wait("active", 2)
    assert running.ignored[-1] == ""
    running.want(3, bundles["2"])
    wait_for(lambda: running.ignored[-1], what="the reason")
    assert running.ignored[-1] == "desired state 3 is of the group, and the device has its own, 2"
    assert running.machine.gen == 2


def test_fetch_that_cannot_succeed_is_failed_with_its_code(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    running.errors = [BundleIntegrityError("flipped")]
    running.want(2, bundles["2"])
    machine = running.wait("failed", 2)
    assert machine.error is not None
    assert machine.error.code == 3002
    assert running.running == "bright-spots@1.0.0"
    assert running.fetches == 2


def test_fetch_that_the_link_ended_is_tried_again_when_it_is_back(
    running: UpdatedDevice, bundles: dict[str, Bundle]
) -> None:
    running.errors = [FetchError("down")] * 6
    running.want(2, bundles["2"])

    def kicked() -> bool:
        running.updater.kick()
        return running.machine.state == "active" and running.machine.gen == 2

    wait_for(kicked)
    assert running.fetches >= 8


def test_newer_desired_state_stops_a_fetch(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    running.hold = threading.Event()
    running.want(2, bundles["2"])
    wait_for(lambda: running.fetches == 2)
    running.hold = None
    running.want(3, bundles["1"])
    machine = running.wait("active", 3)
    assert machine.installed is not None
    assert machine.installed.version == "1.0.0"


def test_repeated_desired_state_does_not_disturb_a_fetch(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    running.hold = threading.Event()
    running.want(2, bundles["2"])
    wait_for(lambda: running.fetches == 2)
    running.want(2, bundles["2"])
    wait_for(lambda: running.fetches == 3)  # the same attempt goes on
    running.hold.set()
    running.wait("active", 2)
    assert (running.running, running.slots.current()) == ("bright-spots@2.0.0", "b")


def test_a_bundle_is_brought_and_waits_for_its_window_also_over_restarts(
    running: UpdatedDevice, bundles: dict[str, Bundle]
) -> None:
    installed = running.machine.installed
    running.closed[False] = "the window opens at ten"
    running.want(2, bundles["2"])
    for _ in range(6):  # more often than a bundle may be tried
        wait_for(lambda: running.updater.waiting == "the window opens at ten")
        assert running.machine.state == "verifying"
        assert running.machine.installed == installed
        running.restart()
    assert running.fetches == 2
    running.closed[False] = ""
    running.wait("active", 2)
    assert running.updater.waiting == ""


def test_a_fetch_that_waits_for_its_window_gives_way_to_a_newer_desired_state(
    running: UpdatedDevice, bundles: dict[str, Bundle]
) -> None:
    running.closed[True] = "the window opens at ten"
    running.want(2, bundles["2"])
    wait_for(lambda: running.updater.waiting)
    assert running.fetches == 1
    running.want(3, bundles["1"])
    running.wait("active", 3)
    assert running.updater.waiting == ""


def test_restart_runs_what_was_installed_without_the_hub(running: UpdatedDevice) -> None:
    running.restart()
    wait_for(lambda: running.running == "bright-spots@1.0.0")
    assert running.fetches == 1


def test_damaged_state_file_is_set_aside_and_the_current_slot_runs(running: UpdatedDevice) -> None:
    running.end()
    (running.folder / STATE_NAME).write_text('{"state": "dancing"}')
    running.start()
    wait_for(lambda: running.running == "bright-spots@1.0.0")
    assert list(running.folder.glob(f"{STATE_NAME}.damaged-*"))


def test_damaged_slot_is_fetched_again(running: UpdatedDevice) -> None:
    running.end()
    (running.slots.bundle_path("a") / "labels.json").write_text("[]")
    running.start()
    wait_for(lambda: running.running == "bright-spots@1.0.0")
    assert running.fetches == 2


def test_factory_bundle_runs_at_once_and_gives_way(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    (tmp_path / "state").mkdir()
    device = UpdatedDevice(tmp_path / "state", bundles["1"].path)
    wait_for(lambda: device.running == "bright-spots@1.0.0")
    device.want(1, bundles["2"])
    device.wait("active", 1)
    device.want(2, bundles["bad"])
    device.wait("rolled_back", 2)
    assert device.running == "bright-spots@2.0.0"
    device.restart()
    wait_for(lambda: device.running == "bright-spots@2.0.0")
    device.end()


def test_a_damaged_factory_bundle_is_a_problem_until_another_bundle_runs(
    tmp_path: Path, bundles: dict[str, Bundle]
) -> None:
    for folder in ("state", "factory"):
        (tmp_path / folder).mkdir()
    (tmp_path / "factory" / "manifest.json").write_text("{}")
    device = UpdatedDevice(tmp_path / "state", tmp_path / "factory")
    wait_for(lambda: "[3001] manifest" in device.active.problem)
    device.want(1, bundles["1"])
    device.wait("active", 1)
    assert device.active.problem == ""
    device.end()


def test_step_that_cannot_be_written_down_is_not_taken(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    state = running.folder / STATE_NAME
    state.unlink()
    state.mkdir()  # now nothing can be renamed over it
    running.want(2, bundles["2"])
    machine = running.wait("failed", 2)
    assert machine.error is not None
    assert machine.error.code == 4000
    assert (running.running, running.fetches) == ("bright-spots@1.0.0", 1)


def test_frames_go_on_while_bundles_change(running: UpdatedDevice, bundles: dict[str, Bundle]) -> None:
    judged: list[str] = []
    stop = threading.Event()

    def judge() -> None:
        image = np.ascontiguousarray(bright())
        while not stop.wait(0.005):
            with running.active.use() as loaded:
                assert loaded is not None
                inspection = loaded.inspect(Frame(image=image))
                running.active.note_result(loaded, "")
            judged.append(inspection.bundle)

    thread = threading.Thread(target=judge)
    thread.start()
    for gen, name in enumerate(("2", "bad", "1", "2"), 2):
        running.want(gen, bundles[name])
        running.wait("rolled_back" if name == "bad" else "active", gen)
    stop.set()
    thread.join(60.0)
    order = [one for number, one in enumerate(judged) if number == 0 or one != judged[number - 1]]
    assert order == [f"bright-spots@{version}.0.0" for version in (1, 2, 1, 2)]


def test_bundle_whose_model_never_ends_is_refused_and_what_runs_goes_on(running: UpdatedDevice, tmp_path: Path) -> None:
    running.trial_timeout_s = 2.0
    running.restart()
    running.want(2, make_endless(make_bundle(tmp_path / "endless", version="6.0.0")))
    machine = running.wait("rolled_back", 2)
    assert machine.error is not None and machine.error.code == 1007
    assert "the trial of bright-spots@6.0.0 did not end within 2 s" in machine.error.message
    assert running.running == "bright-spots@1.0.0"
    assert "switching" not in running.states()
    assert not [child for child in psutil.Process().children() if "bundle_trial" in " ".join(child.cmdline())]


def test_bundle_whose_engine_crashes_is_refused_and_the_agent_lives(running: UpdatedDevice, tmp_path: Path) -> None:
    """The trial's process ends by a signal, as at a fault of an engine."""
    bundle = make_endless(make_bundle(tmp_path / "crash", version="7.0.0"))
    running.want(2, bundle)
    found: list[psutil.Process] = []

    def trial() -> list[psutil.Process]:
        children = psutil.Process().children()
        found[:] = [child for child in children if "bundle_trial" in " ".join(child.cmdline())]
        return found

    wait_for(trial, what="the trial")
    found[0].send_signal(signal.SIGSEGV)
    machine = running.wait("rolled_back", 2)
    assert machine.error is not None and machine.error.code == 1009
    assert "SIGSEGV" in machine.error.message
    assert running.running == "bright-spots@1.0.0"
