"""`lineside demo --screen`: an agent with its operator screen on this machine, until the person ends it."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

import tomli_w

from lineside.console import say, show
from lineside.demo import source
from lineside.demo.demo import prepare_folder
from lineside.demo.options import DemoOptions
from lineside.demo.processes import Processes, free_port
from lineside_runtime.system.signals import stop_on_signals

DEVICE = "demo-line"
RATE_HZ = 1.0
START_TIMEOUT_S = 60.0

STRICT = 0.2
"""Threshold of the second recipe, which rejects more than the bundle's own."""


def run_screen_demo(options: DemoOptions, *, open_browser: bool = True, stop: threading.Event | None = None) -> None:
    """Runs the agent until SIGINT or SIGTERM.

    Args:
        options: Of the demo; the source of the frames and the folder are used.
        open_browser: Whether to open a browser, where there is a display.
        stop: Ends it too.

    Raises:
        LinesideError: The agent did not start; its log is in ``OUT/logs``.
    """
    out = prepare_folder(options.out)
    camera = _endless(source.choose(options, out / "frames").camera)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    (out / "agent").mkdir()
    (out / "agent" / "agent.toml").write_text(tomli_w.dumps(_configuration(out / "agent", camera, port)))
    ended = stop or threading.Event()
    with Processes(out / "logs") as processes, stop_on_signals(ended.set):
        processes.start("agent", "agent", "run", "--config", str(out / "agent" / "agent.toml"))
        processes.wait_for("the operator screen", lambda: _answers(url), timeout_s=START_TIMEOUT_S)
        show(f"the operator screen: {url}", flush=True)
        say("records and marks are in " + str(out / "agent") + "; Ctrl-C ends the demo")
        if open_browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            webbrowser.open(url)
        while not ended.wait(1.0):
            processes.check("the end of the demo")


def _endless(camera: dict[str, Any]) -> dict[str, Any]:
    """The demo's source at the pace of a person, and without an end."""
    paced = {key: value for key, value in camera.items() if key != "frames"} | {"rate_hz": RATE_HZ}
    return paced | ({"loop": True} if camera["type"] == "folder" else {})


def _configuration(folder: Path, camera: dict[str, Any], port: int) -> dict[str, Any]:
    return {
        "device": DEVICE,
        "folder": str(folder),
        "bundle": "surface-12",
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
