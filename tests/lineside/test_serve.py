"""``lineside serve`` as a person types it; what it serves is tested in ``tests/runtime/server``."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.cli import main


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must fail with one error and no traceback; returns what it says."""

    def run(*arguments: object) -> str:
        assert main(["serve", *map(str, arguments)]) == 1, arguments
        return capsys.readouterr().err

    return run


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    return path


def test_help_says_what_it_is_where_it_listens_and_how_to_try_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for word in ("Open Inference Protocol", "this machine only", "--token-file", "curl", "default: 127.0.0.1"):
        assert word in text


def test_it_prints_one_line_with_its_urls() -> None:
    command = [sys.executable, "-m", "lineside", "serve", "surface-12", "--http-port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert process.stdout.read() == ""
        assert process.wait(60) == 0
    assert line.startswith("serving surface-12@")
    assert " at http://127.0.0.1:" in line
    assert "/v2 and grpc://127.0.0.1:" in line


def test_others_are_let_in_only_with_a_token(refuse: Callable[..., str]) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        said = refuse("surface-12", "--host", host)
        assert f"[2001] --host {host} lets other machines in, and there is no token" in said
        assert "Give --token-file FILE" in said


def test_a_token_that_others_can_read_and_one_that_is_none_are_refused(
    token_file: Path, refuse: Callable[..., str]
) -> None:
    token_file.chmod(0o644)
    said = refuse("surface-12", "--token-file", token_file)
    assert "expected a file that others can't read; got mode 0644" in said
    assert f"chmod 600 {token_file}" in said
    assert "0123456789" not in said
    token_file.chmod(0o600)
    for content in ("", "short\n", "two words in a line of text\n", "ümlaut-ümlaut-ümlaut\n"):
        token_file.write_text(content)
        assert "at least 16 ASCII characters" in refuse("surface-12", "--token-file", token_file), content


def test_what_is_wrong_at_the_start_is_said(tmp_path: Path, token_file: Path, refuse: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            ("nowhere",): "[2002]",
            ("surface-12", "surface-12"): "expected each model once; got 'surface-12' twice",
            ("surface-12", "--token-file", tmp_path / "none"): "no token file",
            ("surface-12", "--host", "no.such.host.invalid"): "expected a name or address of this machine",
            ("surface-12", "--tls-key", token_file): "expected both --tls-key and --tls-cert",
            ("surface-12", "--workers", "0"): "[2001] workers; expected a number > 0; got 0",
            ("surface-12", "--engine", "nothing", "--fallback", "error"): "no engine 'nothing'",
            ("surface-12", "--http-port", port): "[2001] --http-port; expected a free port",
            ("surface-12", "--grpc-port", port): "[2001] --grpc-port; expected a free port",
        }
        for arguments, text in cases.items():
            assert text in refuse("--http-port", 0, "--grpc-port", 0, *arguments), arguments


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("lineside_runtime.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert main(["serve", "surface-12"]) == 1
    error = capsys.readouterr().err
    assert "[2006]" in error
    assert "pip install 'lineside[serve]'" in error
