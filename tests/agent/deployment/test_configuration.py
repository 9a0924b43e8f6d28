"""A configuration from the hub: what it may set, how it is applied, and what becomes of a bad one."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_agent.config import (
    AgentConfig,
    InspectConfig,
    SimulatorCameraConfig,
    StoreConfig,
    read_settings,
    with_settings,
)
from lineside_agent.deployment.artifacts.bundle import BundleArtifact
from lineside_agent.deployment.artifacts.configuration import (
    ConfigurationArtifact,
    FollowedConfiguration,
    read_followed,
)
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.runner import Deployment, Runner
from lineside_agent.deployment.slots import Slots
from lineside_agent.hub_client.no_hub import NoHub
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_link.messages import BundleRef, ConfigRef, ConfigReport, Desired
from lineside_link.transfer.pull_window import FetchStopped
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.verdict.regions import Region
from lineside_runtime.bundle import Bundle, Slicing
from lineside_runtime.errors import ConfigError, DiskFullError, FetchError, LinesideError, SignatureError
from tests.peers.waiting import wait_for
from tests.worlds.bundles import bright


def local(folder: Path, **changes: Any) -> AgentConfig:
    inspect = InspectConfig(health_frames=2, health_timeout_s=0.3)
    return AgentConfig(device="cam-1", folder=folder, camera=SimulatorCameraConfig(), inspect=inspect, **changes)


def test_what_the_hub_sets_is_laid_over_agent_toml(tmp_path: Path) -> None:
    laid = with_settings(local(tmp_path), b"[inspect]\nconfidence_threshold = 0.75\n[store]\nkeep_images = 'all'\n")
    assert laid.inspect == InspectConfig(health_frames=2, health_timeout_s=0.3, confidence_threshold=0.75)
    assert laid.store == StoreConfig(keep_images="all")
    assert with_settings(local(tmp_path), b"") == local(tmp_path)


RULES = b"""
[inspect]
px_per_mm = 48.0
unsure_from = { scratches = 0.2 }
min_size_mm = { "*" = 0.1, pin-hole = 0.05 }
slicing = { side_px = 640, overlap = 0.25 }

[inspect.thresholds]
scratches = 0.4
"rolled-in_scale" = 0.6

