"""T3: an image that one command of ours made boots on the Pi 5's core and joins; nothing is told it by hand.

``make test-system`` runs it. Debian is built once (some minutes, ``.cache/lineside``). The tests go on with one board,
in the order in which they stand here.

- ``LINESIDE_BOARD_FOLDER``: keep hub and card there; another run goes on with them, also with one test alone.
- ``LINESIDE_POWER_CUTS``: how often power is cut during updates (default 20, spread over the states of an update).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from tests.boards import arm64
from tests.boards.powered import TRIGGERED, EmulatedBoard, base_image, prepared, repaired_root
from tests.boards.site import GROUP, NAME, BoardSite, say, shipped
from tests.peers.waiting import wait_for
from tests.worlds.secure_site import lineside

pytestmark = pytest.mark.timeout(6 * 3600)

TIMEOUT_S = 3600
"""Of any step. Generous: two emulated cores on a busy machine."""

STATES = ("fetching", "verifying", "staged", "switching", "health_check")
"""Of an update, in their order, until it is ``active``."""

MAX_TRIES = 3
"""Cuts for each one that is wanted: the board may be in the next state when the report of the last one is received."""

SLOW_WRITE_MS = 100
"""Of each write to the card, so that a state of an instant lasts until the report of it has led to a cut."""

LOW_S = 0.5
"""Least time between two triggers. Linux reads the line's level when it handles an edge: an emulated processor that
handles a falling edge after the next rising one takes it for a second trigger."""

READY, PASSED, REJECTED = 4, 5, 6
TRIGGER = 0
LINE = f"""{TRIGGERED}
[[line_io]]
type = "gpio"
chip = "/dev/gpiochip0"
outputs = {{ ready = {READY}, passed = {PASSED}, rejected = {REJECTED} }}
inputs = {{ trigger = {TRIGGER} }}
"""
"""The board inspects when the chip's line says so. Line 3 of qemu's chip is the power button."""

BAD = """
import sys
if sys.argv[1:3] == ["agent", "run"]:
    sys.exit("this version was never tried")
"""
"""Passes the look that is taken at it before the switch, and can't run."""


class Fleet:
    """A site, and a board of one command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = BoardSite(folder)
        self.image = prepared(folder, self.site, LINE)
        self.site.start_hub()
        self.board = EmulatedBoard(folder, self.image, self.site.port)
        self._is_on = False

    def on(self) -> float:
        """Has the board run, and returns when it got power."""
        if not self._is_on:
            self.began_s = time.monotonic()
            self.board.on()
            self._is_on = True
        return self.began_s

    def cut(self) -> None:
        """Takes the board's power away."""
        self.board.cut()
        self._is_on = False

    def wait_joined(self) -> None:
        """Returns when the hub has met the board since it got power."""
        say_of = f"{NAME} in the fleet; console: {self.board.console}"
        self.site.wait_until(TIMEOUT_S, what=say_of, up=True)

    def inspect(self, parts: int) -> None:
        """Has so many parts inspected, one after the other, as a PLC would."""
        pins = self.board.pins
        for _ in range(parts):
            wait_for(lambda: pins.level(READY), TIMEOUT_S, what="Ready", every_s=0.05)
            rejects, passes = pins.rises(REJECTED), pins.rises(PASSED)
            pins.set(TRIGGER, True)
            before = rejects + passes
            wait_for(
                lambda: pins.rises(REJECTED) + pins.rises(PASSED) > before,  # noqa: B023
                TIMEOUT_S,
                what="a verdict on the chip's lines",
                every_s=0.05,
            )
            pins.set(TRIGGER, False)
            time.sleep(LOW_S)

    def stop(self) -> None:
        """Ends everything."""
        self.cut()
        self.site.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    kept = os.environ.get("LINESIDE_BOARD_FOLDER")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("fleet")
    folder.mkdir(parents=True, exist_ok=True)
    base_image()
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        fleet.stop()


def test_board_joins_over_mutual_tls_and_its_results_arrive(fleet: Fleet) -> None:
    begun = fleet.on()
    fleet.wait_joined()
    say(f"power to joined: {time.monotonic() - begun:.1f} s")
    assert fleet.board.said(f"{NAME} login:"), "cloud-init has named it"
    assert fleet.site.device()["installed"] == shipped("surface-12")
    before = fleet.site.device()["results"]
    fleet.inspect(2)
    fleet.site.wait_until(TIMEOUT_S, what="results at the hub", results=before + 2)
    say(f"power to two results at the hub: {time.monotonic() - begun:.1f} s")


