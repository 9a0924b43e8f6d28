"""Chromium without a window: a page is loaded, its scripts run, and what became of it is read; or it is driven."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.peers.programs import find_program

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def load_page(page: Path, *, profile: Path, wait_ms: int = 1000) -> str:
    """Loads a page, and returns its document as HTML after its scripts have run.

    Args:
        page: The file.
        profile: A folder for the browser's own files.
        wait_ms: Of the page's time, in which timers and events run.
    """
    chromium = find_program("chromium", "chromium")
    command = [chromium, *_FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={wait_ms}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Opens Debian's chromium for Playwright, whose own browsers are not needed."""
    chromium = find_program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS[1:]))
        try:
            yield browser
        finally:
            browser.close()
