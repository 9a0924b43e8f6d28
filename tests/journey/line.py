"""A hub and one agent on a plain broker, as processes, for tests that attack or reconfigure a running line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from lineside.cli import main
from lineside_hub.database import Database
from lineside_link.messages import BundleRef, ConfigRef, Desired, Reported, decode
from tests.agent.bundles import bright, dark, make_bundle
from tests.peers import Broker
from tests.peers.waiting import wait_for


class Line:
    """A hub and one agent on a plain broker."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.hub = folder / "hub"
        self.state = folder / "device" / "state"
        assert (
            main(
                [
                    "hub",
                    "init",
                    str(self.hub),
                    "--site",
                    "t0",
                    "--group",
                    "line",
                    "--group",
                    "other",
                    "--broker",
                    broker.url,
                ]
            )
            == 0
        )
        self.state.parent.mkdir()
        frames = folder / "device" / "frames"
        frames.mkdir()
        for number in range(4):
            cv2.imwrite(str(frames / f"{number}.png"), bright() if number % 2 else dark())
        bundle = make_bundle(folder / "bundle", gain=8.0)
        (folder / "device" / "root.json").write_bytes((self.hub / "root.json").read_bytes())
        self.toml = folder / "device" / "agent.toml"
        self.toml.write_text(
            f'device = "cam-1"\ngroup = "line"\nfolder = "state"\nroot = "root.json"\nbundle = "{bundle.path}"\n'
            f'[link]\nurl = "{broker.url}"\nsite = "t0"\n'
            '[camera]\ntype = "folder"\npath = "frames"\nloop = true\nrate_hz = 20.0\n'
            "[inspect]\nhealth_frames = 2\nhealth_timeout_s = 2.0\n"
        )
        self._log = (folder / "processes.log").open("wb")
        self._running = [
            self._start("hub", "run", "--config", str(self.hub / "hub.toml")),
            self._start("agent", "run", "--config", str(self.toml)),
        ]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "lineside", *arguments], stdout=self._log, stderr=self._log)

    def status(self) -> dict[str, Any]:
        path = self.state / "status.json"
        try:
            read: dict[str, Any] = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return read

    def reported(self) -> Reported | None:
        database = Database.open(self.hub)
        try:
            rows = database.query("SELECT reported FROM devices WHERE device = 'cam-1'")
        finally:
            database.close()
        return decode(rows[0]["reported"].encode(), Reported) if rows and rows[0]["reported"] else None

    def wish(self, config: ConfigRef | None = None, *, bundle: BundleRef | None = None) -> int:
        """A wish that nobody has signed for: what whoever holds the broker can say."""
        database = Database.open(self.hub)
        try:
            with database.transaction():
                wish = Desired(epoch=0, gen=0, config=config, bundle=bundle)
                return database.add_wish("g/line", wish, part="bundle" if config is None else "config").gen
        finally:
            database.close()

    def bundle_refused(self, gen: int) -> int | None:
        report = self.reported()
        if report is None or report.gen != gen or report.state not in ("failed", "rolled_back"):
            return None
        return report.error.code if report.error is not None else None

    def refusal(self, read: Callable[[int], int | None], gen: int, what: str) -> int:
        """Waits until a wish is refused, and returns the code that was seen then.

        It is read once: the hub, which sees the refusal too, may have gone on to another wish right after it.
        """
        seen: list[int] = []

        def look() -> bool:
            code = read(gen)
            seen.extend(() if code is None else (code,))
            return bool(seen)

        wait_for(look, 60, what=what)
        return seen[0]

    def refused(self, gen: int) -> int | None:
        report = self.reported()
        config = report.configuration if report is not None else None
        return config.error.code if config is not None and config.gen == gen and config.error is not None else None

    @property
    def alive(self) -> bool:
        """Whether hub and agent still run."""
        return all(process.poll() is None for process in self._running)

    def end(self) -> None:
        for process in self._running:
            process.terminate()
            process.wait(60)
        self._log.close()
