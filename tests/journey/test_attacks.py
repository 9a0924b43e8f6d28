"""Attacks on a running line by whoever holds the broker or the hub's disk: each refused with its code, frames go on.

Attacks that need no agent are where they are cheapest: rollback, freeze, mix-and-match, endless data, and stolen keys
in ``tests/link/test_trust.py``; foreign names and topics in ``tests/hub/identity/test_access_lists.py``; sticks, and
paths that leave the folder, in ``tests/agent/deployment/test_offline_import.py``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import TargetFile

from lineside_hub.repository.keys import KeyRing
from lineside_hub.repository.metadata import MetadataFolder
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.push import push
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.messages import BundleRef, Desired, encode
from lineside_link.topics import Topics
from lineside_runtime.bundle import MANIFEST_MAX_BYTES
from tests.journey.forgery import bundle_refusal, desire_unsigned, wait_refusal
from tests.peers import Broker, wait_for
from tests.worlds.bundles import make_bundle
from tests.worlds.site import Site

pytestmark = pytest.mark.peer

TOPICS = Topics("t0")


def test_every_attack_is_refused_with_its_code_and_the_line_goes_on(
    site: Site, tmp_path: Path, mosquitto: Broker
) -> None:
    hub, repository = site.hub_folder, Repository.open(site.hub_folder)
    wait_for(lambda: site.agent.status.get("inspected", 0) > 2, 60, what="frames")
    genuine = push(hub, make_bundle(tmp_path / "genuine", version="1.5.0", gain=7.0).path, group="line")
    wait_for(lambda: site.agent.status.get("installed") == "bright-spots@1.5.0", 60, what="the genuine bundle")
    saved = tmp_path / "saved"
    shutil.copytree(hub / "metadata", saved)

    # A desired state that nobody signed for, one with another content, and one of another group.
    foreign = repository.publish(make_bundle(tmp_path / "foreign", version="6.6.6"), "other")
    stolen = msgspec.structs.replace(foreign, target="line/bright-spots-6.6.6.json")
    for wanted, code in (
        (stolen, 3007),
        (msgspec.structs.replace(genuine.ref, sha256="0" * 64), 3002),
        (foreign, 3003),
    ):
        gen = desire_unsigned(site, bundle=wanted)
        assert wait_refusal(site, bundle_refusal, gen, wanted.target) == code

    # The stolen key of another group signs what only this group's key may.
    thief = {role: KeyRing(hub / "online").load(role) for role in ("snapshot", "timestamp")}
    edit = MetadataFolder(hub / "metadata", {**thief, "other": KeyRing(hub / "keys").load("other")})
    with edit.edit_targets("other") as targets:
        targets.targets[stolen.target] = TargetFile.from_data(stolen.target, b"{}", ["sha256"])
    edit.publish()
    gen = desire_unsigned(site, bundle=stolen)
    assert wait_refusal(site, bundle_refusal, gen, "the stolen key") == 3007

    # An oversize manifest, signed by the right key.
    big = BundleRef(name="big", version="1", target="line/big-1.json", sha256="0" * 64)
    edit = MetadataFolder(hub / "metadata", {**thief, "line": KeyRing(hub / "keys").load("line")})
    with edit.edit_targets("line") as targets:
        targets.targets[big.target] = TargetFile(MANIFEST_MAX_BYTES + 1, {"sha256": big.sha256}, big.target)
    edit.publish()
    gen = desire_unsigned(site, bundle=big)
    assert wait_refusal(site, bundle_refusal, gen, "the oversize manifest") == 3002

    # Yesterday's metadata put back: rollback.
    shutil.rmtree(hub / "metadata")
    shutil.copytree(saved, hub / "metadata")
    gen = desire_unsigned(site, bundle=msgspec.structs.replace(genuine.ref, sha256="1" * 64))
    assert wait_refusal(site, bundle_refusal, gen, "the rollback") == 3004

    # Replayed and garbled desired states straight at the broker.
    database = Database.open(hub)
    epoch = database.epoch
    database.close()
    evil = LinkClient(LinkConfig(url=mosquitto.url, site="t0"), "evil")
    evil.start()
    assert evil.wait_connected(60)
    for payload in (
        encode(Desired(epoch=epoch, gen=1, bundle=stolen)),
        b"{}",
        b"\xff\xfe",
        b"[" * 20_000,
        encode(Desired(epoch=epoch, gen=gen + 1000, bundle=genuine.ref))[:-5],
    ):
        evil.publish(TOPICS.group_desired("line"), payload)
        evil.publish(TOPICS.device_desired("cam-1"), payload)
        evil.publish(TOPICS.repo_response("cam-1"), payload, qos=0)
        evil.publish(TOPICS.results_ack("cam-1"), payload)
    evil.publish(TOPICS.device_desired("cam-1"), encode(Desired(epoch=epoch, gen=gen + 5, bundle=None)))
    wait_for(lambda: site.agent.status.get("gen") == gen + 5, 60, what="the last message")
    evil.close()
    before = site.agent.status
    assert before["installed"] == "bright-spots@1.5.0"
    wait_for(lambda: site.agent.status.get("inspected", 0) > before["inspected"] + 3, 60, what="more frames")
    assert site.hub.alive and site.agent.alive
