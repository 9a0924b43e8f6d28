"""``lineside hub keys``: signing keys and their expiry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_hub.repository.repository import Repository

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


def add_actions(actions: Any) -> None:
    keys = actions.add_parser(
        "keys",
        help="list, rotate, revoke and renew the keys that sign",
        description="Lists, rotates, revokes and renews the keys that sign bundles, configurations and the repository.",
    ).add_subparsers(metavar="ACTION", required=True)
    _add_everyday(keys)
    _add_ceremony(keys)


def _add_everyday(keys: Any) -> None:
    ls = keys.add_parser("ls", help="list the roles, their keys and expiries", description="Lists the roles.")
    add_hub(ls)
    add_json(ls)
    ls.set_defaults(run=run_ls)
    rotate = keys.add_parser(
        "rotate",
        help="replace keys",
        description="Replaces the keys of roles; devices trust the new ones from their next check on.",
    )
    rotate.add_argument("role", nargs="+", help="root, targets, snapshot, timestamp or a group")
    rotate.add_argument(
        "--key", metavar="ID", help="the root key to replace, if there are several (beginning of its id)"
    )
    where = rotate.add_mutually_exclusive_group()
    where.add_argument("--online", action="store_true", help="a group's new key stays with the hub")
    where.add_argument("--offline", action="store_true", help="a group's new key is kept by a person")
    _add_draft(rotate)
    add_hub(rotate)
    add_passphrase(rotate)
    rotate.set_defaults(run=run_rotate)
    revoke = keys.add_parser(
        "revoke",
        help="revoke a root key or a group",
        description="Revokes one of several root keys, or a group's delegation, without replacement.",
    )
    revoke.add_argument("role", help="root or a group")
    revoke.add_argument("--key", metavar="ID", help="the root key (beginning of its id)")
    _add_draft(revoke)
    add_hub(revoke)
    add_passphrase(revoke)
    revoke.set_defaults(run=run_revoke)
    renew = keys.add_parser(
        "renew",
        help="renew signatures before they expire",
        description="Signs root, targets and groups again with a new expiry.",
    )
    renew.add_argument("role", nargs="*", help="root, targets or a group (default: all of them)")
    add_hub(renew)
    add_passphrase(renew)
    renew.set_defaults(run=run_renew)


def _add_ceremony(keys: Any) -> None:
    make = keys.add_parser(
        "make",
        help="create a root key of one person",
        description="Creates a key pair: FILE stays with its owner, FILE.pub.json is for the draft.",
    )
    make.add_argument("file", type=Path, help="the private key; ends with .pem")
    add_passphrase(make)
    make.set_defaults(run=run_make)
    draft = keys.add_parser(
        "draft",
        help="draft a change of the root keys, for several persons to sign",
        description="Writes the next root without publishing it; then `keys sign` by each, then `keys publish`.",
    )
    draft.add_argument("--add", action="append", type=Path, default=[], metavar="FILE", help="public key; repeatable")
    draft.add_argument("--remove", action="append", default=[], metavar="ID", help="key to remove; repeatable")
    draft.add_argument("--threshold", type=int, metavar="N", help="how many root keys must sign from then on")
    draft.add_argument("--out", type=Path, required=True, metavar="FILE", help="the draft")
    add_hub(draft)
    draft.set_defaults(run=run_draft)
    sign = keys.add_parser("sign", help="sign a draft", description="Signs a draft.")
    sign.add_argument("draft", type=Path)
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="your private key")
    add_passphrase(sign)
    sign.set_defaults(run=run_sign)
    publish = keys.add_parser("publish", help="publish a signed draft", description="Publishes a draft.")
    publish.add_argument("draft", type=Path)
    add_hub(publish)
    add_passphrase(publish)
    publish.set_defaults(run=run_publish)


def _add_draft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--draft", type=Path, metavar="FILE", help="file for the change if other root keys must sign it too"
    )


def _open(options: argparse.Namespace) -> Repository:
    with needs("convert"):
        from lineside_hub.repository.repository import Repository
    return Repository.open(options.hub, passphrase=passphrase(options) if "passphrase_file" in options else None)


def run_ls(options: argparse.Namespace) -> int:
    """Prints a line for each role."""
    with needs("convert"):
        from lineside_hub.fleet.status import role_statuses
    roles = role_statuses(_open(options))
    if options.json:
        print_json({"roles": roles})
    else:
        print_roles(roles)
    return 0


def print_roles(roles: Any) -> None:
    """Prints a line for each role."""
    show(f"{'role':<16}{'expires in':>12}  {'renewed by':<12}{'keys':<8}{'here':<6}ids")
    for role in roles:
        needed = f"{role.threshold}/{len(role.keys)}"
        ids = " ".join(keyid[:12] for keyid in role.keys)
        days = f"{role.days_left:.1f} days"
        show(f"{role.role:<16}{days:>12}  {role.renewed_by:<12}{needed:<8}{role.at_hand:<6}{ids}")


def run_rotate(options: argparse.Namespace) -> int:
    """Rotates keys of the root's roles in one new root, and those of groups one by one."""
    repository = _open(options)
    top = [role for role in options.role if role in TOP_LEVEL]
    code = 0
    if top:
        code = _conclude(options, *repository.roles.rotate_top_level(*top, keyid=options.key))
    where = True if options.online else False if options.offline else None
    for group in (role for role in options.role if role not in TOP_LEVEL):
        keyid = repository.roles.rotate_group(group, online=where)
        inform(f"{group}: key {keyid[:12]} is valid now, from each device's next check on")
    return code


