"""`lineside config schema`: every key says what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lineside.cli import main
from lineside.commands.config import SCHEMAS


def keys_of(of: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Every key of a schema, by table and name."""
    assert main(["config", "schema", of]) == 0
    tables = json.loads(capsys.readouterr().out)["$defs"]
    return {f"{table}.{key}": content for table in tables for key, content in tables[table]["properties"].items()}


@pytest.mark.parametrize("of", SCHEMAS)
def test_every_key_has_a_description(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = keys_of(of, capsys)
    assert keys
    assert [name for name, content in keys.items() if not content.get("description", "").strip()] == []


def test_descriptions_of_agent_toml_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees one key in an editor, and not the key before it; TOML has no ``None``."""
    texts = {name: content["description"] for name, content in keys_of("agent", capsys).items()}
    assert [name for name, text in texts.items() if len(text.split()) < 3 and not text.startswith("`")] == []
    assert [name for name, text in texts.items() if text.startswith(("As ", "Of ", "The same", "In ", "Such as"))] == []
    assert [name for name, text in texts.items() if "`None`" in text] == []


def test_keys_of_a_base_class_and_the_key_that_chooses_a_kind_are_described(
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = keys_of("agent", capsys)
    assert keys["ModbusTcpServerConfig.type"]["description"].startswith("`modbus-tcp-server`: The PLC polls")
    assert keys["ModbusRtuServerConfig.parity"]["description"] == "Parity: none (`N`), even (`E`) or odd (`O`)."
    assert "score" in keys["InspectConfig.confidence_threshold"]["description"]
