"""A configuration from the command line to the line: signed, fetched through TUF, followed, and refused if forged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.listing import list_devices
from lineside_hub.push import push_config
from lineside_hub.repository import Repository
from lineside_link.messages import ConfigRef
from lineside_runtime.errors import ConfigError
from tests.journey.line import Line
from tests.peers import Broker, wait_for
from tests.worlds.bundles import make_bundle

pytestmark = pytest.mark.peer


@pytest.fixture
def line(tmp_path: Path, mosquitto: Broker) -> Iterator[Line]:
    made = Line(tmp_path, mosquitto)
    yield made
    made.end()


def test_a_configuration_reaches_the_line_and_what_nobody_signed_does_not(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(lambda: line.status().get("inspected", 0) > 4, 60, what="frames")
    assert line.status()["rejected"] > 0
    file = tmp_path / "strict.toml"
    file.write_text("[inspect]\nconfidence_threshold = 1.0\n[store]\nkeep_images = 'all'\n")
    hub = str(line.hub)
    capsys.readouterr()
    assert main(["push", "--config", str(file), "--hub", hub, "--group", "line", "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    wait_for(lambda: line.status().get("configuration") == pushed["ref"]["sha256"], 60, what="the configuration")
    before = line.status()
    wait_for(lambda: line.status()["inspected"] > before["inspected"] + 8, 60, what="more frames")
    assert line.status()["rejected"] - before["rejected"] <= 1, "nothing scores 1.0"
    wait_for(lambda: any((line.state / "images").rglob("*.png")), 60, what="images that are kept now")
    wait_for(lambda: reported_config(line) == pushed["ref"]["sha256"], 60, what="the report")

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
        gen = line.wish(config)
        assert line.refusal(line.refused, gen, f"the refusal of {config.target}") == code
    assert line.status()["configuration"] == genuine.sha256
    assert [device.name for device in list_devices(hub)] == ["cam-1"]

    # A bundle that is pushed afterwards leaves the configuration in place.
    assert main(["push", "--hub", hub, "--group", "line"]) == 1
    bundle = make_bundle(tmp_path / "second", version="2.0.0", gain=6.0)
    assert main(["push", str(bundle.path), "--hub", hub, "--group", "line"]) == 0
    wait_for(lambda: line.status().get("installed") == "bright-spots@2.0.0", 60, what="the bundle")
    assert line.status()["configuration"] == genuine.sha256


def reported_config(line: Line) -> str:
    report = line.reported()
    config = report.configuration if report is not None else None
    return config.installed.sha256 if config is not None and config.installed is not None else ""
