from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from lineside_agent.config import (
    AgentConfig,
    CameraConfig,
    FolderCameraConfig,
    SerialLineConfig,
    parse_config,
    read_config,
)
from lineside_models import zoo
from lineside_runtime.errors import ConfigError, InputNotFoundError

DOCS = Path(__file__).parents[3] / "docs" / "reference"

WHOLE = """
device = "cam-07"
group = "line-1"
folder = "state"
root = "root.json"
bundle = "surface-12"
exit_when_done = true

[link]
url = "mqtts://10.0.0.5"
site = "plant-1"
ca = "ca.pem"

[camera]
type = "folder"
path = "frames"
rate_hz = 10
frames = 60

[inspect]
confidence_threshold = 0.9
threads = 2

[store]
keep_images = "bad"

[[line_io]]
type = "serial"
port = "/dev/ttyUSB0"
"""


def parse(text: str) -> AgentConfig:
    return parse_config(text.encode(), Path("/etc/lineside"))


def test_whole_file_is_read_and_paths_start_at_it(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(WHOLE)
    (tmp_path / "surface-12").mkdir()
    config = read_config(tmp_path / "agent.toml")
    assert config.folder == tmp_path / "state"
    assert config.root == tmp_path / "root.json"
    assert config.bundle == tmp_path / "surface-12"
    assert config.link is not None
    assert config.link.ca == str(tmp_path / "ca.pem")
    assert config.camera == FolderCameraConfig(path=tmp_path / "frames", rate_hz=10.0, frames=60)
    assert config.line_io == (SerialLineConfig(port="/dev/ttyUSB0"),)
    assert (config.inspect.confidence_threshold, config.inspect.threads) == (0.9, 2)


def test_shipped_bundle_is_found_by_its_name() -> None:
    assert parse(WHOLE).bundle == zoo.path("surface-12")
    assert parse(WHOLE.replace('"surface-12"', '"another"')).bundle == Path("/etc/lineside/another")


def test_absolute_path_stays() -> None:
    config = parse('device = "a"\nfolder = "/var/lib/lineside"\nbundle = "/b"\n[camera]\ntype = "simulator"\n')
    assert config.folder == Path("/var/lib/lineside")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("rate_hz = 10", "fps = 10"), "$.camera.fps"),
        (("threads = 2", "thread = 2"), "$.inspect.thread"),
        (('port = "/dev/ttyUSB0"', 'port = "/dev/ttyUSB0"\nparity = "E"'), "$.line_io[0].parity"),
        (('group = "line-1"', 'gruop = "line-1"'), "$.gruop"),
        (('site = "plant-1"', 'site = "plant-1"\nhost = "x"'), "$.link.host"),
    ],
)
def test_unknown_key_is_named_by_its_path(change: tuple[str, str], path: str) -> None:
    with pytest.raises(ConfigError, match="is not a known key") as caught:
        parse(WHOLE.replace(*change))
    assert path in str(caught.value)
    assert caught.value.code == 2001


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("rate_hz = 10", "rate_hz = 0"), "$.camera.rate_hz"),
        (("rate_hz = 10", 'rate_hz = "fast"'), "$.camera.rate_hz"),
        (("frames = 60", "frames = 0"), "$.camera.frames"),
        (('type = "folder"', 'type = "webcam"'), "$.camera.type"),
        (("confidence_threshold = 0.9", "confidence_threshold = 90"), "$.inspect.confidence_threshold"),
        (('keep_images = "bad"', 'keep_images = "some"'), "$.store.keep_images"),
        (('path = "frames"', "path = 3"), "$.camera.path"),
        (('site = "plant-1"', 'site = "plant/1"'), "site"),
    ],
)
def test_wrong_value_is_named_by_its_path(change: tuple[str, str], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(WHOLE.replace(*change))
    assert where in str(caught.value)


def test_nearest_key_and_allowed_values_are_said() -> None:
    with pytest.raises(ConfigError, match="did you mean `threads`") as caught:
        parse(WHOLE.replace("threads = 2", "thread = 2"))
    assert "workers" in str(caught.value.expected)
    with pytest.raises(ConfigError, match="expected all, bad, none, unsure; got 'some'"):
        parse(WHOLE.replace('keep_images = "bad"', 'keep_images = "some"'))
    with pytest.raises(ConfigError, match=r"camera.type \(did you mean `folder`"):
        parse(WHOLE.replace('type = "folder"', 'type = "foldr"'))


@pytest.mark.parametrize("name", ["", "a/b", "+", "-x", "ä"])
def test_device_must_fit_into_a_topic(name: str) -> None:
    with pytest.raises(ConfigError, match="device name"):
        parse(f'device = "{name}"\nfolder = "s"\n[camera]\ntype = "simulator"\n')


def test_link_needs_a_root_to_trust() -> None:
    with pytest.raises(ConfigError, match=r"\$\.root"):
        parse(WHOLE.replace('root = "root.json"', ""))


def test_agent_needs_a_bundle_or_a_hub() -> None:
    with pytest.raises(ConfigError, match="neither"):
        parse('device = "a"\nfolder = "s"\n[camera]\ntype = "simulator"\n')


@pytest.mark.parametrize("data", [b"device = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_what_is_not_toml_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(data, Path("/"))


def test_error_names_the_file_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "station-7.toml"
    path.write_text("device = ")
    with pytest.raises(ConfigError, match=r"station-7\.toml is not TOML") as caught:
        read_config(path)
    assert "agent.toml" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        ('root = "root.json"', ""),
        ("[camera]", "[gate]\ndelay_ms = 400\n[camera]"),
        ("[camera]", "[trigger]\nframe_timeout_ms = 5\n[camera]"),
        ('device = "cam-07"', 'device = "cam/07"'),
        ("exit_when_done = true", 'exit_when_done = true\n[[recipe]]\nname = "a"\n[[recipe]]\nname = "a"'),
    ],
)
def test_error_of_two_tables_names_the_file(tmp_path: Path, change: tuple[str, str]) -> None:
    path = tmp_path / "station-7.toml"
    path.write_text(WHOLE.replace(*change))
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize("page", ["serial.md", "mqtt.md", "modbus.md"])
def test_examples_of_the_pages_about_lines_are_read(page: str) -> None:
    examples = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.S)
    assert examples
    for example in examples:
        config = parse(f'device = "a"\nfolder = "s"\nbundle = "b"\n[camera]\ntype = "simulator"\n{example}')
        assert config.line_io or config.defect_numbers


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"nowhere\.toml"):
        read_config(tmp_path / "nowhere.toml")


