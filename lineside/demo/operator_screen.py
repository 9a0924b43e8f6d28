"""`lineside demo --screen`: a line with its operator screen, and a hub with its dashboard, until the person ends it."""

from __future__ import annotations

import functools
import os
import secrets
import threading
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

import tomli_w

from lineside.console import inform, show
from lineside.demo import source
from lineside.demo.demo import prepare_folder
from lineside.demo.options import DemoOptions
from lineside.demo.processes import Processes
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.push import push
from lineside_hub.simulate.processes import free_port, listening
from lineside_hub.web.accounts import set_account
from lineside_models import zoo
from lineside_runtime.system.signals import stop_on_signals

SITE = "demo"
DEVICE = "demo-line"
ACCOUNT = "demo"
BUNDLES = ("surface-12", "surface-12-float")
"""Signed for the device's group; the first one is what it starts with."""

RATE_HZ = 1.0
START_TIMEOUT_S = 60.0

STRICT = 0.2
"""Threshold of the second recipe, which rejects more than the bundle's own."""


def run_screen_demo(options: DemoOptions, *, open_browser: bool = True) -> None:
    """Runs broker, hub and agent until SIGINT or SIGTERM.

    Args:
        options: Of the demo; the source of the frames, the broker and the folder are used.
        open_browser: Whether to open a browser, where there is a display.

    Raises:
        LinesideError: A process did not start; its log is in ``OUT/logs``.
    """
    out = prepare_folder(options.out)
    camera = _endless(source.choose(options, out / "frames").camera)
    broker, screen, dashboard = free_port(), free_port(), free_port()
    link = {"url": options.broker or f"mqtt://127.0.0.1:{broker}", "site": SITE}
    password = _make_hub(out / "hub", link, dashboard)
    (out / "agent").mkdir()
    root = (out / "hub" / "root.json").read_bytes()
    (out / "agent" / "root.json").write_bytes(root)
    settings = _configuration(out / "agent", camera, link, screen)
    (out / "agent" / "agent.toml").write_text(tomli_w.dumps(settings))
    ended = threading.Event()
    with Processes(out / "logs") as processes, stop_on_signals(ended.set):
        if not options.broker:
            processes.start("broker", "hub", "broker", "--port", str(broker))
            processes.wait_for("the broker", lambda: listening(broker), timeout_s=START_TIMEOUT_S)
        processes.start("hub", "hub", "run", "--config", str(out / "hub" / "hub.toml"))
        processes.start("agent", "agent", "run", "--config", str(out / "agent" / "agent.toml"))
        urls = [f"http://127.0.0.1:{port}/" for port in (screen, dashboard)]
        for name, url in zip(("operator screen", "dashboard"), urls, strict=True):
            processes.wait_for(f"the {name}", functools.partial(_answers, url), timeout_s=START_TIMEOUT_S)
        show(f"the operator screen: {urls[0]}", flush=True)
        show(f"the fleet dashboard: {urls[1]} (name {ACCOUNT}, password {password})", flush=True)
        inform("records and marks are in " + str(out / "agent") + "; Ctrl-C ends the demo")
        if open_browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            for url in urls:
                webbrowser.open(url)
        while not ended.wait(1.0):
            processes.check("the end of the demo")


def _make_hub(folder: Path, link: dict[str, Any], port: int) -> str:
    """Makes a hub with two signed bundles and an account; returns its password."""
    repository = Repository.create(folder, groups=[DEVICE])
    (folder / "root.json").write_bytes(repository.root_bytes())
    settings = {"folder": ".", "link": link, "data_terms": "accept", "web": {"port": port}}
    (folder / "hub.toml").write_text(tomli_w.dumps(settings))
    for name in BUNDLES:
        push(folder, zoo.path(name), group=DEVICE, sign_only=True)
    password = secrets.token_urlsafe(9)
    with Database.open(folder) as database, database.transaction():
        set_account(database, ACCOUNT, "administer", password)
    return password


def _endless(camera: dict[str, Any]) -> dict[str, Any]:
    """The demo's source at the pace of a person, and without an end."""
    paced = {key: value for key, value in camera.items() if key != "frames"} | {"rate_hz": RATE_HZ}
    return paced | ({"loop": True} if camera["type"] == "folder" else {})


def _configuration(folder: Path, camera: dict[str, Any], link: dict[str, Any], port: int) -> dict[str, Any]:
    return {
        "device": DEVICE,
        "group": DEVICE,
        "folder": str(folder),
        "root": str(folder / "root.json"),
        "link": link,
        "bundle": BUNDLES[0],
        "camera": camera,
        "screen": {"port": port, "control": True},
        "recipe": [{"name": "normal"}, {"name": "strict", "inspect": {"confidence_threshold": STRICT}}],
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5.0):
            return True
    except (urllib.error.URLError, OSError):
        return False
