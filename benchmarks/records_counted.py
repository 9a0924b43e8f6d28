"""How many records an agent commits in a while, counted in its database by plain SQL; imports nothing of ours::

    python -I -S records_counted.py RECORDS_DB SECONDS

The count begins at a commit and ends at one. One JSON object goes to stdout.
"""

import contextlib
import json
import sqlite3
import sys
import time


def last(path: str) -> int:
    """The last number given."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as connection:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0])


def next_commit(path: str) -> tuple[int, float]:
    """The last number just after a commit, and when that was."""
    before = last(path)
    while (now := last(path)) == before:
        time.sleep(0.005)
    return now, time.monotonic()


def main() -> int:
    """Counts."""
    path, seconds = sys.argv[1], float(sys.argv[2])
    first, began_s = next_commit(path)
    time.sleep(seconds)
    end, ended_s = next_commit(path)
    print(json.dumps({"records": end - first, "seconds": ended_s - began_s}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
