"""Pack a payload at the host: lineside's wheel without what only a host uses, its requirements on that board, and pip.

pip chooses and fetches for the board's Python and platform, but evaluates environment markers (``; python_version <
"3.11"``) with the Python that runs it. So the requirements of every wheel are evaluated again with the board's markers,
and what is missing is fetched, until nothing is.
"""

from __future__ import annotations

import email.message
import email.parser
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from lineside_agent.deployment.self_update.device_wheel import write_device_wheel
from lineside_agent.deployment.self_update.environment import for_target, run_pip
from lineside_agent.deployment.self_update.payload import (
    MANIFEST_NAME,
    PYTHON,
    WHEELS,
    AgentManifest,
    Payload,
    open_payload,
)
from lineside_runtime.bundle import describe_bytes
from lineside_runtime.errors import InputError, InputNotFoundError, StagingError
from lineside_runtime.files import fsync_folder, write_atomic

log = logging.getLogger("lineside.self_update")

Report = Callable[[str], None]

_PIP = ("-m", "pip")

ROUNDS_MAX = 10
"""Of fetching what markers left out; two were needed at most."""


def pack(
    out: Path,
    *,
    wheel: Path | None = None,
    wheels: Path | None = None,
    python: str = "3.13",
    architecture: str = "aarch64",
    extras: Sequence[str] = (),
    system_site_packages: bool = False,
    report: Report = log.info,
) -> Payload:
    """Makes a payload.

    Args:
        wheel: Of lineside; built from the source tree of this code if not given.
        wheels: A folder with every wheel, also pip's; the package index of pip's configuration if not given.
        python: Version of the board's system Python.
        architecture: Of the board, as ``uname -m`` says it.
        extras: Of lineside, such as ``litert``.
        system_site_packages: See `AgentManifest`.

    Raises:
        InputError: ``out`` exists and isn't empty, ``python`` is no version, or ``wheel`` is none or has no such extra.
        InputNotFoundError: No wheel of lineside was given, and there is no source tree to build it from; or there is no
            folder of wheels.
        StagingError: pip found no wheel for that board.
        DiskFullError: There is no room.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty", action="Give a new folder.")
    if not PYTHON.fullmatch(python):
        raise InputError("--python", expected="a version such as 3.13", actual=repr(python), action="Give the board's.")
    if wheels is not None and not wheels.is_dir():
        raise InputNotFoundError(f"no folder of wheels at {wheels}", action="Give one, or leave out --wheels.")
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=_parent(out)) as name:
        scratch = Path(name)
        (scratch / WHEELS).mkdir()
        own = _own_wheel(wheel, scratch, report)
        _check_wheel(own, extras)
        own = write_device_wheel(own, scratch / "device")
        shutil.copy2(own, scratch / WHEELS / own.name)
        report(f"{own.name}: fetching what it needs for Python {python} on {architecture}")
        _fetch_closure(scratch, own, wheels, for_target(python, architecture), extras, _markers(python, architecture))
        manifest = AgentManifest(
            version=str(parse_wheel_filename(own.name)[1]),
            python=python,
            architecture=architecture,
            system_site_packages=system_site_packages,
            files={
                f"{WHEELS}/{path.name}": describe_bytes(path.read_bytes())
                for path in sorted((scratch / WHEELS).iterdir())
            },
        )
        write_atomic(scratch / MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        out.mkdir(parents=True, exist_ok=True)
        (scratch / WHEELS).replace(out / WHEELS)
        (scratch / MANIFEST_NAME).replace(out / MANIFEST_NAME)
        fsync_folder(out)
    return open_payload(out)


def _parent(out: Path) -> Path:
    parent = out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _own_wheel(given: Path | None, scratch: Path, report: Report) -> Path:
    if given is not None:
        if not given.is_file():
            raise InputNotFoundError(f"{given} is not there", action="Give a wheel of lineside.")
        return given
    source = Path(__file__).resolve().parents[4]
    if not (source / "pyproject.toml").is_file():
        raise InputNotFoundError(
            "this lineside runs from no source tree to build its wheel from", action="Give one with --wheel."
        )
    report(f"building lineside's wheel from {source}")
    built = scratch / "own"
    run_pip(
        _PIP, ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), str(source)], scratch=scratch, offline=False
    )
    return next(built.glob("lineside-*.whl"))


def _check_wheel(own: Path, extras: Sequence[str]) -> None:
    """Checks that it is a wheel with these extras: pip leaves an unknown one out with a warning."""
    try:
        known = {canonicalize_name(extra) for extra in _metadata(own).get_all("Provides-Extra", [])}
    except (zipfile.BadZipFile, StopIteration) as error:
        raise InputError(f"{own} is no wheel", action="Give a wheel of lineside, or leave out --wheel.") from error
    unknown = [extra for extra in extras if canonicalize_name(extra) not in known]
    if unknown:
        raise InputError(
            f"lineside has no extra {', '.join(unknown)}",
            expected=f"one of {', '.join(sorted(known))}",
            action="Correct --extra.",
        )


def _markers(python: str, architecture: str) -> dict[str, str]:
    """Returns the environment markers (PEP 508) of the board, where they differ from this machine's."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": architecture,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def _fetch_closure(
    scratch: Path,
    own: Path,
    wheels: Path | None,
    target: Sequence[str],
    extras: Sequence[str],
    markers: dict[str, str],
) -> None:
    folder = scratch / WHEELS
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
    arguments = ["download", "--quiet", "--dest", str(folder), *target, *source, "--find-links", str(folder)]
    wanted = [f"lineside[{','.join(extras)}] @ {own.resolve().as_uri()}" if extras else str(own.resolve()), "pip"]
    for _ in range(ROUNDS_MAX):
        run_pip(_PIP, [*arguments, *wanted], scratch=scratch, offline=False)
        missing = sorted({str(need) for need in _needs(folder, markers, extras) if not _is_there(folder, need)})
        if not missing:
            return
        wanted = [requirement.partition(";")[0] for requirement in missing]
    raise StagingError(f"the payload is never complete: {', '.join(missing)} is missing")


def _needs(folder: Path, markers: dict[str, str], extras: Sequence[str]) -> list[Requirement]:
    """Returns what the wheels require on the board.

    An extra counts only where lineside or a wheel that is needed asks for it. A package's ``dev`` extra may ask for its
    ``lint``: as nobody asked for ``dev``, ``lint`` does not count.
    """
    asked: dict[str, set[str]] = {"lineside": set(extras)}
    requirements = {name: _requires(path) for name, path in _wheels(folder).items()}
    while True:
        active = [
            need
            for name, needs in requirements.items()
            for need in needs
            if _applies(need, markers, asked.get(name, set()))
        ]
        found = {name: set(of) for name, of in asked.items()}
        for need in active:
            found.setdefault(canonicalize_name(need.name), set()).update(need.extras)
        if found == asked:
            return active
        asked = found


def _applies(need: Requirement, markers: dict[str, str], extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({**markers, "extra": extra}) for extra in ("", *extras))


def _wheels(folder: Path) -> dict[str, Path]:
    return {parse_wheel_filename(path.name)[0]: path for path in sorted(folder.glob("*.whl"))}


def _requires(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in _metadata(path).get_all("Requires-Dist", [])]


def _metadata(path: Path) -> email.message.Message:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.BytesHeaderParser().parsebytes(archive.read(name))


def _is_there(folder: Path, need: Requirement) -> bool:
    path = _wheels(folder).get(canonicalize_name(need.name))
    return path is not None and need.specifier.contains(parse_wheel_filename(path.name)[1], prereleases=True)
