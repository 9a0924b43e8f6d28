from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lineside_runtime.errors import ConfigError, DiskFullError
from lineside_runtime.files import ensure_writable, fsync_folder, write_atomic


def test_the_file_has_the_content_and_mode_and_nothing_else_remains(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"new", mode=0o600)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a longer old content")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "a").symlink_to("target")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "a").is_symlink()


def test_a_missing_folder_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "none" / "a", b"")
    assert caught.value.filename == str(tmp_path / "none")  # not the temporary file's name
    with pytest.raises(FileNotFoundError):
        fsync_folder(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small tmpfs to fill it")
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        write_atomic(disk / "a", b"old")
        with pytest.raises(DiskFullError) as caught:
            write_atomic(disk / "a", bytes(1 << 20))
        assert caught.value.code == 4002
        assert (disk / "a").read_bytes() == b"old"
        assert [path.name for path in disk.iterdir()] == ["a"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_size_limit_is_no_full_disk_but_leaves_nothing_half_written(tmp_path: Path) -> None:
    script = f"""
        import resource, signal
        from pathlib import Path
        from lineside_runtime.files import write_atomic
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(Path({str(tmp_path / "a")!r}), bytes(5000))
        except OSError as error:
            print(error.errno)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "27"
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_the_file_is_the_old_or_a_new_one_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0" * 100_000)
    script = f"""
        from pathlib import Path
        from lineside_runtime.files import write_atomic
        print("started", flush=True)
        for digit in range(1, 1_000_000):
            write_atomic(Path({str(tmp_path / "a")!r}), str(digit % 10).encode() * 100_000)
    """
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            before = (tmp_path / "a").stat().st_ino
            while (tmp_path / "a").stat().st_ino == before:
                pass
            process.kill()
        content = (tmp_path / "a").read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1


def test_the_place_of_a_file_is_made_before_the_work(tmp_path: Path) -> None:
    ensure_writable(tmp_path / "a" / "b" / "page.html")
    assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a" / "b" / "page.html").exists()


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "page.html", tmp_path):
        with pytest.raises(ConfigError, match="can't be written"):
            ensure_writable(path)
