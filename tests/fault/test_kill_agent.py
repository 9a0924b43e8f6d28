"""``kill -9`` of agent, hub and broker at every state: a working model afterwards, nothing lost, nothing twice."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.bundle import Bundle
from tests.fault.sabotage import start_mortal, start_tampering
from tests.peers.waiting import wait_for
from tests.worlds.bundles import break_golden, make_bundle
from tests.worlds.site import Site

pytestmark = pytest.mark.slow

FRAMES = 120
RATE_HZ = 25.0

Make = Callable[..., Site]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "1": make_bundle(folder / "1"),
        "2": make_bundle(folder / "2", version="2.0.0", gain=30.0, ballast=3_000_000),
        "bad": break_golden(make_bundle(folder / "3", version="3.0.0")),
    }


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Site] = []

    def start(frames: int = FRAMES, rate_hz: float = RATE_HZ, **arguments: Any) -> Site:
        made.append(Site(tmp_path, frames=frames, rate_hz=rate_hz, **arguments))
        return made[-1]

    yield start
    for site in made:
        site.end()


def started(site: Site, bundle: Bundle) -> Site:
    site.start()
    site.wait_state("active", site.push(bundle))
    return site


@pytest.fixture
def site(make: Make, bundles: dict[str, Bundle]) -> Site:
    """A site that runs bundle 1."""
    return started(make(), bundles["1"])


@pytest.mark.parametrize("state", ["fetching", "verifying", "staged", "switching", "health_check", "active"])
def test_agent_killed_in_a_state_ends_in_the_new_model(make: Make, bundles: dict[str, Bundle], state: str) -> None:
    site = started(make(), bundles["1"])
    site.wait_inspected(5)
    site.agent.kill()
    gen = site.push(bundles["2"])
    start_mortal(site.agent, state, gen)
    site.agent.wait_killed()
    site.check_something_runs_on()
    assert site.agent.machine.state == state
    site.agent.start()
    site.wait_state("active", gen)
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()
    site.wait_installed("bright-spots@2.0.0")
    if {bundle for _, _, bundle in site.results()} == {"bright-spots@1.0.0"}:
        # On a busy machine the frames are over before the update is.
        site.agent.kill()
        site.add_frames(20)
        site.agent.start()
        site.wait_synced()
        site.check_nothing_lost_nothing_twice()
    assert {bundle for _, _, bundle in site.results()} == {"bright-spots@1.0.0", "bright-spots@2.0.0"}


def test_agent_killed_while_it_rolls_back_stays_with_the_old_model(site: Site, bundles: dict[str, Bundle]) -> None:
    site.agent.kill()
    gen = site.push(bundles["bad"])
    start_mortal(site.agent, "rolled_back", gen)
    site.agent.wait_killed()
    site.check_something_runs_on()
    site.agent.start()
    site.wait_state("rolled_back", gen)
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()
    assert {bundle for _, _, bundle in site.results()} == {"bright-spots@1.0.0"}
    (code,) = {code for kind, code, _ in site.events() if kind == "rolled_back"}
    assert code == 5001


@pytest.mark.parametrize("state", ["fetching", "staged", "health_check"])
def test_first_bundle_survives_a_kill_too(make: Make, bundles: dict[str, Bundle], state: str) -> None:
    site = make(frames=40)
    site.broker.start()
    site.hub.start()
    gen = site.push(bundles["1"])
    start_mortal(site.agent, state, gen)
    site.agent.wait_killed()
    site.agent.start()
    site.wait_state("active", gen)
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()


def test_agent_killed_at_any_time_loses_and_repeats_no_frame(site: Site, bundles: dict[str, Bundle]) -> None:
    gen = site.push(bundles["2"])
    for count in (8, 12, 3, 10):
        site.wait_inspected(count)
        site.agent.kill()
        site.check_something_runs_on()
        site.agent.start()
    site.wait_state("active", gen)
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()


def test_hub_and_broker_killed_under_way_lose_and_repeat_no_result(make: Make, bundles: dict[str, Bundle]) -> None:
    site = started(make(frames=360), bundles["1"])  # more than pass while three pairs are killed on a busy machine
    gen = site.push(bundles["2"])
    for count in (10, 25, 40):
        site.wait_inspected(count)
        site.hub.kill()
        site.broker.kill()
        before = site.agent.status["inspected"]
        wait_for(lambda: site.agent.status["inspected"] > before, what="frames without hub and broker")  # noqa: B023
        site.broker.start()
        site.hub.start()
    site.wait_state("active", gen)
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()
    wait_for(lambda: site.agent.status["outbox_pending"] == 0)


def check_refused(site: Site, gen: int, code: int) -> None:
    """The hub knows why, the old model runs, and the line goes on."""
    site.wait_state("failed", gen)
    assert {found for kind, found, _ in site.events() if kind == "failed"} == {code}
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()
    site.wait_installed("bright-spots@1.0.0")


@pytest.mark.parametrize("damage", ["flipped bit", "truncated chunk"])
def test_chunk_that_was_damaged_on_its_way_is_refused(site: Site, bundles: dict[str, Bundle], damage: str) -> None:
    site.hub.kill()
    gen = site.push(bundles["2"])
    start_tampering(site.hub, bundles["2"].manifest.files["ballast.bin"].chunks[7], damage)
    check_refused(site, gen, 3002)


def test_chunk_that_rotted_at_the_hub_is_refused_and_a_second_push_heals_it(
    site: Site, bundles: dict[str, Bundle]
) -> None:
    site.agent.kill()
    gen = site.push(bundles["2"])
    (chunk,) = (site.hub_folder / "chunks").rglob(bundles["2"].manifest.files["ballast.bin"].chunks[7])
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.chmod(0o600)
    chunk.write_bytes(data)
    site.agent.start()
    check_refused(site, gen, 4004)
    again = site.push(bundles["2"])
    site.wait_state("active", again)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_bundle_that_finds_no_room_is_refused_and_the_line_goes_on(
    small_disk: Path, make: Make, bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = make(state=small_disk / "state")
    site.start()
    site.wait_state("active", site.push(bundles["1"]))
    large = make_bundle(tmp_path_factory.mktemp("large") / "b", version="9.0.0", ballast=6_000_000)
    gen = site.push(large)
    site.wait_state("failed", gen)
    (code,) = {code for kind, code, _ in site.events() if kind == "failed"}
    assert code == 4002
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()


def test_disk_that_is_full_for_a_while_loses_no_frame(small_disk: Path, make: Make, bundles: dict[str, Bundle]) -> None:
    site = make(state=small_disk / "state")
    site.start()
    site.wait_state("active", site.push(bundles["1"]))
    site.wait_inspected(10)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    wait_for(lambda: "records wait in memory" in site.agent.log)
    ballast.unlink()
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()
    assert site.agent.alive
