"""Query results by part, device, bundle and time; export to CSV and Parquet.

The same statement serves SQLite and PostgreSQL.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.results.frames.storage import frame_blobs
from lineside_hub.results.sql import runner, stream
from lineside_link.result_table import RESULT_COLUMNS, UNKNOWN, Row, export_rows
from lineside_runtime.files import write_atomic

ORDER = ("captured_at_ns", "device", "epoch", "seq")
WITH_FRAMES = "LEFT JOIN frames f ON f.device = r.device AND f.epoch = r.epoch AND f.seq = r.seq"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Selects results; empty and ``None`` fields do not restrict.

    Attributes:
        bundle: ``name@version``, or a name for all of its versions.
        verdict: As in the table: ``pass``, ``reject``, ``unsure`` or ``fault``.
        defect: Type of a defect among the detections, of any camera, or a rule whose value is not in tolerance or whose
            mark is not accepted.
        since_ns: Captured then or later, Unix time in ns.
        limit: Only the newest so many.
        with_frame: Only those of which a frame is here.
        unknown: Also numbers that were reserved at a power cut and may have had no part.
    """

    part_id: str = ""
    device: str = ""
    bundle: str = ""
    recipe: str = ""
    verdict: str = ""
    defect: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int | None = None
    with_frame: bool = False
    unknown: bool = False

    def where(self) -> tuple[list[str], dict[str, object]]:
        """Returns the conditions on ``results r`` and ``frames f``, and their named parameters."""
        conditions = {
            "r.part_id = :part_id": self.part_id,
            "r.device = :device": self.device,
            "r.bundle = :bundle" if "@" in self.bundle else "r.bundle LIKE :bundle_any ESCAPE '!'": self.bundle,
            "r.recipe = :recipe": self.recipe,
            "r.verdict = :verdict": self.verdict,
            # Unlike LIKE it is case-sensitive in both databases.
            "(replace(r.detections, :defect, '') <> r.detections OR replace(r.views, :defect, '') <> r.views OR "
            "replace(r.views, :by_rule, '') <> r.views OR "
            "replace(r.measurements, :by_rule, '') <> r.measurements OR "
            "replace(r.readings, :by_rule, '') <> r.readings)": self.defect,
            "r.captured_at_ns >= :since_ns": self.since_ns,
            "r.captured_at_ns < :until_ns": self.until_ns,
            "f.sha256 IS NOT NULL": "yes" if self.with_frame else "",
            f"r.verdict <> '{UNKNOWN}'": "" if self.unknown else "yes",
        }
        used = [text for text, value in conditions.items() if value not in ("", None)]
        name = re.sub(r"([!%_])", r"!\1", self.bundle)
        known = {"defect": _begins_box(self.defect), "by_rule": _begins_failed(self.defect)}
        parameters = {**msgspec.structs.asdict(self), "bundle_any": f"{name}@%", **known}
        whole = " ".join(used)
        return used, {name: value for name, value in parameters.items() if re.search(rf":{name}\b", whole)}

    def sql(self) -> tuple[str, dict[str, object]]:
        """Returns the statement and its named parameters; oldest first."""
        used, parameters = self.where()
        where = f" WHERE {' AND '.join(used)}" if used else ""
        columns = ", ".join(f"r.{name}" for name in RESULT_COLUMNS)
        text = f"SELECT {columns}, coalesce(f.sha256, '') AS frame FROM results r {WITH_FRAMES}{where}"
        if self.limit is not None:
            newest = ", ".join(f"r.{name} DESC" for name in ORDER)
            text = f"SELECT * FROM ({text} ORDER BY {newest} LIMIT :limit) AS r"
            parameters["limit"] = self.limit
        text += f" ORDER BY {', '.join(f'r.{name}' for name in ORDER)}"
        return text, parameters


def _begins_box(defect: str) -> str:
    """Returns how a box of this type begins in the column ``detections``; quotes within a type are escaped there."""
    return f"[{msgspec.json.encode(defect).decode()},"


def _begins_failed(rule: str) -> str:
    """Returns how a value out of tolerance or a refused mark begins in the column ``measurements`` or ``readings``."""
    return f'{{"name":{msgspec.json.encode(rule).decode()},'


def results(config: HubConfig, query: Query) -> Iterator[Row]:
    """Yields the results of a hub, oldest first."""
    return stream(config, *query.sql())


class ResultCounts(msgspec.Struct, frozen=True):
    """Counts over the results of one device, without unknown ones.

    Attributes:
        fallbacks: Calls of the model that another device answered than the first one asked for.
        cache_hits: Calls that the result cache answered.
    """

    results: int = 0
    fallbacks: int = 0
    cache_hits: int = 0


def count_by_device(config: HubConfig) -> dict[str, ResultCounts]:
    """Counts the results of each device."""
    text = "SELECT device, sum(results), sum(fallbacks), sum(cache_hits) FROM result_totals GROUP BY device"
    with runner(config) as run:
        return {row[0]: ResultCounts(*map(int, row[1:])) for row in run(text, {})}


def export(config: HubConfig, query: Query, path: Path) -> int:
    """Writes results into a file, which appears under its name when it is complete; returns how many.

    Args:
        path: As in `export_rows`, whose errors are raised too.
    """
    return export_rows(results(config, query), path)


class FrameFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that an export wrote.

    Attributes:
        folder: Holds them, each under its name in the column ``frame``.
        frames: Number of files; a frame of several results is one file.
        missing: Frames in rows that no longer exist, as after retention.
    """

    folder: Path
    frames: int
    missing: int


def export_frames(config: HubConfig, query: Query, folder: Path) -> FrameFiles:
    """Writes the frames of results into a folder, as ``<sha256>.png``.

    Args:
        folder: Created if it does not exist; existing files are kept.
    """
    place = frame_blobs(config)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict.fromkeys(row[-1] for row in results(config, msgspec.structs.replace(query, with_frame=True)))
    missing = 0
    for sha256 in wanted:
        path = folder / f"{sha256}.png"
        if path.exists():
            continue
        data = place.read(sha256)
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            missing += 1
        else:
            write_atomic(path, data)
    return FrameFiles(folder=folder, frames=len(wanted) - missing, missing=missing)
