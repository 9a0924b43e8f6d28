from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory_bytes", -1),
        ("memory_bytes", 1.5),
        ("memory_bytes", True),
        ("device_bytes", "1"),
        ("sqlite_bytes", 1000),
        ("ttl_s", 0),
        ("ttl_s", -1),
        ("ttl_s", float("nan")),
        ("ttl_s", float("inf")),
        ("ttl_s", "1"),
        ("redis_timeout_s", 0),
        ("redis_timeout_s", None),
        ("sqlite", 3),
        ("sqlite", ""),
        ("redis", ("http://x",)),
        ("redis", (3,)),
        ("redis", 3),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        CacheConfig(**{key: value})
    assert caught.value.message == f"cache.{key}"


def test_texts_become_what_they_mean() -> None:
    config = CacheConfig(sqlite="cache.db", redis="redis://h")  # type: ignore[arg-type]  # as in a configuration file
    assert (config.sqlite, config.redis) == (Path("cache.db"), ("redis://h",))


def test_a_password_is_not_told() -> None:
    with pytest.raises(ConfigError) as caught:
        CacheConfig(redis=("http://user:secret@host",))
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(CacheConfig(redis=("redis://user:secret@host",)))