def test_schema_can_be_printed() -> None:
    schema = msgspec.json.schema(AgentConfig)
    several, one = schema["$defs"]["AgentConfig"]["properties"]["camera"]["anyOf"]
    assert several["items"] == one
    assert set(one["discriminator"]["mapping"]) == {kind.type_name() for kind in get_args(CameraConfig)}
    assert schema["$defs"]["FolderCameraConfig"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("read_at = 105", "write over"),
        ("read_at = 110\ndefects = true", "write over"),
        ("write_at = 190", "write over"),
        ("write_at = 65500", "at most 65430"),
        ("read_at = 65530", "at most 65515"),
    ],
)
def test_registers_that_a_plc_has_not_or_that_the_agent_would_write_over_are_refused(keys: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(WHOLE + f'[[line_io]]\ntype = "modbus-tcp-client"\nhost = "plc"\n{keys}\n')
    parse(WHOLE + '[[line_io]]\ntype = "modbus-tcp-client"\nhost = "plc"\nread_at = 106\n')


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('outputs = { gate_pass = "GATE" }\nactive_low = [25]', "nothing would be inverted"),
        ("inputs = { trigger = 27 }\nactive_low = ['27']", "nothing would be inverted"),
        ("outputs = { ready = 17, passed = 17 }", "two meanings"),
        ("outputs = { ready = 17 }\ninputs = { trigger = 17 }", "two meanings"),
    ],
)
def test_gpio_line_that_would_not_be_inverted_or_means_two_things_is_refused(keys: str, problem: str) -> None:
    gpio = '[[line_io]]\ntype = "gpio"\nchip = "/dev/gpiochip0"\n'
    with pytest.raises(ConfigError, match=problem):
        parse(WHOLE + gpio + keys)
    parse(WHOLE + gpio + 'outputs = { ready = 17 }\ninputs = { trigger = "IN" }\nactive_low = ["IN", 17]\n')
