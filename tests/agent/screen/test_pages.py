"""The operator screen in a real browser, with a real agent whose parts are triggered.

As root, agent and browser run in a network namespace without a route.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Error, Page, expect

from lineside_agent.config import read_config
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_agent.screen.people import add_person, remove_person
from lineside_agent.storage.record_queries import RecordQuery, rows
from lineside_agent.storage.verdict_marks import read_marks
from lineside_link.messages import ResultRow
from lineside_runtime.bundle import Bundle
from tests.agent.screen.panels import check_in_all_sizes, new_page
from tests.peers import free_port, wait_for
from tests.peers.browser import open_browser
from tests.peers.no_route import no_route
from tests.worlds.agent import TriggeredAgent

pytestmark = pytest.mark.peer

NUMBERS = itertools.count(1)
"""Of the parts, over all tests of this file."""


@pytest.fixture(scope="module")
def why_routed() -> Iterator[str]:
    """Why agent, browser and tests have a route to other machines; empty if they have none."""
    with no_route() as reason:
        yield reason


@pytest.fixture(scope="module")
def browser(why_routed: str) -> Iterator[Browser]:
    expect.set_options(timeout=20_000)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, why_routed: str) -> Iterator[TriggeredAgent]:
    """An agent whose parts pass and are rejected in turn, first a pass."""
    port = free_port()
    started = TriggeredAgent(
        tmp_path_factory.mktemp("screen"),
        bundle.path,
        f"[screen]\nport = {port}\ncontrol = true\n",
        device="press-2",
        trigger={"challenge_parts": 1},
        recipe=[{"name": "A"}, {"name": "B"}],
    )
    started.url = f"http://127.0.0.1:{port}/"  # type: ignore[attr-defined]
    try:
        pass_challenge(started)
        yield started
    finally:
        started.stop()


def pass_challenge(agent: TriggeredAgent) -> None:
    """Triggers until the challenge part, which must be rejected, was: every second image is one of a bad part."""
    wait_for(lambda: agent.line.get("challenge_left") and not agent.line["problem"])
    while not agent.line["ready"]:
        ask(agent.state, TriggerRequest("reset"))
        ask(agent.state, TriggerRequest("trigger", part_id=f"P-{next(NUMBERS)}"))
        wait_for(functools.partial(_is_newer, agent, agent.status["updated_at_ns"]))


def _is_newer(agent: TriggeredAgent, than_ns: int) -> bool:
    return int(agent.status.get("updated_at_ns", 0)) > than_ns


def part(agent: TriggeredAgent, verdict: str) -> dict[str, Any]:
    """Triggers parts until one has this verdict."""
    for _ in range(2):
        answer = ask(agent.state, TriggerRequest("trigger", part_id=f"P-{next(NUMBERS)}"))
        if answer["verdict"] == verdict:
            return answer
    raise AssertionError(f"no {verdict}: {answer}")


def record(agent: TriggeredAgent, part_id: str = "") -> list[ResultRow]:
    """Returns the records of a part, or all; the agent may run."""
    config = read_config(agent.config_path)
    return [row for _, row in rows(config, RecordQuery(part_id=part_id))]


@pytest.fixture
def page(browser: Browser, agent: TriggeredAgent) -> Iterator[Page]:
    """The screen of a 7-inch panel; it asked no other machine for anything, and no script failed."""
    opened = new_page(browser, "panel-7")
    asked: list[str] = []
    failed: list[str] = []
    opened.on("request", lambda one: asked.append(one.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.goto(agent.url)  # type: ignore[attr-defined]
    expect(opened.locator("#device").first).to_have_text("press-2")
    yield opened
    opened.context.close()
    strangers = [url for url in asked if not url.startswith((agent.url, "data:"))]  # type: ignore[attr-defined]
    assert (strangers, failed) == ([], [])


def text(page: Page, selector: str) -> str:
    return page.inner_text(selector)


def test_each_verdict_is_shown_with_its_boxes_and_counted(agent: TriggeredAgent, page: Page) -> None:
    rejected = part(agent, "reject")
    expect(page.locator("#verdict").first).to_have_text("Reject")
    expect(page.locator("#part")).to_have_text(rejected["part_id"])
    drawn = page.eval_on_selector_all(
        "#picture .box", "all => all.map(box => ['x', 'y', 'width', 'height'].map(name => +box.getAttribute(name)))"
    )
    wait_for(lambda: record(agent, rejected["part_id"]))
    boxes = [(x1, y1, x2 - x1, y2 - y1) for _, _, x1, y1, x2, y2 in record(agent, rejected["part_id"])[0].detections]
    assert len(boxes) > 0
    np.testing.assert_allclose(drawn, boxes, atol=0.01)
    passed = part(agent, "pass")
    expect(page.locator("#verdict").first).to_have_text("Pass")
    assert page.locator("#picture .box").count() == 0
    wait_for(lambda: record(agent, passed["part_id"]))
    parts = [row for row in record(agent) if not row.part_id.startswith("challenge:")]
    expect(page.locator("#counts dd").first).to_have_text(str(len(parts)))
    assert text(page, "#times dd").endswith("s")


def test_many_boxes_have_few_tags_of_which_none_lies_on_another(page: Page) -> None:
    boxes = [
        ["scratch", 1 - n / 100, 10 * (n % 8), 8 * (n // 8), 10 * (n % 8) + 9, 8 * (n // 8) + 7] for n in range(64)
    ]
    seen = {"width": 96, "height": 64, "detections": boxes[:40], "doubtful": boxes[40:]}
    made, tags = page.evaluate(
        """async (seen) => {
          const made = (await import("./screen.js")).figure(seen, new Image(), 1, []);
          const sides = (one) => ["x", "y", "width", "height"].map((name) => Number(one.getAttribute(name)));
          return [made.querySelectorAll(".box").length, [...made.querySelectorAll(".tag")].map(sides)];
        }""",
        seen,
    )
    assert made == len(boxes) and 1 <= len(tags) <= 12
    for one, other in itertools.combinations(tags, 2):
        assert not all(one[k] < other[k] + other[k + 2] and other[k] < one[k] + one[k + 2] for k in (0, 1))


def test_every_view_has_large_keys_and_no_barrier(agent: TriggeredAgent, page: Page) -> None:
    part(agent, "reject")
    page.wait_for_selector("#strip button img")
    for view in ("live", "rejects", "alarms", "more", "reject"):
        if view == "reject":
            page.tap("nav [data-view=live]")
            page.tap("#strip button")
            page.wait_for_selector("#full img")
        else:
            page.tap(f"nav [data-view={view}]")
        check_in_all_sizes(page)


def test_without_a_route_to_other_machines_everything_is_shown(
    agent: TriggeredAgent, page: Page, why_routed: str
) -> None:
    """The fixture `page` also asserts that no request was for another machine."""
    if why_routed:
        pytest.skip(why_routed)
    assert Path(f"/proc/{agent.pid}/ns/net").samefile("/proc/thread-self/ns/net")
    with socket.socket() as stranger:
        assert stranger.connect_ex(("192.0.2.1", 80)) == errno.ENETUNREACH
    with pytest.raises(Error, match=r"ERR_(INTERNET_DISCONNECTED|ADDRESS_UNREACHABLE)"):
        page.context.new_page().goto("http://192.0.2.1/")
    for verdict in ("reject", "pass"):
        shown = part(agent, verdict)
        expect(page.locator("#part")).to_have_text(shown["part_id"])
        assert page.locator("#picture img").evaluate("image => image.naturalWidth") > 0
    page.tap("#strip button")
    assert page.locator("#full img").evaluate("image => image.naturalWidth") > 0
    for view in ("rejects", "alarms", "more"):
        page.tap(f"nav [data-view={view}]")
        expect(page.locator(f"#{view}")).to_be_visible()
    page.tap("#more-body button:has-text('中文')")
    expect(page.locator("html")).to_have_attribute("lang", "zh")


def test_at_rest_everything_but_the_picture_is_grey(agent: TriggeredAgent, page: Page) -> None:
    part(agent, "pass")
    expect(page.locator("#verdict").first).to_have_text("Pass")
    shot = page.screenshot(mask=[page.locator("#picture"), page.locator("#strip")], mask_color="#808080")
    image = np.asarray(cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR), int)
    coloured = (image.max(axis=2) - image.min(axis=2)) > 12
    assert coloured.mean() < 0.05


def test_the_verdict_is_seen_without_scrolling_also_at_twice_the_size(agent: TriggeredAgent, page: Page) -> None:
    part(agent, "reject")
    for width, height in ((800, 480), (640, 400), (400, 240), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        expect(page.locator("#verdict")).to_have_text("Reject")
        expect(page.locator("#verdict")).to_be_in_viewport(ratio=0.95)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_reject_keeps_the_focus_and_a_touch_while_new_ones_come(agent: TriggeredAgent, page: Page) -> None:
    first = part(agent, "reject")["part_id"]
    page.get_by_role("button", name="Rejects").click()
    tile = page.locator(f'#grid button[aria-label$=" {first}"]')
    tile.focus()
    second = part(agent, "reject")["part_id"]
    expect(page.locator("#grid button").first).to_have_attribute("aria-label", re.compile(f" {second}$"))
    expect(tile).to_be_focused()
    box = tile.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()  # as a glove: long enough for another part to come
    third = part(agent, "reject")["part_id"]
    with page.expect_response("**/rejects"):
        part(agent, "reject")
    page.mouse.up()
    expect(page.locator("#reject-title")).to_contain_text(first)
    expect(page.locator("#reject-keys button").first).to_be_focused()
    expect(page.get_by_role("button", name="Back")).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Back").click()
    expect(page.locator(f'#grid button[aria-label$=" {third}"]')).to_be_visible()


def test_two_touches_mark_a_false_reject_which_a_kill_does_not_take(agent: TriggeredAgent, page: Page) -> None:
    rejected = part(agent, "reject")
    label = f"#strip button[aria-label$='{rejected['part_id']}']"
    page.tap(label)
    page.tap("#reject-keys button:has-text('False reject')")
    expect(page.locator("#reject-note")).to_contain_text("Recorded")
    agent.kill()
    marked = read_marks(agent.state)[-1]
    assert marked.wrong and marked.note == "false reject (local)"
    actions = [json.loads(line) for line in (agent.state / "actions.jsonl").read_text().splitlines()]
    assert (actions[-1]["by"], actions[-1]["action"], actions[-1]["detail"]) == ("local", "mark", "false_reject")
    expect(page.locator("#banner")).to_be_visible()  # it says that the agent is gone
    agent.start()
    pass_challenge(agent)
    expect(page.locator("#banner")).to_be_hidden()
    page.tap("nav [data-view=rejects]")
    page.wait_for_selector(f"#grid button[aria-label$='{rejected['part_id']}'] .marked")
    assert record(agent, rejected["part_id"])[0].seq == marked.seq


@pytest.mark.parametrize("verdict", ["reject", "pass"])
def test_a_missed_defect_is_drawn_and_recorded_with_its_image(agent: TriggeredAgent, page: Page, verdict: str) -> None:
    """Also on a part that passed, whose image is not kept otherwise."""
    shown = part(agent, verdict)
    expect(page.locator("#part")).to_have_text(shown["part_id"])
    page.tap("#picture")
    page.wait_for_selector("#full img")
    page.tap("#reject-keys button:has-text('Missed defect')")
    scale, left, top = page.eval_on_selector(
        "#full figure svg", "made => (({a, e, f}) => [a, e, f])(made.getScreenCTM())"
    )
    page.mouse.move(left + 8 * scale, top + 8 * scale)
    page.mouse.down()
    page.mouse.move(left + 28 * scale, top + 24 * scale, steps=3)
    page.mouse.up()
    page.tap("#reject-keys button:has-text('other')")
    expect(page.locator("#reject-note")).to_contain_text("Recorded")
    assert "not kept" not in text(page, "#reject-note")
    assert read_marks(agent.state)[-1].note == "missed defect: other at 8 8 28 24 (local)"
    assert list((agent.state / "images").rglob(f"{shown['number']:08d}.png"))
    page.tap("#reject-keys button:has-text('Back')")
    expect(page.locator("#picture")).to_be_visible()


def test_a_challenge_part_that_passes_is_an_alarm_until_somebody_resets_and_acknowledges(
    agent: TriggeredAgent, page: Page
) -> None:
    part(agent, "reject")  # so that the next image is one of a good part
    page.tap("nav [data-view=more]")
    for _ in range(2):  # the second touch confirms
        page.tap("#control button:has-text('challenge'), #control button:has-text('Press again')")
    wait_for(lambda: agent.line["challenge_left"])
    assert ask(agent.state, TriggerRequest("trigger"))["code"] == "CHALLENGE_PASSED"
    page.tap("nav [data-view=alarms]")
    page.tap("#alarm-list li:not(.over):has-text('line is at fault') button")
    page.wait_for_selector("#alarm-list li.seen")
    page.tap("nav [data-view=more]")
    page.tap("#control button:has-text('Reset fault')")
    page.tap("#control button:has-text('Press again')")
    page.tap("nav [data-view=alarms]")
    expect(page.locator("#alarm-list li")).to_have_count(0)
    pass_challenge(agent)


def test_a_recipe_is_changed_at_the_screen(agent: TriggeredAgent, page: Page) -> None:
    page.tap("nav [data-view=more]")
    page.tap("#control button:has-text('Recipe B')")
    page.tap("#control button:has-text('Press again')")
    expect(page.locator("#recipe").first).to_have_text("B")
    assert agent.status["recipe"] == "B"


def test_who_has_a_pin_signs_in_by_touch_and_the_mark_has_the_name(agent: TriggeredAgent, page: Page) -> None:
    rejected = part(agent, "reject")
    add_person(agent.state, "Otto", "operate", "3691")
    try:
        page.reload()
        page.tap(f"#strip button[aria-label$='{rejected['part_id']}']")
        page.tap("#reject-keys button:has-text('Not sure')")
        page.tap("#sign-in button:has-text('Otto')")
        assert page.evaluate("document.querySelector('dialog').scrollHeight <= innerHeight")
        for key in ("3", "6", "9", "2", "Enter"):
            page.tap(f"#sign-in button:text-is('{key}')")
        expect(page.locator("#sign-in output")).to_have_text("Wrong PIN")
        for key in ("3", "6", "9", "1", "Enter"):
            page.tap(f"#sign-in button:text-is('{key}')")
        expect(page.locator("#reject-note")).to_contain_text("Recorded")
        assert text(page, "#who") == "Otto"
        assert read_marks(agent.state)[-1].note == "not sure (Otto)"
        page.tap("nav [data-view=more]")
        page.tap("#more-body button:has-text('Sign out')")
        expect(page.locator("#who")).to_be_hidden()
    finally:
        remove_person(agent.state, "Otto")


def test_the_page_is_in_the_language_and_brightness_that_somebody_chose(agent: TriggeredAgent, page: Page) -> None:
    part(agent, "pass")
    page.tap("nav [data-view=more]")
    page.tap("#more-body button:has-text('Deutsch')")
    page.tap("#more-body button:has-text('Dunkel')")
    page.reload()
    expect(page.locator("#verdict")).to_have_text("Gut")
    assert page.evaluate("[document.documentElement.lang, document.documentElement.dataset.theme]") == ["de", "dark"]
