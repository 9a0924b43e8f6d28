"""Takes the pictures of the fleet dashboard in README and docs: ``python -m tests.hub.web.pictures``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import msgspec

from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.rollouts.push import push
from lineside_link.messages import DriftAlarm, DriftReport, PlacementReport, Reported, Up, decode
from tests.hub.web.test_quality import fill
from tests.peers.browser import open_browser
from tests.worlds.bundles import make_opaque_bundle
from tests.worlds.dashboard import DashboardWorld
from tests.worlds.fleet import BundleFleet
from tests.worlds.hub import make_database, make_repository

FOLDER = Path(__file__).parents[3] / "docs" / "images"

DRIFTED = "sharpness is 4.1 standard deviations below its reference"


def take(folder: Path) -> None:
    """Takes the page of all devices, and that of a rollout in its first stage."""
    with tempfile.TemporaryDirectory() as place:
        hub = Path(place) / "hub"
        make_repository(hub, ["line-a", "line-b"])
        make_database(hub)
        fleet = BundleFleet(hub, devices=9)
        push(hub, _bundle(Path(place), "2.3.0", 0.861, 9.4), group="line-a", canary=0, healthy_for_s=0)
        fleet.settle()
        push(hub, _bundle(Path(place), "2.4.0", 0.8806, 8.8), group="line-a", canary=2, healthy_for_s=600)
        fleet.answer("cam-0")
        _add_devices(fleet)
        fleet.close()
        world = DashboardWorld(hub)
        try:
            with open_browser() as browser:
                for name, path in (("devices", "/"), ("rollout", "/rollouts/line-a-2")):
                    with world.open_page(browser, "operate", path, "tablet") as page:
                        page.screenshot(path=folder / f"dashboard-{name}.png")
        finally:
            world.close()


def _bundle(place: Path, version: str, map50: float, latency_ms: float) -> Path:
    report = {"int8": {"map50": map50, "latency_ms": latency_ms}, "accuracy_on": "876 frames, fold train"}
    files = {"report.json": json.dumps(report).encode(), "model_card.md": f"# surface {version}\n".encode()}
    return make_opaque_bundle(place / version, files, version=version, model=version.encode()).path


def _add_devices(fleet: BundleFleet) -> None:
    timeline = FleetTimeline(fleet.database)
    alarm = DriftAlarm(name="sharpness-low", since_ns=1, text=DRIFTED)
    with fleet.database.transaction():
        for name in (*fleet.names, *(f"press-{number}" for number in range(6))):
            is_press = name.startswith("press")
            board, group = ("Jetson Orin Nano", "line-b") if is_press else ("Raspberry Pi 5", "line-a")
            born = Up(device=name, up=True, boot_id="b", group=group, board=board, agent_version="0.1.0")
            timeline.write_up(born)
            used = "tensorrt/gpu:0" if is_press else "ort/cpu:0"
            rows = fleet.database.query("SELECT reported FROM devices WHERE device = ?", name)
            known = rows[0]["reported"]
            report = msgspec.structs.replace(
                decode(known.encode(), Reported) if known else Reported(device=name),
                free_bytes=41 * 10**9 if is_press else 18 * 10**9,
                recipe="steel-2mm",
                placement=PlacementReport(requested_device=used.partition("/")[2], used_device=used),
                drift=DriftReport(alarms=(alarm,)) if name == "press-4" else None,
            )
            timeline.write_reported(report)
        timeline.write_up(Up(device="cam-7", up=False, boot_id="b"))


def take_quality(folder: Path) -> None:
    """Takes the page of quality of the worse of two lines, and the editor of boxes."""
    with tempfile.TemporaryDirectory() as place:
        hub = Path(place) / "hub"
        make_repository(hub, ["line-a", "line-b"])
        make_database(hub)
        world = DashboardWorld(hub)
        try:
            fill(world)
            with open_browser() as browser:
                with world.open_page(browser, "operate", "/quality?since=all&group=line-b&step_h=1", "tablet") as page:
                    page.wait_for_selector(".chart canvas")
                    page.locator(".pareto").evaluate("chart => chart.closest('section').scrollIntoView()")
                    page.screenshot(path=folder / "dashboard-quality.png")
                with world.open_page(browser, "operate", "/relabel/next", "tablet") as page:
                    page.wait_for_selector(".frame rect")
                    page.screenshot(path=folder / "dashboard-relabel.jpg", type="jpeg", quality=75)
        finally:
            world.close()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    take(FOLDER)
    take_quality(FOLDER)
    sys.exit(0)
