"""``lineside board prepare``."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import ProgressMeter, inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_json
from lineside.secret_input import add_passphrase
from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.files import cache_folder

if TYPE_CHECKING:
    from lineside_boards.first_boot.settings import FirstBootSettings, Wifi
    from lineside_boards.prepare import Prepared

WIFI_VARIABLE = "LINESIDE_WIFI_PASSWORD"
HUB_VARIABLE = "LINESIDE_HUB"

_OPTIONS = {
    "hostname": "--name",
    "user": "--user",
    "password_hash": "--password-hash-file",
    "ssh_keys": "--ssh-key",
    "wifi.ssid": "--wifi",
    "wifi.country": "--wifi-country",
    "password": "--wifi-password-file",
}


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "prepare",
        help="make an image whose board joins the fleet when it starts; needs neither root nor a card",
        description="Writes agent, identity, bundle and first-boot settings into a copy of a board's image.",
    )
    add_preparation(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new image")
    add_json(parser)
    parser.set_defaults(run=run)


def add_preparation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, metavar="NAME", help="`lineside board profiles` lists them")
    image = parser.add_mutually_exclusive_group(required=True)
    image.add_argument("--image", type=Path, metavar="FILE", help="the maker's image: .img, .img.xz or .img.zst")
    image.add_argument("--build", action="store_true", help="build a Debian arm64 image instead, for --board qemu-virt")
    add_identity(parser)
    _add_settings(parser.add_argument_group("first-boot settings"))
    add_agent(parser.add_argument_group("the agent"))


def add_identity(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Adds the device's name and the source of its identity; returns the group of the sources besides the hub."""
    group = parser.add_argument_group("identity of the device")
    group.add_argument("--name", required=True, help="name of the device, also its host name")
    group.add_argument("--group", required=True, help="group of the device")
    group.add_argument("--broker", metavar="URL", help="mqtts://host:8883 as the board reaches it; default: the hub's")
    group.add_argument(
        "--hub",
        type=Path,
        metavar="DIR",
        default=os.environ.get(HUB_VARIABLE),
        help=f"the hub's folder, which issues the identity (or set {HUB_VARIABLE})",
    )
    add_passphrase(parser)
    group.add_argument("--site", help="name of the site; default: the hub's")
    instead = group.add_mutually_exclusive_group()
    instead.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        help="instead of --hub: a folder with root.json, ca.pem, cert.pem, key.pem; needs --broker and --site",
    )
    return instead


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--user", default="admin", help="user who may log in (default: %(default)s)")
    group.add_argument(
        "--ssh-key", type=Path, action="append", default=[], metavar="FILE", help="such as id_ed25519.pub"
    )
    group.add_argument(
        "--password-hash-file",
        type=Path,
        metavar="FILE",
        help="hash of `openssl passwd -6`; default: keys only",
    )
    add_wifi(group)


def add_wifi(group: argparse._ArgumentGroup) -> None:
    """Adds a wireless network; its password is never on the command line."""
    group.add_argument("--wifi", metavar="SSID", help="name of a wireless network")
    group.add_argument("--wifi-password-file", type=Path, metavar="FILE", help=f"its password (or set {WIFI_VARIABLE})")
    group.add_argument("--wifi-country", default="", metavar="CC", help="two letters, such as DE; needed with --wifi")