[[inspect.regions]]
kind = "ignore"
polygon = [[0, 0], [0.1, 0], [0.1, 0.1]]
types = ["scratches"]
"""


def test_the_hub_sets_thresholds_bands_regions_sizes_and_slicing(tmp_path: Path) -> None:
    laid = with_settings(local(tmp_path), RULES).inspect
    assert laid.thresholds == {"scratches": 0.4, "rolled-in_scale": 0.6}
    assert laid.unsure_from == {"scratches": 0.2}
    assert (laid.min_size_mm, laid.px_per_mm) == ({"*": 0.1, "pin-hole": 0.05}, 48.0)
    assert laid.regions == (Region(kind="ignore", polygon=((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)), types=("scratches",)),)
    assert laid.slicing == Slicing(side_px=640, overlap=0.25)
    assert laid.health_frames == 2


def test_what_contradicts_agent_toml_is_refused_and_not_raised_as_something_else(tmp_path: Path) -> None:
    config = AgentConfig(
        device="cam-1", folder=tmp_path, camera=SimulatorCameraConfig(), inspect=InspectConfig(confidence_threshold=0.9)
    )
    with pytest.raises(ConfigError, match=r"over agent\.toml: .*give one"):
        with_settings(config, b"[inspect.thresholds]\n'*' = 0.3\n")


@pytest.mark.parametrize(
    ("toml", "path"),
    [
        (b"[inspect]\nconfidence_threshold = 1.5\n", r"\$\.inspect\.confidence_threshold"),
        (b"[inspect]\nthreads = 'many'\n", r"\$\.inspect\.threads"),
        (b"[inspect.thresholds]\nscratches = 2.0\n", r"\$\.inspect\.thresholds"),
        (
            b"[[inspect.regions]]\nkind = 'ignore'\npolygon = [[0, 0], [1, 1]]\n",
            r"three corners.*\$\.inspect\.regions\[0\]",
        ),
        (b"[[inspect.regions]]\nkind = 'ignore'\nmask = 'R0lGODlh'\n", "not a PNG"),
        (b"[inspect.slicing]\nside_px = 640\noverlap = 2.0\n", r"\$\.inspect\.slicing\.overlap"),
        (b"[inspect]\ntreshold = 0.5\n", r"\$\.inspect\.treshold"),
        (b"[store]\nkeep_images = 'some'\n", r"\$\.store\.keep_images"),
        (b"[link]\nurl = 'mqtt://evil'\n", r"\$\.link can't be set by a hub"),
        (b"device = 'other'\n", r"\$\.device can't be set by a hub"),
        (b"root = 'evil.json'\n", r"\$\.root can't be set by a hub"),
        (b"[[line_io]]\ntype = 'serial'\nport = '/dev/null'\n", r"\$\.line_io can't be set by a hub"),
        (b"inspect = 3\n", r"\$\.inspect"),
        (b"\xff\xfe", "not TOML"),
        (b"[inspect", "not TOML"),
        (b"a = " + b"[" * 5000, "not TOML"),
        (b"#" * 70_000, "at most 65536 bytes"),
    ],
)
def test_what_breaks_the_schema_is_refused_with_its_path(toml: bytes, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        read_settings(toml)


class ConfiguredDevice:
    """The agent's updater with a real engine; configurations come from a shelf."""

    def __init__(self, folder: Path, factory: Path | None) -> None:
        self.folder = folder
        self.factory = factory
        self.shelf: dict[str, bytes] = {}
        self.errors: list[Exception] = []
        self.brought = 0
        self.kept: list[StoreConfig] = []
        self.closed = {"bundle": "", "config": ""}
        """What each kind of artifact waits for."""
        self.start()

    def start(self) -> None:
        self.reports: list[ConfigReport] = []
        self.stop = threading.Event()
        self.active = ActiveBundle()
        self.configuration = FollowedConfiguration(local(self.folder))
        bundle = BundleArtifact(
            self.folder,
            slots=Slots(self.folder, self.factory),
            active=self.active,
            inspect=lambda: self.configuration.effective.inspect,
            fetch=NoHub().fetch,
            report=lambda _machine, _progress: None,
            stop=self.stop,
            gate=lambda machine, _: self.closed[machine.rules.part],
        )
        configuration = ConfigurationArtifact(
            self.configuration,
            bundle,
            fetch=self._fetch,
            report=self.reports.append,
            apply_store=self.kept.append,
            gate=lambda machine, _: self.closed[machine.rules.part],
        )
        self.following = Deployment(configuration)
        self.updater = Runner(Deployment(bundle), self.following, stop=self.stop)
        self.thread = threading.Thread(target=self.updater.run)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        if (loaded := self.active.swap(None)) is not None:
            loaded.close()

    def _fetch(self, config: ConfigRef, should_stop: Callable[[], bool]) -> bytes:
        self.brought += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.shelf[config.sha256]

    def put(self, name: str, toml: bytes) -> ConfigRef:
        ref = ConfigRef(target=f"line/{name}.toml", sha256=hashlib.sha256(toml).hexdigest())
        self.shelf[ref.sha256] = toml
        return ref

    def want(self, gen: int, name: str, toml: bytes) -> ConfigRef:
        ref = self.put(name, toml)
        self.updater.post(DesiredChanged("group", Desired(epoch=1, gen=gen, config=ref)))
        return ref

    def wait(self, gen: int, *, code: int | None = None) -> ConfigReport:
        def there() -> bool:
            report = self.configuration.report()
            if report.gen != gen or (report.error.code if report.error else None) != code:
                return False
            return code is not None or report.installed == report.wanted  # while it is tried they differ

        wait_for(there, what=f"generation {gen}, {self.configuration.report()}")
        return self.configuration.report()

    @property
    def threshold(self) -> float | None:
        loaded = self.active.loaded
        if loaded is None:
            return None
        assert isinstance(loaded.inspector, Inspector)
        return loaded.inspector.rules.confidence_threshold


@pytest.fixture
def device(tmp_path: Path, bundle: Bundle) -> Iterator[ConfiguredDevice]:
    (tmp_path / "state").mkdir()
    made = ConfiguredDevice(tmp_path / "state", bundle.path)
    wait_for(lambda: made.active.loaded is not None, what="the bundle")
    yield made
    made.end()


