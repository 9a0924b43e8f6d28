"""The operator screen of an agent whose bundle has learned good parts, in a real browser."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from lineside_agent.config import read_config
from lineside_agent.deployment.artifacts.configuration import read_followed
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_agent.screen.actions import ActionLog
from lineside_agent.screen.people import add_person
from lineside_agent.screen.set_up.learning_wizard import EVERY_S
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle
from tests.agent.screen.panels import check_in_all_sizes, check_view, new_page, resize
from tests.peers import free_port, wait_for
from tests.peers.browser import browser as browser
from tests.worlds.agent import AgentProcess, write_agent

pytestmark = pytest.mark.peer

NUMBERS = itertools.count(1)

PICTURES = 18


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, learnt: Bundle) -> Iterator[AgentProcess]:
    """An agent that is triggered on strips: every third one is bad."""
    folder = tmp_path_factory.mktemp("learned")
    (folder / "frames").mkdir()
    for number in range(PICTURES):
        image = np.asarray(render("steel", 50 + number, defects=4 * (number % 3 == 2)).image)
        cv2.imwrite(str(folder / "frames" / f"{number:02d}.png"), image)
    port = free_port()
    write_agent(
        folder,
        bundle=str(learnt.path),
        camera={"type": "folder", "path": "frames", "loop": True},
        trigger={"deadline_ms": 20000},
        device="press-3",
        inspect={"health_timeout_s": 1.0},
        screen={"port": port, "control": True, "learn": True},
    )
    (folder / "state").mkdir()
    add_person(folder / "state", "Sara", "set_up", "147258")
    started = AgentProcess(folder)
    started.url = f"http://127.0.0.1:{port}/"  # type: ignore[attr-defined]
    started.start()
    try:
        wait_for(lambda: started.line.get("ready"), 120.0, what=lambda: started.log[-3000:])
        yield started
    finally:
        started.stop()


def part(agent: AgentProcess, verdict: str) -> str:
    """Triggers parts until one has this verdict; returns its name."""
    for _ in range(PICTURES):
        answer = ask(agent.state, TriggerRequest("trigger", part_id=f"S-{next(NUMBERS)}"))
        if answer["verdict"] == verdict:
            return str(answer["part_id"])
    raise AssertionError(f"no {verdict}: {answer}")


def open_page(browser: Browser, agent: AgentProcess, size: str) -> Page:
    page = new_page(browser, size)
    page.on("pageerror", lambda error: failed(str(error)))
    page.goto(agent.url)  # type: ignore[attr-defined]
    expect(page.locator("#device").first).to_have_text("press-3")
    return page


def failed(error: str) -> None:
    """Fails the test for an error of a script."""
    raise AssertionError(error)


def sign_in(page: Page) -> None:
    """Signs Sara in."""
    page.tap("nav [data-view=more]")
    page.tap("#more-body button:has-text('Sign in')")
    page.tap("#sign-in button:has-text('Sara')")
    for key in (*"147258", "Enter"):
        page.tap(f"#sign-in button:text-is('{key}')")
    expect(page.locator("#who")).to_have_text("Sara")


def wait_for_figures(page: Page, agent: AgentProcess) -> None:
    """Triggers until the camera's picture is shown: a source that waits for triggers shows none before."""
    page.tap("#more-body button:text-is('Camera')")
    expect(page.locator("#camera-keys button").first).to_be_visible()
    for _ in range(5):
        part(agent, "pass")
        with contextlib.suppress(TimeoutError):
            page.wait_for_selector("#camera-picture img", timeout=3000)
            return
    raise AssertionError("no picture")


def test_heat_map_and_good_part_show_why(browser: Browser, agent: AgentProcess) -> None:
    part(agent, "pass")
    bad = part(agent, "reject")
    page = open_page(browser, agent, "phone")
    expect(page.locator("#part")).to_have_text(bad)
    assert "heat" not in (page.get_attribute("#picture img", "src") or "")  # off until somebody asks
    page.tap("#heat-key")
    page.wait_for_selector("#picture img[src$='heat.jpg']")
    page.tap(f"#strip button[aria-label$='{bad}']")
    page.wait_for_selector("#full .box")
    page.tap("#reject-keys button:has-text('Heat map')")
    page.wait_for_selector("#full img[src*='heat']")
    page.tap("#reject-keys button:has-text('Good part beside')")
    page.wait_for_selector("#similar img")
    assert page.locator("#full figure").count() == 2
    assert page.locator("#similar img").evaluate("image => image.naturalWidth") > 0
    check_in_all_sizes(page)
    page.context.close()


