"""Takes the pictures of the operator screen in README and docs: ``python -m tests.agent.screen.pictures``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.peers import free_port, wait_for
from tests.peers.browser import open_browser
from tests.worlds.agent import AgentProcess, write_agent

FOLDER = Path(__file__).parents[3] / "docs" / "images"


BYTES_MAX = 150_000
"""Of a picture; noise on steel needs more than a board."""


def take(folder: Path) -> None:
    """Runs the line simulator with a shipped bundle, and takes the live view and a reject."""
    with tempfile.TemporaryDirectory() as place, open_browser() as browser:
        port = free_port()
        camera = {"type": "simulator", "seed": 12, "rate_hz": 1.5}
        screen = f"[screen]\nport = {port}\n"
        write_agent(Path(place), tables=screen, device="press-2", bundle="surface-12", camera=camera)
        agent = AgentProcess(Path(place))
        agent.start()
        try:
            wait_for(lambda: agent.status.get("rejected", 0) >= 12)
            context = browser.new_context(viewport={"width": 800, "height": 480}, has_touch=True, locale="en-GB")
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
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
        finally:
            agent.stop()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    take(FOLDER)
    sys.exit(0)
