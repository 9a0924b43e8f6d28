"""``kill -9`` of agent, hub and broker at every state: a working model afterwards, nothing lost, nothing twice.

One site serves all tests but those of a small disk. Each begins with what the one before has left, or with a fresh site
if it runs alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside_runtime.bundle import Bundle
from tests.fault.sabotage import start_mortal, start_tampering
from tests.peers.waiting import wait_for
from tests.worlds.bundles import break_golden, make_bundle
from tests.worlds.site import Site

pytestmark = pytest.mark.slow

RATE_HZ = 25.0
BALLAST = 3_000_000
"""Bytes of a bundle that take a moment to fetch."""

Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A hub and its broker, which run, and an agent that was never started."""
    site = Site(tmp_path_factory.mktemp("site"), frames=40, rate_hz=RATE_HZ)
    site.broker.start()
    site.hub.start()
    yield site
    site.end()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a bundle of a version; each test has its own, since a slot may still hold those of another."""
    return lambda number, **options: make_bundle(
        tmp_path / f"{number}", version=f"{number}.0.0", ballast_name=f"ballast.{number}", **options
    )


def supply(site: Site, make: Make, frames: int) -> str:
    """Ends the agent, which then has a bundle, and gives its camera more frames; returns the bundle's identity."""
    if not site.agent.state.exists():
        site.agent.start()
        site.wait_state("active", site.push(make(1)))
    site.agent.kill()
    site.add_frames(frames)
    installed = site.agent.machine.installed
    assert installed is not None
    return installed.identity


def check_all_there(site: Site) -> None:
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()


def kill_in(site: Site, state: str, gen: int) -> None:
    """Starts an agent that is killed when it has written this state."""
    start_mortal(site.agent, state, gen)
    site.agent.wait_killed()
    assert site.agent.machine.state == state


def test_first_bundle_survives_a_kill_in_every_state(site: Site, make: Make) -> None:
    gen = site.push(make(1))
    for state in ("fetching", "staged", "health_check"):
        kill_in(site, state, gen)
    site.agent.start()
    site.wait_state("active", gen)
    check_all_there(site)


def test_agent_killed_in_every_state_ends_in_the_new_model(site: Site, make: Make) -> None:
    supply(site, make, 60)
    gen = site.push(make(2, gain=30.0))
    for state in ("fetching", "verifying", "staged", "switching", "health_check", "active"):
        kill_in(site, state, gen)
        site.check_something_runs_on()
    site.add_frames(20)
    site.agent.start()
    site.wait_state("active", gen)
    check_all_there(site)
    site.wait_installed("bright-spots@2.0.0")
    assert {bundle for _, _, bundle in site.results()[-20:]} == {"bright-spots@2.0.0"}


def test_agent_killed_while_it_rolls_back_stays_with_the_old_model(site: Site, make: Make) -> None:
    before, frames = supply(site, make, 60), len(site.results())
    gen = site.push(break_golden(make(3)))
    kill_in(site, "rolled_back", gen)
    site.check_something_runs_on()
    site.agent.start()
    site.wait_state("rolled_back", gen)
    check_all_there(site)
    assert {bundle for _, _, bundle in site.results()[frames:]} == {before}
    assert site.codes("rolled_back", gen) == {5001}


def test_agent_killed_at_any_time_loses_and_repeats_no_frame(site: Site, make: Make) -> None:
    supply(site, make, 40)
    gen = site.push(make(4, ballast=BALLAST))
    site.agent.start()
    for count in (8, 12, 3):
        site.wait_inspected(count)
        site.agent.kill()
        site.check_something_runs_on()
        site.add_frames(20)  # as many as the next turn waits for, however late this one has seen its count
        site.agent.start()
    site.wait_state("active", gen)
    check_all_there(site)


def test_hub_and_broker_killed_under_way_lose_and_repeat_no_result(site: Site, make: Make) -> None:
    supply(site, make, 240)  # more than pass while two pairs are killed on a busy machine
    gen = site.push(make(5, ballast=BALLAST))
    site.agent.start()
    for count in (10, 25):
        site.wait_inspected(count)
        site.hub.kill()
        site.broker.kill()
        before = site.agent.status["inspected"]
        wait_for(lambda: site.agent.status["inspected"] > before, what="frames without hub and broker")  # noqa: B023
        site.broker.start()
        site.hub.start()
    site.wait_state("active", gen)
    check_all_there(site)
    wait_for(lambda: site.agent.status["outbox_pending"] == 0)


def check_refused(site: Site, gen: int, code: int, *, installed: str) -> None:
    """The hub knows why, the old model runs, and the line goes on."""
    site.wait_state("failed", gen)
    assert site.codes("failed", gen) == {code}
    check_all_there(site)
    site.wait_installed(installed)


def test_chunk_that_was_damaged_on_its_way_is_refused(site: Site, make: Make) -> None:
    installed = supply(site, make, 20)
    bundle = make(6, ballast=BALLAST)
    gen = site.push(bundle)
    site.hub.kill()
    start_tampering(site.hub, bundle.manifest.files["ballast.6"].chunks[7])
    site.agent.start()
    check_refused(site, gen, 3002, installed=installed)
    site.hub.restart()


def test_chunk_that_rotted_at_the_hub_is_refused_and_a_second_push_heals_it(site: Site, make: Make) -> None:
    installed = supply(site, make, 20)
    bundle = make(8, ballast=BALLAST)
    gen = site.push(bundle)
    (chunk,) = (site.hub_folder / "chunks").rglob(bundle.manifest.files["ballast.8"].chunks[7])
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.chmod(0o600)
    chunk.write_bytes(data)
    site.agent.start()
    check_refused(site, gen, 4004, installed=installed)
    site.wait_state("active", site.push(bundle))


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


def test_small_disk_refuses_what_finds_no_room_and_loses_no_frame_while_it_is_full(
    small_disk: Path, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site", frames=60, rate_hz=RATE_HZ, state=small_disk / "state")
    try:
        site.start()
        site.wait_state("active", site.push(make(1)))
        gen = site.push(make(9, ballast=6_000_000))
        site.wait_state("failed", gen)
        assert site.codes("failed", gen) == {4002}
        site.agent.kill()
        site.add_frames(160)
        site.agent.start()
        site.wait_inspected(10)
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        wait_for(lambda: "records wait in memory" in site.agent.log)
        ballast.unlink()
        check_all_there(site)
        assert site.agent.alive
    finally:
        site.end()
