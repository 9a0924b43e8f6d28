"""Rollouts from the browser: a hub's process with its dashboard, a broker, and devices with the agent's own machine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from lineside.cli import main
from lineside_hub.rollouts.push import push
from lineside_hub.simulate.bundles import make_bundle
from tests.peers import free_port, wait_for
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.worlds.dashboard import DashboardWorld
from tests.worlds.hub import HubProcess, make_database, make_repository, write_hub
from tests.worlds.simulated_group import GROUP, NAMES, SITE, SimulatedGroup

pytestmark = pytest.mark.peer


class RolloutWorld(DashboardWorld):
    """A dashboard, and the devices behind it."""

    group: SimulatedGroup


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutWorld]:
    place = tmp_path_factory.mktemp("rollouts")
    hub = place / "hub"
    make_repository(hub, [GROUP, "line-b"])
    make_database(hub)
    port = free_port()
    broker = Mosquitto(place / "broker", program=find_mosquitto())
    broker.start()
    write_hub(hub, broker.config(site=SITE), web={"port": port})
    process = HubProcess(hub, place / "hub.log")
    process.start()
    made = RolloutWorld(hub, url=f"http://127.0.0.1:{port}")
    made.group = SimulatedGroup(hub, broker.url, place / "devices")
    made.group.start()
    for version in (2, 3):
        push(hub, make_bundle(place / f"signed-{version}", version, 4096).path, group=GROUP, sign_only=True)
    yield made
    made.group.close()
    process.kill()
    broker.stop()


def begin(page: Page, version: str, **fields: str) -> None:
    """Chooses a bundle, fills the form and presses start."""
    page.select_option("#bundle", f"simulated@{version}")
    expect(page.locator("input[name=bundle]")).to_have_value(f"simulated@{version}")
    for name, text in fields.items():
        page.fill(f"[name={name}]", text)
    page.click("button.primary")
    page.wait_for_url("**/rollouts/line-a-*")


def test_a_rollout_is_started_paused_resumed_and_rolled_back(world: RolloutWorld, browser: Browser) -> None:
    group = world.group
    with world.open_page(browser, "operate", "/rollouts/new?group=line-a") as page:
        page.on("dialog", lambda dialog: dialog.accept())
        begin(page, "2.0.0", canary="cam-2", healthy_for_s="1")
        page.click("button:has-text('Pause')")
        expect(page.locator("dl")).to_contain_text("paused")
        expect(page.locator("tr:has-text('cam-2')")).to_contain_text("healthy")
        assert group.runs() == {"cam-1": "1.0.0", "cam-2": "2.0.0", "cam-3": "1.0.0"}
        page.click("button:has-text('Resume')")
        group.wait_all("2.0.0")
        page.click("button:has-text('Roll back to simulated@1.0.0')")
        group.wait_all("1.0.0")
    rows = world.client("administer").json("GET", "/api/v1/audit")
    done = [(one["who"], one["action"], json.loads(one["after"])) for one in reversed(rows)]
    assert [(who, action) for who, action, _ in done] == [("Otto", "start rollout")] + [("Otto", "order rollout")] * 3
    assert [after.get("order") for _, _, after in done[1:]] == ["pause", "resume", "roll_back"]
    assert done[0][2] | {"sha256": ""} == {
        "rollout": "line-a-2",
        "bundle": "simulated@2.0.0",
        "group": "line-a",
        "sha256": "",
        "canary": "cam-2",
        "healthy_for_s": 1.0,
    }


def test_a_failed_canary_shows_with_its_error_and_one_that_is_aborted_goes_back(
    world: RolloutWorld, browser: Browser
) -> None:
    with world.open_page(browser, "operate", "/rollouts/new?group=line-a") as page:
        page.on("dialog", lambda dialog: dialog.accept())
        begin(page, "3.0.0", canary="cam-1", healthy_for_s="600")
        expect(page.locator("dl")).to_contain_text("rolled back: 1 of 1 device failed: cam-1")
        page.goto(world.url + "/rollouts/new?group=line-a")
        begin(page, "2.0.0", canary="cam-3", healthy_for_s="600")
        wait_for(lambda: world.group.runs()["cam-3"] == "2.0.0")
        page.click("button:has-text('Abort')")
        expect(page.locator("dl")).to_contain_text("aborted")
        world.group.wait_all("1.0.0")


def test_a_browser_signs_nothing_and_shows_the_command(world: RolloutWorld, browser: Browser) -> None:
    with world.open_page(browser, "operate", "/rollouts/new?group=line-b") as page:
        command = page.locator("pre").first.inner_text()
        assert page.locator("button:has-text('Start')").count() == 0
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("lineside", 0)
        page.reload()
        expect(page.locator("button.primary")).to_be_visible()
    client = world.client("operate")
    status, body = client.send("POST", "/api/v1/rollouts", {"bundle": "simulated@1.0.0", "group": "line-b"})
    assert (status, json.loads(body)["error"]) == (409, "SignatureError")
    for wrong in ({"group": "nowhere"}, {"sha256": "0" * 64}, {"phases": "50,10"}, {"canary": "cam-9"}):
        asked = {"bundle": "simulated@2.0.0", "group": "line-a", **wrong}
        assert client.send("POST", "/api/v1/rollouts", asked)[0] == 409, wrong
    assert client.send("POST", "/api/v1/rollouts", {"bundle": "simulated@9.0.0", "group": "line-a"})[0] == 409
    assert client.send("POST", "/api/v1/rollouts/line-a-99/order", {"order": "abort"})[0] == 409
    assert world.group.runs() == dict.fromkeys(NAMES, "1.0.0")
