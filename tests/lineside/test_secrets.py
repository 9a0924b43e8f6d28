"""No secret on a command line, in a log, or in an error: what can be grepped is grepped."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import COMMANDS, main
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.errors import ConfigError, SignatureError

PHRASE = "correct-horse-battery-staple"
PACKAGES = ("lineside", "hub", "agent", "link")
ROOT = Path(__file__).parents[2]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


@pytest.mark.parametrize("command", ["hub", "push", "agent", "fleet", "board"])
def test_no_option_takes_a_secret_itself(command: str) -> None:
    import importlib

    assert command in COMMANDS
    top = argparse.ArgumentParser()
    importlib.import_module(f"lineside.commands.{command}").add_arguments(top)
    seen = 0
    for parser in parsers(top):
        for action in parser._actions:
            name = " ".join([*action.option_strings, action.dest])
            if re.search(r"pass(word|phrase)|secret|token", name):
                seen += 1
                takes_a_file = action.type is Path or action.nargs == 0
                assert takes_a_file, f"{parser.prog}: {name} would stand in the process list"
    assert seen or command == "fleet"


def test_a_passphrase_comes_from_a_file_the_environment_or_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser()
    add_passphrase(parser)
    (tmp_path / "phrase").write_text(f"{PHRASE}\n")
    (tmp_path / "phrase").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        passphrase(parser.parse_args(["--passphrase-file", str(tmp_path / "phrase")]))
    (tmp_path / "phrase").chmod(0o600)
    assert passphrase(parser.parse_args(["--passphrase-file", str(tmp_path / "phrase")])) == PHRASE
    monkeypatch.setenv("LINESIDE_PASSPHRASE", PHRASE)
    assert passphrase(parser.parse_args([])) == PHRASE
    monkeypatch.setattr("getpass.getpass", lambda _: "typed")
    assert passphrase(parser.parse_args(["--ask-passphrase"]), new=True) == "typed"
    monkeypatch.setattr("getpass.getpass", lambda prompt: prompt)
    assert passphrase(parser.parse_args(["--ask-passphrase"])) is not None
    with pytest.raises(ConfigError, match="the same twice"):
        passphrase(parser.parse_args(["--ask-passphrase"]), new=True)

    def nothing(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", nothing)
    with pytest.raises(SignatureError, match=r"no terminal.*--passphrase-file"):
        passphrase(parser.parse_args(["--ask-passphrase"]))


def test_an_empty_passphrase_is_refused_and_makes_no_plain_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    empty.chmod(0o600)
    made = tmp_path / "own.pem"
    assert main(["hub", "keys", "make", str(made), "--passphrase-file", str(empty)]) == 1
    monkeypatch.setattr("getpass.getpass", lambda _: "")
    assert main(["hub", "keys", "make", str(made), "--ask-passphrase"]) == 1
    monkeypatch.setenv("LINESIDE_PASSPHRASE", " ")
    assert main(["hub", "keys", "make", str(made)]) == 1
    assert capsys.readouterr().err.count("is empty") == 3
    assert not made.exists()


@pytest.mark.usefixtures("quick_passphrases")
def test_nothing_that_is_said_holds_a_passphrase_or_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hub = str(tmp_path / "hub")
    phrase = tmp_path / "phrase"
    wrong = tmp_path / "wrong"
    for path, text in ((phrase, PHRASE), (wrong, f"{PHRASE}-wrong")):
        path.write_text(text)
        path.chmod(0o600)
    given = ["--passphrase-file", str(phrase)]
    with caplog.at_level(logging.DEBUG):
        main(["hub", "init", hub, "--site", "t0", "--group", "line", *given])
        main(["hub", "secure", "--hub", hub, "--host", "127.0.0.1", *given])
        main(["hub", "enroll", "cam-1", "--group", "line", "--hub", hub, *given])
        main(["hub", "token", "cam-2", "--group", "line", "--hub", hub, "--out", str(tmp_path / "token"), *given])
        main(["hub", "keys", "rotate", "timestamp", "line", "--hub", hub, *given])
        main(["hub", "keys", "renew", "--hub", hub, "--passphrase-file", str(wrong)])
        main(["hub", "keys", "make", str(tmp_path / "own.pem"), *given])
        main(["hub", "backup", "--hub", hub, "--out", str(tmp_path / "hub.tar")])
        main(["hub", "status", "--hub", hub, "--json"])
        main(["hub", "acl", "--hub", hub])
    printed = capsys.readouterr()
    said = printed.out + printed.err + caplog.text
    assert PHRASE not in said
    assert "PRIVATE KEY" not in said
    for path in [*Path(hub).rglob("*.pem"), *Path(hub).rglob("*.key"), tmp_path / "own.pem"]:
        text = path.read_text()
        if "PRIVATE KEY" in text:
            assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
            assert text.splitlines()[1] not in said
    assert PHRASE.encode() not in b"".join(path.read_bytes() for path in Path(hub).rglob("*") if path.is_file())


def test_no_source_logs_what_is_called_a_secret() -> None:
    logged = re.compile(
        r"(?:log|_log|logging)\.\w+\([^\n]*\b(passphrase|password|private|secret|key_bytes|token\.key)\b[^\n]*\)"
    )
    found = [
        f"{path.name}: {match[0]}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for match in logged.finditer(path.read_text())
        if "chmod 600" not in match[0]
    ]
    assert found == []


def test_an_unknown_token_file_is_not_quoted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "token"
    path.write_text(f'{{"id": 1, "key": "{PHRASE}"')
    assert main(["agent", "enroll", "--token-file", str(path), "--out", str(tmp_path / "o")]) == 1
    assert PHRASE not in "".join(capfd.readouterr())
