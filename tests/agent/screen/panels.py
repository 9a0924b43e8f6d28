"""Screens on which the operator screen is shown, and what holds for each view on each of them."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

SIZES = {"panel-7": (800, 480), "panel-10": (1280, 800), "phone": (390, 844)}

KEY_PX = {"panel-7": 104, "panel-10": 118, "phone": 76}
"""20 mm of a 7-inch panel with 800 pixels in 154 mm, and of a 10-inch one with 1280 in 217 mm; a phone is held."""


def new_page(browser: Browser, size: str) -> Page:
    page = browser.new_context(has_touch=True, locale="en-GB").new_page()
    resize(page, size)
    return page


def resize(page: Page, size: str) -> None:
    """Shows the page as on another screen."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if size == "panel-10" else "light")


def check_in_all_sizes(page: Page) -> None:
    """Checks the view on each of `SIZES`."""
    for size in SIZES:
        resize(page, size)
        check_view(page, size)


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
