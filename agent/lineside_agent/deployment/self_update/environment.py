"""Make a slot's environment from a payload, without a network, on the device or for another machine's image.

The steps are the same on both: the folders of a virtual environment, whose Python is a link to the system's own, and
pip from the payload, which unpacks the wheels into it and checks each against the manifest's sha256. Nothing in a wheel
is run. For another machine pip is given that machine's Python and platform.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lineside_agent.deployment.self_update.payload import AgentManifest, Payload
from lineside_runtime.errors import StagingError

log = logging.getLogger("lineside.self_update")

SYSTEM_PYTHON = "/usr/bin/python"
"""The version is appended, as in ``/usr/bin/python3.13``, so that a system may change its default."""

GLIBC_MAX = 41
"""Of ``manylinux_2_N`` tags: that of Debian trixie. Wheels for a newer one don't come into a payload."""

INSTALL_TIMEOUT_S = 1800.0
"""An SD card under load is slow; without a limit a stuck card would hold the update for good."""


def platforms(architecture: str) -> list[str]:
    """Returns the platform tags (PEP 600) of an architecture, newest first.

    Args:
        architecture: Such as ``aarch64``.
        glibc: Minor version of the board's glibc 2.
    """
    old = ["manylinux2014", "manylinux2010", "manylinux1"]
    tags = [f"manylinux_2_{minor}_{architecture}" for minor in range(GLIBC_MAX, 4, -1)]
    return [*tags, *(f"{tag}_{architecture}" for tag in old), f"linux_{architecture}"]


def for_target(python: str, architecture: str) -> list[str]:
    """Returns pip's options for another Python than the one that runs it."""
    tags = [option for tag in platforms(architecture) for option in ("--platform", tag)]
    return ["--python-version", python, "--implementation", "cp", "--only-binary=:all:", *tags]


def make_environment(payload: Payload, folder: Path, *, foreign: bool = False, python: str | None = None) -> None:
    """Makes the environment beside its place, and replaces what is there when it is done.

    Args:
        payload: Verified.
        foreign: Whether it is for another machine: nothing is compiled, and that machine's tags count.
        python: The system's Python; ``/usr/bin/python3.X`` if not given.

    Raises:
        StagingError: pip failed; its last lines are in the message.
    """
    for left in folder.parent.glob(f".{folder.name}-*"):  # of a try that was killed; its pip may still write there
        shutil.rmtree(left, ignore_errors=True)
    made = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        site = _lay_out(made, python or f"{SYSTEM_PYTHON}{payload.manifest.python}", payload.manifest)
        _install(payload, made, site, foreign=foreign)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _lay_out(folder: Path, base: str, manifest: AgentManifest) -> Path:
    """Makes the environment's skeleton, as ``venv`` does; returns the folder of its packages."""
    site = folder / "lib" / f"python{manifest.python}" / "site-packages"
    (folder / "bin").mkdir(parents=True)
    site.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(_configuration(base, manifest))
    for name, target in (("python", base), ("python3", "python"), (f"python{manifest.python}", "python")):
        (folder / "bin" / name).symlink_to(target)
    return site


def _install(payload: Payload, folder: Path, site: Path, *, foreign: bool) -> None:
    manifest = payload.manifest
    requirements = folder / "requirements.txt"
    requirements.write_text(_requirements(payload))
    tags = [*for_target(manifest.python, manifest.architecture), "--no-compile"] if foreign else []
    pip = [str(payload.path / manifest.wheel_of("pip") / "pip")]
    arguments = ["install", "--target", str(site), *tags, "--requirement", str(requirements)]
    run_pip(pip, arguments, scratch=folder, behind=not foreign)
    requirements.unlink()
    for note in site.glob("*.dist-info/direct_url.json"):  # where the wheel lay on the machine that ran pip
        note.unlink()
    shutil.rmtree(site / "bin", ignore_errors=True)  # scripts for the Python that ran pip; ours is `python -m lineside`


def _configuration(base: str, manifest: AgentManifest) -> str:
    """``pyvenv.cfg``, as ``site`` reads it."""
    shared = "true" if manifest.system_site_packages else "false"
    home = Path(base).parent
    return f"home = {home}\ninclude-system-site-packages = {shared}\nversion = {manifest.python}\nexecutable = {base}\n"


def _requirements(payload: Payload) -> str:
    """The files themselves with their hashes: nothing to look up, nothing to resolve."""
    lines = [
        f"{(payload.path / relative).resolve()} --hash=sha256:{entry.sha256}"
        for relative, entry in payload.manifest.files.items()
        if relative != payload.manifest.wheel_of("pip")
    ]
    return "\n".join([*lines, ""])


def run_pip(
    pip: Sequence[str], arguments: Sequence[str], *, scratch: Path, offline: bool = True, behind: bool = False
) -> None:
    """Runs pip.

    Args:
        pip: How Python runs it: a path in its wheel, ``pip-….whl/pip``, or ``-m pip``.
        scratch: For temporary files, on the target's disk, so that they can be renamed.
        offline: Whether it uses no network and no configuration, and takes exactly what it is given.
        behind: Whether it runs at the lowest priority, since a line is inspected meanwhile.

    Raises:
        StagingError: It failed; its last lines are in the message.
    """
    temporary = scratch / ".tmp"
    temporary.mkdir(exist_ok=True)
    foreign = ("PYTHON", "PIP_") if offline else ("PYTHON",)  # at the host the user's index counts
    known = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment = {**known, "TMPDIR": str(temporary)}
    options = ["--disable-pip-version-check", "--no-input"]
    if offline:
        environment["PIP_CONFIG_FILE"] = os.devnull
        options += ["--no-cache-dir"]
        arguments = [*arguments, "--no-index", "--no-deps", "--require-hashes"]
    command = [*(["nice", "-n", "19"] if behind else []), sys.executable, *pip, *options, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise StagingError(f"pip was not done after {INSTALL_TIMEOUT_S:g} s") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        action = "Pack the agent again, with what pip's message says is missing or damaged."
        raise StagingError(f"pip ended with {done.returncode}: {tail}", action=action)
