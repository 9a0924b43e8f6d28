"""The broker's access list: rights of hub and devices on each topic, in the formats of several brokers.

`RIGHTS` names every topic of `lineside_link.topics.Topics` by its method; a test fails if one is missing. A device
reads the desired states of itself and its group, its own answers and acknowledgements, and writes its own topics;
everything else is forbidden. Patterns of mosquitto contain the name of user and client but no group, so each device has
an entry of its own. mosquitto reads the list again on SIGHUP.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from lineside_hub.identity.authority import HUB_NAME, Credentials
from lineside_link.messages import MESSAGE_MAX_BYTES
from lineside_link.topics import Topics, check_name

Way = Literal["read", "write", "readwrite", "none"]


@dataclasses.dataclass(frozen=True, slots=True)
class Right:
    """Rights of device and hub on one kind of topic.

    Attributes:
        topic: Method of `lineside_link.topics.Topics`.
        of: Whether its argument is the device or its group.
        claim: The right of a token's certificate on its device's topic.
    """

    topic: str
    of: Literal["device", "group"]
    device: Way
    hub: Way
    claim: Way = "none"

    def name(self, topics: Topics, argument: str) -> str:
        """Returns the topic for a device, a group or ``+``."""
        made: str = getattr(topics, self.topic)(argument)
        return made


RIGHTS = (
    Right("group_desired", "group", "read", "write"),
    Right("group_chunks", "group", "read", "write"),
    Right("device_desired", "device", "read", "write"),
    Right("repo_response", "device", "read", "write"),
    Right("results_ack", "device", "read", "write"),
    Right("interactions_ack", "device", "read", "write"),
    Right("frame_ack", "device", "read", "write"),
    Right("recipe_command", "device", "read", "write"),
    Right("recipe_answer", "device", "write", "read"),
    Right("time_command", "device", "read", "write"),
    Right("time_answer", "device", "write", "read"),
    Right("log_command", "device", "read", "write"),
    Right("log_answer", "device", "write", "read"),
    Right("certificate", "device", "read", "write", claim="read"),
    Right("alarms", "device", "read", "write"),
    Right("up", "device", "readwrite", "read"),
    Right("reported", "device", "write", "read"),
    Right("results", "device", "write", "read"),
    Right("interactions", "device", "write", "read"),
    Right("frame", "device", "write", "read"),
    Right("repo_get", "device", "write", "read"),
    Right("certificate_request", "device", "write", "read", claim="write"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class AccessEntry:
    """The rights of one user.

    Attributes:
        user: The common name of his certificate.
    """

    user: str
    rights: tuple[tuple[str, Way], ...]


def entries(site: str, devices: Mapping[str, str], claims: Mapping[str, str] | None = None) -> Iterator[AccessEntry]:
    """Yields the entry of each user, the hub's first.

    Args:
        devices: Device to group, from `lineside_hub.identity.authority.Authority.devices`.
        claims: Name of a token's certificate to its device, from `lineside_hub.identity.authority.read_claims`.

    Raises:
        ConfigError: A name cannot stand in a topic.
    """
    topics = Topics(site)
    yield AccessEntry(HUB_NAME, tuple((right.name(topics, "+"), right.hub) for right in RIGHTS if right.hub != "none"))
    for device, group in sorted(devices.items()):
        argument = {"device": check_name(device, "device"), "group": check_name(group, "group")}
        yield AccessEntry(
            device,
            tuple((right.name(topics, argument[right.of]), right.device) for right in RIGHTS if right.device != "none"),
        )
    for claim, device in sorted((claims or {}).items()):
        check_name(device, "device")
        rights = ((right.name(topics, device), right.claim) for right in RIGHTS if right.claim != "none")
        yield AccessEntry(check_name(claim, "token"), tuple(rights))


def access_list(site: str, devices: Mapping[str, str], claims: Mapping[str, str] | None = None) -> str:
    """Returns the text of mosquitto's ``acl_file``; arguments and errors as `entries`."""
    return "\n".join(
        f"user {entry.user}\n" + "".join(f"topic {way} {topic}\n" for topic, way in entry.rights)
        for entry in entries(site, devices, claims)
    )


