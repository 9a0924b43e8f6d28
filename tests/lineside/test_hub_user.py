"""Accounts and audit log of the dashboard on the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.results.database import Database
from tests.worlds.hub import make_database

PASSWORD = "four words of chalk"


def run(*words: str) -> int:
    return main(["hub", *words])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_database(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    return tmp_path


def test_an_account_is_added_gets_a_token_and_is_removed_unless_it_is_the_last_administrator(
    hub: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("user", "add", "Ada", "--role", "administer", "--hub", str(hub)) == 0
    assert run("user", "ls", "--hub", str(hub), "--json") == 0
    assert json.loads(capsys.readouterr().out)["accounts"] == [{"name": "Ada", "role": "administer"}]
    assert run("user", "token", "Ada", "--label", "nightly", "--hub", str(hub)) == 0
    token = capsys.readouterr().out.strip()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n" * 2))
    assert run("user", "remove", "Ada", "--hub", str(hub)) == 1
    assert run("user", "add", "Ada", "--role", "operate", "--hub", str(hub)) == 1
    assert "Ada is the last account that may administer" in capsys.readouterr().err
    assert run("user", "add", "Bob", "--role", "administer", "--hub", str(hub)) == 0
    assert run("user", "remove", "Ada", "--hub", str(hub)) == 0
    assert run("user", "token", "Ada", "--hub", str(hub)) != 0
    database = Database.open(hub)
    try:
        assert database.query("SELECT * FROM sessions") == []
        rows = [(row["action"], row["subject"]) for row in database.query("SELECT * FROM audit ORDER BY id")]
        assert rows == [
            ("set account", "Ada"),
            ("make token", "Ada"),
            ("set account", "Bob"),
            ("remove account", "Ada"),
        ]
        stored = str([tuple(row) for row in database.query("SELECT * FROM audit")])
        assert token not in stored and PASSWORD not in stored
    finally:
        database.close()


def test_verify_says_which_row_was_changed(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", "verify", "--hub", str(hub), "--json") == 0
    assert json.loads(capsys.readouterr().out)["head"] == "0:"
    run("user", "add", "Ada", "--role", "watch", "--hub", str(hub))
    assert run("audit", "verify", "--head", "0:", "--hub", str(hub), "--json") == 0
    head = json.loads(capsys.readouterr().out)["head"]
    assert run("audit", "verify", "--head", head, "--hub", str(hub)) == 0
    assert run("audit", "verify", "--head", head[:-1], "--hub", str(hub)) == 1
    assert "--head; expected NUMBER:DIGEST" in capsys.readouterr().err
    database = Database.open(hub)
    with database.transaction() as connection:
        connection.execute('UPDATE audit SET after = \'{"role":"operate"}\'')
    database.close()
    capsys.readouterr()
    assert run("audit", "verify", "--hub", str(hub)) == 1
    assert "row 1 is changed" in capsys.readouterr().out


def test_a_weak_password_and_a_token_for_ever_are_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("user", "add", "Ada", "--role", "watch", "--hub", str(hub))
    assert run("user", "token", "Ada", "--days", "5000", "--hub", str(hub)) != 0
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert run("user", "add", "Bob", "--role", "watch", "--hub", str(hub)) != 0
