"""`AgentTree`: everything of the agent that goes into a board's image. Here the parts are put together: the hub issues
the identity, the agent's package makes slot and units, its reader checks the configuration, the boards' part lays out.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import say
from lineside.extras import needs
from lineside_models import zoo
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError, PayloadError

if TYPE_CHECKING:
    from lineside_agent.deployment.self_update.payload import Payload
    from lineside_boards.payload import Agent, PayloadIdentity, PayloadTarget
    from lineside_boards.profile import BoardProfile


_OPTIONS_SAY = {"device", "group", "folder", "root", "bundle", "link"}
"""Keys of agent.toml that are made of the command's options."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentTree:
    """What is laid out.

    Attributes:
        agent: The configuration.
        identify: Issues the identity; called once, after the image was found to be usable.
        profile: Of the board.
        payload: Of the agent, or ``None`` to pack one.
        wheel: lineside's own, or ``None`` to build it.
    """

    agent: Agent
    identify: Callable[[], PayloadIdentity]
    profile: BoardProfile
    payload: Path | None
    wheel: Path | None

    @classmethod
    def of(cls, options: argparse.Namespace, profile: BoardProfile) -> AgentTree:
        """Reads the options; whatever of them can't be used is said here.

        Raises:
            ConfigError: Hub, broker or site are not told, or a name or ``--config`` can't be used.
            InputNotFoundError: A file isn't there.
            BundleError: The bundle is damaged.
        """
        from lineside_agent.config import parse_config
        from lineside_boards.payload import CONFIGURATION, Agent, agent_toml
        from lineside_link.topics import check_name

        check_name(options.name, "device")
        check_name(options.group, "group")
        url, site, identify = _identity(options)
        more = _more(options.config)
        camera = more.pop("camera", None)
        if camera is not None and options.camera is not None:
            raise ConfigError(f"{options.config} has a [camera], and --camera is given", expected="one of the two")
        agent = Agent(
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
        parse_config(agent_toml(agent, files).encode(), Path("/", CONFIGURATION))
        return cls(
            agent=agent,
            identify=identify,
            profile=profile,
            payload=options.payload,
            wheel=options.wheel,
        )

    def lay_out(self, tree: Path, target: PayloadTarget) -> None:
        """Lays everything out.

        Args:
            tree: An empty folder, the root.
            target: The Python in the image.

        Raises:
            PayloadError: There is no agent for that Python.
        """
        from lineside_agent.config import parse_config
        from lineside_agent.service.install import install
        from lineside_boards.payload import lay_out

        payload = self.payload_for(tree.parent / "payload", target)
        install(tree, payload=payload, foreign=True, progress=say)
        configuration = lay_out(tree, self.agent, self.identify())
        parse_config(configuration.read_bytes(), configuration.parent)

    def payload_for(self, scratch: Path, target: PayloadTarget) -> Payload:
        """Opens the payload that was given, or packs one.

        Args:
            scratch: A folder that isn't there yet.
            target: The Python that runs it.

        Raises:
            PayloadError: The one that was given is for another system.
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
                say=say,
            )
        payload = open_payload(self.payload)
        wanted = f"cp{target.python.replace('.', '')}-{target.architecture}"
        if payload.manifest.tag != wanted:
            action = f"Pack one: lineside agent pack DIR --python {target.python} --arch {target.architecture}."
            raise PayloadError(
                f"{self.payload} is for another system", expected=wanted, actual=payload.manifest.tag, action=action
            )
        return payload


def _identity(options: argparse.Namespace) -> tuple[str, str, Callable[[], PayloadIdentity]]:
    """The broker's URL, the site, and what issues the identity."""
    from lineside_boards.payload import PayloadIdentity

    if getattr(options, "token", None) is not None:
        return _by_token(options)
    if options.identity is not None:
        if not options.broker or not options.site:
            raise ConfigError("--identity needs --broker and --site", expected="all three")
        files = {name: options.identity / name for name in ("root.json", "ca.pem", "cert.pem", "key.pem")}
        if not files["root.json"].is_file():
            raise InputNotFoundError(f"{files['root.json']} is not there", action="Copy it from the hub's folder.")
        ca, certificate, key = (path if path.is_file() else None for path in list(files.values())[1:])
        found = PayloadIdentity(root=files["root.json"], ca=ca, certificate=certificate, key=key)
        return options.broker, options.site, lambda: found
    if options.hub is None:
        action = "Make a hub with `lineside hub init` and `lineside hub secure`, and give its folder."
        raise ConfigError("who the device is isn't told", expected="--hub DIR or --identity DIR", action=action)
    return _by_hub(options)


def _by_token(options: argparse.Namespace) -> tuple[str, str, Callable[[], PayloadIdentity]]:
    """The board asks for its identity itself."""
    from lineside_agent.hub_client.identity import read_token

    token = read_token(options.token)
    if (token.device, token.group) != (options.name, options.group):
        raise ConfigError(
            f"{options.token} is another device's",
            expected=f"{options.name} in {options.group}",
            actual=f"{token.device} in {token.group}",
        )

    def identify() -> PayloadIdentity:
        raise PayloadError("a token's identity is made on the board")

    return options.broker or token.url, options.site or token.site, identify


def _by_hub(options: argparse.Namespace) -> tuple[str, str, Callable[[], PayloadIdentity]]:
    from lineside.passphrases import passphrase
    from lineside_boards.payload import PayloadIdentity

    with needs("convert"):
        from lineside_hub.config import load_config
        from lineside_hub.identity.broker_reload import reload_broker
        from lineside_hub.identity.secure_site import enroll

    hub = Path(options.hub)
    link = load_config(hub / "hub.toml").link
    url = options.broker or link.url

    def identify() -> PayloadIdentity:
        if not url.startswith("mqtts:"):
            return PayloadIdentity(root=hub / "root.json")
        made = enroll(hub, options.name, group=options.group, passphrase=passphrase(options))
        say(f"{options.name} is enrolled in group {options.group}; {reload_broker(hub).message}")
        return PayloadIdentity(root=hub / "root.json", ca=made.ca, certificate=made.certificate, key=made.key)

    if not (hub / "root.json").is_file():
        raise InputNotFoundError(f"{hub / 'root.json'} is not there", action="`lineside hub init` makes it.")
    return url, options.site or link.site, identify


def _camera(given: str | None, profile: BoardProfile) -> dict[str, Any]:
    kind = given or ("simulator" if profile.camera.stack == "none" else "v4l2")
    name, _, path = kind.partition(":")
    if name == "folder" and path.startswith("/"):
        return {"type": "folder", "path": path, "loop": True, "rate_hz": 2.0}
    if kind in ("v4l2", "simulator"):
        return {"type": kind, "rate_hz": 2.0} if kind == "simulator" else {"type": kind}
    raise ConfigError("--camera", expected="v4l2, simulator or folder:/absolute/path", actual=kind)


def _more(path: Path | None) -> dict[str, Any]:
    """Tables of agent.toml out of a file; the agent's own reader checks them with the rest."""

    if path is None:
        return {}
    try:
        found: dict[str, Any] = decode_toml(path.read_bytes())
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    if own := sorted(set(found) & _OPTIONS_SAY):
        raise ConfigError(
            f"{path}: what the options say can't stand in it",
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
