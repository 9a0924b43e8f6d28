"""mosquitto's access list and configuration, written from who is enrolled.

A device reads what it and its group should run, its own answers and acknowledgements, and the chunks that are
sent to its group; it writes its own topics, and everything else is closed. mosquitto's patterns know the user's and the
client's name but no group, so each device has its own entry, and mosquitto reads the list again on SIGHUP.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lineside_hub.identity import HUB_NAME, Credentials
from lineside_link.topics import Topics, check_name


def access_list(site: str, devices: Mapping[str, str]) -> str:
    """Returns the text of mosquitto's ``acl_file``.

    Args:
        site: Name of the site.
        devices: Device to group, from `lineside_hub.identity.Authority.devices`.

    Raises:
        ConfigError: A name cannot stand in a topic.
    """
    topics = Topics(site)
    parts = [_entry(HUB_NAME, _hub_reads(topics), _hub_writes(topics))]
    for device, group in sorted(devices.items()):
        check_name(device, "device")
        check_name(group, "group")
        reads = [
            topics.group_desired(group),
            topics.device_desired(device),
            topics.repo_response(device),
            topics.group_chunks(group),
            topics.results_ack(device),
            topics.up(device),
        ]
        writes = [topics.up(device), topics.reported(device), topics.results(device), topics.repo_get(device)]
        parts.append(_entry(device, reads, writes))
    return "\n".join(parts)


def mosquitto_configuration(
    *, port: int, credentials: Credentials, access_list_path: Path, address: str | None = None
) -> str:
    """Returns the text of a ``mosquitto.conf`` with mutual TLS and the access list.

    Args:
        port: TCP port.
        credentials: The broker's, from `lineside_hub.identity.Authority.broker`.
        access_list_path: Where the text of `access_list` stands, with mode 0600: mosquitto warns of anything wider.
        address: Listen on this address only.
    """
    lines = [
        # Started as root, mosquitto becomes this user before it reads these files, which only their owner can read.
        f"user {credentials.key.owner()}",
        f"listener {port}" + (f" {address}" if address else ""),
        f"cafile {credentials.ca}",
        f"certfile {credentials.certificate}",
        f"keyfile {credentials.key}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        # The client's name is its certificate's, so that no device can push another off the broker.
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {access_list_path}",
        # Hub and devices publish their retained state again on every connection.
        "persistence false",
        "set_tcp_nodelay true",
        "max_queued_messages 2000",
    ]
    return "\n".join(lines) + "\n"


def _entry(user: str, reads: list[str], writes: list[str]) -> str:
    lines = [f"user {user}"]
    lines += [f"topic {'readwrite' if topic in writes else 'read'} {topic}" for topic in reads]
    lines += [f"topic write {topic}" for topic in writes if topic not in reads]
    return "\n".join(lines) + "\n"


def _hub_reads(topics: Topics) -> list[str]:
    return [topics.results("+"), topics.up("+"), topics.reported("+"), topics.repo_get("+")]


def _hub_writes(topics: Topics) -> list[str]:
    return [
        topics.group_desired("+"),
        topics.device_desired("+"),
        topics.repo_response("+"),
        topics.results_ack("+"),
        topics.group_chunks("+"),
    ]
