"""An engine says what it is and what it finds."""

from __future__ import annotations

from lineside_runtime.backend import Compatibility
from lineside_runtime.conformance.kit import CheckFailed
from lineside_runtime.conformance.subject import EngineSubject
from lineside_runtime.devices import KINDS


def it_says_what_it_is(subject: EngineSubject) -> str:
    """Name, package, formats and a version that begins with a number."""
    backend = subject.backend
    for what in ("name", "package", "version"):
        value = getattr(backend, what)
        if not isinstance(value, str) or not value or value != value.strip():
            raise CheckFailed(f"{what}: expected text, got {value!r}")
    if not backend.version[0].isdigit():
        raise CheckFailed(f"version: expected numbers that a range can be compared with, got {backend.version!r}")
    if not backend.formats or not all(isinstance(name, str) for name in backend.formats):
        raise CheckFailed(f"formats: expected at least one, got {backend.formats!r}")
    return f"{backend.name} {backend.version}, reads {', '.join(sorted(backend.formats))}"


def it_finds_its_devices_the_same_each_time(subject: EngineSubject) -> str:
    """Each is of a known kind and has a number of its own; asking again changes nothing."""
    devices = subject.backend.probe()
    if len({str(device) for device in devices}) != len(devices):
        raise CheckFailed(f"two devices of one name: {', '.join(map(str, devices))}")
    unknown = sorted({device.kind for device in devices} - set(KINDS))
    if unknown:
        raise CheckFailed(f"kinds of device: expected {', '.join(KINDS)}, got {', '.join(unknown)}")
    if subject.device not in devices or subject.backend.probe() != devices:
        raise CheckFailed("it finds other devices when it is asked again")
    return ", ".join(f"{device} {device.name}".strip() for device in devices)


def it_tells_whether_driver_and_libraries_fit(subject: EngineSubject) -> str:
    """Versions by name; advice where they don't fit."""
    facts = subject.backend.compatibility()
    if not isinstance(facts, Compatibility) or not facts.versions:
        raise CheckFailed(f"expected at least the engine's own version, got {facts!r}")
    if not all(isinstance(text, str) for pair in facts.versions.items() for text in pair):
        raise CheckFailed(f"versions: expected text, got {facts.versions!r}")
    if facts.fits is False and not facts.advice:
        raise CheckFailed("it says that they don't fit, and not what to install")
    verdict = {None: "nothing that could misfit", True: "they fit", False: f"misfit: {facts.advice}"}[facts.fits]
    return f"{verdict}; " + ", ".join(f"{name} {version}" for name, version in facts.versions.items())


CHECKS = (it_says_what_it_is, it_finds_its_devices_the_same_each_time, it_tells_whether_driver_and_libraries_fit)
