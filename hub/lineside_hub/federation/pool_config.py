"""Configuration of a pool of plants, ``pool.toml``: the same file at the coordinator and at each plant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from lineside_hub.config import read_toml
from lineside_link.aggregation.messages import PLANTS_MAX, PLANTS_MIN, PlantPublicKey
from lineside_link.config import LinkConfig
from lineside_runtime.errors import ConfigError


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pool of plants.

    Attributes:
        coordinator: Public key of who may start rounds, as ``lineside fleet pool key`` prints it.
        types: Defect types that ``fleet pool`` counts one by one, in this order; all others are counted together.
        parts_max: Most parts that a plant may have in one question. A plant with more refuses; nothing is clipped.
        link: The broker that plants and coordinator share.
    """

    coordinator: PlantPublicKey
    types: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=100)], ...] = ()
    parts_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)] = 1_000_000_000
    link: LinkConfig
    plants: dict[str, PlantPublicKey]

    def __post_init__(self) -> None:
        if not PLANTS_MIN <= len(self.plants) <= PLANTS_MAX:
            raise ConfigError(
                "plants",
                expected=f"{PLANTS_MIN} to {PLANTS_MAX}: of a sum of two, each plant knows the other's part",
                actual=len(self.plants),
            )
        if len(set(self.types)) != len(self.types):
            raise ConfigError("types", expected="each type once", actual=self.types)


def load_pool(path: Path) -> PoolConfig:
    """Reads ``pool.toml``.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It is not TOML, or a key is unknown, missing, of a wrong type or out of range.
    """
    action = "docs/privacy.md describes pool.toml; a public key is the line that `lineside fleet pool key` prints."
    return read_toml(path, PoolConfig, "pool.toml", action=action)
