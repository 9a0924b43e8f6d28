"""The contestants of a benchmark: bundles, each with a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from lineside_runtime import registry
from lineside_runtime.bundle import Bundle, Manifest, open_bundle
from lineside_runtime.bundle.archive import unpack_archive
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.serving import candidates

ARCHIVE_SUFFIX = ".lsb"
ALL = "all"


@dataclasses.dataclass(frozen=True, slots=True)
class Contestant:
    """One thing to measure.

    Attributes:
        bundle: An opened bundle, its folder, or a ``.lsb`` archive.
        config: Where it may run.
        level: Only the bundle's variants of this optimisation level; ``None`` for all, best first.
        batch: Frames in one call.
        streams: Callers at once, each in a thread of its own.
        name: In the tables; made from what differs if it is empty.
    """

    bundle: Bundle | Path | str
    config: Config = dataclasses.field(default_factory=Config)
    level: int | None = None
    batch: int = 1
    streams: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ConfigError: ``batch`` or ``streams`` is below 1.
        """
        for key in ("batch", "streams"):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(key, expected="an integer of at least 1", actual=repr(value))


@dataclasses.dataclass(frozen=True, slots=True)
class ContestantEntry:
    """A contestant whose bundle is open.

    Attributes:
        name: Unique among those that are compared.
        bundle: With the variants of the wanted level only.
        optional: Whether it may be left out if it can't run here, since it was not named.
    """

    name: str
    bundle: Bundle
    contestant: Contestant
    optional: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Axes:
    """What each bundle is combined with.

    Attributes:
        engines: One contestant for each; ``all`` for every one that can run the bundle here; ``None`` for the
            configuration's choice.
        levels: One contestant for each; ``None`` for the bundle's best.
        batches: One contestant for each.
        streams: One contestant for each.
    """

    engines: Sequence[str] | Literal["all"] | None = None
    levels: Sequence[int] | None = None
    batches: Sequence[int] = (1,)
    streams: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        """Checks that there is something of each.

        Raises:
            ConfigError: A list is empty, or ``engines`` is another text than ``all``.
        """
        if isinstance(self.engines, str) and self.engines != ALL:
            raise ConfigError("engines", expected="'all' or a list such as ['ort', 'openvino']", actual=self.engines)
        for key in ("engines", "levels", "batches", "streams"):
            value = getattr(self, key)
            if value is not None and not len(value):
                raise ConfigError(key, expected="at least one", actual=repr(value))

    def cross(self, bundle: Bundle | Path | str, config: Config) -> list[Contestant]:
        """Returns every combination for one bundle."""
        names = registry.names() if self.engines == ALL else self.engines
        configs = [config] if names is None else [msgspec.structs.replace(config, engines=(name,)) for name in names]
        return [
            Contestant(bundle, one, level, batch, streams)
            for level in (self.levels or (None,))
            for one in configs
            for batch in self.batches
            for streams in self.streams
        ]


def open_contestants(
    contestants: Sequence[Contestant], resources: contextlib.ExitStack, *, optional: bool
) -> list[ContestantEntry]:
    """Opens the bundles and gives each contestant its name.

    Raises:
        InputNotFoundError: There is no such bundle.
        BundleError: It is damaged, or has no variant of the level.
    """
    found: dict[str, Bundle] = {}
    bundles = []
    for one in contestants:
        key = str(one.bundle.path if isinstance(one.bundle, Bundle) else one.bundle)
        if key not in found:
            found[key] = _open(one.bundle, resources)
        bundles.append(of_level(found[key], one.level))
    names = _names(contestants, bundles)
    return [
        ContestantEntry(name, bundle, one, optional)
        for name, bundle, one in zip(names, bundles, contestants, strict=True)
    ]


def of_level(bundle: Bundle, level: int | None) -> Bundle:
    """Returns the bundle with its variants of one level only; the same one for ``None``.

    Raises:
        IncompatibleBundleError: It has none.
    """
    if level is None:
        return bundle
    kept = tuple(candidates.of_level(bundle.manifest, level))
    return bundle.part(msgspec.structs.replace(bundle.manifest, variants=kept))


def _open(source: Bundle | Path | str, resources: contextlib.ExitStack) -> Bundle:
    if isinstance(source, Bundle):
        return source
    path = Path(source)
    if not path.exists():
        raise InputNotFoundError(f"{path} is not there", action="Give the folder of a bundle, or a .lsb file.")
    if path.suffix != ARCHIVE_SUFFIX or path.is_dir():
        return open_bundle(path)
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="lineside-bench-"))
    return unpack_archive(path, Path(folder) / "bundle")


def _names(contestants: Sequence[Contestant], bundles: Sequence[Bundle]) -> list[str]:
    rows = [_facts(one, bundle.manifest) for one, bundle in zip(contestants, bundles, strict=True)]
    differ = [number for number in range(len(rows[0])) if len({row[number] for row in rows}) > 1]
    names: list[str] = []
    for one, row in zip(contestants, rows, strict=True):
        name = one.name or ", ".join(row[number] for number in differ) or row[0]
        same = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{same + 1}" if same else name)
    return names


def _facts(one: Contestant, manifest: Manifest) -> tuple[str, ...]:
    config = one.config
    return (
        manifest.identity,
        "+".join(config.engines) if config.engines else "any engine",
        "best level" if one.level is None else f"level {one.level}",
        "engine's threads"
        if config.threads is None
        else f"{config.threads} threads"
        if config.threads > 1
        else "1 thread",
        f"batch {one.batch}",
        "1 caller" if one.streams == 1 else f"{one.streams} callers",
    )
