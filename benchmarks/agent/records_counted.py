"""How many records an agent commits in a while, counted in its database by plain SQL; imports nothing of ours::

    python -I -S records_counted.py RECORDS_DB SECONDS PID

The count begins at a commit and ends at one, and so do the processor time and the page faults of the process PID, as
the kernel says. One JSON object goes to stdout.
"""

import contextlib
import json
import os
import pathlib
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


def used(pid: int) -> tuple[float, float, int]:
    """Seconds of processor time of a process, those of them in the kernel, and page faults."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = (int(fields[place]) / os.sysconf("SC_CLK_TCK") for place in (11, 12))
    return user + system, system, int(fields[7])


def main() -> int:
    """Counts."""
    path, seconds, pid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    first, began_s = next_commit(path)
    before = used(pid)
    time.sleep(seconds)
    end, ended_s = next_commit(path)
    processor_s, system_s, faults = (now - then for now, then in zip(used(pid), before, strict=True))
    counted = {"processor_s": processor_s, "system_s": system_s, "page_faults": faults}
    print(json.dumps({"records": end - first, "seconds": ended_s - began_s, **counted}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
