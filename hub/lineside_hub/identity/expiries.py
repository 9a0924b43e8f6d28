"""Certificates that end soon: the authority's, the broker's, the hub's, and those that devices did not renew.

A device requests the next certificate eight months before its own ends, so that one which ends soon was not renewed.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from lineside_hub.identity.authority import BROKER_NAME, HUB_NAME, enrolled_devices
from lineside_hub.identity.registrar import waiting
from lineside_hub.identity.registry import Registry
from lineside_hub.repository.roles import WARN_BEFORE_DAYS
from lineside_link.certificates import read_certificate
from lineside_runtime.errors import DatabaseError

NAMED_MAX = 5
"""Devices that a warning names."""


def certificate_warnings(folder: Path, *, now: datetime.datetime | None = None) -> list[str]:
    """Returns tasks for a person about the site's certificates; needs no key.

    Args:
        folder: The authority's; without one there are no certificates.
        now: Instead of this machine's time.
    """
    if not (folder / "ca.pem").is_file():
        return []
    moment = now or datetime.datetime.now(datetime.timezone.utc)
    try:
        registry = Registry.read(folder)
    except DatabaseError as error:
        return [str(error)]
    said = []
    authority = read_certificate((folder / "ca.pem").read_bytes()).not_valid_after_utc
    if (left := (authority - moment).days) < WARN_BEFORE_DAYS:
        said.append(f"the certificate authority {_ends(left)}: make a new one, and enroll every device again")
    for name, whose in ((BROKER_NAME, "broker"), (HUB_NAME, "hub")):
        if (own := registry.of(name)) and (left := (own[0].ends - moment).days) < WARN_BEFORE_DAYS:
            remedy = "lineside hub secure --renew, and restart mosquitto and the hub"
            said.append(f"the {whose}'s certificate {_ends(left)}: {remedy}")
    latest = {name: registry.of(name) for name in enrolled_devices(folder)}
    left_days = {name: (own[0].ends - moment).days for name, own in sorted(latest.items()) if own}
    if expired := [name for name, days in left_days.items() if days < 0]:
        said.append(
            f"the certificates of {_named(expired)} have expired, and no expired one reaches the hub to renew it: "
            "lineside hub enroll NAME, put the files in place of the old ones, and restart the agent"
        )
    if late := [name for name, days in left_days.items() if 0 <= days < WARN_BEFORE_DAYS]:
        said.append(f"{_named(late)} did not renew their certificates: switch them on, or enroll them again")
    if requests := waiting(folder):
        said.append(
            f"{_named(requests)} wait for their certificates: lineside hub sign {' '.join(requests[:NAMED_MAX])}"
        )
    return said


def _ends(days: int) -> str:
    return f"expires in {days} days" if days >= 0 else "has expired"


def _named(devices: list[str]) -> str:
    more = f" and {len(devices) - NAMED_MAX} more" if len(devices) > NAMED_MAX else ""
    return ", ".join(devices[:NAMED_MAX]) + more
