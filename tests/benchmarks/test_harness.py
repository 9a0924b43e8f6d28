"""The harness of the benchmarks: what it records, what a smoke run leaves alone, and how a failure ends."""

from __future__ import annotations

import datetime
import json
import os
import re
import selectors
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks import harness, provenance
from benchmarks.provenance import Provenance, collect, sources_sha256
from benchmarks.registry import BENCHMARKS, RESULTS, Benchmark, select
from tests.benchmarks.written_benchmark import WrittenBenchmark

ROOT = Path(__file__).parents[2]

WORKING = '''
"""Writes a file beside its result."""
from pathlib import Path
from benchmarks.smoke import scaled

def run(out: Path) -> dict[str, object]:
    (out / "picture.svg").write_text("<svg/>")
    return {"rounds": scaled(100, smoke=1), "part": {"left_out": "the other machine"}}
'''
BROKEN = """
def measured(*, rounds: int) -> int:
    return rounds

def run() -> dict[str, object]:
    return {"rounds": measured(round=3)}
"""
UNLUCKY = """
from pathlib import Path
from benchmarks.smoke import kept

def run() -> dict[str, object]:
    first = Path(__file__).with_suffix(".once")
    kept("half").mkdir()
    if not first.exists():
        first.touch()
        raise TimeoutError("no core for it")
    return {}
"""


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with two tracked files in ``part``."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "one.py").write_text("one = 1\n")
    (tmp_path / "part" / "two.py").write_text("two = 2\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Benchmark]:
    """Two benchmarks, of which the second one calls a function by a wrong keyword."""
    (folder := tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(folder)  # the processes of the harness start with this path, too
    found: list[Benchmark] = []
    for name, text in (("zz_working", WORKING), ("zz_broken", BROKEN)):
        (folder / f"{name}.py").write_text(text)
        found.append(WrittenBenchmark(name, "", "nothing", ()))
    return found


def test_hash_follows_the_content_of_tracked_files(checkout: Path) -> None:
    before = sources_sha256(["part"], root=checkout)
    (checkout / "part" / "__pycache__").mkdir()
    (checkout / "part" / "untracked.txt").write_text("x")
    assert sources_sha256(["part"], root=checkout) == before
    assert sources_sha256(["part/two.py", "part/one.py"], root=checkout) == before
    (checkout / "part" / "two.py").write_text("two = 3\n")
    changed = sources_sha256(["part"], root=checkout)
    assert changed != before
    assert sources_sha256(["part/one.py"], root=checkout) != before
    (checkout / "part" / "two.py").unlink()
    assert sources_sha256(["part"], root=checkout) not in (before, changed)


def test_hash_follows_code_and_not_what_is_written_about_it(checkout: Path) -> None:
    (checkout / "part" / "two.py").write_text('"""What it is."""\n\n# Why.\ntext = """\n# no comment\n"""\n')
    before = sources_sha256(["part"], root=checkout)
    (checkout / "part" / "two.py").write_text('"""Said\nbetter."""\ntext = """\n# no comment\n"""\n"""Its doc."""\n')
    assert sources_sha256(["part"], root=checkout) == before
    (checkout / "part" / "two.py").write_text('text = """\n# another\n"""\n')
    assert sources_sha256(["part"], root=checkout) != before


def test_hash_follows_a_renamed_file_and_that_of_a_copy_without_git_is_the_checkouts(checkout: Path) -> None:
    before = sources_sha256(["part"], root=checkout)
    git(checkout, "mv", "part/two.py", "part/three.py")
    renamed = sources_sha256(["part"], root=checkout)
    assert renamed != before
    (checkout / ".git").rename(checkout / "no-git")
    assert sources_sha256(["part"], root=checkout) == renamed


def test_provenance_says_where_a_figure_comes_from() -> None:
    paths = BENCHMARKS["deltas"].paths
    found = collect("python -m benchmarks deltas", paths)
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found.commit == head.stdout.strip()
    assert datetime.datetime.fromisoformat(found.date).utcoffset() == datetime.timedelta(0)
    assert found.processor
    assert found.cores >= 1
    assert len(found.load_average) == 3
    assert found.packages["onnxruntime"]
    assert found.sources.paths == paths
    assert found.sources.sha256 == sources_sha256(paths)


def test_instructions_are_those_that_int8_depends_on(tmp_path: Path) -> None:
    (tmp_path / "intel").write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni amx_int8 sse\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert provenance._instructions(tmp_path / "intel") == ("avx2", "avx512_vnni", "amx_int8")
    assert provenance._instructions(tmp_path / "arm") == ("asimddp", "i8mm")
    assert provenance._instructions(tmp_path / "none") == ()


def test_every_path_of_a_benchmark_has_tracked_files_and_a_group_means_all_of_its_benchmarks() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    folders = {parent.as_posix() for name in listed for parent in (Path(name), *Path(name).parents)}
    assert [(each.name, path) for each in BENCHMARKS.values() for path in each.paths if path not in folders] == []
    optimizers = [name for name in BENCHMARKS if name.startswith("optimizer.")]
    assert [each.name for each in select(["training.wire", "optimizer"])] == ["training.wire", *optimizers]
    with pytest.raises(KeyError):
        select(["nothing"])


def test_result_is_written_whole_with_its_provenance_and_a_failure_is_named_and_leaves_none(
    written: list[Benchmark], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, failed = harness.run(list(reversed(written)), folder=tmp_path)
    assert failed == ["zz_broken"] and list(found) == ["zz_working"]
    assert not (tmp_path / "zz_broken.json").exists()
    assert re.search("zz_broken failed.*unexpected keyword argument 'round'", capfd.readouterr().err, re.DOTALL)
    content = json.loads((tmp_path / "zz_working.json").read_text())
    assert content == found["zz_working"]
    assert content["rounds"] == 100
    assert (tmp_path / "picture.svg").exists()
    told = msgspec.convert(content["provenance"], Provenance)
    assert told.command == "python -m benchmarks zz_working"
    assert "benchmarks/zz_working.py" in told.sources.paths


def test_smoke_run_is_small_writes_no_result_and_names_what_failed(
    written: list[Benchmark], capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in RESULTS.iterdir() if path.is_file()}
    assert harness.smoke(written) == ["zz_broken"]
    assert {path: path.read_bytes() for path in RESULTS.iterdir() if path.is_file()} == before
    said = capfd.readouterr()
    assert "zz_working runs" in said.out
    assert "left out: the other machine" in said.out
    assert re.search("zz_broken failed.*unexpected keyword argument 'round'", said.err, re.DOTALL)


def test_a_benchmark_that_fails_once_runs_again_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "zz_unlucky.py").write_text(UNLUCKY)
    assert not harness.smoke([WrittenBenchmark("zz_unlucky", "", "nothing", ())])
    said = capfd.readouterr()
    assert "no core for it" in said.err
    assert re.search("running again, alone: zz_unlucky\n.*zz_unlucky runs", said.out, re.DOTALL)


def test_worker_ends_when_the_program_that_started_it_is_killed() -> None:
    program = "import os; from benchmarks.harness import _pool; print(_pool(1).submit(os.getpid).result(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program + "; input()"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    with selectors.DefaultSelector() as selector:
        selector.register(worker, selectors.EVENT_READ)
        ended = selector.select(60.0)
    os.close(worker)
    assert ended


def test_unknown_name_and_a_failed_smoke_run_have_an_exit_status() -> None:
    command = [sys.executable, "-m", "benchmarks"]
    unknown = subprocess.run([*command, "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "no benchmark 'nothing'" in unknown.stderr
