"""Chromium without a window, driven by Playwright."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.peers.programs import find_program

_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Opens Debian's chromium for Playwright, whose own browsers are not needed."""
    chromium = find_program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
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
