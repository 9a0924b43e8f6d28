"""Select results for people: unsure, bad, and marked as wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.relabel import coco
from lineside_hub.results.sql import runner
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BadInputFormatError, ConfigError

Verdict = Literal["unsure", "bad", "wrong", "all"]

Select = Literal["newest", "random", "informative"]

SELECTS: tuple[Select, ...] = ("newest", "random", "informative")

VERDICTS: tuple[Verdict, ...] = ("unsure", "bad", "wrong", "all")

Box = tuple[str, float, float, float, float, float]
"""``type, score, x1, y1, x2, y2`` in pixels of the frame, x2 and y2 exclusive; of a person's the score is 1."""

_COLUMNS = (
    *("device", "epoch", "seq", "part_id", "captured_at_ns", "verdict", "detections"),
    *("bundle", "bundle_sha256", "width", "height"),
)

_VERDICT_SQL = {
    "unsure": "r.verdict = 'unsure'",
    "bad": "r.verdict NOT IN ('pass', 'unsure', 'unknown')",
    "wrong": "1 = 0",
    "all": "r.verdict <> 'unknown'",
}
"""Results that a person marked as wrong are always selected too."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Selection of results.

    Attributes:
        verdict: ``unsure``, ``bad`` (a defect was found, or no verdict was possible), ``wrong`` (marked by a person) or
            ``all``; results marked as wrong are always included.
        device: Only of this one; empty for all.
        since_ns: Captured then or later, Unix time in ns.
        limit: Only so many with a frame.
        select: Which so many: the newest, random ones, or those whose correction teaches most (`informative`).
        seed: Of the random generator, for ``random`` and ``informative``.
        again: Also results that were corrected and not marked as wrong since.
    """

    verdict: Verdict = "unsure"
    device: str = ""
    since_ns: int | None = None
    limit: int | None = None
    select: Select = "newest"
    seed: int = 0
    again: bool = False


class ExportedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image as it was exported.

    Attributes:
        width: In pixels.
        height: In pixels.
        captured_at_ns: Unix time of the capture.
        bundle: ``name@version``.
        boxes: The model's.
    """

    sha256: str
    width: int
    height: int
    device: str
    epoch: str
    seq: int
    part_id: str
    captured_at_ns: int
    verdict: str
    bundle: str
    bundle_sha256: str
    boxes: tuple[Box, ...] = ()

    @property
    def file_name(self) -> str:
        """Name of its file in the folder of images."""
        return f"{self.sha256}.png"

    def as_coco(self, number: int, *, verdict: str = "", note: str = "") -> coco.Image:
        """Returns the image for an annotation file."""
        return coco.Image(
            id=number,
            file_name=self.file_name,
            width=self.width,
            height=self.height,
            date_captured=coco.utc(self.captured_at_ns),
            device=self.device,
            part_id=self.part_id,
            bundle=self.bundle,
            bundle_sha256=self.bundle_sha256,
            verdict=verdict,
            note=note,
        )


class SelectedResult(ExportedImage, frozen=True, kw_only=True):
    """A selected result with its frame.

    Attributes:
        wrong: Whether a person marked the verdict as wrong.
    """

    wrong: bool = False
    note: str = ""

    def image(self, *, size: tuple[int, int] | None = None) -> ExportedImage:
        """Returns the catalogue's entry; ``size`` is width and height of the file, by default those of the result."""
        fields = {name: getattr(self, name) for name in ExportedImage.__struct_fields__}
        width, height = size or (self.width, self.height)
        return ExportedImage(**fields | {"width": width, "height": height})


def select_results(config: HubConfig, choice: Selection) -> list[SelectedResult]:
    """Returns the selected results with a frame at the hub, oldest first; only the newest are limited here.

    A limit takes those that a person marked as wrong before all others.

    Raises:
        ConfigError: The limit is below 1.
        BadInputFormatError: The boxes of one can't be read.
    """
    if choice.limit is not None and choice.limit < 1:
        raise ConfigError("limit", expected="1 or more", actual=choice.limit)
    where, parameters = _where(choice)
    order = "coalesce(v.wrong, 0) DESC, r.captured_at_ns DESC, r.device, r.epoch, r.seq DESC"
    text = f"{_select()} WHERE {where} AND f.sha256 IS NOT NULL ORDER BY {order}"
    if choice.limit is not None and choice.select == "newest":
        text += " LIMIT :limit"
        parameters["limit"] = choice.limit
    return sorted(_selected(config, text, parameters), key=lambda one: -one.captured_at_ns)[::-1]


def count_without_frame(config: HubConfig, choice: Selection) -> int:
    """Counts the selected results without a frame at the hub, regardless of the limit."""
    where, parameters = _where(choice)
    text = f"SELECT count(*) FROM {_joined()} WHERE {where} AND f.sha256 IS NULL"
    with runner(config) as run:
        return int(run(text, parameters)[0][0])


def _where(choice: Selection) -> tuple[str, dict[str, Any]]:
    conditions = [f"({_VERDICT_SQL[choice.verdict]} OR v.wrong = 1)"]
    parameters: dict[str, Any] = {}
    if choice.device:
        conditions.append("r.device = :device")
        parameters["device"] = choice.device
    if choice.since_ns is not None:
        conditions.append("r.captured_at_ns >= :since_ns")
        parameters["since_ns"] = choice.since_ns
    if not choice.again:
        conditions.append(
            "(coalesce(v.corrected_at_ns, 0) = 0 OR (v.wrong = 1 AND v.marked_at_ns > v.corrected_at_ns))"
        )
    return " AND ".join(conditions), parameters


def results_of_frames(config: HubConfig, frames: list[str]) -> list[SelectedResult]:
    """Returns the results of some frames.

    Args:
        frames: sha256 of each.

    Raises:
        BadInputFormatError: The boxes of one can't be read.
    """
    text = f"{_select()} WHERE f.sha256 = :sha256 ORDER BY r.captured_at_ns, r.device, r.epoch, r.seq"
    return [row for sha256 in frames for row in _selected(config, text, {"sha256": sha256})]


def _select() -> str:
    columns = ", ".join(f"r.{name}" for name in _COLUMNS)
    return f"SELECT {columns}, f.sha256, coalesce(v.wrong, 0), coalesce(v.note, '') FROM {_joined()}"


def _joined() -> str:
    same = "{0}.device = r.device AND {0}.epoch = r.epoch AND {0}.seq = r.seq"
    return f"results r LEFT JOIN frames f ON {same.format('f')} LEFT JOIN reviews v ON {same.format('v')}"


def _selected(config: HubConfig, text: str, parameters: dict[str, Any]) -> Iterator[SelectedResult]:
    with runner(config) as run:
        found = run(text, parameters)
    for row in found:
        known = dict(zip((*_COLUMNS, "sha256", "wrong", "note"), row, strict=True))
        known["boxes"] = _boxes(known.pop("detections"), f"{known['device']} {known['epoch']} {known['seq']}")
        known |= {name: known[name] or 0 for name in ("captured_at_ns", "width", "height")}  # of the first releases
        known |= {"bundle": known["bundle"] or "", "bundle_sha256": known["bundle_sha256"] or ""}
        yield SelectedResult(**(known | {"wrong": bool(known["wrong"])}))


def _boxes(detections: str, where: str) -> tuple[Box, ...]:
    try:
        found = decode_json(detections, type=list[list[Any]])
        return tuple(msgspec.convert(one[:6], Box) for one in found)
    except msgspec.DecodeError as error:
        raise BadInputFormatError(f"detections of {where}: {error}", action="The hub's database is damaged.") from error
