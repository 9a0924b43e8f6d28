"""Desired state of a group or device: hub to device."""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_link.messages.base import Message, Name, Text

ARTIFACTS = ("bundle", "agent", "config")
"""Fields of `Desired` that name an artifact; each can be pushed without the others."""

TIMING_SUFFIX = ".trial.json"
"""End of the path of a target that is signed for timing only: no device runs it, because no gate has passed it."""

DESIRED_FIELD = "x-lineside-desired-sha256"
"""Field of the TUF timestamp on an offline medium: sha256 of the `Desired` beside it."""


LOCAL_PREFIX = "local:"
"""Begins the target of what was made at the device, before the name of who had it made; no group's name has a colon."""


class BundleRef(msgspec.Struct, frozen=True, kw_only=True):
    """Names one bundle.

    Attributes:
        name: Such as ``surface-12``.
        version: Such as ``1.0.0``.
        target: Path of its manifest among the TUF targets, ``<group>/<name>-<version>.json``; or
            `LOCAL_PREFIX` and a name.
        sha256: Of the manifest, which names all files of the bundle.
    """

    name: Name
    version: Name
    target: Text
    sha256: Name

    @property
    def identity(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def made_by(self) -> str:
        """Who had it made at the device; empty for one that the hub has signed."""
        return self.target.removeprefix(LOCAL_PREFIX) if self.target.startswith(LOCAL_PREFIX) else ""


class MaintenanceWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=False, kw_only=True):
    """When a device may change over, in the plant's local time.

    Attributes:
        start: ``HH:MM`` at which it opens.
        end: ``HH:MM`` at which it closes; before ``start`` means on the next day.
        timezone: IANA name of the plant's time zone, such as ``Europe/Berlin``.
        days: Days on which it opens; none means every day.
        fetch: Whether the bundle is fetched at once or only while the window is open.
    """

    start: str
    end: str
    timezone: str
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    fetch: Literal["at_once", "in_window"] = "at_once"


class ConfigRef(msgspec.Struct, frozen=True, kw_only=True):
    """Names one configuration: the tables of ``agent.toml`` that a hub may set.

    Attributes:
        target: Its path among the TUF targets, ``<group>/config-<begin of sha256>.toml``.
        sha256: Of its TOML.
    """

    target: Text
    sha256: Name

    @property
    def identity(self) -> str:
        """``config@`` and the first 12 digits of the hash."""
        return f"config@{self.sha256[:12]}"


class Desired(Message, frozen=True, kw_only=True):
    """What a group or device should run.

    Attributes:
        epoch: Number of the hub's database; a hub restored from a backup starts a higher one.
        gen: Generation within the epoch. A lower one of the same epoch is ignored.
        bundle: The bundle, or ``None`` to keep the present one.
        config: The configuration, or ``None`` to keep the present one.
        rollout: Identifies the push.
        withdrawn: The device's own desired state counts no longer, its group's does. Said and not cleared, because a
            device that is away hears nothing of a cleared topic when it comes back.
        window: When bundle and agent may become active; ``None`` for at once. Of older hubs and for older agents: it
            counts for a part that ``windows`` doesn't name.
        agent: The agent, or ``None`` to keep the present one.
        gens: Generation in which each part was last asked for, by its field's name. A part that isn't named was asked
            for in ``gen``; one that is named and older only came along with what was pushed now.
        pushes: Push that last asked for each part, by its field's name. A part that isn't named was asked for by
            ``rollout``.
        windows: When each part may become active, by its field's name; ``None`` for at once. Of a withdrawn one: when
            the device may return to what its group has.
    """

    epoch: int
    gen: int
    bundle: BundleRef | None = None
    config: ConfigRef | None = None
    rollout: str = ""
    withdrawn: bool = False
    window: MaintenanceWindow | None = None
    agent: BundleRef | None = None
    gens: dict[str, int] = {}
    pushes: dict[str, str] = {}
    windows: dict[str, MaintenanceWindow | None] = {}

    def generation_of(self, artifact: str) -> int:
        """Returns the generation in which an artifact was last pushed."""
        return self.gens.get(artifact, self.gen)

    def pushed_by(self, artifact: str) -> str:
        """Returns the identifier of the push that last asked for an artifact."""
        return self.pushes.get(artifact, self.rollout)

    def window_of(self, artifact: str) -> MaintenanceWindow | None:
        """Returns when an artifact may become active; ``None`` for at once."""
        return self.windows.get(artifact, self.window)