def missing_rights(
    text: str, site: str, devices: Mapping[str, str], claims: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Returns what an access list lacks compared with `access_list`: the user, and the way and topic.

    Args:
        text: Of mosquitto's ``acl_file``.
        site: As for `entries`, with ``devices`` and ``claims``.

    Raises:
        ConfigError: As for `entries`.
    """
    there: dict[str, set[str]] = {}
    user = ""
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "user":
            user = rest.strip()
        elif word == "topic":
            there.setdefault(user, set()).add(rest.strip())
    return [
        (entry.user, f"{way} {topic}")
        for entry in entries(site, devices, claims)
        for topic, way in entry.rights
        if f"{way} {topic}" not in there.get(entry.user, set())
    ]


def emqx_rules(site: str, devices: Mapping[str, str], claims: Mapping[str, str] | None = None) -> str:
    """Returns the text of EMQX's ``acl.conf``; arguments and errors as `entries`.

    Format: https://docs.emqx.com/en/emqx/latest/access-control/authz/file.html; not tested with EMQX.
    """
    lines = []
    for entry in entries(site, devices, claims):
        for action, ways in (("subscribe", ("read", "readwrite")), ("publish", ("write", "readwrite"))):
            topics = ", ".join(f'"{topic}"' for topic, way in entry.rights if way in ways)
            lines.append(f'{{allow, {{username, "{entry.user}"}}, {action}, [{topics}]}}.')
    return "\n".join([*lines, "{deny, all}."]) + "\n"


def aws_policy(site: str, *, region: str, account: str) -> str:
    """Returns an AWS IoT Core policy for all devices of a site, as JSON.

    The device is the thing whose name is its certificate's common name, and its group is the thing's attribute
    ``group``. Format: https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html; not tested
    with AWS.

    Args:
        region: Such as ``eu-central-1``.

    Raises:
        ConfigError: The site's name cannot stand in a topic.
    """
    topics = Topics(site)
    variables = {"device": "${iot:Connection.Thing.ThingName}", "group": "${iot:Connection.Thing.Attributes[group]}"}
    arn = f"arn:aws:iot:{region}:{account}"
    reads = [right.name(topics, variables[right.of]) for right in RIGHTS if right.device in ("read", "readwrite")]
    writes = [right.name(topics, variables[right.of]) for right in RIGHTS if right.device in ("write", "readwrite")]
    statements = [
        _allow("iot:Connect", [f"{arn}:client/{variables['device']}"]),
        _allow("iot:Subscribe", [f"{arn}:topicfilter/{topic}" for topic in reads]),
        _allow("iot:Receive", [f"{arn}:topic/{topic.replace('#', '*')}" for topic in reads]),
        _allow(["iot:Publish", "iot:RetainPublish"], [f"{arn}:topic/{topic}" for topic in writes]),
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2) + "\n"


def _allow(action: str | list[str], resources: list[str]) -> dict[str, object]:
    return {"Effect": "Allow", "Action": action, "Resource": resources}


def mosquitto_configuration(
    *,
    port: int,
    credentials: Credentials,
    access_list_path: Path,
    revoked_path: Path | None = None,
    address: str | None = None,
) -> str:
    """Returns the text of a ``mosquitto.conf`` with mutual TLS and the access list.

    Args:
        credentials: The broker's, from `lineside_hub.identity.authority.Authority.broker`.
        access_list_path: File with the text of `access_list`, mode 0600: mosquitto warns of anything wider.
        revoked_path: The authority's list of revoked certificates, ``ca.crl``.
        address: Listen on this address only.
    """
    lines = [
        # Started as root, mosquitto becomes this user before it reads these files, which only their owner can read.
        f"user {credentials.key.owner()}",
        f"listener {port}" + (f" {address}" if address else ""),
        f"cafile {credentials.ca}",
        f"certfile {credentials.certificate}",
        f"keyfile {credentials.key}",
        *([f"crlfile {revoked_path}"] if revoked_path is not None else []),
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
        f"message_size_limit {MESSAGE_MAX_BYTES}",
    ]
    return "\n".join(lines) + "\n"