def test_a_camera_is_set_up_and_a_region_is_drawn_which_applies(browser: Browser, agent: AgentProcess) -> None:
    page = open_page(browser, agent, "panel-7")
    sign_in(page)
    wait_for_figures(page, agent)
    expect(page.locator("#focus p")).to_contain_text("%")
    page.tap("#camera-keys button:has-text('Inspect here')")
    page.locator("#regions").scroll_into_view_if_needed()
    scale, left, top = page.eval_on_selector("#regions", "made => (({a, e, f}) => [a, e, f])(made.getScreenCTM())")
    page.mouse.move(left + 20 * scale, top + 20 * scale)
    page.mouse.down()
    page.mouse.move(left + 160 * scale, top + 180 * scale, steps=3)
    page.mouse.up()
    page.tap("#camera-keys button:has-text('Add corner')")
    check_in_all_sizes(page)
    resize(page, "panel-7")
    page.tap("#camera-keys button:has-text('Save')")
    expect(page.locator("#camera-note")).to_contain_text("The regions apply", timeout=60_000)
    polygon = read_followed(read_config(agent.config_path)).inspect.regions[-1].polygon
    assert len(polygon) == 5 and abs(polygon[0][0] - 0.1) < 0.02
    done = ActionLog(agent.state).last(1)[0]
    assert (done.by, done.action, done.error) == ("Sara", "regions", "")
    page.context.close()


def hasten_learning(agent: AgentProcess) -> bool:
    """Gives the learning process the priority of a test, where root runs it; false before it has lowered its own."""
    for child in psutil.Process(agent.pid).children():
        if "learning_process" in " ".join(child.cmdline()) and child.nice() > 0:
            with contextlib.suppress(OSError, psutil.AccessDenied):
                child.nice(0)
                Path(f"/proc/{child.pid}/autogroup").write_text("0")
            return True
    return False


@pytest.mark.timeout(900)
def test_good_parts_are_learned_at_the_screen_and_run(browser: Browser, agent: AgentProcess) -> None:
    page = open_page(browser, agent, "panel-7")
    sign_in(page)
    page.tap("#more-body button:has-text('Learn good parts')")
    page.tap("#learning-keys button:has-text('Collect')")
    page.wait_for_selector("#learning-keys button:has-text('Pause')")
    rejected: list[int] = []
    for count in range(1, PICTURES + 1):
        if ask(agent.state, TriggerRequest("trigger", part_id=f"T-{count}"))["verdict"] != "pass":
            rejected.append(count)
        expect(page.locator("#learning-parts button")).to_have_count(count)
        due_s = time.monotonic() + EVERY_S
        wait_for(lambda: time.monotonic() > due_s)  # noqa: B023  the wizard takes no part before that
    for place in rejected[:6]:
        page.tap(f"#learning-parts button[aria-label$=' T-{place}']")
        expect(page.locator(f"#learning-parts button[aria-label$=' T-{place}']")).to_have_count(0)
    page.tap("#learning-keys button:has-text('Learn')")
    wait_for(functools.partial(hasten_learning, agent))
    page.wait_for_selector("#learning-keys button:has-text('Accept')", timeout=400_000)
    page.tap("#learning-keys button:has-text('Looser')")
    expect(page.locator("#learning-scores dd").first).to_have_text("0.52")
    page.tap("#learning-keys button:has-text('Stricter')")
    check_view(page, "panel-7")
    page.tap("#learning-keys button:has-text('Accept')")
    expect(page.locator("#learning-note")).to_contain_text("What was learned runs now", timeout=400_000)
    installed = agent.machine.installed
    assert installed is not None and (installed.name, installed.target) == ("learned-press-3", "local:Sara")
    done = ActionLog(agent.state).last(1)[0]
    assert (done.by, done.subject, done.detail, done.error) == ("Sara", "accept", "0.50", "")
    check_in_all_sizes(page)
    resize(page, "panel-7")
    page.tap("#learning-keys button:has-text('Discard')")
    expect(page.locator("#learning-parts button")).to_have_count(0)
    page.context.close()
