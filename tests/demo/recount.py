"""Recounts a demo from outside: standard library only, nothing of lineside.

    python tests/demo/recount.py demo-out

reads ``frames.json`` (the list of source frames), the hub's database and the demo's ``result.json`` in
that folder, counts again, prints both counts as JSON and exits with 1 if they differ.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path


def recount(frames_path: Path, database: Path) -> dict[str, int]:
    """Counts frames, verdicts, losses and repeats from the two files alone."""
    listed = json.loads(frames_path.read_text())
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    key = "part_id" if listed["part_ids"] else "sequence"
    wanted = set(listed["part_ids"]) or set(range(listed["frames"]))
    records = connection.execute(f"SELECT {key}, verdict FROM results").fetchall()
    connection.close()
    with_record = {name for name, _ in records}
    with_verdict = {name for name, verdict in records if verdict in ("pass", "reject")}
    return {
        "frames": len(wanted),
        "inspected": len(with_verdict & wanted),
        "lost": len(wanted - with_record),
        "duplicates": len(records) - len(with_record),
        "synced": len(records),
    }


def main() -> int:
    """Compares the recount with what the demo said."""
    out = Path(sys.argv[1])
    said = json.loads((out / "result.json").read_text())
    counted = recount(out / "frames.json", out / "hub.db")
    claimed = {key: said[key] for key in counted}
    print(json.dumps({"counted": counted, "claimed": claimed, "agree": counted == claimed}))
    return 0 if counted == claimed else 1


if __name__ == "__main__":
    raise SystemExit(main())
