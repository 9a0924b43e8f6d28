"""The log of the system tests: ``tests/system/log.json``, rendered in ``docs/figures/system-tests.md``."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import msgspec

ROOT = Path(__file__).parents[2]
LOG = ROOT / "tests/system/log.json"
PAGE = ROOT / "docs/figures/system-tests.md"
BEGIN, END = "<!-- system tests -->", "<!-- end system tests -->"
TAIL_LINES, LINE_CHARACTERS = 80, 300


class NotRun(msgspec.Struct, frozen=True, kw_only=True):
    """A test that was skipped."""

    test: str
    reason: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of one test file.

    Attributes:
        date: Begin of the run, UTC.
        commit: Of the checkout.
        dirty: Whether files that git tracks, except the log and its page, differed from that commit.
        machine: Processor, cores, operating system and Python.
        load: Load average of the last minute before the run.
        options: Environment variables that make the run smaller.
        seconds: Duration of the run.
        exit_code: Of pytest.
        passed: Number of tests.
        failed: Names of the failed tests.
        skipped: Tests that were not run, each with its reason.
        tail: Last lines of the output.
    """

    date: str
    commit: str
    dirty: bool
    machine: str
    load: float
    options: dict[str, str]
    seconds: float
    exit_code: int
    passed: int
    failed: tuple[str, ...]
    skipped: tuple[NotRun, ...]
    tail: tuple[str, ...]

    @property
    def is_green(self) -> bool:
        """Whether no test failed; 5 is pytest's exit code of a file in which nothing was run."""
        return not self.failed and self.exit_code in (0, 5)


def read_log(path: Path = LOG) -> dict[str, Entry]:
    """Returns the entry of each test file; none before the first run."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Entry]) if path.exists() else {}


def write_log(entries: dict[str, Entry], path: Path = LOG) -> None:
    """Writes the entries, sorted by file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(dict(sorted(entries.items()))), indent=1)
    path.write_bytes(text + b"\n")


def read_junit(path: Path) -> tuple[int, tuple[str, ...], tuple[NotRun, ...]]:
    """Reads pytest's report.

    Args:
        path: Of the XML file; a run that was killed has none.

    Returns:
        How many tests passed, which failed, and which were skipped.
    """
    if not path.exists():
        return 0, (), ()
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(path).iter("testcase"):
        name = case.get("name", "")
        if (reason := case.find("skipped")) is not None:
            skipped.append(NotRun(test=name, reason=shown(_first_line(reason.get("message", "")))))
        elif case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        else:
            passed += 1
    return passed, tuple(failed), tuple(skipped)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def shown(line: str) -> str:
    """Returns a line without colours, this machine's folders, and addresses of package indexes."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    line = line.replace(sys.prefix, ".venv").replace(str(ROOT), ".")
    line = line.replace(f"{tempfile.gettempdir()}/", "TMP/").replace(str(Path.home()), "~")
    return re.sub(r"https?://(?!127\.0\.0\.1|localhost)[^\s'\")]+", "URL", line)


def tail(output: str) -> tuple[str, ...]:
    """Returns the last lines of an output as they may be published."""
    return tuple(shown(line.rstrip())[:LINE_CHARACTERS] for line in output.splitlines()[-TAIL_LINES:])


def render(entries: dict[str, Entry], files: list[str]) -> str:
    """Returns the table of all test files, with a row for each that has no run.

    Args:
        entries: The log.
        files: Names of all test files.
    """
    green = sum(name in entries and entries[name].is_green for name in files)
    skipped = sum(name in entries and bool(entries[name].skipped) for name in files)
    lines = [
        f"{len(files)} files: {green} without a failure, {skipped} of these with skipped tests. Written by "
        "`make test-system` from [log.json](../../tests/system/log.json).",
        "",
        "| file | passed | failed | skipped | seconds | date | commit | machine, load before it |",
        "| --- | ---: | --- | --- | ---: | --- | --- | --- |",
    ]
    lines += [f"| `{name}` | " + " | ".join(_cells(entries.get(name))) + " |" for name in files]
    return "\n".join(lines)


def _cells(entry: Entry | None) -> list[str]:
    if entry is None:
        return ["", "**no run**", "", "", "", "", ""]
    failed = "<br>".join(f"**{name}**" for name in entry.failed)
    if not failed and not entry.is_green:
        failed = f"**pytest ended with {entry.exit_code}**"
    reasons: dict[str, list[str]] = {}
    for one in entry.skipped:
        reasons.setdefault(one.reason, []).append(one.test)
    skipped = "<br>".join(f"{len(tests)}: {reason}" for reason, tests in reasons.items()).replace("|", "\\|")
    options = "".join(f", {name}={value}" for name, value in sorted(entry.options.items()))
    commit = f"{entry.commit[:10]}{' and changes' if entry.dirty else ''}"
    where = f"{entry.machine}, {entry.load:.1f}{options}"
    return [str(entry.passed), failed, skipped, f"{entry.seconds:.0f}", entry.date[:16], commit, where]


def replace_block(page: str, table: str) -> str:
    """Returns a page with the table between its markers.

    Raises:
        ValueError: The page lacks a marker.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no markers {BEGIN} and {END} in {PAGE.name}")
    return f"{before}{begin}\n{table}\n{end}{after}"
