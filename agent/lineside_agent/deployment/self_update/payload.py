"""Payloads: the wheels of an agent for one Python and one architecture, and the manifest that names them.

::

    payload/
    ├── agent.json         size, sha256 and chunks of each file; the TUF target ``<group>/agent-<version>-….agent.json``
    └── wheels/*.whl       lineside, what it needs on the device, and pip to install them without a network

Unlike in a bundle's manifest, an unknown field is no error: an old agent must be able to read the manifest of a newer
one. A change that an old agent can't understand raises `SCHEMA`.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from pathlib import Path

import msgspec

from lineside_runtime.bundle import FILES_MAX, MANIFEST_MAX_BYTES, FileEntry, check_relative, verify_file
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BundleFormatError, IncompatibleBundleError, InputNotFoundError

SCHEMA = 1
MANIFEST_NAME = "agent.json"
WHEELS = "wheels"
NAME = "lineside-agent"
"""Of the agent, where bundles have a name."""

PYTHON = re.compile(r"3\.\d{1,2}")
_WHEEL = re.compile(rf"{WHEELS}/[A-Za-z0-9_.!+]+(-[A-Za-z0-9_.!+]+){{4,5}}\.whl")


class AgentManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Describes a payload.

    Attributes:
        version: Of lineside.
        python: The system's Python that the environment is made with, such as ``3.13``.
        architecture: As `platform.machine` returns it, such as ``aarch64``.
        system_site_packages: Whether the environment sees the system's packages: some engines and cameras (JetPack's
            TensorRT, picamera2, Aravis) have no wheels.
        files: Every file but the manifest, by its path in the payload.
    """

    schema: int = SCHEMA
    version: str
    python: str
    architecture: str
    system_site_packages: bool = False
    files: dict[str, FileEntry]

    @property
    def size_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.size for entry in self.files.values())

    @property
    def tag(self) -> str:
        """Such as ``cp313-aarch64``."""
        return f"cp{self.python.replace('.', '')}-{self.architecture}"

    def wheel_of(self, package: str) -> str:
        """Returns the path of a package's wheel in the payload.

        Raises:
            BundleFormatError: There is none.
        """
        found = [name for name in self.files if Path(name).name.startswith(f"{package}-")]
        if len(found) != 1:
            raise BundleFormatError(f"payload {self.version}: wheels of {package}", expected=1, actual=len(found))
        return found[0]


class Payload(msgspec.Struct, frozen=True):
    """A payload's folder with its manifest, and the sha256 of ``agent.json`` as ``digest``."""

    path: Path
    manifest: AgentManifest
    digest: str

    def verify(self) -> None:
        """Reads every file and compares it with the manifest.

        Raises:
            BundleIntegrityError: One is missing or differs.
        """
        for relative, entry in self.manifest.files.items():
            verify_file(self.path / relative, entry)

    def check_fits(self, *, python: str | None = None, architecture: str | None = None) -> None:
        """Raises `IncompatibleBundleError` if it is not for this Python and machine, or for those given."""
        here = f"cp{(python or running_python()).replace('.', '')}-{architecture or platform.machine()}"
        if self.manifest.tag != here:
            raise IncompatibleBundleError(
                f"agent {self.manifest.version} is for another board",
                expected=here,
                actual=self.manifest.tag,
                action="Pack it for this board's Python and architecture, and push that.",
            )


def running_python() -> str:
    """Returns this Python's version, such as ``3.13``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def parse_agent_manifest(data: bytes) -> AgentManifest:
    """Reads ``agent.json``.

    Raises:
        BundleFormatError: It is malformed, of another schema, or names files that can't be in a payload.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise BundleFormatError(f"{MANIFEST_NAME} too large", expected=f"at most {MANIFEST_MAX_BYTES} bytes")
    try:
        manifest = decode_json(data, type=AgentManifest)
    except msgspec.DecodeError as error:
        raise BundleFormatError(f"{MANIFEST_NAME}: {error}", action="Pack the payload again.") from error
    if manifest.schema != SCHEMA:
        raise BundleFormatError(f"{MANIFEST_NAME} of another schema", expected=SCHEMA, actual=manifest.schema)
    if len(manifest.files) > FILES_MAX:
        raise BundleFormatError("too many files", expected=f"at most {FILES_MAX}", actual=len(manifest.files))
    if not PYTHON.fullmatch(manifest.python):
        raise BundleFormatError(f"{MANIFEST_NAME}: python", expected="such as 3.13", actual=manifest.python)
    for relative in manifest.files:
        check_relative(relative)
        if not _WHEEL.fullmatch(relative):
            raise BundleFormatError(f"{MANIFEST_NAME}: {relative!r}", expected=f"{WHEELS}/NAME-VERSION-….whl")
    for package in ("lineside", "pip"):
        manifest.wheel_of(package)
    return manifest


def open_payload(folder: Path | str) -> Payload:
    """Opens a payload and verifies its files.

    Args:
        folder: Holds ``agent.json``.

    Raises:
        InputNotFoundError: There is no such folder.
        BundleFormatError: The manifest breaks the format.
        BundleIntegrityError: A file is missing or differs.
    """
    path = Path(folder)
    try:
        data = (path / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise InputNotFoundError(
            f"{path} is no payload: {MANIFEST_NAME}: {error.strerror}", action="Make one with `lineside agent pack`."
        ) from error
    payload = Payload(path, parse_agent_manifest(data), hashlib.sha256(data).hexdigest())
    payload.verify()
    return payload
