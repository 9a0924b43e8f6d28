"""Settings of a training: from a file, by hand, and as they are written beside the result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec
import pytest

from lineside.cli import main
from lineside.commands.train import add_arguments
from lineside.commands.train.training import settings_of
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.settings import TrainingSettings, read_settings, write_settings
from lineside_runtime.errors import ConfigError, InputNotFoundError, TrainingError

KINDS: dict[str, type[TrainingSettings]] = {
    "detector": DetectorConfig,
    "classifier": ClassifierConfig,
    "segmenter": SegmenterConfig,
}


def file(folder: Path, text: str) -> Path:
    path = folder / "train.toml"
    path.write_text(text)
    return path


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_a_file_gives_the_settings_with_its_own_folder_before_relative_paths(tmp_path: Path) -> None:
    text = 'data = ["parts", "/abs"]\nout = "run"\nepochs = 7\ncanvas_sizes = [64, 96]\n[framing]\nparts = "cut"\n'
    read = read_settings(DetectorConfig, file(tmp_path, text), {})
    assert read.data == (tmp_path / "parts", Path("/abs")) and read.out == tmp_path / "run"
    assert (read.epochs, read.canvas_sizes, read.framing) == (7, (64, 96), {"parts": "cut"})
    assert read.batch == DetectorConfig(data=(Path("x"),), out=Path("y")).batch


def test_what_is_said_by_hand_comes_before_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, 'data = ["parts"]\nout = "run"\nepochs = 7\nseed = 5\n')
    said = options("detector", "--config", str(path), "--epochs", "9", "--canvas-sizes", "64,128", "--data", "other")
    read = settings_of(said, DetectorConfig)
    assert (read.epochs, read.seed, read.canvas_sizes, read.data) == (9, 5, (64, 128), (Path("other"),))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_option_is_a_setting_of_its_kind(kind: str) -> None:
    said = vars(options(kind, "--data", "a", "--data", "b", "--out", "c", "--resume"))
    read = settings_of(argparse.Namespace(**said), KINDS[kind])
    assert (read.data, read.out, read.resume) == ((Path("a"), Path("b")), Path("c"), True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('data = ["a"]\nout = "b"\nepoch = 3\n', r"\$\.epoch is not a known key .did you mean `epochs`"),
        ('data = ["a"]\nout = "b"\nepochs = "many"\n', r"\$\.epochs"),
        ('data = ["a"]\nout = 3\n', r"\$\.out"),
        ('out = "b"\n', r"\$\.data is missing"),
        ("data = [", "TOML"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_settings(DetectorConfig, file(tmp_path, text), {})


def test_a_value_out_of_range_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="canvas_sizes"):
        read_settings(DetectorConfig, file(tmp_path, 'data = ["a"]\nout = "b"\ncanvas_sizes = [100]\n'), {})
    with pytest.raises(TrainingError, match="framing"):
        read_settings(DetectorConfig, file(tmp_path, 'data = ["a"]\nout = "b"\n[framing]\nc = "cut"\n'), {})
    with pytest.raises(InputNotFoundError, match=r"no\.toml"):
        read_settings(DetectorConfig, tmp_path / "no.toml", {})


def test_the_settings_used_repeat_the_run_elsewhere_and_go_on_with_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    first = DetectorConfig(data=(tmp_path / "a",), out=out, minutes=2.5, framing={"a": "scale"}, balance=0.2, batch=6)
    write_settings(first)
    again = read_settings(DetectorConfig, out / "config.toml", {"out": tmp_path / "second"})
    assert msgspec.structs.replace(again, out=out) == first
    resumed = read_settings(DetectorConfig, None, {"out": out, "resume": True, "minutes": 4.0})
    assert resumed == msgspec.structs.replace(first, resume=True, minutes=4.0)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_schema_knows_every_setting(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", f"train-{kind}"]) == 0
    schema = json.loads(capsys.readouterr().out)
    (shown,) = [each for each in schema["$defs"].values() if "epochs" in each["properties"]]
    assert set(shown["properties"]) == set(KINDS[kind].__struct_fields__)
    assert shown["additionalProperties"] is False and set(shown["required"]) == {"data", "out"}
