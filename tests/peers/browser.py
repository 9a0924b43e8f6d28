"""Chromium without a window, driven by Playwright or started for one page.

Debian's ``chromium-headless-shell`` is the same engine without the desktop browser around it, which takes twice the
processor time.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.peers.programs import find_program

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Opens Debian's Chromium for Playwright, whose own browsers are not needed."""
    program = _find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all tests of a file."""
    expect.set_options(timeout=20_000)
    with open_browser() as opened:
        yield opened


def load_once(page: Path, *flags: str, profile: Path) -> str:
    """Loads a file in a Chromium of its own, which costs a quarter of Playwright; returns what it prints.

    Args:
        flags: What it does with the page, such as ``--dump-dom``.
        profile: A folder for its files.
    """
    command = [_find_chromium(), *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout


def _find_chromium() -> str:
    """Returns the program; the desktop browser where only that is installed."""
    return shutil.which("chromium-headless-shell") or find_program("chromium", "chromium-headless-shell")
