"""What a configuration with an error says: the key, what is allowed, and the nearest name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from lineside_runtime.config_errors import config_error
from lineside_runtime.errors import ConfigError


class Folder(msgspec.Struct, tag="folder", tag_field="type", forbid_unknown_fields=True):
    path: str
    rate_hz: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Simulator(msgspec.Struct, tag="simulator", tag_field="type", forbid_unknown_fields=True):
    kinds: tuple[Literal["steel", "pcb"], ...] = ()


class Pieces(msgspec.Struct, forbid_unknown_fields=True):
    side_px: int


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    camera: Folder | Simulator | tuple[Folder | Simulator, ...]
    keep: Literal["none", "bad", "all"] = "none"
    levels: dict[Literal["ready", "busy"], int] = {}
    pieces: Pieces | Literal["off"] | None = None
    stop_bits: Literal[1, 2] = 1


CAMERA: dict[str, Any] = {"type": "simulator"}


def told(given: dict[str, Any]) -> ConfigError:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Whole)
    return config_error(caught.value, Whole, given)


@pytest.mark.parametrize(
    ("given", "message", "expected"),
    [
        ({"camera": CAMERA, "kep": "all"}, "$.kep is not a known key (did you mean `keep`?)", "camera, keep"),
        ({"camera": {"type": "folder", "rate": 3.0}}, "$.camera.rate is not a known key (did you mean `rate_hz`?)", ""),
        ({"camera": [{"type": "folder", "fps": 1}]}, "$.camera[0].fps is not a known key", "type, path, rate_hz"),
        ({"camera": CAMERA, "keep": "Bad"}, "$.keep (did you mean `bad`?)", "all, bad, none"),
        ({"camera": CAMERA, "keep": 3}, "Expected `str`, got `int` - at `$.keep`", "all, bad, none"),
        ({"camera": {"type": "foldr"}}, "$.camera.type (did you mean `folder`?)", "folder, simulator"),
        ({"camera": {"path": "x"}}, "$.camera.type is missing", "folder, simulator"),
        ({"camera": {"typ": "folder"}}, "$.camera.type is missing (there is `typ`)", "folder, simulator"),
        ({"camera": {"type": "folder"}}, "$.camera.path is missing", ""),
        ({}, "$.camera is missing", ""),
        ({"camera": {**CAMERA, "kinds": ["wood"]}}, "$.camera.kinds[0]", "pcb, steel"),
        ({"camera": CAMERA, "levels": {"redy": 1}}, "a key of $.levels (did you mean `ready`?)", "busy, ready"),
        ({"camera": CAMERA, "levels": {"ready": "x"}}, "Expected `int`, got `str` - at `$.levels[...]`", ""),
        ({"camera": CAMERA, "pieces": "on"}, "$.pieces", "off"),
        ({"camera": CAMERA, "pieces": {"side": 3}}, "$.pieces.side is not a known key (did you mean `side_px`?)", ""),
        ({"camera": CAMERA, "stop_bits": 3}, "$.stop_bits", "1, 2"),
        ({"camera": 3}, "Expected `object | array`, got `int` - at `$.camera`", ""),
        (
            {"camera": {"type": "folder", "path": "x", "rate_hz": 0.0}},
            "Expected `float` > 0.0 - at `$.camera.rate_hz`",
            "",
        ),
    ],
)
def test_error_names_the_place_what_is_allowed_and_the_nearest_name(
    given: dict[str, Any], message: str, expected: str
) -> None:
    error = told(given)
    assert error.message == message
    if expected:
        assert all(name in str(error.expected).split(", ") for name in expected.split(", ")), error.expected
    assert error.code == 2001


def test_path_of_a_table_alone_can_be_given() -> None:
    given = {"type": "folder", "path": 3}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Folder)
    assert (
        config_error(caught.value, Folder, given, root="$.camera").message
        == "Expected `str`, got `int` - at `$.camera.path`"
    )


class Shifts(msgspec.Struct):
    starts: list[Annotated[str, msgspec.Meta(pattern="^[0-9]{2}:[0-9]{2}$", examples=["06:00"])]]


def test_text_of_another_form_is_answered_with_an_example() -> None:
    given = {"starts": ["14:00", "6:00"]}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Shifts)
    error = config_error(caught.value, Shifts, given)
    assert (error.message, error.expected) == ("$.starts[1] is written in another form", "a value such as 06:00")
    assert error.actual == "'6:00'"
