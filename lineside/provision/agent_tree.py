"""`AgentTree`: the files of the agent for a board, composed from the hub's identity and the agent's slot and units."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lineside.console import inform
from lineside.extras import needs
from lineside_boards.errors import PayloadError
from lineside_models import zoo
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError

if TYPE_CHECKING:
    from lineside_agent.deployment.self_update.payload import Payload
    from lineside_boards.agent_files import AgentSetup, IdentityFiles, SystemTarget
    from lineside_boards.profile import BoardProfile


_FROM_OPTIONS = {"device", "group", "folder", "root", "bundle", "link"}
"""Keys of agent.toml that come from the command's options."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentTree:
    """The agent of a board.

    Attributes:
        identify: Issues the identity; called once, after the image was checked.
        payload: Of the agent, or ``None`` to pack one.
        wheel: Of lineside, or ``None`` to build it.
    """

    agent: AgentSetup
    identify: Callable[[], IdentityFiles]
    profile: BoardProfile
    payload: Path | None
    wheel: Path | None

    @classmethod
    def of(cls, options: argparse.Namespace, profile: BoardProfile) -> AgentTree:
        """Reads and checks the options of ``board prepare``, ``flash`` and ``provision``.

        Raises:
            ConfigError: Hub, broker or site are not given, the hub's broker is on the hub's own machine only, or a name
                or ``--config`` is invalid.
            InputNotFoundError: A file is missing.
            BundleError: The bundle is damaged.
        """
        from lineside_agent.config import parse_config
        from lineside_boards.agent_files import CONFIGURATION, AgentSetup, agent_toml
        from lineside_link.topics import check_name

        check_name(options.name, "device")
        check_name(options.group, "group")
        url, site, identify = _identity(options)
        more = _more(options.config)
        camera = more.pop("camera", None)
        if camera is not None and options.camera is not None:
            raise ConfigError(f"{options.config} has a [camera], and --camera is given", expected="one of the two")
        agent = AgentSetup(
            device=options.name,
            group=options.group,
            url=url,
            site=site,
            camera=_camera(options.camera, profile) if camera is None else camera,
            more=more,
            bundle=_bundle(options.bundle),
            patience=profile.board.patience,
        )
        files = ("ca.pem", "cert.pem", "key.pem") if url.startswith("mqtts:") else ()
        name = str(options.config or "agent.toml")  # whose keys a user can correct
        parse_config(agent_toml(agent, files).encode(), Path("/", CONFIGURATION), name=name)
        return cls(
            agent=agent,
            identify=identify,
            profile=profile,
            payload=options.payload,
            wheel=options.wheel,
        )

    def lay_out(self, tree: Path, target: SystemTarget) -> None:
        """Writes the files of the agent.

        Args:
            tree: An empty folder, the root.
            target: The system in the image.

        Raises:
            PayloadError: There is no agent for that Python.
        """
        from lineside_agent.config import parse_config
        from lineside_agent.service.install import install
        from lineside_boards.agent_files import lay_out

        payload = self.payload_for(tree.parent / "payload", target)
        install(tree, payload=payload, foreign=True, progress=inform)
        configuration = lay_out(tree, self.agent, self.identify())
        parse_config(configuration.read_bytes(), configuration.parent)

    def payload_for(self, scratch: Path, target: SystemTarget) -> Payload:
        """Opens the given payload, or packs one into ``scratch``, a new folder.

        Raises:
            PayloadError: The given payload is for another system.
        """
        from lineside_agent.deployment.self_update.pack import pack
        from lineside_agent.deployment.self_update.payload import open_payload

        if self.payload is None:
            facts = self.profile.python
            return pack(
                scratch,
                wheel=self.wheel,
                python=target.python,
                architecture=target.architecture,
                extras=facts.extras,
                system_site_packages=facts.system_site_packages,
                report=inform,
            )
        payload = open_payload(self.payload)
        wanted = f"cp{target.python.replace('.', '')}-{target.architecture}"
        if payload.manifest.tag != wanted:
            action = f"Pack one: lineside agent pack DIR --python {target.python} --arch {target.architecture}."
            raise PayloadError(
                f"{self.payload} is for another system", expected=wanted, actual=payload.manifest.tag, action=action
            )
        return payload


