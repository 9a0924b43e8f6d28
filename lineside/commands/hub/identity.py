"""``lineside hub token|sign|revoke|acl``: identities of devices and their rights at the broker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.console import inform, show
from lineside.extras import needs
from lineside.options import add_hub
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.wording import counted


def add_actions(actions: Any) -> None:
    token = actions.add_parser(
        "token",
        help="create a token with which a device requests its certificate once",
        description="Writes a token for a device. Copy it to the device and run `lineside agent enroll`: the device "
        "makes its own key, which never leaves it. A token is valid for one certificate, and until it expires.",
    )
    token.add_argument("device", help="name of the device: its certificate's common name")
    token.add_argument("--group", required=True, help="the group that it belongs to")
    token.add_argument("--hours", type=float, default=24.0, help="how long it is valid (default: %(default)s)")
    token.add_argument("--out", type=Path, required=True, metavar="FILE", help="the token; only its owner can read it")
    add_hub(token)
    add_passphrase(token)
    token.set_defaults(run=run_token)
    sign = actions.add_parser(
        "sign",
        help="sign waiting requests for certificates",
        description="Signs requests for certificates that the hub could not sign without the passphrase.",
    )
    sign.add_argument("device", nargs="*", help="which (default: list the waiting ones)")
    add_hub(sign)
    add_passphrase(sign)
    sign.set_defaults(run=run_sign)
    revoke = actions.add_parser(
        "revoke",
        help="revoke a device",
        description="Revokes a device's certificates and tokens, and removes it from the access list.",
    )
    revoke.add_argument("device")
    add_hub(revoke)
    add_passphrase(revoke)
    revoke.set_defaults(run=run_revoke)
    acl = actions.add_parser(
        "acl",
        help="print the access list for mosquitto, EMQX or AWS IoT Core",
        description="Prints the access list of all enrolled devices in a broker's own form; see docs/guides/hub.md.",
    )
    acl.add_argument("--format", choices=("mosquitto", "emqx", "aws"), default="mosquitto", help="default: %(default)s")
    acl.add_argument("--region", default="REGION", help="for aws")
    acl.add_argument("--account", default="ACCOUNT", help="for aws")
    add_hub(acl)
    acl.set_defaults(run=run_acl)


def run_token(options: argparse.Namespace) -> int:
    import msgspec

    from lineside_runtime.files import ensure_writable, write_atomic

    ensure_writable(options.out)  # before a token is valid that nobody has
    with needs("convert"):
        from lineside_hub.identity.broker_reload import reload_broker
        from lineside_hub.identity.secure_site import make_token
    token = make_token(
        options.hub, options.device, group=options.group, hours=options.hours, passphrase=passphrase(options)
    )
    write_atomic(options.out, msgspec.json.encode(token), mode=0o600)
    inform(f"carry {options.out} to {options.device}: lineside agent enroll --token-file {options.out.name} --out DIR")
    inform(reload_broker(options.hub).message)
    return 0


def run_sign(options: argparse.Namespace) -> int:
    """Signs waiting requests, or lists them."""
    with needs("convert"):
        from lineside_hub.config import IDENTITY_NAME
        from lineside_hub.identity.authority import Authority
        from lineside_hub.identity.registrar import sign_waiting, waiting
    folder = options.hub / IDENTITY_NAME
    if not options.device:
        names = waiting(folder)
        for name in names:
            show(name)
        if not names:
            inform("no request waits for a signature")
        return 0
    authority = Authority.open(folder, passphrase=passphrase(options))
    code = 0
    for device in options.device:
        answer = sign_waiting(authority, device)
        refused = f"refused: {answer.error.message}" if answer.error is not None else "signed"
        inform(f"{device}: {refused}")
        code = code or int(answer.status != "issued")
    return code


def run_revoke(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.identity.broker_reload import reload_broker
        from lineside_hub.identity.secure_site import revoke
    count = revoke(options.hub, options.device, passphrase=passphrase(options))
    inform(f"{options.device} is revoked ({counted(count, 'certificate')})")
    inform(reload_broker(options.hub).message)
    inform("its rights are removed; a restart of mosquitto also closes and refuses its connections")
    return 0


def run_acl(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import IDENTITY_NAME, folder_config
        from lineside_hub.identity.access_lists import access_list, aws_policy, emqx_rules
        from lineside_hub.identity.authority import enrolled_devices, read_claims
    site = folder_config(options.hub).link.site
    if options.format == "aws":
        print(aws_policy(site, region=options.region, account=options.account), end="")
        return 0
    folder = options.hub / IDENTITY_NAME
    write = access_list if options.format == "mosquitto" else emqx_rules
    print(write(site, enrolled_devices(folder), read_claims(folder)), end="")
    return 0
