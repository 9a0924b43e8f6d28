"""``kill -9`` of agent and hub while a bundle is on its way, whole or as a patch: it goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lineside_hub.fleet.listing import list_devices
from lineside_link.messages import Reported, Transfer, decode
from lineside_runtime.bundle import Bundle, write_manifest
from tests.peers.waiting import wait_for
from tests.worlds.agent import DEVICE
from tests.worlds.bundles import make_bundle
from tests.worlds.hub import query
from tests.worlds.site import Site

pytestmark = pytest.mark.slow

BALLAST = 1_000_000


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """``old`` runs; ``near`` has the same ballast, a quarter of it moved a little; ``far`` has another file."""
    folder = tmp_path_factory.mktemp("bundles")
    old = make_bundle(folder / "1", ballast=BALLAST)
    shutil.copytree(old.path, folder / "2")
    ballast = np.frombuffer((old.path / "ballast.bin").read_bytes(), np.uint8)
    moved = ballast + (np.random.default_rng(5).random(ballast.size) < 0.25).astype(np.uint8)
    (folder / "2" / "ballast.bin").write_bytes(moved.tobytes())
    near = write_manifest(folder / "2", msgspec.structs.replace(old.manifest, version="2.0.0"))
    far = make_bundle(folder / "3", version="3.0.0", gain=30.0, ballast=BALLAST, ballast_name="ballast.far")
    return {"old": old, "near": near, "far": far}


@pytest.fixture
def site(tmp_path: Path, bundles: dict[str, Bundle]) -> Iterator[Site]:
    """A site that runs ``old``, behind a hub that is slow enough to be killed in between."""
    made = Site(tmp_path, frames=60, rate_hz=10.0, transfer={"device_rate_bytes_s": 100_000.0})
    made.broker.start()
    made.hub.start()
    gen = made.push(bundles["old"])
    made.agent.start()
    made.wait_state("active", gen)
    yield made
    made.end()


def transfer(site: Site) -> Transfer:
    """How the device says that its last fetch went."""
    (text,) = query(site.hub_folder, "SELECT reported FROM devices WHERE device = ?", DEVICE)[0]
    found = decode(text.encode(), Reported).transfer
    assert found is not None
    return found


def wait_partly(site: Site, pattern: str) -> None:
    """Waits until something of a file is on the device's disk, and more is to come."""
    try:
        wait_for(lambda: list(site.agent.state.rglob(pattern)), what=pattern)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{site.agent.log[-2000:]}\n{site.hub.log[-2000:]}") from None


def make_patches(site: Site, wanted: Bundle, base: Bundle) -> None:
    """Has the hub's own program make them: a device takes whole files if a busy machine is slow at it."""
    command = [
        sys.executable,
        "-m",
        "lineside_hub.repository.deltas",
        str(site.hub_folder),
        wanted.digest,
        base.digest,
    ]
    subprocess.run(command, check=True)


def check(site: Site, bundle: Bundle, gen: int) -> None:
    wanted = bundle.manifest.identity
    wait_for(
        lambda: [device.installed for device in list_devices(site.hub_folder)] == [wanted],
        120,
        what=lambda: f"{wanted}\n{site.events()}\n{site.agent.log[-3000:]}",
    )
    site.wait_state("active", gen)
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()


def test_a_patch_and_then_whole_files_go_on_after_kills_of_both(site: Site, bundles: dict[str, Bundle]) -> None:
    site.agent.kill()
    gen = site.push(bundles["near"])
    make_patches(site, bundles["near"], bundles["old"])
    site.agent.start()
    for process in (site.hub, site.agent):
        wait_partly(site, "..*.patch.*.part")
        process.restart()
    check(site, bundles["near"], gen)
    assert transfer(site).patched == 1
    assert transfer(site).link_bytes < BALLAST / 2
    assert not list(site.agent.state.rglob("*.patch*"))

    gen = site.push(bundles["far"])
    for process in (site.agent, site.hub):
        wait_partly(site, ".ballast.far.*.part")
        process.restart()
    check(site, bundles["far"], gen)
