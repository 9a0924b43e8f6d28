from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request
from pathlib import Path

from tests.peers import wait_for
from tests.peers.processes import ChildProcess
from tests.worlds.dashboard import DashboardClient


def test_the_demo_shows_rejects_at_the_line_and_the_device_at_the_hub_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lineside", "demo", "--screen", "--no-browser", "--out", str(tmp_path / "out")]
    demo = ChildProcess(command, tmp_path / "demo.log")
    demo.start()
    try:
        wait_for(lambda: "password" in demo.log or not demo.alive, timeout_s=120)
        screen, dashboard = re.findall(r"http://\S+", demo.log)

        def rejects() -> list[dict[str, object]]:
            with urllib.request.urlopen(f"{screen}rejects", timeout=10) as answer:
                found: list[dict[str, object]] = json.load(answer)
            return found

        wait_for(rejects, every_s=0.5)
        client = DashboardClient(dashboard.rstrip("/"))
        (password,) = re.findall(r"password ([\w-]+)", demo.log)
        client.json("POST", "/sign-in", {"name": "demo", "password": password})
        client.headers["Cookie"] = client.answer_headers["set-cookie"].partition(";")[0]
        wait_for(lambda: [one["up"] for one in client.json("GET", "/api/v1/devices")] == [True], every_s=0.5)
        signed = [one["ref"]["name"] for one in client.json("GET", "/api/v1/bundles")]
        assert sorted(signed) == ["surface-12", "surface-12-float"]
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0
    finally:
        demo.stop()
