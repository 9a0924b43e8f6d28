"""Probe the engines, each in a separate process.

An engine's import can crash (a library built for another processor), and a probe can hang (a driver that waits for a
dead device): neither may end this process, and no engine's output may mix with its output. An engine that isn't
installed is reported without a process. `registry.status` probes in this process.

The child writes lines of JSON: its report, then, where devices are to be tried, the outcome of each. What a device's
driver brings down then costs that device and not the report.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from lineside_runtime import registry
from lineside_runtime.decoding import decode_json
from lineside_runtime.devices import Device, DeviceKind
from lineside_runtime.errors import DeviceError, EngineMissingError
from lineside_runtime.system.accelerators import Accelerator
from lineside_runtime.system.packages import child_environment

TIMEOUT_S = 30.0
"""Importing torch from a cold SD card takes a Raspberry Pi more than ten seconds."""

AT_ONCE = 4
_KILLED_WAIT_S = 1.0
_WORDS_MAX = 300


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A device of an engine.

    Attributes:
        device: Such as ``ort/cpu:0``.
        kind: ``npu``, ``gpu`` or ``cpu``.
        name: What the engine calls it.
        memory_bytes: Its own memory; 0 where the engine doesn't tell.
        emulated: Whether it only stands for such a device and computes on the CPU.
        tested_on_hardware: Whether we have run the engine on such a device.
        unusable: Why it could not run a network when it was tried; empty if it could or was not tried.
    """

    device: str
    kind: DeviceKind
    name: str = ""
    memory_bytes: int = 0
    emulated: bool = False
    tested_on_hardware: bool = True
    unusable: str = ""


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one engine on this machine.

    Attributes:
        name: Such as ``ort``.
        available: Whether it can run something.
        version: Of the engine, empty where it is absent.
        reason: Why it is absent; empty if it is available.
        versions: Of drivers and libraries; empty text where one isn't found.
        fits: Whether they fit together; ``None`` where nothing could misfit or it can't be told.
        advice: What to do if they don't, or what can't be told.
    """

    name: str
    available: bool
    version: str = ""
    devices: tuple[DeviceReport, ...] = ()
    reason: str = ""
    install: str = ""
    versions: dict[str, str] = {}
    fits: bool | None = None
    advice: str = ""


def probe(
    names: Iterable[str] | None = None, *, timeout_s: float = TIMEOUT_S, trial: bool = False
) -> tuple[EngineReport, ...]:
    """Probes the engines; never raises for one that is absent, crashes or hangs.

    Args:
        names: Which; all known ones if ``None``.
        timeout_s: How long each may take.
        trial: Whether to run a small network on each device. Not while the devices serve a line.

    Returns:
        One report an engine, in the given order.
    """
    wanted = tuple(registry.names() if names is None else names)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(lambda name: _ask(name, timeout_s, trial), wanted))


def report(name: str) -> EngineReport:
    """Probes an engine in this process; an installed one without a device still reports its versions."""
    status = registry.status(name)
    known = EngineReport(
        name=name,
        available=status.available,
        version=status.version,
        devices=tuple(_device(name, device, status.untested_kinds) for device in status.devices),
        reason=status.reason,
        install=status.install,
    )
    try:
        found = registry.backend(name).compatibility()
    except EngineMissingError:
        return known
    except DeviceError as error:
        return msgspec.structs.replace(known, advice=f"its versions can't be told: {error}")
    return msgspec.structs.replace(known, versions=dict(found.versions), fits=found.fits, advice=found.advice)


def _device(name: str, device: Device, untested: frozenset[str]) -> DeviceReport:
    return DeviceReport(
        device=f"{name}/{device}",
        kind=device.kind,
        name=device.name,
        memory_bytes=device.memory_bytes,
        emulated=device.emulated,
        tested_on_hardware=device.kind not in untested,
    )


def unused(found: Iterable[Accelerator], reports: Iterable[EngineReport]) -> dict[Accelerator, str]:
    """Returns the accelerators that no engine here can use, with what is missing."""
    known = {report.name: report for report in reports}
    hints: dict[Accelerator, str] = {}
    for one in found:
        engines = [known[name] for name in one.engines if name in known]
        devices = [device for each in engines for device in each.devices if not device.emulated and not device.unusable]
        if not any(device.kind == one.kind for device in devices):
            driver = "" if one.driver else "; no kernel driver holds it"
            hints[one] = f"needs {one.needs}{driver}"
    return hints


def system_python_hint(name: str, root: Path | str = "/") -> str:
    """Returns how to use an engine that only the system's Python has, as on JetPack and Raspberry Pi OS."""
    for module in registry.vendor_modules(name):
        for place in sorted(Path(root).glob(f"usr/lib/python3*/dist-packages/{module}")):
            return (
                f"it is in the system's Python ({place.parent}): use it there with "
                f"Config(isolate=('{name}=/usr/bin/python3',)), which needs numpy and msgspec, or make this "
                "environment with --system-site-packages"
            )
    return ""


def _ask(name: str, timeout_s: float, trial: bool) -> EngineReport:
    missing = registry.missing(name)
    if missing is not None:
        install = system_python_hint(name) or registry.install_hint(name)
        return EngineReport(name=name, available=False, reason=str(missing), install=install)
    child = subprocess.Popen(
        [sys.executable, "-m", "lineside_runtime.system.probing", name, *(["--trial"] if trial else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        out, words = child.communicate(timeout=timeout_s)
        failure = f"it ended with {_how(child.returncode)}{_last_line(words)}" if child.returncode else ""
    except subprocess.TimeoutExpired:
        out, left = _end(child)
        failure = f"it did not answer within {timeout_s:g} s{left}: does its driver hang?"
    told, *outcomes = out.splitlines() or [b""]
    if not out.endswith(b"\n"):
        return _broken(name, failure)
    return _with_outcomes(decode_json(told, type=EngineReport), outcomes, failure)


def _with_outcomes(found: EngineReport, outcomes: Sequence[bytes], failure: str) -> EngineReport:
    """Adds the outcomes of the trials; the device on trial when the child failed is unusable."""
    reasons = [decode_json(outcome, type=str) for outcome in outcomes]
    if failure:
        reasons.append(f"when it was tried, {failure}")
    devices = list(found.devices)
    for place, reason in enumerate(reasons[: len(devices)]):
        devices[place] = msgspec.structs.replace(devices[place], unusable=reason[:_WORDS_MAX])
    return msgspec.structs.replace(found, devices=tuple(devices))


def _end(child: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    """Ends a child and its children, and returns its output.

    One that waits inside the kernel can't be ended, and is left.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        out, _ = child.communicate(timeout=_KILLED_WAIT_S)
    except subprocess.TimeoutExpired as expired:
        return expired.stdout or b"", " and can't be ended"
    return out, ""


def _broken(name: str, reason: str) -> EngineReport:
    return EngineReport(name=name, available=False, reason=reason, install=registry.install_hint(name))


def _how(code: int) -> str:
    return f"status {code}" if code > 0 else signal.Signals(-code).name


def _last_line(words: bytes) -> str:
    lines = words.decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:_WORDS_MAX]}" if lines else ""


def main() -> None:
    """Reports on the engine that the command line names; only that goes to stdout, whatever an engine prints."""
    name, *options = sys.argv[1:]
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        told = report(name)
        out.write(msgspec.json.encode(told) + b"\n")
        if "--trial" in options and told.devices:
            from lineside_runtime.system.device_trial import try_device

            engine = registry.backend(name)
            for device in registry.status(name).devices:
                out.write(msgspec.json.encode(try_device(engine, device)) + b"\n")


if __name__ == "__main__":
    main()
