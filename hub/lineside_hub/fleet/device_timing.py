"""Have a device of the fleet time a bundle that it does not run.

The bundle is signed by its group's key like any other, under a path that no device runs bundles from, and withdrawn
after the timing. Its chunks stay until `lineside hub prune`: a later push of the bundle needs most of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from lineside_hub.config import folder_config
from lineside_hub.fleet.device_commands import ask
from lineside_hub.fleet.groups import groups_of
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_link.messages import BundleRef, Shapes, TimeAnswer, TimeCommand
from lineside_link.topics import Topics, check_name
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import RolloutError, TimingError

SILENCE_S = 60.0
"""A device answers each second while it works."""


class RemoteTimer:
    """Times bundles on one device.

    Args:
        device: Name of any device of the site.
        passphrase: Opens the key of the device's group, if it was made with one.
        silence_s: Without an answer for so long, the device counts as offline.

    Raises:
        InputNotFoundError: There is no hub.
        ConfigError: The device's name can't be one.
        RolloutError: The hub does not know the device.
    """

    def __init__(
        self,
        folder: Path | str,
        device: str,
        *,
        passphrase: str | None = None,
        silence_s: float = SILENCE_S,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.device = check_name(device, "device")
        self._config = folder_config(folder)
        self._repository = Repository.open(folder, passphrase=passphrase)
        self._silence_s, self._say = silence_s, say
        with Database.open(Path(folder)) as database:
            _, self._group = groups_of(database, device)
        if not self._group:
            action = "`lineside fleet ls` lists the devices; the hub must run once while the device is there."
            raise RolloutError(f"the hub has not heard of {device}", action=action)

    def check(self) -> str:
        """Asks whether the device accepts timing, before hours of work that end with it.

        Returns:
            The board, such as ``Raspberry Pi 5 Model B Rev 1.0``.

        Raises:
            BrokerError: The broker can't be reached, or the device doesn't answer.
            TimingError: The device may not or cannot time bundles.
            SignatureError: The passphrase doesn't open the group's key.
        """
        self._repository.roles.check_key(self._group)
        return self._ask(None, 1).board

    def time(self, bundle: Path, *, rounds: int, shapes: Shapes = ()) -> TimeAnswer:
        """Times the variants of a bundle on the device, interleaved; returns the device's last answer.

        Args:
            shapes: Input shapes by name, of each kind of frame; none: those of the manifest.

        Raises:
            BrokerError: As for `check`.
            TimingError: As for `check`.
            SignatureError: As for `check`.
            BundleIntegrityError: The bundle is damaged.
        """
        reference = self._repository.publish(open_bundle(bundle, verify=False), self._group, timing_only=True)
        try:
            return self._ask(reference, rounds, shapes)
        finally:
            self._repository.withdraw(reference.target)

    def _ask(self, bundle: BundleRef | None, rounds: int, shapes: Shapes = ()) -> TimeAnswer:
        reported = ""

        def is_last(answer: TimeAnswer) -> bool:
            nonlocal reported
            share = f" {answer.progress:.0%}" if answer.state == "fetching" else ""
            if bundle is not None and reported != (reported := f"{self.device}: {answer.state}{share}"):
                self._say(reported)
            return answer.state not in ("fetching", "timing")

        answer = ask(
            self._config,
            self.device,
            TimeCommand(id=secrets.token_hex(8), bundle=bundle, rounds=rounds, shapes=tuple(shapes)),
            TimeAnswer,
            topics=(Topics.time_command, Topics.time_answer),
            silence_s=self._silence_s,
            is_last=is_last,
        )
        if answer.error is not None:
            known = answer.error
            raise TimingError(f"{self.device}: {known.text}", actual=known.actual, action=known.action)
        return answer
