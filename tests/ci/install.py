"""Install packages by uv: ``python tests/ci/install.py --editable '.[dev]'``.

uv takes a third of pip's processor time, most of which chooses releases: 20 s and 70 s for the development environment.
uv does not read pip's configuration: it is told what it says. Where uv cannot be told, cannot be had or fails, pip
installs.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

UV = "uv>=0.5,<1"
TIMEOUT_S = "180"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
}
"""A setting of pip, and uv's variable of the same meaning."""

WITHOUT_EFFECT = {
    "cache-dir",
    "default-timeout",
    "disable-pip-version-check",
    "progress-bar",
    "root-user-action",
    "timeout",
}
"""Settings of pip that don't decide what is installed."""


def uv_environment(settings: str) -> dict[str, str] | None:
    """Returns the variables that tell uv what pip's configuration says.

    Args:
        settings: Output of ``pip config list``: variables first, then files, the ones with precedence first.

    Returns:
        ``None`` if there is a setting that uv cannot be told.
    """
    found: dict[str, str] = {}
    for line in settings.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in WITHOUT_EFFECT:
            continue
        if name not in VARIABLES:
            return None
        words = str(ast.literal_eval(value)).split()
        if len(words) != 1:
            return None
        found.setdefault(VARIABLES[name], words[0])
    return found


def install_by_uv(words: list[str], python: str = sys.executable) -> bool:
    """Returns whether uv has installed for ``python`` what ``pip install`` is asked for by ``words``."""
    settings = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    told = uv_environment(settings.stdout) if settings.returncode == 0 else None
    if told is None:
        return False
    if subprocess.run([*PIP, "install", "--quiet", UV], check=False).returncode != 0:
        return False
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *words]
    return (
        subprocess.run(command, env={**os.environ, "UV_HTTP_TIMEOUT": TIMEOUT_S, **told}, check=False).returncode == 0
    )


def main() -> int:
    """Installs by uv, or else by pip."""
    words = sys.argv[1:]
    if install_by_uv(words):
        return 0
    return subprocess.run([*PIP, "install", "--quiet", "--no-compile", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
