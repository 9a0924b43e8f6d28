from __future__ import annotations

from pathlib import Path

import pytest

from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError
from lineside_runtime.server.access import Access, read_token, resolve

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_token_passes_from_anywhere(scheme: str) -> None:
    Access(TOKEN).check(f"{scheme} {TOKEN}", "elsewhere.example")


@pytest.mark.parametrize(
    "given", ["", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}0", "Bearer ü\udcff"]
)
def test_any_other_does_not_and_the_error_holds_neither(given: str) -> None:
    with pytest.raises(RequestError) as caught:
        Access(TOKEN).check(given, "localhost")
    assert caught.value.status == 401
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("host", ["", "localhost", "localhost:8000", "127.0.0.1", "127.9.9.9:1", "[::1]:8000", "[::1]"])
def test_without_a_token_this_machine_passes(host: str) -> None:
    Access().check("", host)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "192.0.2.1", "[2001:db8::1]:80", "127.0.0.1.x"]
)
def test_without_a_token_other_names_do_not(host: str) -> None:
    with pytest.raises(RequestError) as caught:
        Access().check("", host)
    assert caught.value.status == 403 and "--token-file" in str(caught.value)


def test_a_token_file_is_one_line_that_others_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(InputNotFoundError, match="openssl rand"):
        read_token(path)
    path.write_text(f"{TOKEN}\n")
    for mode in (0o644, 0o604, 0o602, 0o601):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="others can't read"):
            read_token(path)
    for mode in (0o600, 0o640):
        path.chmod(mode)
        assert read_token(path) == TOKEN
    path.write_text("x" * 5000)
    with pytest.raises(ConfigError, match="at most 4096 bytes"):
        read_token(path)


def test_where_it_may_listen() -> None:
    assert resolve("127.0.0.1", None) == "127.0.0.1"
    assert resolve("localhost", None) in ("127.0.0.1", "::1")
    assert resolve("0.0.0.0", TOKEN) == "0.0.0.0"
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        with pytest.raises(ConfigError, match="--token-file"):
            resolve(host, None)
    with pytest.raises(ConfigError, match="a name or address"):
        resolve("no such host", TOKEN)
