"""The agent version of a group before the hub pushed one: the target of a roll-back.

An agent that was put on a board by hand, or came with its image, is no release that the hub has signed, and a device
fetches nothing unsigned: without one the group could not go back from its first agent. Devices report the digest of the
payload that they run, so the hub knows it when it sees it.
"""

from __future__ import annotations

from lineside_agent.deployment.self_update.payload import Payload
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.runner import members
from lineside_link.messages import BundleRef, Reported, decode
from lineside_runtime.errors import RolloutError


def base_agent(repository: Repository, database: Database, group: str, given: Payload | None) -> BundleRef | None:
    """Returns the signed release that a group's devices run, where the group has never been given one.

    Args:
        repository: Of the hub; signs what is given.
        database: Of the hub.
        group: Of devices.
        given: The payload that the devices run, by a person's word.

    Returns:
        ``None`` where the group has an agent to go back to, or none is known.

    Raises:
        RolloutError: A device reports another agent than the one that is given.
    """
    wish = database.wish(f"g/{group}")
    if given is None and wish is not None and wish.agent is not None:
        return None
    running = running_agents(database, group)
    if given is not None:
        if others := sorted(name for name, ref in running.items() if ref.sha256 != given.digest):
            shown = ", ".join(f"{name} ({running[name].version})" for name in others[:10])
            raise RolloutError(
                f"not the agent that these devices run: {shown}",
                expected=given.digest,
                action="Give the payload that they were installed from, or update them by themselves first.",
            )
        return repository.publish_agent(given, group)
    known = {ref.sha256: ref for ref in running.values()}
    if len(known) != 1:
        return None
    [ref] = known.values()
    return repository.find_agent(group, ref)


def running_agents(database: Database, group: str) -> dict[str, BundleRef]:
    """Returns what agent the devices of a group say they run; those that run from no slot say nothing."""
    found = {}
    for name in members(database, group):
        [row] = database.query("SELECT reported FROM devices WHERE device = ?", name)
        report = decode(row["reported"].encode(), Reported) if row["reported"] else None
        if report is not None and report.agent is not None and report.agent.installed is not None:
            found[name] = report.agent.installed
    return found