def test_reject_is_on_the_chips_line_for_each_bad_part(fleet: Fleet) -> None:
    fleet.on()
    fleet.wait_joined()
    pins = fleet.board.pins
    rejects, passes, before = pins.rises(REJECTED), pins.rises(PASSED), fleet.site.device()["results"]
    fleet.inspect(5)
    assert (pins.rises(REJECTED) - rejects, pins.rises(PASSED) - passes) == (5, 0), "the golden frame has a defect"
    fleet.site.wait_until(TIMEOUT_S, what="their records at the hub", results=before + 5)
    assert fleet.site.verdicts()[-5:] == [("reject", "")] * 5
    say("5 edges on the trigger's line, 5 rejects on the reject's line, 5 records at the hub")


def test_pushed_bundle_becomes_active_without_a_hand_on_the_board(fleet: Fleet) -> None:
    fleet.on()
    fleet.wait_joined()
    begun = time.monotonic()
    lineside("push", "surface-12-float", "--hub", fleet.site.folder, "--group", GROUP)
    _wait_runs(fleet, shipped("surface-12-float"))
    say(f"push to active: {time.monotonic() - begun:.1f} s")
    before = fleet.site.device()["results"]
    fleet.inspect(1)
    fleet.site.wait_until(TIMEOUT_S, what="a result of the new bundle", results=before + 1)


def test_bad_agent_goes_back_to_the_old_slot(fleet: Fleet, tmp_path: Path) -> None:
    fleet.on()
    fleet.wait_joined()
    old = fleet.site.device()["agent"]
    bad = _bad_payload(tmp_path)
    begun, begun_ns = time.monotonic(), time.time_ns()
    lineside("push", "--agent", bad, "--before", arm64.payload().path, "--hub", fleet.site.folder, "--group", GROUP)
    # The rollout then desires the old agent again, and the board reports that it runs: the event stays, the state not.
    wait_for(
        lambda: fleet.site.agents_taken_back(since_ns=begun_ns),
        2 * TIMEOUT_S,
        what="the agent that went back",
        every_s=1.0,
    )
    (error,) = fleet.site.agents_taken_back(since_ns=begun_ns)
    say(f"a bad agent was pushed, tried and taken back in {time.monotonic() - begun:.0f} s: {error}")
    assert "ended again and again" in error
    fleet.site.wait_until(TIMEOUT_S, what="the old agent", agent=old, agent_state="active", up=True)
    before = fleet.site.device()["results"]
    fleet.inspect(1)
    fleet.site.wait_until(TIMEOUT_S, what="a result of the old agent", results=before + 1)
    fleet.cut()
    fleet.on()
    fleet.wait_joined()
    assert fleet.site.device()["agent"] == old, "it stays so over a start"