def test_a_configuration_is_applied_and_survives_a_restart(device: ConfiguredDevice) -> None:
    first = device.active.loaded
    ref = device.want(1, "a", b"[inspect]\nconfidence_threshold = 0.9\n[store]\nkeep_images = 'bad'\n")
    report = device.wait(1)
    assert (report.installed, report.wanted) == (ref, ref)
    assert device.threshold == 0.9
    assert device.active.loaded is not first
    assert device.kept[-1] == StoreConfig(keep_images="bad")
    assert device.reports[-1] == report
    device.end()
    device.start()
    wait_for(lambda: device.active.loaded is not None, what="the bundle")
    assert device.threshold == 0.9
    assert device.configuration.effective.store.keep_images == "bad"
    assert device.brought == 1


def test_the_same_desired_state_again_changes_nothing_and_an_older_one_is_ignored(device: ConfiguredDevice) -> None:
    device.want(2, "a", b"[inspect]\nconfidence_threshold = 0.9\n")
    device.wait(2)
    device.want(1, "old", b"[inspect]\nconfidence_threshold = 0.1\n")
    device.want(3, "a", b"[inspect]\nconfidence_threshold = 0.9\n")
    device.wait(3)
    assert device.brought == 1
    assert device.threshold == 0.9


def test_a_bad_one_is_refused_with_its_path_and_not_tried_again(device: ConfiguredDevice) -> None:
    device.want(1, "good", b"[inspect]\nconfidence_threshold = 0.8\n")
    good = device.wait(1).installed
    device.want(2, "bad", b"[inspect]\nconfidence_threshold = 7\n")
    report = device.wait(2, code=2001)
    assert report.error is not None
    assert "$.inspect.confidence_threshold" in report.error.message
    assert report.installed == good
    assert device.threshold == 0.8
    brought = device.brought
    device.updater.kick()
    device.updater.kick()
    device.want(3, "better", b"[inspect]\nconfidence_threshold = 0.7\n")
    device.wait(3)
    assert device.brought == brought + 1
    assert device.threshold == 0.7


def test_rules_of_a_type_that_the_bundle_hasnt_are_refused_and_what_ran_goes_on(device: ConfiguredDevice) -> None:
    running = device.active.loaded
    device.want(1, "typo", b"[inspect.thresholds]\nbrigth = 0.4\n")
    report = device.wait(1, code=2001)
    assert report.error is not None
    assert report.error.message == "$.inspect.thresholds: the bundle has no type 'brigth'"
    assert device.active.loaded is running
    device.want(2, "right", b"[inspect.thresholds]\nbright = 0.4\n")
    device.wait(2)
    assert device.active.loaded is not None
    assert isinstance(device.active.loaded.inspector, Inspector)
    assert device.active.loaded.inspector.rules.thresholds == {"bright": 0.4}


