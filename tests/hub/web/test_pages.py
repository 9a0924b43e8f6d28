"""The pages of the dashboard in Chromium, at three sizes, with what the hub knows of a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.folder_lock import running_lock
from lineside_hub.link_monitor import NAME as LINK_STATE
from lineside_hub.rollouts.push import push
from lineside_hub.web.pages import devices
from lineside_link.messages import DriftAlarm, DriftReport, Reported, Up
from tests.worlds.bundles import make_opaque_bundle
from tests.worlds.dashboard import PASSWORD, DashboardWorld, check_in_all_sizes
from tests.worlds.fleet import BundleFleet
from tests.worlds.hub import make_database, make_repository

pytestmark = pytest.mark.peer

PAGES = (
    "/",
    "/devices/cam-1",
    "/events",
    "/rollouts",
    "/rollouts/line-a-2",
    "/rollouts/new?group=line-a",
    "/accounts",
    "/audit",
    "/api",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    """Two lines: a rollout whose canary failed on one, a device that drifts on the other."""
    place = tmp_path_factory.mktemp("pages")
    hub = place / "hub"
    make_repository(hub, ["line-a", "line-b"])
    make_database(hub)
    fleet = BundleFleet(hub)
    push(hub, _bundle(place, 1, "0.86"), group="line-a", canary=0, healthy_for_s=0)
    fleet.settle()
    push(hub, _bundle(place, 2, "0.88"), group="line-a", canary=2, healthy_for_s=600)
    fleet.answer("cam-0")
    fleet.answer("cam-1", state="failed")
    alarm = DriftAlarm(name="sharpness-low", since_ns=1, text="sharpness is 4.1 deviations low")
    with fleet.database.transaction():
        FleetTimeline(fleet.database).write_up(Up(device="press-2", up=True, boot_id="b", group="line-b", board="Pi 5"))
        FleetTimeline(fleet.database).write_up(Up(device="cam-2", up=False, boot_id="b"))
        FleetTimeline(fleet.database).write_reported(Reported(device="press-2", drift=DriftReport(alarms=(alarm,))))
    fleet.close()
    made = DashboardWorld(hub)
    yield made
    made.close()


def _bundle(place: Path, version: int, map50: str) -> Path:
    report = f'{{"int8": {{"map50": {map50}, "latency_ms": 8.8}}, "accuracy_on": "876 frames"}}'
    card = f"# surface\n\nFor steel.\n\nTrained on {version}000 images.\n"
    files = {"report.json": report.encode(), "model_card.md": card.encode()}
    return make_opaque_bundle(place / str(version), files, version=f"{version}.0.0", model=bytes([version])).path


def test_every_page_fits_and_has_no_barrier(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "administer") as page:
        for path in PAGES:
            check_in_all_sizes(page, world.url + path, path.strip("/").replace("/", "-") or "devices")


def test_a_person_signs_in_sees_what_is_wrong_and_signs_out(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, None, "/devices/cam-1") as page:
        expect(page.locator("h1")).to_have_text("Sign in")
        page.fill("[name=name]", "Wanda")
        page.fill("[name=password]", "not these four words")
        page.keyboard.press("Enter")
        expect(page.locator("#message")).to_contain_text("the name or the password is wrong")
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("cam-1")
        expect(page.locator(".problems")).to_contain_text("[5001] m")
        assert page.locator("nav a").all_inner_texts()[:2] == ["Devices", "Rollouts"]
        assert page.locator("nav >> text=Accounts").count() == 0
        assert page.locator("button:has-text('Follow the group')").count() == 0
        page.click("nav >> text=Events")  # of the hub
        expect(page.locator("tbody")).to_contain_text("line-a-1: completed")
        page.click("nav >> text=Devices")
        page.select_option("[name=show]", "problems")
        page.click("main button")
        expect(page.locator("tbody th")).to_have_text(["cam-1", "cam-2", "press-2"])
        expect(page.locator("tbody")).to_contain_text("sharpness is 4.1 deviations low")
        page.click("text=Sign out")
        expect(page.locator("h1")).to_have_text("Sign in")


def test_many_devices_are_shown_in_pages_below_a_map_of_all(
    world: DashboardWorld, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "ROWS_SHOWN", 3)
    names = [one["name"] for one in world.client("watch").json("GET", "/api/v1/devices")]
    with world.open_page(browser, "watch", "/?page=9") as page:
        assert page.locator("tbody th").all_inner_texts() == names[3:6]
        assert page.locator(".tile").count() == len(names)
        page.click("main >> text=Previous")
        expect(page.locator("tbody th")).to_have_text(names[:3])
        expect(page.locator("[aria-label='Pages of the table']")).to_contain_text(f"1 to 3 of {len(names)} devices")
        assert Axe().run(page).violations_count == 0
        page.click("main >> text=Next")
        expect(page.locator("tbody th")).to_have_text(names[3:6])
    (world.folder / LINK_STATE).write_text('{"problem": "the hub has no connection"}')
    with running_lock(world.folder):
        for path in ("/", f"/devices/{names[0]}", "/rollouts", "/rollouts/line-a-2"):
            assert b"the hub has no connection" in world.client("watch").send("GET", path)[1], path
    (world.folder / LINK_STATE).unlink()


def test_the_differences_of_two_bundles_are_shown_before_a_start(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "operate", "/rollouts/new?group=line-a") as page:
        row = page.locator("tr:has-text('mAP@0.5 (INT8)')")
        expect(row).to_have_text("mAP@0.5 (INT8)0.86● 0.88")
        expect(page.locator(".diff")).to_contain_text("+Trained on 2000 images.")
    compared = world.client("watch").json("GET", "/api/v1/bundles/comparison?before=surface@1.0.0&after=surface@2.0.0")
    assert {"name": "scratch", "before": "0.500", "after": "0.500"} in compared["thresholds"]


def test_a_page_shows_what_changes_without_being_loaded_again(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "watch", "/rollouts/line-a-2") as page:
        expect(page.locator("dl")).to_contain_text("running")
        world.client("operate").json("POST", "/api/v1/rollouts/line-a-2/order", {"order": "pause"})
        expect(page.locator("dl")).to_contain_text("paused")
        world.client("operate").json("POST", "/api/v1/rollouts/line-a-2/order", {"order": "resume"})


def test_a_page_that_refreshes_itself_keeps_the_focus_and_a_press(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "operate", "/rollouts/line-a-2") as page:
        page.on("dialog", lambda dialog: dialog.dismiss())
        pause = page.get_by_role("button", name="Pause")
        pause.focus()
        page.evaluate("document.getElementById('live').dataset.old = 'yes'")
        expect(page.locator("#live[data-old]")).to_have_count(0)  # it was replaced
        expect(pause).to_be_focused()
        box = pause.bounding_box()
        assert box is not None
        page.evaluate("document.getElementById('live').dataset.old = 'yes'")
        page.mouse.move(box["x"] + 9, box["y"] + 9)
        page.mouse.down()
        with page.expect_response(lambda one: "x-refresh" in one.request.headers):
            pass
        expect(page.locator("#live[data-old]")).to_have_count(1)  # the key that is held stays
        page.mouse.up()
        expect(page.locator("dl")).to_contain_text("paused")
        world.client("operate").json("POST", "/api/v1/rollouts/line-a-2/order", {"order": "resume"})


def test_an_account_is_added_and_removed_in_the_browser(world: DashboardWorld, browser: Browser) -> None:
    with world.open_page(browser, "administer", "/accounts") as page:
        page.on("dialog", lambda dialog: dialog.accept())
        page.fill("form [name=name]:not([type=hidden])", "Vera")
        page.fill("[name=password]", "short one!")
        page.click("text=Save")
        expect(page.locator("tbody th", has_text="Vera")).to_have_count(1)
        with page.expect_navigation():  # the page loads again when the change is made
            page.select_option("[aria-label='Role of Vera']", "operate")
        page.click("tr:has-text('Vera') button")
        expect(page.locator("tbody th", has_text="Vera")).to_have_count(0)
        page.goto(world.url + "/audit")
        assert page.locator("tbody td:nth-child(4)").all_inner_texts()[:3] == ["remove account", *["set account"] * 2]


def test_the_description_of_the_api_is_what_the_routes_do(world: DashboardWorld) -> None:
    document = world.client("watch").json("GET", "/api/v1/openapi.json")
    order = document["paths"]["/api/v1/rollouts/{rollout}/order"]["post"]
    schema = order["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][schema]["properties"]["order"]["enum"] == [
        "abort",
        "pause",
        "resume",
        "roll_back",
    ]
    names = {one["name"] for one in document["paths"]["/api/v1/devices"]["get"]["parameters"]}
    assert names == {"group", "show", "name"}
