"""``lineside privacy``: split, serve in another process, query; what the server sees, and what it refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement

from lineside.cli import main
from lineside.privacy import EncryptedHead
from lineside_runtime.encrypted import HttpTransport, read_head
from lineside_runtime.encrypted.scheme import scheme_for
from lineside_runtime.encrypted.server import DAY_S, QueryLimit
from lineside_runtime.errors import InputNotFoundError, RequestError
from tests.runtime.encrypted.heads import images, make_classifier

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a split classifier, a token and photos."""
    folder = tmp_path_factory.mktemp("privacy")
    make_classifier(folder / "parts")
    assert main(["privacy", "split", str(folder / "parts"), "--out", str(folder / "split")]) == 0
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    for number, image in enumerate(images(2, seed=21)):
        cv2.imwrite(str(folder / f"part-{number}.png"), image)
    return folder


@contextmanager
def serving(world: Path, *options: str) -> Iterator[tuple[str, int]]:
    """URL and process id of a server."""
    command = [sys.executable, "-W", "error", "-m", "lineside", "privacy", "serve", str(world / "split" / "head.npz")]
    command += ["--port", "0", "--json", "--token-file", str(world / "token"), *options]
    with (world / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=world)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (world / "server.log").read_text()
            yield json.loads(line)["http"], process.pid
        finally:
            process.terminate()
            assert process.wait(60) == 0
    assert (world / "server.log").read_text() == ""


def memory_holds(pid: int, patterns: dict[str, bytes]) -> set[str]:
    """Which byte strings stand in the readable memory of another process."""
    found = set()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if span is None or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in span.groups())
            try:
                memory.seek(begin)
                content = memory.read(end - begin)
            except (OSError, ValueError, OverflowError):
                continue
            found |= {name for name, pattern in patterns.items() if pattern in content}
    return found


def test_the_servers_memory_disk_and_log_hold_no_feature_and_no_answer(world: Path) -> None:
    before = set(world.rglob("*"))
    with serving(world) as (url, pid), EncryptedHead(world / "split" / "trunk", server=url, token=TOKEN) as device:
        described = device.description
        batch = images(3, seed=5)[..., 0].astype(np.float32)[:, None] / 255
        features = device.session.predict({"image": batch})[described.feature_output]
        sums = device.sums(features)
        assert np.array_equal(sums, read_head(world / "split" / "head.npz").sums(features))
        plain = {}
        for number, (row, answer) in enumerate(zip(features, sums, strict=True)):
            for kind in (np.int8, np.int16, np.int32, np.int64, np.float32, np.float64):
                plain[f"features {number} as {kind.__name__}"] = row.astype(kind).tobytes()
            plain[f"sums {number}"] = answer.tobytes()
        assert device._name is not None
        try:
            found = memory_holds(pid, {**plain, "name of the keys": device._name.encode()})
        except PermissionError:
            pytest.skip("this machine does not let a process read another's memory")
        assert found == {"name of the keys"}
    written = set(world.rglob("*")) - before
    assert {path.name for path in written} <= {"server.log"}


