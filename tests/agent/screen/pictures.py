"""Takes the pictures of the operator screen in README and docs: ``python -m tests.agent.screen.pictures``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import Browser, Page

from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_agent.screen.people import add_person
from lineside_models.simulator import render
from tests.peers import free_port, wait_for
from tests.peers.browser import open_browser
from tests.worlds.agent import AgentProcess, write_agent

FOLDER = Path(__file__).parents[3] / "docs" / "images"


BYTES_MAX = 150_000
"""Of a picture; noise on steel needs more than a board."""

JPEG_QUALITY = 75
"""Of pictures with noise all over."""

PIN = "147258"

GOOD_PARTS, BAD_PARTS = 25, 8

STRIP = 104
"""Seed of the strip that they are pictures of."""


def take(folder: Path) -> None:
    """Runs the line simulator with a shipped bundle, and takes the live view and a reject."""
    with tempfile.TemporaryDirectory() as place, open_browser() as browser:
        camera = {"type": "simulator", "seed": 12, "rate_hz": 1.5}
        with _agent(Path(place), bundle="surface-12", camera=camera) as (agent, url):
            wait_for(lambda: agent.status.get("rejected", 0) >= 12)
            page = _open(browser, url)
            while True:
                page.wait_for_selector("#live:has(#verdict.reject) .box")
                shot = page.screenshot()
                if len(shot) <= BYTES_MAX:
                    break
                page.wait_for_timeout(500)
            (folder / "screen-live.png").write_bytes(shot)
            page.tap("#strip button:nth-child(2)")
            page.wait_for_selector("#full .box")
            page.screenshot(path=folder / "screen-reject.png")


def take_learned(folder: Path) -> None:
    """Learns good parts as the wizard does; takes the wizard, regions of a camera, and a reject beside a good part."""
    with tempfile.TemporaryDirectory() as name, open_browser() as browser:
        place = Path(name)
        wizard = place / "state" / "learning"
        _write_parts(wizard / "good", GOOD_PARTS, defects=0, light=range(-6, 7))
        _write_parts(wizard / "bad", BAD_PARTS, defects=4, light=range(-3, 4))
        _write_parts(place / "frames", 6, defects=0, light=range(-5, 6, 2))
        _write_parts(place / "frames", 2, defects=4, light=range(-2, 3, 4), first=6)
        arguments = ["learn", str(wizard), "learned-press-3", "1", "good parts of the simulator"]
        module = "lineside_agent.screen.set_up.learning_process"
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, start_new_session=True)
        add_person(place / "state", "Sara", "set_up", PIN)
        settings: dict[str, Any] = {
            "bundle": str(wizard / "bundle"),
            "camera": {"type": "folder", "path": "frames", "loop": True, "name": "top"},
            "trigger": {"deadline_ms": 20000},
            "store": {"keep_images": "all"},
            "inspect": {
                "regions": [{"kind": "inspect", "polygon": [[0.1, 0.1], [0.9, 0.06], [0.86, 0.9], [0.12, 0.84]]}]
            },
        }
        with _agent(place, screen={"control": True, "learn": True}, **settings) as (agent, url):
            wait_for(lambda: agent.line.get("ready"), 120.0)
            page = _open(browser, url)
            _sign_in(page)
            page.tap("#more-body button:has-text('Learn good parts')")
            page.wait_for_selector("#learning-keys button:has-text('Accept')")
            page.screenshot(path=folder / "screen-learn.jpg", type="jpeg", quality=JPEG_QUALITY)
            page.tap("nav [data-view=more]")
            page.tap("#more-body button:text-is('Camera')")
            while not page.locator("#camera-picture img").count():
                _trigger(agent)
            page.wait_for_selector("#focus p")
            page.locator("#regions").scroll_into_view_if_needed()
            page.screenshot(path=folder / "screen-camera.jpg", type="jpeg", quality=JPEG_QUALITY)
            page.tap("nav [data-view=live]")
            for _ in range(8):
                _trigger(agent)
            while _trigger(agent) != "reject":
                pass
            page.wait_for_selector("#live:has(#verdict.reject) .box")
            page.tap("#strip button")
            page.tap("#reject-keys button:has-text('Heat map')")
            page.wait_for_selector("#full img[src*='heat']")
            page.tap("#reject-keys button:has-text('Good part beside')")
            page.wait_for_selector("#similar img")
            page.screenshot(path=folder / "screen-similar.jpg", type="jpeg", quality=JPEG_QUALITY)


@contextmanager
def _agent(place: Path, *, screen: dict[str, Any] | None = None, **settings: Any) -> Iterator[tuple[AgentProcess, str]]:
    port = free_port()
    write_agent(place, device="press-2", screen={"port": port, **(screen or {})}, **settings)
    agent = AgentProcess(place)
    agent.start()
    try:
        yield agent, f"http://127.0.0.1:{port}/"
    finally:
        agent.stop()


def _open(browser: Browser, url: str) -> Page:
    context = browser.new_context(viewport={"width": 800, "height": 480}, has_touch=True, locale="en-GB")
    page = context.new_page()
    page.goto(url)
    return page


def _sign_in(page: Page) -> None:
    page.tap("nav [data-view=more]")
    page.tap("#more-body button:has-text('Sign in')")
    page.tap("#sign-in button:has-text('Sara')")
    for key in (*PIN, "Enter"):
        page.tap(f"#sign-in button:text-is('{key}')")
    page.wait_for_selector("#who:text-is('Sara')")


def _write_parts(folder: Path, count: int, *, defects: int, light: range, first: int = 0) -> None:
    """Writes parts of one kind, in changing light and with noise of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    part = np.asarray(render("steel", STRIP, defects=defects).image).astype(np.int16)
    draw = np.random.default_rng(first + 10 * defects)
    for number in range(count):
        noise = draw.normal(light[number % len(light)], 2.0, part.shape[:2])[..., None]
        image = np.clip(part + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{first + number:04d}.png"), image)


def _trigger(agent: AgentProcess) -> str:
    return str(ask(agent.state, TriggerRequest("trigger"))["verdict"])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    take(FOLDER)
    take_learned(FOLDER)
    sys.exit(0)
