from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request
from pathlib import Path

from tests.peers import wait_for
from tests.worlds.processes import ChildProcess


def test_the_screen_of_the_demo_shows_rejects_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lineside", "demo", "--screen", "--no-browser", "--out", str(tmp_path / "out")]
    demo = ChildProcess(command, tmp_path / "demo.log")
    demo.start()
    try:
        wait_for(lambda: re.search(r"http://\S+", demo.log) or not demo.alive)
        (url,) = re.findall(r"http://\S+", demo.log)

        def rejects() -> list[dict[str, object]]:
            with urllib.request.urlopen(f"{url}rejects", timeout=10) as answer:
                found: list[dict[str, object]] = json.load(answer)
            return found

        wait_for(rejects, every_s=0.5)
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0
    finally:
        demo.stop()