def add_agent(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--bundle", metavar="DIR", help="first bundle: a folder or a shipped name")
    group.add_argument(
        "--camera",
        metavar="KIND",
        help="v4l2, simulator, or folder:/path/on/the/board (default: v4l2 where the board has a camera connector)",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="further tables of agent.toml, such as [camera], [trigger], [[line_io]], [store]",
    )
    group.add_argument("--payload", type=Path, metavar="DIR", help="from `lineside agent pack` (default: packed now)")
    group.add_argument(
        "--wheel", type=Path, metavar="FILE", help="lineside's wheel to pack (default: built from this source tree)"
    )


def run(options: argparse.Namespace) -> int:
    made = prepare_image(options, options.out)
    if options.json:
        print_json(made)
    else:
        show(f"{made.image}: {made.size_bytes / 1e6:.0f} MB, {made.files} files, first boot by {made.first_boot}")
    return 0


def prepare_image(options: argparse.Namespace, out: Path) -> Prepared:
    """Makes the image that the options describe.

    Args:
        options: With what `add_preparation` adds.
    """
    with needs("boards"):
        from lineside_boards.prepare import prepare
    from lineside.provision.agent_tree import AgentTree
    from lineside_boards import profile

    board = profile.load(options.board)
    settings = _settings(options)
    tree = AgentTree.of(options, board)  # checks names and files before the copy
    image = options.image if options.image is not None else _built()
    with ProgressMeter("copying the image") as meter:
        return prepare(
            image, out, profile=board, settings=settings, lay_out=tree.lay_out, say=inform, progress=meter.progress
        )


def _built() -> Path:
    """Returns the Debian image, which is built once and kept in the user's cache."""
    from lineside_boards.image import build

    place = cache_folder() / f"debian-{build.SUITE}-arm64-{build.recipe()}.img"
    if not place.exists():
        inform("building a Debian image: some minutes, once")
        build.build(place, say=inform)
    inform(f"base image: {place}")
    return place


def _settings(options: argparse.Namespace) -> FirstBootSettings:
    import secrets

    from lineside_boards.first_boot.settings import FirstBootSettings

    keys = tuple(line for path in options.ssh_key for line in key_lines(path))
    settings = FirstBootSettings(
        hostname=hostname(options.name),
        user=options.user,
        password_hash=_text(options.password_hash_file).strip() if options.password_hash_file is not None else "",
        ssh_keys=keys,
        wifi=wifi(options),
        instance=f"{options.name}-{secrets.token_hex(4)}",
    )
    with option_names():
        return settings.checked()


@contextlib.contextmanager
def option_names() -> Iterator[None]:
    """Names the option in the errors of first-boot settings, instead of the field."""
    try:
        yield
    except ConfigError as error:
        if error.message not in _OPTIONS:
            raise
        raise ConfigError(
            _OPTIONS[error.message], expected=error.expected, actual=error.actual, action="Correct this option."
        ) from error


def hostname(device: str) -> str:
    """Returns the host name of a device."""
    return device.lower().replace("_", "-").replace(".", "-")


def wifi(options: argparse.Namespace) -> Wifi | None:
    """Returns the wireless network that the options name; asks for its password if unknown.

    Raises:
        ConfigError: Country or password are missing or invalid.
    """
    from lineside_boards.first_boot.settings import Wifi, check_country, wpa_key

    if options.wifi is None:
        for name in ("wifi_password_file", "wifi_country"):
            if getattr(options, name):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} without --wifi", expected="the network's name by --wifi")
        return None
    if not options.wifi_country:
        raise ConfigError("--wifi-country is missing", expected="two letters, such as DE: the radio stays off without")
    with option_names():
        check_country(options.wifi_country.upper())
    if options.wifi_password_file is not None:
        password = _text(options.wifi_password_file)
    else:
        password = os.environ.get(WIFI_VARIABLE) or _ask(f"password of {options.wifi}: ")
    with option_names():
        key = wpa_key(options.wifi, password)
    return Wifi(ssid=options.wifi, key=key, country=options.wifi_country.upper())


def key_lines(path: Path) -> list[str]:
    """Returns the lines of a file with public SSH keys.

    Raises:
        InputNotFoundError: It can't be read.
        ConfigError: It has none.
    """
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"--ssh-key {path} is empty", expected="a line as in id_ed25519.pub", action="Give your key.")
    return lines


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        action = f"Give --wifi-password-file, or set {WIFI_VARIABLE}."
        raise ConfigError("no password of the wireless network, and nobody to ask", action=action)
    return getpass.getpass(question)


def _text(path: Path) -> str:
    """Returns a file's text without the end of its last line; blanks are left, since a password may have them."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}", expected="a text file in UTF-8") from error
