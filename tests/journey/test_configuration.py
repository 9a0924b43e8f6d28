"""A configuration from the command line to the line: signed, fetched through TUF, followed, and refused if forged."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.fleet.listing import RolloutSummary, list_devices, list_rollouts
from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push, push_config
from lineside_link.messages import ConfigRef
from lineside_runtime.errors import ConfigError
from tests.journey.forgery import config_refusal, desire_unsigned, reported, wait_refusal
from tests.peers import wait_for
from tests.worlds.bundles import make_bundle
from tests.worlds.site import Site

pytestmark = pytest.mark.peer


def test_a_configuration_reaches_the_line_and_what_nobody_signed_does_not(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(lambda: site.agent.status.get("inspected", 0) > 4, 60, what="frames")
    assert site.agent.status["rejected"] > 0
    file = tmp_path / "strict.toml"
    file.write_text("[inspect]\nconfidence_threshold = 1.0\nengines = ['openvino']\n[store]\nkeep_images = 'all'\n")
    hub = str(site.hub_folder)
    capsys.readouterr()
    assert main(["push", "--config", str(file), "--hub", hub, "--group", "line", "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    wait_for(lambda: site.agent.status.get("configuration") == pushed["ref"]["sha256"], 60, what="the configuration")
    before = site.agent.status
    wait_for(lambda: site.agent.status["inspected"] > before["inspected"] + 8, 60, what="more frames")
    assert site.agent.status["rejected"] - before["rejected"] <= 1, "nothing scores 1.0"
    assert (before["used_device"], site.agent.status["used_device"]) == ("openvino/cpu:0", "openvino/cpu:0")
    wait_for(lambda: any((site.agent.state / "images").rglob("*.png")), 60, what="images that are kept now")
    wait_for(lambda: reported_config(site) == pushed["ref"]["sha256"], 60, what="the report")

    # Refused by the hub before it is signed, with the path.
    file.write_text("[inspect]\nthreads = 0\n")
    assert main(["push", "--config", str(file), "--hub", hub, "--group", "line"]) == 1
    assert "$.inspect.threads" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        push_config(hub, b"[link]\nurl = 'mqtt://evil'\n", group="line")

    # Signed by nobody, for another group, or with another content: each with its code, and the line goes on.
    genuine = ConfigRef(**pushed["ref"])
    foreign = Repository.open(hub).publish_config(b"[inspect]\nconfidence_threshold = 0.0\n", "other")
    for config, code in (
        (ConfigRef(target="line/config-evil.toml", sha256="0" * 64), 3007),
        (foreign, 3003),
        (ConfigRef(target=genuine.target, sha256="0" * 64), 3002),
    ):
        gen = desire_unsigned(site, config=config)
        assert wait_refusal(site, config_refusal, gen, f"the refusal of {config.target}") == code
    assert site.agent.status["configuration"] == genuine.sha256
    assert [device.name for device in list_devices(hub)] == ["cam-1"]

    # A bundle that is pushed afterwards leaves the configuration in place.
    assert main(["push", "--hub", hub, "--group", "line"]) == 1
    bundle = make_bundle(tmp_path / "second", version="2.0.0", gain=6.0)
    assert main(["push", str(bundle.path), "--hub", hub, "--group", "line"]) == 0
    wait_for(lambda: site.agent.status.get("installed") == "bright-spots@2.0.0", 60, what="the bundle")
    assert site.agent.status["configuration"] == genuine.sha256


def test_a_configuration_waits_for_its_window_and_the_hub_shows_that(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(lambda: site.agent.status.get("inspected", 0) > 0, 60, what="frames")
    file, hub = tmp_path / "strict.toml", str(site.hub_folder)
    file.write_text("[inspect]\nconfidence_threshold = 0.9\n")
    now = datetime.now(timezone.utc)
    start, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (6, 7))
    push_it = ["push", "--config", str(file), "--hub", hub, "--group", "line"]
    assert main([*push_it, "--window", f"{start}-{end},UTC"]) == 0
    pushed = list_rollouts(hub)[-1].rollout.target
    wait_for(lambda: "the maintenance window opens" in list_devices(hub)[0].waiting, 60, what="the report")
    [device] = list_devices(hub)
    assert device.wanted_configuration == pushed.identity != device.configuration
    capsys.readouterr()
    assert main(["fleet", "show", "cam-1", "--hub", hub]) == 0
    assert "waits for      the maintenance window opens" in capsys.readouterr().out
    assert main(push_it) == 0  # without a window: at once
    wait_for(lambda: list_devices(hub)[0].configuration == pushed.identity, 60, what="the configuration")
    assert list_devices(hub)[0].waiting == ""


def test_a_configuration_that_the_device_refuses_ends_its_rollout_and_leaves_the_last_good_one(
    site: Site, tmp_path: Path
) -> None:
    wait_for(lambda: site.agent.status.get("inspected", 0) > 0, 60, what="frames")
    bundle = push(site.hub_folder, make_bundle(tmp_path / "second", version="2.0.0").path, group="line")
    wait_for(lambda: site.agent.status.get("installed") == "bright-spots@2.0.0", 60, what="the bundle")
    good = push_config(site.hub_folder, b"[inspect]\nconfidence_threshold = 0.9\n", group="line", healthy_for_s=0)
    wait_for(lambda: rollout(site, good.rollout).rollout.state == "completed", 60, what="the good configuration")
    bad = push_config(site.hub_folder, b"[inspect]\nengines = ['rknn']\n", group="line")
    wait_for(lambda: not rollout(site, bad.rollout).rollout.unfinished, 60, what="the end of the bad one")
    ended = rollout(site, bad.rollout).rollout
    assert ended.state == "rolled_back"
    assert "1 of 1 device failed: cam-1: [" in ended.reason and "rknn" in ended.reason
    wait_for(lambda: list_devices(site.hub_folder)[0].configuration_error == "", 60, what="the way back")
    assert list_devices(site.hub_folder)[0].configuration == good.ref.identity
    shown = rollout(site, bundle.rollout)
    assert (shown.count.healthy, shown.count.pending, shown.members) == (1, 0, 1)


def rollout(site: Site, name: str) -> RolloutSummary:
    return list_rollouts(site.hub_folder, rollout=name)[0]


def reported_config(site: Site) -> str:
    report = reported(site)
    config = report.configuration if report is not None else None
    return config.installed.sha256 if config is not None and config.installed is not None else ""
