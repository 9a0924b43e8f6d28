"""A bundle that was accepted at the screen, beside a hub: which one runs, who is told, what a roll-back restores."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside_agent.screen.people import add_person
from lineside_hub.fleet.listing import list_devices, timeline
from tests.peers import free_port, wait_for
from tests.worlds.agent import DEVICE
from tests.worlds.bundles import break_golden, dark, make_bundle
from tests.worlds.site import Site

pytestmark = pytest.mark.slow

GOOD_PARTS = 3

PIN = "147258"


class Screen:
    """A client of the operator screen, as its page is one; Sara is signed in."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def sign_in(self) -> None:
        """Signs in; sessions end with the agent."""
        self._send("/session", {"name": "Sara", "pin": PIN})

    def wizard(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Takes a step of the wizard, or returns where it stands."""
        found: dict[str, Any] = json.loads(self._send("/learning", body))
        return found

    def wait(self, **fields: object) -> None:
        """Waits until the wizard says this; what it said last is in the message of a failure."""
        last: dict[str, Any] = {}

        def said() -> bool:
            last.update(self.wizard())
            return all(last[name] == value for name, value in fields.items())

        try:
            wait_for(said, what=str(fields))
        except AssertionError as error:
            raise AssertionError(f"{error}, but {last}") from error

    def picture(self, number: int) -> bytes:
        """Returns the thumbnail of a collected part."""
        return self._send(f"/learning/{number}.jpg")

    def _send(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=60) as answer:
            return bytes(answer.read())


def leave_learned(state: Path, bundle: Path) -> None:
    """Leaves what the wizard of an earlier start of the agent has learned; the parts' index ends in half a line."""
    folder = state / "learning"
    (folder / "good").mkdir(parents=True)
    for number in range(GOOD_PARTS):
        cv2.imwrite(str(folder / "good" / f"{number:04d}.png"), dark())
    lines = [json.dumps({"number": number, "part_id": f"P-{number}"}) for number in range(GOOD_PARTS)]
    (folder / "parts.jsonl").write_text("\n".join(lines)[:-4])
    good = {str(number): 0.1 for number in range(GOOD_PARTS)}
    result = {"frames": GOOD_PARTS, "seconds": 1.0, "warning": "", "good": good, "bad": []}
    (folder / "result.json").write_text(json.dumps(result))
    shutil.copytree(bundle, folder / "bundle")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Site, Screen]]:
    """A site whose agent has a screen where good parts may be learned, and something that was learned before."""
    port = free_port()
    screen = {"port": port, "control": True, "learn": True}
    made = Site(
        tmp_path,
        frames=2,
        rate_hz=10.0,
        camera={"type": "folder", "path": "frames", "loop": True, "rate_hz": 10.0},
        screen=screen,
    )
    leave_learned(made.agent.state, make_bundle(tmp_path / "learned", version="9.0.0", gain=35.0).path)
    add_person(made.agent.state, "Sara", "set_up", PIN)
    made.start()
    yield made, Screen(port)
    made.end()


def test_a_local_bundle_runs_until_the_hub_desires_another_and_comes_back_where_that_one_fails(
    site: tuple[Site, Screen], tmp_path: Path
) -> None:
    made, screen = site
    made.wait_state("active", made.push(make_bundle(tmp_path / "1")))
    screen.sign_in()
    left = screen.wizard()
    assert (left["step"], [part["part_id"] for part in left["parts"]]) == ("learned", ["P-0", "P-1", ""])
    assert screen.picture(1)[:2] == b"\xff\xd8"

    screen.wizard({"do": "accept"})
    screen.wait(active=True)
    local = made.agent.machine.installed
    assert local is not None and (local.version, local.target, local.made_by) == ("9.0.0", "local:Sara", "Sara")
    wait_for(lambda: list_devices(made.hub_folder)[0].made_by == "Sara")
    made.hub.kill()  # its retained desired state comes again and is no news
    made.hub.start()
    made.agent.kill()
    made.agent.start()
    made.wait_installed("bright-spots@9.0.0")
    screen.sign_in()
    assert (screen.wizard()["step"], screen.wizard()["replaced"]) == ("learned", False)

    screen.wizard({"do": "accept"})
    screen.wait(active=True)
    broken = made.push(break_golden(make_bundle(tmp_path / "2", version="2.0.0")))
    # While the agent tries it: once the hub has taken it back, the wizard says that what was made here is active.
    screen.wait(step="learned", replaced=True)
    made.wait_state("rolled_back", broken)
    assert made.agent.machine.installed == local

    def reported() -> tuple[str, str, str]:
        [device] = list_devices(made.hub_folder)
        return device.installed, device.wanted, device.made_by

    wait_for(lambda: reported() == ("bright-spots@9.0.0", "", "Sara"))  # the hub has taken its bundle back

    made.push(make_bundle(tmp_path / "3", version="3.0.0", gain=30.0))
    made.wait_installed("bright-spots@3.0.0")  # "active" may be said late, of the bundle that came back
    installed = made.agent.machine.installed
    assert installed is not None and (installed.version, installed.made_by) == ("3.0.0", "")
    screen.wait(deployment="active")
    wait_for(lambda: list_devices(made.hub_folder)[0].installed == "bright-spots@3.0.0")
    assert list_devices(made.hub_folder)[0].made_by == ""
    details = [event.detail for _, event in timeline(made.hub_folder, DEVICE)]
    assert any("made at the device by Sara" in detail for detail in details)

    screen.wizard({"do": "discard"})
    assert screen.wizard()["step"] == "empty" and not (made.agent.state / "learning").exists()


def test_the_wizard_collects_no_frame_that_shows_nothing(site: tuple[Site, Screen], tmp_path: Path) -> None:
    made, screen = site
    frames = sorted((made.folder / "frames").iterdir())
    for frame in frames:
        cv2.imwrite(str(frame), np.zeros((96, 96), np.uint8))
    made.push(make_bundle(tmp_path / "1"))
    made.wait_installed("bright-spots@1.0.0")
    screen.sign_in()
    screen.wizard({"do": "discard"})
    screen.wizard({"do": "collect"})
    wait_for(lambda: "the frame shows nothing" in screen.wizard()["error"], what=lambda: str(screen.wizard()))
    assert screen.wizard()["parts"] == []
    cv2.imwrite(str(frames[0]), dark())
    wait_for(lambda: len(screen.wizard()["parts"]) >= 2, what=lambda: str(screen.wizard()))
