"""What the kernel says of a process, once in a while: one JSON object a line. Imports nothing of ours::

    python -I -S sampler.py PID SECONDS EVERY_S STATUS_JSON

Memory is ``/proc/PID/smaps_rollup``'s, in bytes: resident (RSS), its proportional share (PSS), and what is the process'
own and lies in no file (anonymous, with what of it was swapped out). Handles are the entries of ``/proc/PID/fd`` by
what they lead to. Frames come from the agent's ``status.json``. It ends with the process, or when the time is over.
"""

import collections
import json
import os
import sys
import time
from pathlib import Path

KINDS = ("socket:", "anon_inode:", "pipe:", "/dev/")


def memory(pid: int) -> dict[str, int]:
    """Bytes by name."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith("kB"):
            found[name] = 1024 * int(rest.split()[0])
    return {
        "rss_bytes": found["Rss"],
        "pss_bytes": found["Pss"],
        "anonymous_bytes": found["Anonymous"] + found["Swap"],
    }


def handles(pid: int) -> dict[str, int]:
    """How many, by kind; a handle that is closed meanwhile isn't there."""
    kinds: collections.Counter[str] = collections.Counter()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(handle.readlink())
        except FileNotFoundError:
            continue
        kinds[next((kind.strip(":") for kind in KINDS if target.startswith(kind)), "file")] += 1
    return dict(kinds)


def processor_s(pid: int) -> float:
    """Seconds of processor time, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def frames(status_path: str) -> int:
    """Frames that were inspected so far."""
    return int(json.loads(Path(status_path).read_text())["inspected"])


def main() -> int:
    """Samples until the end."""
    pid, seconds, every_s, status_path = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    began_s = time.monotonic()
    count = 0
    while (at_s := time.monotonic() - began_s) < seconds:
        try:
            by_kind = handles(pid)
            found = {
                "at_s": round(at_s, 1),
                **memory(pid),
                "handles": sum(by_kind.values()),
                "handles_by_kind": by_kind,
                "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
                "processor_s": processor_s(pid),
                "frames": frames(status_path),
            }
        except (FileNotFoundError, ProcessLookupError):
            return 1
        print(json.dumps(found), flush=True)
        count += 1
        time.sleep(max(0.0, began_s + count * every_s - time.monotonic()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
