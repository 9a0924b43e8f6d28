"""The operator screen of an agent whose bundle has learned good parts, in a real browser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle
from tests.peers import free_port, wait_for
from tests.peers.browser import open_browser
from tests.worlds.agent import AgentProcess, write_agent

pytestmark = pytest.mark.peer

SIZES = {"panel-7": (800, 480), "panel-10": (1280, 800), "phone": (390, 844)}

KEY_PX = {"panel-7": 104, "panel-10": 118, "phone": 76}

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, learnt: Bundle) -> Iterator[AgentProcess]:
    """An agent that is triggered on strips: every third one is bad."""
    folder = tmp_path_factory.mktemp("learned")
    (folder / "frames").mkdir()
    for number in range(12):
        image = np.asarray(render("steel", 50 + number, defects=4 * (number % 3 == 2)).image)
        cv2.imwrite(str(folder / "frames" / f"{number:02d}.png"), image)
    port = free_port()
    write_agent(
        folder,
        bundle=str(learnt.path),
        camera={"type": "folder", "path": "frames", "loop": True},
        trigger={"deadline_ms": 20000},
        device="press-3",
        screen={"port": port, "control": True},
    )
    started = AgentProcess(folder)
    started.url = f"http://127.0.0.1:{port}/"  # type: ignore[attr-defined]
    started.start()
    try:
        wait_for(lambda: started.line.get("ready"), 120.0, what=started.log[-3000:])
        yield started
    finally:
        started.stop()


def part(agent: AgentProcess, verdict: str) -> str:
    """Triggers parts until one has this verdict; returns its name."""
    for _ in range(12):
        answer = ask(agent.state, TriggerRequest("trigger", part_id=f"S-{next(NUMBERS)}"))
        if answer["verdict"] == verdict:
            return str(answer["part_id"])
    raise AssertionError(f"no {verdict}: {answer}")


def open_page(browser: Browser, agent: AgentProcess, size: str) -> Page:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=True,
        locale="en-GB",
        color_scheme="dark" if size == "panel-10" else "light",
    )
    page = context.new_page()
    page.goto(agent.url)  # type: ignore[attr-defined]
    expect(page.locator("#device").first).to_have_text("press-3")
    return page


def check_view(page: Page, size: str) -> None:
    """Checks that keys are large, that nothing hangs over, and that axe finds nothing serious."""
    small = page.evaluate(
        "least => [...document.querySelectorAll('button, input[type=range]')].filter(key => key.checkVisibility())"
        ".map(key => [key.textContent || key.id, key.getBoundingClientRect()])"
        ".filter(([, box]) => Math.min(box.width, box.height) < least)"
        ".map(([text, box]) => `${text} ${box.width}x${box.height}`)",
        KEY_PX[size],
    )
    assert small == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if size != "phone":
        found = Axe().run(page)
        grave = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"]) for one in grave] == []


@pytest.mark.parametrize("size", SIZES)
def test_heat_map_and_good_part_show_why(browser: Browser, agent: AgentProcess, size: str, tmp_path: Path) -> None:
    part(agent, "pass")
    bad = part(agent, "reject")
    page = open_page(browser, agent, size)
    expect(page.locator("#part")).to_have_text(bad)
    assert "heat" not in (page.get_attribute("#picture img", "src") or "")  # off until somebody asks
    page.tap("#heat-key")
    page.wait_for_selector("#picture img[src$='heat.jpg']")
    check_view(page, size)
    page.screenshot(path=tmp_path / f"live-{size}.png")
    page.tap(f"#strip button[aria-label$='{bad}']")
    page.wait_for_selector("#full .box")
    page.tap("#reject-keys button:has-text('Heat map')")
    page.wait_for_selector("#full img[src*='heat']")
    page.tap("#reject-keys button:has-text('Good part beside')")
    page.wait_for_selector("#similar img")
    assert page.locator("#full figure").count() == 2
    assert page.locator("#similar img").evaluate("image => image.naturalWidth") > 0
    check_view(page, size)
    page.screenshot(path=tmp_path / f"reject-{size}.png")
    page.context.close()
