"""The two slots of the agent, of which the running agent fills the other one. `guard` has their layout.

A slot is unmade in the opposite order in which it is made: the digest goes first. Each step done twice changes nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from lineside_agent.deployment.self_update.environment import make_environment
from lineside_agent.deployment.self_update.guard import DIGEST, SLOTS, VENV, AgentSlot, Installation
from lineside_agent.deployment.self_update.payload import (
    MANIFEST_NAME,
    NAME,
    AgentManifest,
    Payload,
    open_payload,
    parse_agent_manifest,
)
from lineside_link.messages import BundleRef
from lineside_runtime.bundle import check_relative
from lineside_runtime.errors import BundleIntegrityError, LinesideError
from lineside_runtime.files import fsync_folder, write_atomic

_WANTED, _PAYLOAD = "wanted", "payload"


class AgentSlots:
    """The slots around this process.

    Args:
        running: The one that this process runs from.
    """

    def __init__(self, installation: Installation, running: AgentSlot) -> None:
        self.installation = installation
        self.running = running

    @classmethod
    def around(cls, prefix: str = sys.prefix) -> AgentSlots | None:
        """Returns the slots that this process runs in, or ``None`` if it runs from elsewhere.

        Args:
            prefix: Of the environment, ``<folder>/slots/<slot>/venv``.
        """
        path = Path(prefix)
        if path.name != VENV or path.parent.name not in SLOTS or path.parents[1].name != "slots":
            return None
        return cls(Installation(path.parents[2]), "a" if path.parent.name == "a" else "b")

    def reference(self) -> BundleRef | None:
        """Returns what the running slot holds, or ``None`` if that can't be read."""
        slot = self.installation.slot(self.running)
        try:
            data = (slot / _PAYLOAD / MANIFEST_NAME).read_bytes()
            digest = (slot / DIGEST).read_text(encoding="ascii").strip()
            manifest = parse_agent_manifest(data)
        except (OSError, ValueError, LinesideError):
            return None
        return BundleRef(name=NAME, version=manifest.version, target="", sha256=digest)

    def payload_path(self, slot: AgentSlot) -> Path:
        """Returns the folder of a slot's payload."""
        return self.installation.slot(slot) / _PAYLOAD

    def begin(self, slot: AgentSlot, sha256: str) -> Path:
        """Empties the slot, but for a part of the same payload; returns the payload's folder.

        Args:
            slot: Not the running one.
            sha256: Of ``agent.json``.
        """
        place = self.installation.slot(slot)
        place.mkdir(parents=True, exist_ok=True)
        (place / DIGEST).unlink(missing_ok=True)
        fsync_folder(place)
        wanted = place / _WANTED
        if not wanted.is_file() or wanted.read_text(encoding="ascii", errors="replace") != sha256:
            shutil.rmtree(place / VENV, ignore_errors=True)
            shutil.rmtree(place / _PAYLOAD, ignore_errors=True)
            write_atomic(wanted, sha256.encode())
        self.payload_path(slot).mkdir(exist_ok=True)
        return self.payload_path(slot)

    def seed(self, slot: AgentSlot, manifest: AgentManifest) -> None:
        """Copies the wheels that the running slot has as well, so that only new ones are fetched.

        A wheel is recognised by its name and size here; its hash is checked with the rest.
        """
        source, target = self.payload_path(self.running), self.payload_path(slot)
        for relative, entry in manifest.files.items():
            check_relative(relative)
            there, here = source / relative, target / relative
            if not here.exists() and there.is_file() and there.stat().st_size == entry.size:
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(there, here)

    def verify(self, slot: AgentSlot, agent: BundleRef) -> Payload:
        """Reads a slot's payload whole, and checks that it is the wanted one and for this board.

        Raises:
            BundleIntegrityError: A file differs, or it is another payload.
            IncompatibleBundleError: It is for another Python or architecture.
        """
        payload = open_payload(self.payload_path(slot))
        if payload.digest != agent.sha256:
            raise BundleIntegrityError(f"slot {slot} holds another agent", expected=agent.sha256, actual=payload.digest)
        payload.check_fits()
        return payload

    def make(self, slot: AgentSlot, payload: Payload) -> None:
        """Makes the slot's environment; the digest, which says that it is whole, is written last.

        Raises:
            StagingError: pip didn't install it.
            DiskFullError: There is no room.
        """
        make_environment(payload, self.installation.slot(slot) / VENV, python=base_python())
        os.sync()  # thousands of small files: one call for all of them
        write_atomic(self.installation.slot(slot) / DIGEST, payload.digest.encode())


def base_python() -> str:
    """Returns the system's Python under the one that runs."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