def test_board_whose_power_is_cut_in_any_state_of_an_update_always_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    """Each cut follows the report of a state; it counts for the state that the card holds afterwards."""
    fleet.cut()
    fleet.board.disk.write_ms = SLOW_WRITE_MS
    fleet.on()
    fleet.wait_joined()
    each = max(1, int(os.environ.get("LINESIDE_POWER_CUTS", "20")) // len(STATES))
    noise = random.Random(os.environ.get("LINESIDE_POWER_SEED", "8"))
    lasted_s = _update_unbroken(fleet, _retrained(tmp_path, 0))
    found: Counter[str] = Counter()
    for number in range(1, MAX_TRIES * each * len(STATES) + 1):
        if all(found[state] >= each for state in STATES):
            break
        aim = min(STATES, key=lambda state: found[state])
        bundle = _retrained(tmp_path, number)
        wanted = bundle.manifest.identity
        # No pause in a short state, which would be over before the cut.
        pause_s = noise.uniform(0.0, 0.7 * lasted_s[aim]) if lasted_s[aim] > 2.0 else 0.0
        with _pushed_until(fleet, bundle, aim):
            threading.Event().wait(pause_s)
            fleet.cut()
        state = _state_on_card(fleet.image, tmp_path / "root", wanted)
        found[state] += 1
        begun = fleet.on()
        _wait_runs(fleet, wanted)
        took_s = time.monotonic() - begun
        say(
            f"cut {number}, {pause_s:.1f} s after the report of {aim}; the card says {state}: "
            f"{wanted} runs {took_s:.0f} s after power came back"
        )
    fleet.cut()
    repaired_root(fleet.image, tmp_path / "root")
    say(f"the card's file system is sound; cuts by the state that the card held: {dict(found)}")
    assert all(found[state] >= each for state in STATES), f"{each} cuts in each state were wanted: {dict(found)}"


def _retrained(folder: Path, number: int) -> Bundle:
    """Makes a version of the float detector with other weights, so that each update fetches a file that is new."""
    out = folder / f"retrained-{number}"
    shutil.copytree(zoo.path("surface-12-float"), out)
    manifest = open_bundle(out).manifest
    (variant,) = manifest.variants
    model = onnx.load(out / variant.file)
    noise = np.random.default_rng(number)
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 4:
            values = onnx.numpy_helper.to_array(weights)
            changed = (values * (1 + 1e-4 * noise.standard_normal(values.shape))).astype(np.float32)
            weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    onnx.save(model, out / variant.file)
    return write_manifest(out, msgspec.structs.replace(manifest, version=f"1.1.{number}"))


@contextmanager
def _pushed_until(fleet: Fleet, bundle: Bundle, state: str) -> Iterator[None]:
    """Pushes a bundle; the body runs as soon as the hub has received this state of its update, or a later one."""
    since_ns = time.time_ns()
    reached = {*STATES[STATES.index(state) :], "active"}
    arguments = ("push", bundle.path, "--hub", fleet.site.folder, "--group", GROUP)
    pushing = threading.Thread(target=lineside, args=arguments)
    pushing.start()  # the update may be in a late state before the command has ended
    try:
        wait_for(
            lambda: not reached.isdisjoint(fleet.site.states(bundle.manifest.identity, since_ns=since_ns)),
            TIMEOUT_S,
            what=f"report of {state} of {bundle.manifest.identity}",
            every_s=0.002,
        )
        yield
    finally:
        pushing.join()


def _update_unbroken(fleet: Fleet, bundle: Bundle) -> dict[str, float]:
    """Updates without a cut; returns how long each state took."""
    wanted, since_ns = bundle.manifest.identity, time.time_ns()
    with _pushed_until(fleet, bundle, "health_check"):
        _wait_runs(fleet, wanted)
    seen = fleet.site.states(wanted, since_ns=since_ns)
    assert set(seen) >= {*STATES, "active"}, f"every state is reported: {seen}"
    ends = [*STATES[1:], "active"]
    lasted_s = {state: (seen[end] - seen[state]) / 1e9 for state, end in zip(STATES, ends, strict=True)}
    say("an update without a cut: " + ", ".join(f"{state} {seconds:.2f} s" for state, seconds in lasted_s.items()))
    return lasted_s


def _state_on_card(image: Path, scratch: Path, bundle: str) -> str:
    """Returns the state of the update to a bundle that the next start will find; ``before`` if it knows none."""
    root = repaired_root(image, scratch)
    update = json.loads(root.read("/var/lib/lineside/update.json"))
    scratch.unlink()
    wanted = update["wanted"] or {}
    return str(update["state"]) if f"{wanted.get('name')}@{wanted.get('version')}" == bundle else "before"


def _wait_runs(fleet: Fleet, bundle: str) -> None:
    """Returns when the board runs a bundle ``name@version``."""
    what = f"{bundle} on the board; console: {fleet.board.console}"
    fleet.site.wait_until(TIMEOUT_S, what=what, up=True, installed=bundle, state="active")


def _bad_payload(folder: Path) -> Path:
    """A payload like the board's own, of a later version that can't run."""
    payload = arm64.payload().path
    (own,) = payload.glob("wheels/lineside-*.whl")
    version = own.name.split("-")[1]
    about = f"lineside-{version}.dist-info"
    wheel = folder / own.name.replace(f"-{version}-", "-99.0-")
    with zipfile.ZipFile(own) as source, zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "lineside/__main__.py":
                data = BAD.encode() + data
            elif name.startswith(f"{about}/"):
                data = data.replace(f"\nVersion: {version}\n".encode(), b"\nVersion: 99.0\n")
                data = data.replace(about.encode(), b"lineside-99.0.dist-info")
            target.writestr(name.replace(about, "lineside-99.0.dist-info"), data)
    wheels = folder / "wheels"
    wheels.mkdir()
    for one in payload.glob("wheels/*.whl"):
        if one != own:
            (wheels / one.name).hardlink_to(one)
    extras = [part for extra in arm64.EXTRAS for part in ("--extra", extra)]
    python = ("--python", arm64.PYTHON, "--arch", "aarch64")
    lineside("agent", "pack", folder / "bad", "--wheel", wheel, "--wheels", wheels, *python, *extras)
    return folder / "bad"