def _identity(options: argparse.Namespace) -> tuple[str, str, Callable[[], IdentityFiles]]:
    """Returns the broker's URL, the site, and the function that issues the identity."""
    from lineside_boards.agent_files import IdentityFiles

    if getattr(options, "token", None) is not None:
        return _by_token(options)
    if options.identity is not None:
        if not options.broker or not options.site:
            raise ConfigError("--identity needs --broker and --site", expected="all three")
        files = {name: options.identity / name for name in ("root.json", "ca.pem", "cert.pem", "key.pem")}
        if not files["root.json"].is_file():
            raise InputNotFoundError(f"{files['root.json']} is not there", action="Copy it from the hub's folder.")
        ca, certificate, key = (path if path.is_file() else None for path in list(files.values())[1:])
        found = IdentityFiles(root=files["root.json"], ca=ca, certificate=certificate, key=key)
        return options.broker, options.site, lambda: found
    if options.hub is None:
        action = "Make a hub with `lineside hub init` and `lineside hub secure`, and give its folder."
        raise ConfigError("the device has no identity", expected="--hub DIR or --identity DIR", action=action)
    return _by_hub(options)


def _by_token(options: argparse.Namespace) -> tuple[str, str, Callable[[], IdentityFiles]]:
    """The board requests its identity itself."""
    from lineside_agent.hub_client.identity import read_token

    token = read_token(options.token)
    if (token.device, token.group) != (options.name, options.group):
        raise ConfigError(
            f"{options.token} is for another device",
            expected=f"{options.name} in {options.group}",
            actual=f"{token.device} in {token.group}",
        )

    def identify() -> IdentityFiles:
        raise PayloadError("a token's identity is made on the board")

    return options.broker or _seen_from_board(token.url), options.site or token.site, identify


def _by_hub(options: argparse.Namespace) -> tuple[str, str, Callable[[], IdentityFiles]]:
    from lineside.secret_input import passphrase
    from lineside_boards.agent_files import IdentityFiles

    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.identity.broker_reload import reload_broker
        from lineside_hub.identity.secure_site import enroll
        from lineside_hub.repository.repository import Repository

    hub = Path(options.hub)
    link = folder_config(hub).link
    url = options.broker or _seen_from_board(link.url)

    def identify() -> IdentityFiles:
        if not url.startswith("mqtts:"):
            return IdentityFiles(root=hub / "root.json")
        made = enroll(hub, options.name, group=options.group, passphrase=passphrase(options))
        inform(f"{options.name} is enrolled in group {options.group}; {reload_broker(hub).message}")
        return IdentityFiles(root=hub / "root.json", ca=made.ca, certificate=made.certificate, key=made.key)

    if not (hub / "root.json").is_file():
        raise InputNotFoundError(f"{hub / 'root.json'} is not there", action="`lineside hub init` makes it.")
    Repository.open(hub).roles.check_group(options.group)  # before minutes of packing and copying
    return url, options.site or link.site, identify


def _seen_from_board(url: str) -> str:
    """Returns the hub's URL of the broker; raises `ConfigError` if a board would look for the broker on itself."""
    from lineside_link.config import is_loopback

    if is_loopback(urlsplit(url).hostname or ""):
        raise ConfigError(
            "the hub's broker, as the board would reach it",
            expected="its name or address in the plant's network",
            actual=url,
            action="Give --broker with it, or `lineside hub secure --host ADDRESS`, which writes it into hub.toml. If "
            "the broker does run on the board, give this URL by --broker.",
        )
    return url


def _camera(given: str | None, profile: BoardProfile) -> dict[str, Any]:
    kind = given or ("simulator" if profile.camera.stack == "none" else "v4l2")
    name, _, path = kind.partition(":")
    if name == "folder" and path.startswith("/"):
        return {"type": "folder", "path": path, "loop": True, "rate_hz": 2.0}
    if kind in ("v4l2", "simulator"):
        return {"type": kind, "rate_hz": 2.0} if kind == "simulator" else {"type": kind}
    raise ConfigError("--camera", expected="v4l2, simulator or folder:/absolute/path", actual=kind)


def _more(path: Path | None) -> dict[str, Any]:
    """Reads further tables of agent.toml from a file; the agent's reader checks them with the rest."""
    if path is None:
        return {}
    try:
        found: dict[str, Any] = decode_toml(path.read_bytes())
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    if own := sorted(set(found) & _FROM_OPTIONS):
        raise ConfigError(
            f"{path}: keys that the options set",
            expected="other keys of agent.toml",
            actual=", ".join(own),
        )
    return found


def _bundle(given: str | None) -> Path | None:
    from lineside_runtime.bundle import open_bundle

    if given is None:
        return None
    bundle = open_bundle(zoo.find(given))
    bundle.verify()
    return bundle.path
