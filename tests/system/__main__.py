"""Run the system tests one file after the other, and log the results in ``docs/``.

::

    python -m tests.system                       all files
    python -m tests.system test_board test_pnnx  these files; the other entries of the log stay
    python -m tests.system --render              write the page's table from the log, run nothing
    python -m tests.system --check               fail if the page's table differs from the log

A file that fails does not stop the next one. The exit status is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lineside_runtime.benchmark.machine import machine
from tests.system.log import LOG, PAGE, ROOT, Entry, read_junit, read_log, render, replace_block, tail, write_log

TIMEOUT_S = 1800
"""Of a test that sets no limit of its own."""
OPTIONS = (
    *("KILLS", "KILL_SEED", "LINE_PARTS", "LINESIDE_KILLS", "LINESIDE_POWER_CUTS", "LINESIDE_POWER_SEED"),
    *("LINESIDE_RESULTS", "TUF_CONFORMANCE"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.system", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="test files, with or without .py (default: all)")
    parser.add_argument("--render", action="store_true", help="write the page's table from the log, run nothing")
    parser.add_argument("--check", action="store_true", help="fail if the page's table differs from the log")
    options = parser.parse_args(arguments)
    every = sorted(path.name for path in Path(__file__).parent.glob("test_*.py"))
    wanted = [f"{Path(name).name.removesuffix('.py')}.py" for name in options.files] or every
    if unknown := sorted(set(wanted) - set(every)):
        parser.error(f"no such test file: {', '.join(unknown)}")
    if options.check:
        return check(every)
    if options.render:
        PAGE.write_text(replace_block(PAGE.read_text(), render(read_log(), every)))
        return 0
    red = []
    for number, name in enumerate(wanted, 1):
        print(f"== {name} ({number} of {len(wanted)})", flush=True)
        entry = run_file(name)
        write_log({**read_log(), name: entry})  # after each file: an interrupted run keeps what it has
        PAGE.write_text(replace_block(PAGE.read_text(), render(read_log(), every)))
        print(f"== {name}: {entry.passed} passed, {len(entry.failed)} failed, {len(entry.skipped)} skipped", flush=True)
        if not entry.is_green:
            red.append(name)
    print(
        f"== {len(wanted) - len(red)} of {len(wanted)} files without a failure" + "".join(f"\n   red: {r}" for r in red)
    )
    return 1 if red else 0


def check(every: list[str]) -> int:
    """Compares the page with the log."""
    page = PAGE.read_text()
    if replace_block(page, render(read_log(), every)) != page:
        print(f"{PAGE.name} differs from {LOG.name}: run `python -m tests.system --render`", file=sys.stderr)
        return 1
    return 0


def run_file(name: str) -> Entry:
    """Runs one test file in a process of its own, its output shown while it is written."""
    began, began_s, load = datetime.datetime.now(datetime.timezone.utc), time.monotonic(), round(os.getloadavg()[0], 1)
    commit, dirty = _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "-uno", "--", ".", *_not_the_log()))
    with tempfile.TemporaryDirectory(prefix="system-") as scratch:
        junit = Path(scratch) / "junit.xml"
        command = [sys.executable, "-m", "pytest", f"tests/system/{name}", "--verbose", "--capture=no", "--color=no"]
        command += [
            "--no-header",
            "--tb=short",
            "--timeout",
            str(TIMEOUT_S),
            "-p",
            "no:cacheprovider",
            "--junitxml",
            str(junit),
        ]
        output = []
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                print(line, end="", flush=True)
        passed, failed, skipped = read_junit(junit)
    here = machine()
    return Entry(
        date=f"{began:%Y-%m-%d %H:%M}",
        commit=commit,
        dirty=dirty,
        machine=f"{here.cpu}, {here.cores} cores, Python {here.python}",
        load=load,
        options={name: os.environ[name] for name in OPTIONS if name in os.environ},
        seconds=round(time.monotonic() - began_s, 1),
        exit_code=process.returncode,
        passed=passed,
        failed=failed,
        skipped=skipped,
        tail=tail("".join(output)),
    )


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _not_the_log() -> tuple[str, ...]:
    return tuple(f":!{path.relative_to(ROOT)}" for path in (LOG, PAGE))


if __name__ == "__main__":
    sys.exit(main())
