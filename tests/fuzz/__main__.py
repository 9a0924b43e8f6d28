"""``python -m tests.fuzz [--seconds 3600] [--entry NAME] [--corpus DIR]``: coverage-guided fuzzing with Atheris.

Atheris (libFuzzer for Python) instruments lineside's own modules and looks for inputs that reach new code. Inputs that
did are kept in the corpus, ``fuzz-corpus/<entry>`` by default; what ends an entry is written as ``crash-<sha1>`` there.
Copy such a file to ``tests/fuzz/regressions/<entry>/`` with the fix: the test suite runs all of these.

Each entry gets its share of the time in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REGRESSIONS = Path(__file__).parent / "regressions"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes; returns 1 if anything was found.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=3600, help="for all entries together (default: %(default)s)")
    parser.add_argument("--entry", help="only this one")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="default: %(default)s")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.in_process:
        return run(options.entry, options.corpus, options.seconds)
    from tests.fuzz.seeds import SEEDS

    if options.entry is not None and options.entry not in SEEDS:
        parser.error(f"--entry {options.entry}: there is none of this name; there are {', '.join(sorted(SEEDS))}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install 'lineside[fuzz]', or `make fuzz`, which does that")
    names = [options.entry] if options.entry else sorted(SEEDS)
    found = []
    for name in names:
        share = max(1, options.seconds // len(names))
        print(f"{name}: {share} s", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--in-process", "--entry", name, "--seconds", str(share)]
        if subprocess.run([*command, "--corpus", str(options.corpus)], check=False).returncode:
            found.append(name)
    print(f"findings: {', '.join(found) or 'none'}", file=sys.stderr)
    return 1 if found else 0


def run(name: str, corpus: Path, seconds: int) -> int:
    """Fuzzes one entry in this process; libFuzzer ends it."""
    import atheris

    packages = ["lineside_hub", "lineside_link", "lineside_agent", "lineside_models", "lineside_runtime"]
    with atheris.instrument_imports(include=packages):
        from tests.fuzz.entries import Peers, entries, guarded

    from tests.fuzz.seeds import write_seeds

    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    write_seeds(name, folder)
    scratch = tempfile.TemporaryDirectory()
    entry = entries(Peers(Path(scratch.name)))[name]
    arguments = [
        sys.argv[0], str(folder), f"-max_total_time={seconds}", "-max_len=8192", "-rss_limit_mb=2048",
        f"-artifact_prefix={folder}/", "-verbosity=0", "-print_final_stats=1", "-timeout=20",
    ]  # fmt: skip
    known = REGRESSIONS / name
    if known.is_dir():
        arguments.insert(2, str(known))
    atheris.Setup(arguments, lambda data: guarded(entry, data))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