def test_rules_on_codes_are_refused_where_nothing_reads_codes(
    device: ConfiguredDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = device.active.loaded
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    rules = b"[[inspect.read]]\ntype = 'code'\nname = 'label'\npart_id = true\n"
    device.want(1, "codes", rules)
    report = device.wait(1, code=2006)
    assert report.error is not None and "lineside[codes]" in report.error.action
    assert device.active.loaded is running
    monkeypatch.undo()
    device.want(2, "again", rules)
    device.wait(2)
    assert [rule.name for rule in device.configuration.effective.inspect.read] == ["label"]


@pytest.mark.parametrize("error", [SignatureError("foreign"), DiskFullError("full"), FetchError("gone", status=404)])
def test_what_is_not_signed_or_not_there_is_refused_with_its_code(
    device: ConfiguredDevice, error: LinesideError
) -> None:
    device.errors = [error]
    device.want(1, "a", b"")
    assert device.wait(1, code=error.code).installed is None


def test_a_link_that_breaks_is_waited_for(device: ConfiguredDevice) -> None:
    device.errors = [FetchStopped(), FetchError("nothing arrived"), FetchError("nothing arrived")]
    device.want(1, "a", b"[inspect]\nthreads = 2\n")
    device.wait(1, code=4004)
    for _ in range(3):
        device.updater.kick()
    device.wait(1)
    assert device.configuration.effective.inspect.threads == 2


def test_an_engine_that_cannot_run_so_is_rolled_back(device: ConfiguredDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    running = device.active.loaded

    def failing(*_: object) -> None:
        raise RuntimeError("no such number of threads")

    monkeypatch.setattr("lineside_agent.inspection.loaded_bundle.replay", failing)
    device.want(1, "a", b"[inspect]\nthreads = 3\n")
    device.wait(1, code=5002)
    assert device.active.loaded is running
    assert device.configuration.effective.inspect.threads == 1


def test_a_frame_that_fails_under_it_brings_the_old_one_back(device: ConfiguredDevice) -> None:
    running = device.active.loaded
    judged = threading.Event()

    def pipeline() -> None:
        wait_for(lambda: device.active.loaded is not running, what="the new one")
        loaded = device.active.loaded
        assert loaded is not None
        device.active.note_result(loaded, "the engine failed")
        judged.set()

    worker = threading.Thread(target=pipeline)
    worker.start()
    device.want(1, "a", b"[inspect]\nconfidence_threshold = 0.3\nhealth_timeout_s = 60.0\n")
    report = device.wait(1, code=1007)
    worker.join(60)
    assert judged.is_set()
    assert report.installed is None
    assert device.active.loaded is running
    assert running is not None
    running.inspect(Frame(image=bright()))


def test_a_configuration_is_followed_while_a_bundle_waits_for_its_window(device: ConfiguredDevice) -> None:
    device.closed["bundle"] = "the window opens at ten"
    bundle = BundleRef(name="later", version="2.0.0", target="line/later-2.0.0.json", sha256="2" * 64)
    config = device.put("a", b"[inspect]\nconfidence_threshold = 0.9\n")
    device.updater.post(DesiredChanged("group", Desired(epoch=1, gen=1, bundle=bundle)))
    wait_for(lambda: device.updater.waiting == "the window opens at ten", what="the bundle to wait")
    device.updater.post(DesiredChanged("group", Desired(epoch=1, gen=2, bundle=bundle, config=config)))
    assert device.wait(2).installed == config
    assert device.threshold == 0.9
    assert (device.updater.waiting, device.updater.machine.state) == ("the window opens at ten", "fetching")


def test_a_configuration_waits_for_its_window_also_over_a_restart(device: ConfiguredDevice) -> None:
    device.closed["config"] = "the window opens at ten"
    config = device.want(1, "a", b"[inspect]\nconfidence_threshold = 0.9\n")
    wait_for(lambda: device.following.waiting == "the window opens at ten", 20, what="the configuration to wait")
    device.end()
    device.start()
    wait_for(lambda: device.following.waiting == "the window opens at ten", 20, what="the configuration to wait again")
    assert device.configuration.report().installed is None and device.threshold != 0.9
    device.closed["config"] = ""
    assert device.wait(1).installed == config
    assert device.threshold == 0.9


def test_damaged_state_leaves_agent_toml_alone(device: ConfiguredDevice) -> None:
    ref = device.want(1, "a", b"[inspect]\nthreads = 4\n")
    device.wait(1)
    assert device.configuration.effective.inspect.threads == 4
    state = device.folder / "configuration" / "state.json"
    later = device.put("later", b"[inspect]\nof_a_later_agent = 1\n")
    device.configuration.path(later.sha256).write_bytes(device.shelf[later.sha256])
    state.write_text(state.read_text().replace(ref.sha256, later.sha256))
    again = FollowedConfiguration(local(device.folder))
    assert again.effective == local(device.folder)
    assert again.report().installed is None
    state.write_bytes(b"\xff")
    assert FollowedConfiguration(local(device.folder)).effective == local(device.folder)
    assert list(state.parent.glob("state.json.damaged-*"))


@pytest.mark.parametrize("data", [b"[inspect]\nthreads = 8\n", b""])
def test_a_damaged_configuration_is_named_not_followed_and_fetched_again(device: ConfiguredDevice, data: bytes) -> None:
    ref = device.want(1, "a", b"[inspect]\nthreads = 4\n")
    device.wait(1)
    device.end()
    path = device.configuration.path(ref.sha256)
    path.write_bytes(data)
    found = hashlib.sha256(data).hexdigest()
    with pytest.raises(ConfigError, match=f"{path} is damaged; expected sha256 {ref.sha256}; got {found}.*fetches"):
        read_followed(local(device.folder))
    again = FollowedConfiguration(local(device.folder))
    assert again.effective == local(device.folder)
    assert again.report().installed is None
    device.start()
    assert device.wait(1).installed == ref
    assert device.configuration.effective.inspect.threads == 4
    assert device.brought == 2
