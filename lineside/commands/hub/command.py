"""``lineside hub``: keys, repository, broker and identities of a site."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.commands.hub import alarms, identity, keys, status, store, user
from lineside.console import inform, show, show_link
from lineside.extras import needs
from lineside.options import add_hub
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_init(actions)
    start = actions.add_parser("run", help="run the hub in the foreground", description="Runs the hub until SIGTERM.")
    start.add_argument("--config", type=Path, required=True, metavar="FILE", help="hub.toml")
    start.set_defaults(run=run_hub, usual_log_level="info")
    broker = actions.add_parser(
        "broker",
        help="run the embedded broker, for a first try on one machine",
        description="Runs an MQTT broker on the loopback interface, without passwords, until SIGTERM.",
    )
    broker.add_argument("--port", type=int, default=1883, help="default: %(default)s")
    broker.set_defaults(run=run_broker, usual_log_level="info")
    _add_identities(actions)
    keys.add_actions(actions)
    status.add_actions(actions)
    alarms.add_actions(actions)
    identity.add_actions(actions)
    store.add_actions(actions)
    user.add_actions(actions)


def _add_init(actions: Any) -> None:
    init = actions.add_parser(
        "init", help="create a hub's folder: keys, repository, hub.toml", description="Creates a hub's folder."
    )
    init.add_argument("folder", type=Path, help="a new folder")
    init.add_argument("--site", required=True, help="name of the site, such as plant-1")
    init.add_argument("--group", action="append", required=True, metavar="NAME", help="a group of devices; repeatable")
    init.add_argument(
        "--online-group",
        action="append",
        default=[],
        metavar="NAME",
        help="a group whose key stays with the hub, for automatic pushes to a canary; repeatable",
    )
    init.add_argument(
        "--root-keys", type=int, default=1, metavar="N", help="number of root keys (default: %(default)s)"
    )
    init.add_argument(
        "--root-threshold", type=int, default=1, metavar="N", help="how many must sign a root (default: %(default)s)"
    )
    init.add_argument("--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="default: %(default)s")
    init.add_argument(
        "--chunks",
        metavar="URL",
        help="fsspec URL of the content of bundles, such as file:///srv/chunks (default: in the folder)",
    )
    add_passphrase(init)
    init.set_defaults(run=run_init)


def _add_identities(actions: Any) -> None:
    secure = actions.add_parser(
        "secure",
        help="create the authority, certificates and mosquitto's files for mutual TLS",
        description="Creates the site's certificate authority, the certificates of broker and hub, mosquitto.conf and "
        "its access list under DIR/identity, and configures them in hub.toml. With --renew, broker and hub get new "
        "certificates before the old ones expire, or for another address; those of the devices stay valid.",
    )
    add_hub(secure)
    secure.add_argument(
        "--host",
        action="append",
        default=[],
        help="name or address under which the broker is reached; repeatable, and the hub uses the first (with --renew, "
        "default: those of the present certificate)",
    )
    secure.add_argument("--port", type=int, help="of the broker (default: 8883; with --renew the present one)")
    secure.add_argument("--renew", action="store_true", help="new certificates for broker and hub, valid for two years")
    add_passphrase(secure)
    secure.set_defaults(run=run_secure)
    enroll = actions.add_parser(
        "enroll",
        help="create key and certificate of a device",
        description="Creates key and certificate of a device and adds it to mosquitto's access list.",
    )
    enroll.add_argument("device", help="name of the device: its certificate's common name")
    add_hub(enroll)
    enroll.add_argument("--group", required=True, help="the group that it belongs to")
    add_passphrase(enroll)
    enroll.set_defaults(run=run_enroll)
    group = actions.add_parser(
        "add-group",
        help="add a group of devices with its own key",
        description="Creates a key that signs for one group only.",
    )
    group.add_argument("name", help="of the group")
    add_hub(group)
    group.add_argument("--online", action="store_true", help="its key stays with the hub, for automatic pushes")
    add_passphrase(group)
    group.set_defaults(run=run_add_group)


def run_init(options: argparse.Namespace) -> int:
    """Makes keys, repository and configuration."""
    with needs("convert"):
        import tomli_w

        from lineside_hub.repository.repository import Repository
    from lineside_link.config import LinkConfig

    LinkConfig(url=options.broker, site=options.site)  # raises for a wrong name or URL before any key is made
    if options.chunks is not None:
        from lineside_hub.blobs import UrlBlobs
        from lineside_hub.repository.chunks import URL_NAME

        UrlBlobs(options.chunks)
        options.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(options.folder / URL_NAME, options.chunks.encode())
    repository = Repository.create(
        options.folder,
        groups=options.group,
        online_groups=options.online_group,
        root_keys=options.root_keys,
        root_threshold=options.root_threshold,
        passphrase=passphrase(options, new=True),
    )
    root = options.folder / "root.json"
    write_atomic(root, repository.root_bytes())
    config = options.folder / "hub.toml"
    settings = {"folder": ".", "link": {"url": options.broker, "site": options.site}}
    write_atomic(config, tomli_w.dumps(settings).encode())
    inform(f"made {options.folder}: put {root} on each device: the root of their trust")
    inform(f"next: lineside hub run --config {config}")
    return 0


def run_add_group(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.repository.repository import Repository
    Repository.open(options.hub, passphrase=passphrase(options)).roles.add_group(options.name, online=options.online)
    inform(f"{options.name} can be pushed to")
    return 0


def run_hub(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.server import run
    return run(options.config)


def run_broker(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.broker import run_broker as serve
    return serve("127.0.0.1", options.port)


def run_secure(options: argparse.Namespace) -> int:
    """Makes the authority, the two certificates, mosquitto's files, and points hub.toml at them."""
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.identity.secure_site import renew, secure
        from lineside_link.config import PORTS
    if not options.host and not options.renew:
        raise ConfigError("--host is missing", expected="the broker's name or address in the plant's network")
    secret = passphrase(options, new=not options.renew)
    if options.renew:
        before = folder_config(options.hub).link.url
        made = renew(options.hub, hosts=options.host, port=options.port, passphrase=secret)
        inform(f"broker and hub have new certificates for {made.url}: restart mosquitto and the hub")
        if made.url != before:
            inform(f"devices still connect to {before}: write {made.url} into [link] of each agent.toml")
        return 0
    made = secure(options.hub, hosts=options.host, port=options.port or PORTS["mqtts"], passphrase=secret)
    inform(f"start the broker: mosquitto -c {made.broker_configuration}")
    inform(
        f"{made.hub_configuration} now uses {made.url}; next: lineside hub enroll DEVICE --hub {options.hub} --group G"
    )
    return 0


def run_enroll(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.identity.broker_reload import reload_broker
        from lineside_hub.identity.secure_site import enroll
    made = enroll(options.hub, options.device, group=options.group, passphrase=passphrase(options))
    root = options.hub / "root.json"
    files = " ".join(map(str, (made.ca, made.certificate, made.key, root)))
    inform(reload_broker(options.hub).message)
    inform(f"put these files beside the agent.toml of {options.device}: {files}")
    inform("and this into it:")
    show(f'device = "{options.device}"\ngroup = "{options.group}"')
    link = folder_config(options.hub).link
    names = {"ca": made.ca.name, "certificate": made.certificate.name, "key": made.key.name}
    show_link({"url": link.url, "site": link.site, **names}, root=root.name)
    return 0
