"""Plants with results in their hubs, and the sums of them in plain Python."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import sqlite3
from collections import Counter
from pathlib import Path

import tomli_w

from lineside_link.aggregation.identity import PlantKey, make_key, public_hex, write_key
from lineside_link.config import LinkConfig
from tests.worlds.hub import link_table, make_database, write_hub

SINCE = datetime.date(2026, 11, 2)
DAYS = 7
TYPES = ("scratch", "dent")
NANOSECONDS = 10**9


class Plants:
    """A pool of plants in a folder: ``pool.toml``, a key each, and a hub each."""

    def __init__(self, folder: Path, link: LinkConfig, count: int, *, hubs: bool = True) -> None:
        self.folder = folder
        self.names = [f"plant-{number}" for number in range(count)]
        self.keys: dict[str, PlantKey] = {name: make_key() for name in self.names}
        self.coordinator = make_key()
        self.pool = folder / "pool.toml"
        tables = {
            "coordinator": public_hex(self.coordinator),
            "types": list(TYPES),
            "link": link_table(link),
            "plants": {name: public_hex(key) for name, key in self.keys.items()},
        }
        self.pool.write_text(tomli_w.dumps(tables))
        write_key(self.coordinator, folder / "coordinator.key")
        self.rows: dict[str, list[tuple[int, str, list[tuple[str, float]]]]] = {}
        for number, name in enumerate(self.names):
            write_key(self.keys[name], folder / f"{name}.key")
            if hubs:
                self._write_hub(name, link, number)

    def hub(self, name: str) -> Path:
        return self.folder / name

    def _write_hub(self, name: str, link: LinkConfig, seed: int) -> None:
        self.hub(name).mkdir()
        write_hub(self.hub(name), link)
        make_database(self.hub(name))
        draw = random.Random(seed)
        begin = int(datetime.datetime.combine(SINCE, datetime.time(), datetime.timezone.utc).timestamp())
        self.rows[name] = rows = []
        for _ in range(200):
            at = begin + draw.randrange(-86_400, (DAYS + 1) * 86_400)  # a day before and after, too
            verdict = draw.choices(["pass", "reject", "unsure", "fault", "unknown"], [80, 12, 3, 3, 2])[0]
            found = [(draw.choice([*TYPES, "stain"]), draw.random()) for _ in range(draw.randrange(1, 4))]
            rows.append((at, verdict, found if verdict in ("reject", "unsure") else []))
        with contextlib.closing(sqlite3.connect(self.hub(name) / "hub.db")) as database, database:
            for number, (at, verdict, found) in enumerate(rows, start=1):
                boxes = json.dumps([[kind, score, 0.0, 0.0, 1.0, 1.0] for kind, score in found], separators=(",", ":"))
                database.execute(
                    "INSERT INTO results (device, epoch, seq, part_id, captured_at_ns, verdict, detections, "
                    "received_at_ns) VALUES ('cam', 'e', ?, ?, ?, ?, ?, 0)",
                    (number, f"{name}-{number}", at * NANOSECONDS, verdict, boxes),
                )
                if verdict == "reject" and number % 4:  # a false reject, a withdrawn mark, or boxes of a bad part
                    wrong, corrected = number % 4 == 1, number % 4 == 3
                    database.execute(
                        "INSERT INTO reviews (device, epoch, seq, wrong, note, marked_by, marked_at_ns, boxes, "
                        "corrected_by, corrected_at_ns) VALUES ('cam', 'e', ?, ?, '', 'me', 1, ?, 'me', ?)",
                        (number, wrong, '[["scratch",0,0,1,1]]' if corrected else "", 2 * corrected),
                    )

    def expected(self, names: list[str] | None = None) -> dict[str, object]:
        """Sums that were counted from the rows as they were drawn."""
        begin = int(datetime.datetime.combine(SINCE, datetime.time(), datetime.timezone.utc).timestamp())
        verdicts: Counter[str] = Counter()
        types: Counter[str] = Counter(dict.fromkeys((*TYPES, "other"), 0))
        days: Counter[int] = Counter()
        reviewed = false = 0
        for name in names or self.names:
            for number, (at, verdict, found) in enumerate(self.rows[name], start=1):
                day = (at - begin) // 86_400
                if not 0 <= day < DAYS or verdict == "unknown":
                    continue
                verdicts[verdict] += 1
                days[day] += verdict in ("reject", "unsure")
                types.update({kind if kind in TYPES else "other" for kind, _ in found})
                if verdict == "reject" and number % 2:
                    reviewed += 1
                    false += number % 4 == 1
        return {
            "parts": verdicts["pass"] + verdicts["reject"] + verdicts["unsure"],
            "rejected": verdicts["reject"] + verdicts["unsure"],
            "faults": verdicts["fault"],
            "rejected_by_day": [days[day] for day in range(DAYS)],
            "types": dict(types),
            "reviews": {"rejects reviewed": reviewed, "false rejects": false, "passes reviewed": 0, "escapes": 0},
        }


def summary(report: dict[str, object]) -> dict[str, object]:
    """What `Plants.expected` gives, of a report as JSON."""
    return {
        **{name: report[name] for name in ("parts", "rejected", "faults", "reviews")},
        "rejected_by_day": [day["rejected"] for day in report["days"]],  # type: ignore[attr-defined]
        "types": {row["type"]: row["parts"] for row in report["types"]},  # type: ignore[attr-defined]
    }