def test_query_prints_classes_and_makes_keys_or_takes_them(
    world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trunk, photo = str(world / "split" / "trunk"), str(world / "part-0.png")
    key = tmp_path / "secret.key"
    assert main(["privacy", "keys", trunk, "--out", str(key)]) == 0
    assert main(["privacy", "keys", trunk, "--out", str(key)]) == 1
    capsys.readouterr()
    with serving(world) as (url, _):
        command = ["privacy", "query", trunk, photo, "--server", url, "--token-file", str(world / "token")]
        assert main([*command, "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)["images"][0]["scores"]
        assert set(scores) == {"good", "scratch", "dent"}
        assert sum(scores.values()) == pytest.approx(1)
        assert main([*command[:4], str(tmp_path / "absent.png"), *command[4:], "--json"]) == 1
        partial = json.loads(capsys.readouterr().out)
        assert partial["images"][0]["scores"] == scores and "absent.png" in partial["unreadable"][0]["image"]
        assert main([*command, "--keys", str(key)]) == 0
        out = capsys.readouterr().out
        assert all(f"{label} {score:.3f}" in out for label, score in scores.items())
        assert main(["privacy", "query", trunk, photo, "--server", url]) == 1
        error = capsys.readouterr().err
        assert "the token is missing or wrong" in error and "--token-file" in error
        key.chmod(0o644)
        assert main([*command, "--keys", str(key)]) == 1
        assert "chmod 600" in capsys.readouterr().err
        key.write_bytes(key.read_bytes()[:-9])
        key.chmod(0o600)
        assert main([*command, "--keys", str(key)]) == 1
        assert f"{key} is no secret key of this head" in capsys.readouterr().err
    with pytest.raises(InputNotFoundError, match="no secret key"):
        EncryptedHead(trunk, server="http://127.0.0.1:9", keys=tmp_path / "absent")  # before any connection
    assert main([*command]) == 1
    assert "cannot be reached: [Errno" in capsys.readouterr().err


def test_where_no_tenseal_is_the_error_says_which_pythons_have_one(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    scheme_for.cache_clear()
    trunk, head = str(world / "split" / "trunk"), str(world / "split" / "head.npz")
    for words in (["keys", trunk, "--out", str(tmp_path / "key")], ["serve", head], ["bench", head]):
        assert main(["privacy", *words]) == 1
        error = capsys.readouterr().err
        assert "[2006] the package 'tenseal' is not installed" in error
        assert "pip install 'lineside[privacy]'" in error and "for 3.10 on x86-64 only" in error
    packages = [each for each in map(Requirement, requires("lineside") or []) if each.name == "tenseal"]
    for python, machine, there in (("3.10", "aarch64", False), ("3.10", "x86_64", True), ("3.11", "aarch64", True)):
        where = {"python_version": python, "platform_machine": machine, "extra": "privacy"}
        assert any(each.marker.evaluate(where) for each in packages if each.marker is not None) == there


def test_a_server_that_was_started_again_gets_the_keys_again(world: Path) -> None:
    with serving(world) as (url, _):
        transport = HttpTransport(url, token=TOKEN)
        device = EncryptedHead(world / "split" / "trunk", server=transport)
        features = np.zeros((1, device.description.features), np.int8)
        first = device.sums(features)
    with device, serving(world) as (url, _):
        transport._url = url
        assert np.array_equal(device.sums(features), first)


def test_a_days_queries_are_limited_and_answers_before_the_limit_are_printed(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk, photos = world / "split" / "trunk", [str(world / f"part-{number}.png") for number in (0, 1, 0)]
    with serving(world, "--queries-per-day", "2") as (url, _), EncryptedHead(trunk, server=url, token=TOKEN) as device:
        options = ["--server", url, "--token-file", str(world / "token"), "--json"]
        assert main(["privacy", "query", str(trunk), *photos, *options]) == 1
        partial = json.loads(capsys.readouterr().out)
        assert [one["image"] for one in partial["images"]] == photos[:2]
        assert partial["error"]["code"] == RequestError.code
        features = np.zeros((3, device.description.features), np.int8)
        with pytest.raises(RequestError, match="queries of this day are used up") as refused:
            device.sums(features)
        assert refused.value.status == 429
        assert "--queries-per-day" in refused.value.action


def test_the_limit_counts_all_devices_and_begins_again_after_a_day() -> None:
    now = [0.0]
    limit = QueryLimit(2, clock=lambda: now[0])
    limit.take()
    now[0] = DAY_S - 1
    limit.take()
    with pytest.raises(RequestError):
        limit.take()
    now[0] = DAY_S
    limit.take()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/keys", b"no keys", 400),
        ("POST", "/v1/head/unknown", b"x", 404),
        ("GET", "/v1/keys", None, 405),
        ("GET", "/", None, 404),
    ],
)
def test_served_are_answered_with_a_code(served: str, method: str, path: str, body: bytes | None, status: int) -> None:
    request = urllib.request.Request(served + path, data=body, method=method)
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value as error:
        assert error.code == status
        assert json.loads(error.read())["code"] in (2003, 2011)


def test_a_query_that_is_too_large_is_refused_before_it_is_read(served: str) -> None:
    with contextlib.closing(http.client.HTTPConnection(served.partition("//")[2], timeout=60)) as connection:
        connection.putrequest("POST", "/v1/head/unknown")
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.putheader("Content-Length", str((1 << 20) + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413


@pytest.fixture(scope="module")
def served(world: Path) -> Iterator[str]:
    with serving(world) as (url, _):
        yield url


def test_bench_compares_each_answer(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "bench", str(world / "split" / "head.npz"), "--queries", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["queries"]) == (3, 3)
    assert found["up_bytes"] < 250_000
    assert found["down_bytes"] < 120_000
