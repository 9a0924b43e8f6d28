from __future__ import annotations

from typing import Any

import pytest

import lineside
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError


def test_the_customers_line_is_the_default() -> None:
    assert lineside.Config(gpu_ratio=0.6, npu_threshold=0.2, fallback_strategy="sequential") == Config()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpu_ratio", -0.1),
        ("gpu_ratio", 1.1),
        ("gpu_ratio", float("nan")),
        ("gpu_ratio", "0.6"),
        ("gpu_ratio", True),
        ("npu_threshold", 2),
        ("npu_threshold", None),
        ("fallback_strategy", "parallel"),
        ("fallback_strategy", 1),
        ("threads", 0),
        ("threads", 1.5),
        ("threads", True),
        ("threads", 100_000),
        ("engines", "ort"),
        ("engines", ()),
        ("engines", ("ort", "ort")),
        ("engines", (1,)),
        ("engines", ("",)),
        ("engines", 3),
    ],
)
def test_a_wrong_value_names_key_range_and_value(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{key: value})
    assert caught.value.code == 2001
    assert key in caught.value.message
    assert caught.value.expected
    assert caught.value.actual == repr(value)


def test_engines_may_be_a_list() -> None:
    assert Config(engines=["openvino", "ort"]).engines == ("openvino", "ort")  # type: ignore[arg-type]


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().gpu_ratio = 0.1  # type: ignore[misc]