def run_revoke(options: argparse.Namespace) -> int:
    """Revokes one of several root keys, or a group."""
    from lineside_runtime.errors import ConfigError

    repository = _open(options)
    if options.role not in TOP_LEVEL:
        repository.roles.revoke_group(options.role)
        inform(f"{options.role} was revoked: add it again with `lineside hub add-group` to give it a new key")
        return 0
    if options.role != "root" or options.key is None:
        action = "`keys rotate` replaces a role's keys; revoking one of several root keys needs --key."
        raise ConfigError(f"{options.role} can't be left without a key", action=action)
    with needs("convert"):
        from lineside_hub.repository import root_ceremony
    return _conclude(
        options,
        *repository.roles.change_root(
            lambda root: root.revoke_key(root_ceremony.find_keyid(root, "root", options.key), "root")
        ),
    )


def _conclude(options: argparse.Namespace, draft: Any, state: Any) -> int:
    """Prints whether the root is valid, or writes the draft that others must sign."""
    if state.complete:
        inform(f"root version {state.version} is valid now, from each device's next check on")
        return 0
    from lineside_runtime.errors import SignatureError

    with needs("convert"):
        from lineside_hub.repository import root_ceremony
    if options.draft is None:
        raise SignatureError(
            f"root version {state.version} needs more signatures",
            expected=f"{state.old_missing} more of the old, {state.new_missing} more of the new keys",
            action="Give --draft FILE, and have the others sign it with `lineside hub keys sign`.",
        )
    root_ceremony.write(options.draft, draft)
    _say_progress(options.draft, state)
    return 0


def _say_progress(path: Path, state: Any) -> None:
    inform(f"{path}: root version {state.version}, signed by {counted(len(state.signed), 'key')}")
    if state.complete:
        inform(f"complete: lineside hub keys publish {path} --hub DIR")
    else:
        waiting = " ".join(keyid[:12] for keyid in state.waiting)
        inform(f"{state.old_missing} more of the old, {state.new_missing} more of the new keys must sign: {waiting}")


def run_renew(options: argparse.Namespace) -> int:
    _open(options).roles.renew_offline(*options.role)
    inform(f"renewed: {', '.join(options.role) or 'root, targets and all groups'}")
    return 0


def run_make(options: argparse.Namespace) -> int:
    from lineside_runtime.files import write_atomic

    with needs("convert"):
        from lineside_hub.repository import root_ceremony
        from lineside_hub.repository.keys import new_key_file
    public = options.file.with_name(options.file.name + ".pub.json")
    key = new_key_file(options.file, passphrase=passphrase(options, new=True))
    write_atomic(public, root_ceremony.public_bytes(key))
    inform(
        f"{options.file} is your private key; give {public} to the person who makes the draft (key {key.keyid[:12]})"
    )
    return 0


def run_draft(options: argparse.Namespace) -> int:
    """Writes a change of the root keys."""
    with needs("convert"):
        from lineside_hub.repository import root_ceremony
    added = [root_ceremony.read_public(path) for path in options.add]

    def change(root: Any) -> None:
        for key in added:
            root.add_key(key, "root")
        for keyid in options.remove:
            root.revoke_key(root_ceremony.find_keyid(root, "root", keyid), "root")
        if options.threshold is not None:
            root.roles["root"].threshold = options.threshold

    metadata = _open(options).layout.metadata
    md = root_ceremony.draft(metadata, change)
    root_ceremony.write(options.out, md)
    _say_progress(options.out, root_ceremony.progress(metadata, md))
    return 0


def run_sign(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.repository import root_ceremony
        from lineside_hub.repository.keys import read_key_file
    md = root_ceremony.read(options.draft)
    root = md.signed.roles["root"]
    inform(f"root version {md.signed.version}: {root.threshold} of {len(root.keyids)} keys, to {md.signed.expires:%F}")
    signer = read_key_file(options.key, passphrase=passphrase(options))
    root_ceremony.sign(md, [signer])
    root_ceremony.write(options.draft, md)
    inform(f"signed with key {signer.public_key.keyid[:12]}; {len(md.signatures)} signatures in {options.draft}")
    return 0


def run_publish(options: argparse.Namespace) -> int:
    """Makes a draft the root."""
    with needs("convert"):
        from lineside_hub.repository import root_ceremony
    state = _open(options).roles.publish_root(root_ceremony.read(options.draft))
    inform(f"root version {state.version} is valid now, from each device's next check on")
    return 0
