from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
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
        ("variant", ""),
        ("variant", 3),
        ("engines", "ort"),
        ("engines", ()),
        ("engines", ("ort", "ort")),
        ("engines", (1,)),
        ("engines", ("",)),
        ("engines", 3),
        ("cores", ()),
        ("cores", 1),
        ("cores", "01"),
        ("cores", (-1,)),
        ("cores", (True,)),
        ("isolate", "ort"),
        ("isolate", ("ort", "ort=/usr/bin/python3")),
        ("isolate", ("=/usr/bin/python3",)),
        ("isolate", ("ort=",)),
        ("isolate", (1,)),
        ("isolated_timeout_s", 0),
        ("isolated_timeout_s", float("inf")),
        ("isolated_timeout_s", 1e10),
        ("isolated_timeout_s", "2"),
        ("isolated_timeout_s", True),
        ("stage_engines", "ort"),
        ("stage_engines", ()),
        ("stage_engines", ("ort", "")),
        ("stage_engines", ("/cpu:0",)),
        ("stage_engines", (1,)),
        ("stage_cores", ()),
        ("standby", 1),
        ("balance", "yes"),
        ("submit_workers", 0),
        ("submit_workers", True),
        ("submit_workers", 1000),
        ("submit_queue", 0),
        ("submit_queue", 1.5),
        ("operator_libraries", ["/opt/a.so"]),
        ("operator_libraries", {"ort": "/opt/a.so"}),
        ("operator_libraries", {"ort": ()}),
        ("operator_libraries", {"ort": (3,)}),
        ("operator_libraries", {"": ("/opt/a.so",)}),
    ],
)
def test_a_wrong_value_names_key_range_and_value(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{key: value})
    assert caught.value.code == 2001
    assert key in caught.value.message
    assert caught.value.expected
    assert caught.value.actual == repr(value)


def test_cores_and_operator_libraries_may_be_lists_and_paths() -> None:
    config = Config(cores=[1, 0], operator_libraries={"ort": [Path("/opt/a.so"), "/opt/b.so"]})  # type: ignore[arg-type, dict-item]  # as in a configuration file
    assert config.cores == (1, 0)
    assert config.operator_libraries == {"ort": ("/opt/a.so", "/opt/b.so")}


def test_a_changed_copy_is_checked_as_well() -> None:
    assert msgspec.structs.replace(Config(threads=2), cores=[1]).cores == (1,)
    with pytest.raises(ConfigError):
        msgspec.structs.replace(Config(), threads=0)


def test_engines_may_be_a_list() -> None:
    assert Config(engines=["openvino", "ort"]).engines == ("openvino", "ort")  # type: ignore[arg-type]  # as in a configuration file


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().gpu_ratio = 0.1  # type: ignore[misc]  # a frozen value


@pytest.mark.parametrize("value", ["01", (), ((),), ((0,), "1"), (0, 1), ((-1,),)])
def test_cores_of_replicas_are_a_list_for_each_device(value: Any) -> None:
    with pytest.raises(ConfigError, match="replica_cores"):
        Config(balance=True, replica_cores=value)


def test_cores_of_replicas_go_with_balance_only() -> None:
    as_in_toml: Any = [[0], [1]]
    assert Config(balance=True, replica_cores=as_in_toml).replica_cores == ((0,), (1,))
    with pytest.raises(ConfigError, match="balance"):
        Config(replica_cores=((0,),))


def test_only_engines_that_may_be_used_can_be_isolated() -> None:
    assert Config(engines=("ort",), isolate=["ort=/opt/bin/python"]).isolate == ("ort=/opt/bin/python",)  # type: ignore[arg-type]  # as in a configuration file
    with pytest.raises(ConfigError, match="engines that may be used: ort"):
        Config(engines=("ort",), isolate=("openvino",))


@pytest.mark.parametrize("value", [(0, 1), ((),), ((-1,),), ("01",), (((0,),),)])
def test_cores_of_a_stage_are_numbers(value: Any) -> None:
    with pytest.raises(ConfigError, match="stage_cores"):
        Config(stage_cores=value)


def test_stages_are_kept_as_tuples() -> None:
    config = Config(stage_engines=["ort", "openvino/cpu:0"], stage_cores=[[0], [1, 2]])  # type: ignore[arg-type]  # as in a configuration file
    assert (config.stage_engines, config.stage_cores) == (("ort", "openvino/cpu:0"), ((0,), (1, 2)))
